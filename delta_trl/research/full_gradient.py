"""DelTA on the gradient with respect to all parameters, or to a part of them: what the LM-head features stand for.

The full gradient v = ∇ log π of every token would be an (N, P) tensor. It is never needed:

- A centroid is a weighted mean of v: one backward pass of the weighted sum of log-probs. A response is on one side only, so
  both centroids together take one pass over the rollout batch.
- A margin needs v only in the direction d = μ₊ − μ₋: m = ± (2 d·v + ‖μ₋‖² − ‖μ₊‖²), and d·v is the change of log π when
  the parameters move along d. One forward pass with forward-mode differentiation gives it for all tokens.

Each refinement repeats both. Memory: about eight copies of the chosen parameters, and the
activations of `rows` responses.

Symbols: N tokens, P parameters, B responses of a padded length of T tokens, S₊ and S₋ the tokens with A > 0 and A < 0.
"""

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from trl.trainer.utils import selective_log_softmax

from ..coefficients import NO_CONTRAST, NON_FINITE, Coefficients, range_map, refine
from ..rollout import Rollout
from ..token_mask import token_mask


# Parts of the parameters: all; all but the embeddings and the LM head; the last decoder layer; the LM head
PARTS = ("full", "body", "last_layer", "head")


@torch.no_grad()
def full_gradient_coefficients(
    rollout: Rollout,
    *,
    part: str = "full",
    folds: int = 1,
    coef_min: float = 0.8,
    coef_max: float = 1.2,
    refinement_steps: int = 1,
    rows: int = 64,
    bf16: bool = False,
) -> Coefficients:
    """
    DelTA's coefficients with v = ∇ log π.

    Args:
        rollout (`Rollout`): The rollout batch, on one process, with TRL's own `batch`. The model of its `policy` is run in
            evaluation mode, and left as it was.
        part (`str`): Which of `PARTS` the gradient is taken with respect to. With tied embeddings the head is the embedding
            too, and "body" has neither.
        folds (`int`): With F > 1, prompts are dealt into F folds, and the margins of a fold's tokens are taken at the
            centroids of the other folds: no token contributes to the centroids it is compared with.
        coef_min, coef_max, refinement_steps: As for `delta_coefficients`.
        rows (`int`): Responses in one forward or backward pass.
        bf16 (`bool`): Matrix products in bfloat16 (autocast), which some CPUs compute several times as fast.

    Returns:
        [`Coefficients`] of the N tokens; without distances and cosines.

    Raises:
        `ValueError`: for an unknown part, or if the prompts outside a fold lack a side.
    """
    model = rollout.policy.model
    gradient = _FullGradient(rollout, _parameters(model, part), folds, rows, bf16)
    with _only_these_require_grad(model, gradient.parameters):
        return coefficients_from(
            gradient.margins,
            rollout.advantages,
            coef_min=coef_min,
            coef_max=coef_max,
            refinement_steps=refinement_steps,
        )


def coefficients_from(
    margins: Callable[[torch.Tensor], torch.Tensor],
    advantages: torch.Tensor,
    *,
    coef_min: float = 0.8,
    coef_max: float = 1.2,
    refinement_steps: int = 1,
) -> Coefficients:
    """
    The method's steps 1 to 6 as in `delta_coefficients`, on one process, for features that are known by their margins alone.

    Args:
        margins (`Callable`): From the tokens' weights in the centroids, shape (N,), to the margins at those centroids, shape
            (N,), signed for each token's own side. Called for the initial centroids, and once for each refinement.
        advantages (`torch.Tensor`): Shape (N,).
    """
    side = torch.stack([advantages > 0, advantages < 0])
    if not side.any(1).all():
        return Coefficients(torch.ones(len(advantages)), fallback=NO_CONTRAST)
    weight = advantages.abs()
    alpha, gamma = refine(
        lambda alpha: margins(weight if alpha is None else weight * alpha),
        side,
        refinement_steps,
        reduce=lambda *sums: list(sums),
    )
    values = range_map(alpha, side.any(0), coef_min, coef_max)
    if not values.isfinite().all():
        return Coefficients(torch.ones(len(advantages)), fallback=NON_FINITE)
    mean = values.double().mean().item()
    return Coefficients(
        values=(values / mean).float(),
        mean=mean,
        temperature_positive=gamma[0].item(),
        temperature_negative=gamma[1].item(),
    )


