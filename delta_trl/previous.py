"""`coef_centroids: previous`: coefficients from the forward pass of the loss, at the centroids of the rollout batch before.

A token's λ needs the centroids of all tokens of its rollout batch, so that a pass over all of them has to come before the
first loss. With those of the rollout batch before, each micro-batch gets its λ inside its own loss:

    λ = λ_min + (λ_max − λ_min) α,   α = sigmoid(m / γ) at the centroids and γ of the rollout batch before

normalised to mean 1 over the tokens of the micro-batch, on all processes: those of the others are not known yet. Hidden
states are kept as they pass; when the last micro-batch has, the method computes the rollout batch's own coefficients with
the code of `coef_centroids: batch`, and what they were made from is the next one's. Without any, in the first rollout
batch, λ is 1. One without contrast, or with a value that is not finite, leaves what was there before.

Symbols: B completions of a padded length of T tokens, N tokens that count.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from accelerate.logging import get_logger
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .coefficients import NON_FINITE, range_map
from .config import DeltaGRPOConfig
from .hidden_states import HiddenStates, record_hidden_states
from .metrics import correlation
from .rollout import Rollout
from .run_folder import STATISTICS_FILE
from .token_credit import MULTIMODAL_KEYS, RecordedPass, TokenCreditTrainer
from .token_mask import COUNTED, ROWS, counted_tokens, token_mask


logger = get_logger(__name__)

WITHOUT_STATISTICS = (
    "Continue from another checkpoint, or remove that file: the first rollout batch then has coefficients of 1."
)


@torch.no_grad()
def coefficients_at(statistics: dict[str, torch.Tensor], rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """
    λ of the tokens of one pass at the `statistics` of an earlier rollout batch's [`Coefficients`], shape (N,), float32.

    All are 1, on all processes, if one of them or a value that they depend on is not finite on any.
    """
    assert options.credit.assign is not None  # `check_pass_of_the_loss`
    alpha = options.credit.assign(rollout, statistics, options)
    values = range_map(alpha, rollout.sides.any(0), options.coef_min, options.coef_max)
    size = rollout.hidden.sum(1, dtype=torch.float32)  # of half precision, it could overflow
    for read in (alpha, rollout.log_probs, rollout.entropies, rollout.advantages, size):
        if read is not None:
            values = torch.where(read.isfinite(), values, torch.nan)  # which makes the sum over all processes NaN
    return rollout.mean_one(values, options.coef_normalize).nan_to_num(nan=1.0)


def write_statistics(statistics: dict[str, torch.Tensor] | None, method: str, file: Path) -> None:
    """What `method` knows of its last rollout batch, into a checkpoint; `None` if there was none with a contrast."""
    torch.save({"method": method, "statistics": statistics or {}}, file)


def read_statistics(file: Path, method: str, device: torch.device) -> dict[str, torch.Tensor]:
    """
    What a checkpoint has of its last rollout batch; empty if there was none with a contrast.

    Raises:
        ValueError: The file is cut off, holds something else, or was written by another method than `method`.
    """
    try:
        found = torch.load(file, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{file} cannot be read: it was cut off or changed. {WITHOUT_STATISTICS}") from error
    statistics = found.get("statistics") if isinstance(found, dict) else None
    if not isinstance(statistics, dict) or not all(isinstance(value, torch.Tensor) for value in statistics.values()):
        raise ValueError(f"{file} holds no statistics of a rollout batch. {WITHOUT_STATISTICS}")
    if (theirs := found.get("method")) != method:
        raise ValueError(
            f"{file} holds the statistics of {theirs}, which {method} does not read. {WITHOUT_STATISTICS}"
        )
    return statistics


class OpenBatch:
    """
    A local rollout batch of which some rows have passed through the loss.

    Attributes:
        batch: TRL's, in its own order, with `token_coefficients` and the tokens that count; without pictures.
        inputs: The dataset's row of each completion.
        log_probs, entropies, hidden_states: Of the rows that have passed, in the order of `batch`; see [`RecordedPass`].
    """

    def __init__(self, batch: dict[str, Any], inputs: Sequence[dict[str, Any]], offload: str):
        mask = batch["completion_mask"].bool()
        self.batch = {name: value for name, value in batch.items() if name not in MULTIMODAL_KEYS}
        self.batch |= {
            COUNTED: torch.zeros_like(mask),
            "token_coefficients": torch.ones(mask.shape, device=mask.device),
        }
        self.inputs = inputs
        self.log_probs, self.entropies = torch.zeros(2, *mask.shape, device=mask.device)
        self.hidden_states = HiddenStates(mask, offload)

    def put(self, inputs: dict[str, Any], recorded: RecordedPass, coefficients: torch.Tensor) -> None:
        """Keep what the pass of a micro-batch gave, and the coefficients that it used, shape (b, T)."""
        rows = inputs[ROWS]
        self.batch[COUNTED][rows] = inputs[COUNTED]
        self.batch["token_coefficients"][rows] = coefficients
        self.log_probs[rows] = recorded.log_probs.float()
        self.entropies[rows] = recorded.entropies.float()
        self.hidden_states.put(rows, recorded.hidden_states.packed)

    @property
    def recorded(self) -> RecordedPass:
        return RecordedPass(self.log_probs, self.entropies, self.hidden_states)


class PreviousCentroidsTrainer(TokenCreditTrainer):
    """
    [`TokenCreditTrainer`] that also knows `coef_centroids: previous`.

    Metrics of it, besides: `NAME/previous/correlation`, Pearson's, of the coefficients that were used with those that
    `coef_centroids: batch` would have given the same tokens, over the tokens with A ≠ 0; `NAME/previous/missing`, 1 where
    there was no rollout batch before. `NAME/fallback` says of a rollout batch whether its own statistics could be computed.
    A checkpoint holds the statistics, so that a resumed run goes on as it would have.
    """

    args: DeltaGRPOConfig
    _seams: ClassVar[dict[str, tuple[str, ...]]] = {
        **TokenCreditTrainer._seams,
        "_save_checkpoint": ("model", "trial"),
        "_load_optimizer_and_scheduler": ("checkpoint",),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._statistics: dict[str, torch.Tensor] | None = None
        self._open: OpenBatch | None = None
        self._loss_inputs: dict[str, Any] | None = None  # of the micro-batch that is in its loss
        self._loss_seconds = 0.0
        super().__init__(*args, **kwargs)

    @property
    def _credits_losses(self) -> bool:
        """Whether a loss that is computed now finds the coefficients itself."""
        return self.model.training and self.args.credit_enabled and self.args.coef_centroids == "previous"

    @property
    def _credits_rollout_batches(self) -> bool:
        return super()._credits_rollout_batches and not self._credits_losses

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        if self._credits_losses:
            mask = batch["completion_mask"]
            batch[ROWS] = torch.arange(len(mask), device=mask.device)
            self._open, self._loss_seconds = OpenBatch(batch, inputs, self.args.coef_offload), 0.0
        return batch

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self._credits_losses:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # A copy, whose advantages TRL reads only after it has computed log-probabilities: these can still decide about them
        self._loss_inputs = {**inputs}
        try:
            loss = super().compute_loss(model, self._loss_inputs, return_outputs, num_items_in_batch)
        finally:
            self._loss_inputs = None
        if self._open.hidden_states.is_complete:
            self._finish(self._open)
            self._open = None
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        forward = super()._get_per_token_logps_and_entropies
        if self._loss_inputs is None:
            return forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        policy, mask = self.accelerator.unwrap_model(model), attention_mask[:, -logits_to_keep:].bool()
        with record_hidden_states(policy, mask) as hidden_states:
            outputs = forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        start = time.perf_counter()
        self._weigh(self._loss_inputs, RecordedPass(outputs[0].detach(), outputs[1].detach(), hidden_states))
        self._loss_seconds += time.perf_counter() - start
        return outputs

    @torch.no_grad()
    def _weigh(self, inputs: dict[str, Any], recorded: RecordedPass) -> None:
        """Multiply the advantages of a micro-batch by its coefficients, and keep what passed."""
        mask = inputs[COUNTED] = counted_tokens(self, inputs, recorded.log_probs)
        coefficients = torch.ones(mask.shape, device=mask.device)
        if self._statistics is not None:
            coefficients[mask] = coefficients_at(self._statistics, self._rollout(inputs, recorded, ()), self.args)
        self._open.put(inputs, recorded, coefficients)
        inputs["advantages"] = inputs["advantages"].unsqueeze(1) * coefficients

    @torch.no_grad()
    def _finish(self, done: OpenBatch) -> None:
        """Learn the statistics of a rollout batch that has passed, and log its coefficients."""
        start = time.perf_counter()
        rollout = self._rollout(done.batch, done.recorded, done.inputs)
        own = self.args.credit(rollout, self.args)
        used = dataclasses.replace(own, values=done.batch["token_coefficients"][token_mask(done.batch)])
        prefix, metrics = self.args.credit.prefix, self._coefficient_metrics(used, rollout)
        metrics[f"{prefix}/previous/missing"] = float(self._statistics is None)
        if own.fallback == NON_FINITE:
            logger.warning(
                f"A coefficient of {self._name}, or a hidden state, log-probability or advantage that it depends on, is not "
                "finite. Coefficients of its forward pass are 1, and the next rollout batch has those of an earlier one."
            )
        elif own.fallback is None:
            agreement = correlation(used.values, own.values, rollout.sides.any(0), rollout.reduce)
            if self._statistics is not None and agreement is not None:
                metrics[f"{prefix}/previous/correlation"] = agreement
            self._statistics = own.statistics
        metrics[f"{prefix}/extra_forward_passes"] = 0.0
        metrics[f"{prefix}/seconds"] = self._loss_seconds + time.perf_counter() - start
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        self._coefficients_added(done.batch, done.recorded)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.coef_centroids == "previous" and self.args.should_save:
            # Before transformers writes the file that marks a checkpoint as complete
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            write_statistics(self._statistics, self.args.credit.name, folder / STATISTICS_FILE)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.args.coef_centroids != "previous":
            return
        file = Path(checkpoint) / STATISTICS_FILE
        if file.is_file():
            self._statistics = read_statistics(file, self.args.credit.name, self.accelerator.device) or None
        else:
            logger.warning(
                f"{checkpoint} has no {STATISTICS_FILE}, as one that was made with coef_centroids='batch': the coefficients "
                "of the first rollout batch are 1."
            )
