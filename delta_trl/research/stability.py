"""How steady coefficients are on the same rollouts: under flipped and missing rewards, in small batches, among boilerplate.

A pool of responses is sampled once and cut into rollout batches. Each is disturbed, and λ compared with that of the same
batch undisturbed. For every feature this is done with the published method, and with centroids that are a moving average
over the batches so far; for our own method as it is.

The comparison is between tokens whose advantage has the same sign in both, side by side.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..coefficients import margins
from ..features import FEATURES
from ..jsonl import append_lines
from ..rollout import Rollout
from .credit.answers import reading_of
from .credit.measures import ADVANTAGE_SIDES, measure, rank_correlation
from .credit.methods import trained
from .credit.tokens import SPECIAL, token_classes
from .full_gradient import coefficients_from
from .pool import Pool, load_pool, save_pool
from .sampling import RolloutSampler, begin_measurement


# Weight of the earlier batches' centroids in the moving average; corrected for its start at 0
MOMENTUM = 0.9
MOVING_AVERAGE = "moving average"
# Methods of `--trainer` that are measured beside the features: those that know no centroids
OWN_METHODS, NO_CENTROIDS = ("hashed_agreement",), "none"

NO_WORDING = f"+-*/={SPECIAL}"  # nor digits
# What is done to a rollout batch, with its levels
DISTURBANCES = {
    "flipped": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4),
    "kept": (1.0, 0.5, 0.25, 0.1),
    "responses": (2048, 1024, 512, 256, 128, 64),
    "formatting": (0.0, 0.3, 0.6, 0.8, 0.9),
}


def advantages_of(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Group-normalised rewards as TRL computes them, shape (B,)."""
    grouped = rewards.view(-1, group)
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).flatten()


def flip(rewards: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Each reward r becomes 1 − r with probability `share`."""
    chosen = torch.from_numpy(np.random.default_rng(seed).random(len(rewards)) < share)
    return torch.where(chosen, 1 - rewards, rewards)


def keep(advantages: torch.Tensor, group: int, share: float, seed: int) -> torch.Tensor:
    """Advantages of a share of the prompts, at least one; the others have no reward and so A = 0."""
    prompts = len(advantages) // group
    chosen = np.random.default_rng(seed).permutation(prompts)[: max(1, round(share * prompts))]
    kept = torch.zeros(prompts, dtype=torch.bool).index_fill(0, torch.from_numpy(chosen), True)
    return advantages * kept.repeat_interleave(group)


def with_formatting(wording: torch.Tensor, responses: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """
    Numbers of tokens such that wording makes up `share` of every response, in place of what it is.

    All tokens that are no wording stay. The wording is drawn from the response's own: without replacement if it has more
    than is needed; otherwise all of it, and more of it with replacement. So a longer response repeats its own phrases, at
    the same hidden states.
    """
    rng = np.random.default_rng(seed)
    starts = np.flatnonzero(np.diff(responses.numpy(), prepend=-1))
    chosen = []
    for numbers in np.split(np.arange(len(responses)), starts[1:]):
        is_wording = wording[numbers].numpy()
        content, own = numbers[~is_wording], numbers[is_wording]
        wanted = round(len(content) * share / (1 - share)) if len(own) else 0
        drawn = rng.permutation(own)[:wanted]
        more = rng.choice(own, wanted - len(drawn)) if wanted > len(drawn) else own[:0]
        chosen.append(np.concatenate([np.sort(np.concatenate([content, drawn])), more]))
    return torch.from_numpy(np.concatenate(chosen))


class Centroids:
    """The published method on features v, with a moving average of the centroids over the batches it is called on."""

    def __init__(self, momentum: float = 0.0):
        self.momentum = momentum
        self._average: dict[int, torch.Tensor] = {}
        self._batches = 0

    def coefficients(self, v: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """λ of the next rollout batch, shape (N,), from v (N, H) and the tokens' advantages (N,). All 1 without contrast."""
        negative = advantages < 0
        sides = torch.stack([advantages > 0, negative])
        if not sides.any(1).all():
            return torch.ones(len(v))
        self._batches += 1
        steps = itertools.count()  # 0 is that of the initial centroids

        def margins_at(weight: torch.Tensor) -> torch.Tensor:
            step, w = next(steps), weight * sides
            mu = (w @ v / w.sum(1, keepdim=True)).double()
            past = self._average.get(step, torch.zeros_like(mu))
            self._average[step] = self.momentum * past + (1 - self.momentum) * mu
            return margins(v, self._average[step] / (1 - self.momentum**self._batches), negative)

        return coefficients_from(margins_at, advantages).values


# λ of a rollout batch from its tokens' numbers in the pool and advantages, shape (N,), its first response, and how many
BatchCredit = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]


