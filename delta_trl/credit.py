"""`Credit`: what a method of token credit is. A config class points to its own, and one trainer does the rest."""

import functools
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from .coefficients import NON_FINITE, Coefficients, assign, delta_coefficients, margins, range_map
from .rollout import Rollout


# Besides log-probabilities: the LM head's inputs and the policy's entropy at every token, which the trainer records; and a
# column `solution` of the dataset, which a teacher is told
NEEDS = ("hidden", "entropies", "teacher")


class Work(NamedTuple):
    """
    What `compute` takes of a machine, for the plan.

    Attributes:
        sweeps: How often it reads all hidden states.
        columns: With how many vectors of length H it multiplies each of them.
        sums: Over processes.
        summed_bytes: What a process contributes to these.
    """

    sweeps: int
    columns: int
    sums: int
    summed_bytes: int


@dataclass(frozen=True)
class Credit:
    """
    A method that multiplies each token's advantage by a coefficient, computed once for each rollout batch.

    Attributes:
        name (`str`): In model cards and messages.
        compute (`Callable`):
            From a [`Rollout`] and the options, an instance of the config class, to [`Coefficients`], shape (N,), without
            gradient. All processes call it together.
        needs (`frozenset`): What it takes of `NEEDS`.
        paper (`Mapping`): Its `title` and arXiv `id`, and perhaps its BibTeX `citation`, for the model card.
        prefix (`str`): Of what is logged. Default: the name in small letters.
        copies (`int`): How many float32 tensors of shape (N, H) `compute` holds, for the plan's estimate of memory.
        work (`Work`, *optional*): What it takes besides, for the plan's estimate of time. `None`: what DelTA takes.
        assign (`Callable`, *optional*):
            For `coef_centroids: previous`. From a [`Rollout`], the `statistics` of an earlier one's [`Coefficients`] and the
            options to α, shape (N,): which is mapped into the bounds. It sums over no process.

    Raises:
        `ValueError`: for an unknown need, and when called, for coefficients of another shape than (N,).
    """

    name: str
    compute: Callable[[Rollout, Any], Coefficients]
    needs: frozenset[str] = frozenset()
    paper: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    copies: int = 0
    work: Work | None = None
    assign: Callable[[Rollout, Mapping[str, torch.Tensor], Any], torch.Tensor] | None = None

    def __post_init__(self):
        if unknown := set(self.needs) - set(NEEDS):
            raise ValueError(f"A method can need {', '.join(NEEDS)}; got {', '.join(sorted(unknown))}.")
        object.__setattr__(self, "prefix", self.prefix or self.name.lower())  # the dataclass is frozen

    @torch.no_grad()
    def __call__(self, rollout: Rollout, options: Any) -> Coefficients:
        """The coefficients; all 1, on all processes, if one of them is not finite on any."""
        found = self.compute(rollout, options)
        if found.values.shape != rollout.log_probs.shape:
            raise ValueError(
                f"{self.name} gave coefficients of shape {tuple(found.values.shape)} for {len(rollout.log_probs)} tokens. "
                "It takes one for each token."
            )
        # Summed by all processes, also by one whose method fell back alone: the others would wait for it
        broken = rollout.reduce((~found.values.isfinite()).sum())
        if found.fallback is None and broken > 0:
            return all_ones(rollout, NON_FINITE)
        return found


def all_ones(rollout: Rollout, fallback: str) -> Coefficients:
    """A coefficient of 1 for every token, and why."""
    return Coefficients(torch.ones_like(rollout.log_probs, dtype=torch.float32), fallback=fallback)


def published(rollout: Rollout, options: Any, *, in_place: bool = False) -> Coefficients:
    """
    DelTA's coefficients under the options `coef_*`.

    With `in_place`, features are written over `rollout.hidden`, so that no second tensor of that size exists.
    """
    features, scale = rollout.raw_features(options.coef_features, out=rollout.hidden if in_place else None)
    return delta_coefficients(
        features,
        rollout.advantages,
        feature_scale=scale,
        coef_min=options.coef_min,
        coef_max=options.coef_max,
        refinement_steps=options.coef_refinement_steps,
        normalize=options.coef_normalize,
        all_reduce=rollout.reduce,
    )


def assigned(rollout: Rollout, statistics: Mapping[str, torch.Tensor], options: Any) -> torch.Tensor:
    """α of tokens at the centroids and temperatures of another rollout batch, shape (N,)."""
    features, scale = rollout.raw_features(options.coef_features)
    negative = rollout.sides[1]
    m = margins(features, statistics["centroids"], negative, scale)
    return assign(m, statistics["temperatures"], negative)


def bounded(rollout: Rollout, options: Any, alpha: torch.Tensor) -> torch.Tensor:
    """λ of soft assignments α, shape (N,): mapped into the options' bounds, and scaled to mean 1."""
    values = range_map(alpha, rollout.sides.any(0), options.coef_min, options.coef_max)
    return rollout.mean_one(values, options.coef_normalize)


def contrasted(formula: Callable[[Rollout, Any], torch.Tensor]) -> Callable[[Rollout, Any], Coefficients]:
    """A `compute` of a formula that compares the two sides: all coefficients are 1 where one of them has no token."""

    @functools.wraps(formula)
    def compute(rollout: Rollout, options: Any) -> Coefficients:
        fallback = rollout.contrast_fallback()
        return Coefficients(formula(rollout, options)) if fallback is None else all_ones(rollout, fallback)

    return compute


DELTA_CREDIT = Credit(
    "DelTA",
    functools.partial(published, in_place=True),
    needs=frozenset({"hidden"}),
    assign=assigned,
    paper={
        "title": "DelTA: Discriminative Token Credit Assignment for Reinforcement Learning from Verifiable Rewards",
        "id": "2605.21467",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @article{zhang2026delta,
                title        = {{DelTA: Discriminative Token Credit Assignment for Reinforcement Learning from Verifiable Rewards}},
                author       = {Kaiyi Zhang and Wei Wu and Yankai Lin},
                year         = 2026,
                eprint       = {arXiv:2605.21467},
            }"""),  # noqa: E501
    },
)