class _FullGradient:
    """Margins of a rollout batch at weighted centroids of the gradient with respect to some parameters."""

    def __init__(self, rollout, parameters, folds, rows, bf16):
        batch = rollout.batch
        self.model, self.temperature = rollout.policy.model, rollout.policy.temperature
        self.parameters, self.folds, self.rows, self.bf16 = parameters, folds, rows, bf16
        self.names = [next(n for n, p in self.model.named_parameters() if p is chosen) for chosen in parameters]
        self.mask = token_mask(batch)
        self.input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        self.attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        takes = inspect.signature(self.model.forward).parameters
        # The logits of the prompt are not used
        self.kept = {"logits_to_keep": self.mask.shape[1] + 1} if "logits_to_keep" in takes else {}
        self.prompts = torch.arange(len(self.mask), device=self.mask.device) // rollout.group_size
        self.sides = (batch["advantages"] > 0, batch["advantages"] < 0)

    def margins(self, weights: torch.Tensor) -> torch.Tensor:
        """From weights (N,) in the centroids to margins (N,)."""
        mask = self.mask
        weight = torch.zeros(mask.shape, dtype=weights.dtype, device=mask.device)
        weight[mask] = weights
        whole = [self._weighted_sum(weight, side) for side in self.sides]
        m = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
        for fold in range(self.folds):
            inside = self.prompts % self.folds == fold
            centroids = []
            for side, total in zip(self.sides, whole, strict=True):
                mass = weight[side].sum()
                if self.folds > 1:
                    own = self._weighted_sum(weight, side & inside)
                    total = [x - y for x, y in zip(total, own, strict=True)]
                    mass = weight[side & ~inside].sum()
                if mass == 0:
                    raise ValueError(
                        f"The prompts outside fold {fold} of {self.folds} have no response on one advantage side, and "
                        "so no centroid. Use fewer folds or a larger rollout batch."
                    )
                centroids.append([x / mass for x in total])
            direction = [x - y for x, y in zip(*centroids, strict=True)]
            offset = _dot(centroids[1], centroids[1]) - _dot(centroids[0], centroids[0])
            counted = inside & (self.sides[0] | self.sides[1])
            m[counted] = 2 * self._derivative(direction, counted) + offset
        m[self.sides[1]] *= -1
        return m[mask]

    def _weighted_sum(self, weight: torch.Tensor, chosen: torch.Tensor) -> list[torch.Tensor]:
        """Σ w v over the tokens of the chosen responses, in the parameters' shapes."""
        total = [torch.zeros_like(p) for p in self.parameters]
        for rows in self._chunks(chosen):
            with torch.enable_grad():
                value = (self._log_probs(rows) * weight[rows]).sum()
            for t, gradient in zip(
                total, torch.autograd.grad(value, self.parameters, materialize_grads=True), strict=True
            ):
                t += gradient
        return total

    def _derivative(self, direction: list[torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
        """direction · v of the tokens of the chosen responses, shape (chosen, T), float64."""
        if not chosen.any():
            return torch.zeros(0, self.mask.shape[1], dtype=torch.float64, device=self.mask.device)
        # PyTorch's other kernels of attention know no forward-mode differentiation
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            named = zip(self.names, self.parameters, direction, strict=True)
            moving = {name: forward_ad.make_dual(p.detach(), d) for name, p, d in named}
            moved = [self._log_probs(rows, moving) for rows in self._chunks(chosen)]
            return torch.cat([forward_ad.unpack_dual(log_probs).tangent.double() for log_probs in moved])

    def _chunks(self, chosen: torch.Tensor) -> list[torch.Tensor]:
        """The numbers of the chosen responses, as many as run at a time."""
        return list(chosen.nonzero()[:, 0].split(self.rows)) if chosen.any() else []

    def _log_probs(self, rows: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """
        Log-probabilities of the response tokens, shape (rows, T); 0 where there is no token. With `parameters`, some of the
        model's are these.
        """
        mask = self.mask[rows]
        ids, attention = self.input_ids[rows], self.attention_mask[rows]
        inputs = {"input_ids": ids, "attention_mask": attention, "use_cache": False, **self.kept}
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16):
            logits = functional_call(self.model, parameters or {}, (), inputs).logits
        logits = logits[:, -mask.shape[1] - 1 : -1]
        logits = (logits if logits.dtype == torch.float64 else logits.float()) / self.temperature
        log_probs = selective_log_softmax(logits, ids[:, -mask.shape[1] :])
        return torch.where(mask, log_probs, 0.0)


def _dot(one: list[torch.Tensor], other: list[torch.Tensor]) -> torch.Tensor:
    return sum((x.double() * y.double()).sum() for x, y in zip(one, other, strict=True))  # ty: ignore[invalid-explicit-return]


def _parameters(model: PreTrainedModel, part: str) -> list[nn.Parameter]:
    """The parameters of one of `PARTS`, tied ones once."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}.")
    head = list(model.get_output_embeddings().parameters())
    if part == "head":
        return head
    if part == "last_layer":
        layers = getattr(model.base_model, "layers", None)
        if layers is None:
            raise ValueError(
                f"{type(model).__name__} keeps its decoder layers elsewhere than in `layers`, so that the last one is "
                f"unknown. Use another part: {', '.join(p for p in PARTS if p != part)}."
            )
        return list(layers[-1].parameters())
    outside = head + list(model.get_input_embeddings().parameters()) if part == "body" else []
    return [p for p in model.parameters() if not any(p is other for other in outside)]


@contextmanager
def _only_these_require_grad(model: nn.Module, parameters: list[nn.Parameter]) -> Generator[None, None, None]:
    """The model in evaluation mode with gradients for these parameters alone, for the time being."""
    training, before = model.training, [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    try:
        for p, _ in before:
            p.requires_grad_(any(p is chosen for chosen in parameters))
        yield
    finally:
        for p, required in before:
            p.requires_grad_(required)
        model.train(training)