def ways(pool: Pool, of: Sequence[str] | None = None) -> Iterator[tuple[str, str, Callable[[], BatchCredit]]]:
    """
    For each feature, with and without a moving average, and each of `OWN_METHODS`: its name, what is done about centroids,
    and what begins a sequence of rollout batches. Those with the names `of`, or all.
    """
    for name, v in pool.features.items():
        for method, momentum in (("published", 0.0), (MOVING_AVERAGE, MOMENTUM)):

            def begin(v: torch.Tensor = v, momentum: float = momentum) -> BatchCredit:
                centroids = Centroids(momentum)
                return lambda numbers, advantages, first, size: centroids.coefficients(v[numbers], advantages)

            if of is None or name in of:
                yield name, method, begin
    for name in OWN_METHODS:
        if of is None or name in of:
            credit = trained(name)
            yield name, NO_CENTROIDS, lambda credit=credit: lambda *batch: credit(pool.rollout(*batch))


def examine(
    pool: Pool, kind: str, level: float, batch_size: int, seed: int = 0, of: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """
    Disturb every rollout batch of a pool in one way.

    Args:
        pool: Its number of responses is a multiple of `batch_size`.
        kind, level: Of `DISTURBANCES`.
        batch_size: Responses of a rollout batch, unless the level says so. Its λ is compared with the undisturbed batch's,
            or for kind "responses" with that of the whole pool.
        seed: Of the disturbance.
        of: Features and methods, by name; default all.

    Returns:
        For each feature or method, what is done about its centroids ("published", `MOVING_AVERAGE`, `NO_CENTROIDS`) and
        batch: how λ agrees with the undisturbed λ of the same on each side (`rank_correlation`), its mean and standard
        deviation on each side, and its AUCs.
    """
    size = int(level) if kind == "responses" else batch_size
    clean = advantages_of(pool.rewards, pool.group)
    records = []
    for name, method, start in ways(pool, of):
        reference, disturbed = start(), start()
        everything = torch.arange(len(pool.ids))
        whole = start()(everything, clean[pool.responses], 0, len(clean)) if kind == "responses" else None
        for number in range(len(clean) // size):
            first = number * size
            inside = torch.div(pool.responses, size, rounding_mode="floor") == number
            numbers = inside.nonzero()[:, 0]
            responses = pool.responses[numbers]
            before = clean[responses]
            expected = reference(numbers, before, first, size) if whole is None else whole[numbers]
            after, rows = before, torch.arange(len(numbers))
            if kind == "flipped":
                rewards = flip(pool.rewards, level, seed)
                after = advantages_of(rewards, pool.group)[responses]
            elif kind == "kept":
                within = clean[first : first + size]
                after = keep(within, pool.group, level, seed + number)[responses - first]
            elif kind == "formatting":
                rows = with_formatting(pool.wording[numbers], responses, level, seed + number)
            values = disturbed(numbers[rows], after[rows], first, size)
            found = _compare(pool, numbers[rows], values, expected[rows], before[rows], after[rows])
            records.append({"feature": name, "method": method, "batch": number, **found})
    return records


def _compare(pool, numbers, values, expected, before, after) -> dict[str, Any]:
    """All of shape (n,): token numbers, λ, undisturbed λ, undisturbed and disturbed advantages."""
    first = np.zeros(len(numbers), dtype=bool)
    first[np.unique(numbers.numpy(), return_index=True)[1]] = True  # a repeated token counts once
    same = (before.sign() == after.sign()) & torch.from_numpy(first)
    credited = torch.where(same, after, 0.0)
    tokens = Rollout(
        hidden=values[:, None],
        log_probs=pool.log_probs[numbers],
        ids=pool.ids[numbers],
        advantages=credited,
        responses=pool.responses[numbers],
    )
    aucs = measure(values, tokens, pool.classes[numbers.numpy()])
    found: dict[str, Any] = {name: aucs[name] for name in ("blame_auc", "credit_auc") if name in aucs}
    for name, side in zip(ADVANTAGE_SIDES, (credited > 0, credited < 0), strict=True):
        one, other = values[side], expected[side]
        if len(one):
            found[f"mean_{name}"], found[f"spread_{name}"] = one.mean().item(), one.std(unbiased=False).item()
        if (correlation := rank_correlation(one, other)) is not None:
            found[f"rank_correlation_{name}"] = correlation
    return found


def sample_pool(sampler: RolloutSampler, rows: Sequence[dict[str, str]], prompts: int, seed: int) -> Pool:
    """Sample a response group for each of these problems, `prompts` problems at a time."""
    parts: list[dict[str, Any]] = []
    for number in tqdm(range(len(rows) // prompts), desc="Sampling"):
        asked = list(rows[number * prompts : (number + 1) * prompts])
        rollout, rewards = sampler.sample(asked, (seed, number))
        tokenizer = sampler.trainer.processing_class
        task, questions = reading_of(rollout.inputs)
        written = task.pieces(rollout.ids.tolist(), tokenizer)
        parts.append(
            {
                "hidden": rollout.hidden.clone(),  # before features, which may overwrite it
                **{name: rollout.features(name).clone() for name in FEATURES},
                "log_probs": rollout.log_probs,
                "entropies": rollout.entropies,
                "ids": rollout.ids,
                "responses": rollout.responses + number * prompts * rollout.group_size,
                "classes": torch.from_numpy(token_classes(rollout, tokenizer, task, questions)),
                "wording": torch.tensor([not any(c.isdigit() or c in NO_WORDING for c in piece) for piece in written]),
                "rewards": rewards,
            }
        )
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    features = {name: joined.pop(name) for name in FEATURES}
    return Pool(
        features=features, group=sampler.trainer.num_generations, **{**joined, "classes": joined["classes"].numpy()}
    )


def measure_stability(
    model: str | os.PathLike,
    rows: list[dict[str, str]],
    folder: str | os.PathLike,
    *,
    responses: int = 2048,
    batch_size: int = 256,
    group: int = 8,
    max_completion_length: int = 200,
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    of: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """
    Sample a pool and examine it at every level. The pool is kept in `folder`/pool.pt and records in `folder`/levels.jsonl as
    they come, so that an interrupted measurement continues.

    Returns:
        One record a level: `kind`, `level` and, in `batches`, what `examine` returns.

    Raises:
        `ValueError`: if `folder` has records with other settings, or sizes do not fit.
    """
    if responses % batch_size or batch_size % group or responses // group > len(rows):
        raise ValueError(
            f"responses={responses} must be a multiple of batch_size={batch_size}, that of group={group}, and there are "
            f"{len(rows)} problems for {responses // group} groups."
        )
    if unknown := sorted(set(of or ()) - {*FEATURES, *OWN_METHODS}):
        raise ValueError(f"Not measured of {', '.join(unknown)}; there are {', '.join((*FEATURES, *OWN_METHODS))}.")
    prompts = batch_size // group
    settings = {
        "responses": responses,
        "batch_size": batch_size,
        "group": group,
        "max_completion_length": max_completion_length,
        "seed": seed,
        **({"of": list(of)} if of else {}),
    }
    levels_file, pool_file = Path(folder) / "levels.jsonl", Path(folder) / "pool.pt"
    sampler, records = begin_measurement(model, rows, levels_file, prompts=prompts, settings=settings)
    if pool_file.exists():
        pool = load_pool(pool_file)
    else:
        pool = sample_pool(sampler, rows[: responses // group], prompts, seed)
        save_pool(pool, pool_file)
    done = {(record["kind"], record["level"]) for record in records}
    todo = [
        (kind, level)
        for kind in DISTURBANCES
        for level in DISTURBANCES[kind]
        if kind in (kinds or DISTURBANCES) and (kind, level) not in done
        if kind != "responses" or level <= responses
    ]
    for kind, level in tqdm(todo, desc="Levels"):
        record = {"kind": kind, "level": level, "batches": examine(pool, kind, level, batch_size, seed, of)}
        append_lines(levels_file, [record])
        records.append(record)
    return records
