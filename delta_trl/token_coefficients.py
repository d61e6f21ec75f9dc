"""`TokenCoefficientsTrainer`: what methods share that multiply each token's advantage by a coefficient of its own."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from trl.models.utils import disable_gradient_checkpointing

from .base import GRPOBaseTrainer
from .hidden_states import HiddenStates
from .token_mask import COUNTED, counted_tokens


# The multimodal entries of a rollout batch, which a forward pass of the policy takes besides ids and masks
MULTIMODAL_KEYS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)


def for_each_token(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """From one value for each response, shape (B,), to one for each token, shape (N,) with N = `mask.sum()`."""
    return values.unsqueeze(1).expand_as(mask)[mask]


class RecordedPass(NamedTuple):
    """One forward pass of the policy over a rollout batch.

    Log-probs of the completions, shape (B, T); entropies, shape (B, T), and hidden states where the trainer asks for them.
    """

    log_probs: torch.Tensor
    entropies: torch.Tensor | None
    hidden_states: HiddenStates | None


class TokenCoefficientsTrainer(GRPOBaseTrainer):
    """
    Base class of trainers that compute a coefficient for every completion token, once for each rollout batch.

    A subclass fills `token_coefficients` in `add_token_coefficients`, from one recorded forward pass of the policy. TRL's
    loss then sees advantages of shape (B, T), multiplied by them. The pass is the one in which TRL computes old
    log-probabilities; where TRL makes none, one no-grad forward pass is added. Evaluation is TRL's.

    Attributes:
        metrics_prefix (`str`): Of what is logged.
        records_entropies (`bool`): Whether the recorded pass also has the entropy of the policy at every token.
    """

    metrics_prefix: ClassVar[str]
    records_entropies: ClassVar[bool] = False
    _seams = {
        **GRPOBaseTrainer._seams,
        "_get_per_token_logps_and_entropies": (
            *("model", "input_ids", "attention_mask", "logits_to_keep"),
            *("batch_size", "compute_entropy"),
        ),
        "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    }

    def __init__(self, model, reward_funcs=None, args=None, *positional, **kwargs):
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        if self.coefficients_enabled:
            self._require_no_dropout(
                f"{self._name}'s coefficients come from a forward pass of their own, and would describe another network "
                "than the one that is updated."
            )
        # Where the first pass of the policy goes, while one is recorded; see `_record_first_pass`
        self._passes: list[RecordedPass] | None = None

    @property
    def coefficients_enabled(self) -> bool:
        """Whether coefficients are computed at all."""
        return True

    def add_token_coefficients(self, batch: dict[str, Any], recorded: RecordedPass) -> None:
        """Add `token_coefficients` to a local rollout batch: shape (B, T), float32, 1 where `token_mask` is false."""
        raise NotImplementedError

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL calls this once for each rollout batch, before it shuffles and splits the rows and keeps them for every
        # update: a (B, T) tensor added here is carried along, and belongs to the same rows for good.
        if not (self.model.training and self.coefficients_enabled):
            return super()._generate_and_score_completions(inputs)
        with self._record_first_pass() as passes:
            batch = super()._generate_and_score_completions(inputs)
        start = time.perf_counter()
        # The pass is the policy's if its log-probs are the very tensor that TRL keeps as the policy's own. Under PEFT the
        # reference pass runs the same model with its adapters off, and comes second or alone.
        recorded = passes.pop() if passes else None
        recorded_by_trl = recorded is not None and recorded.log_probs is batch.get("old_per_token_logps")
        if not recorded_by_trl:
            del recorded
            recorded = self.record_policy(batch)
        batch[COUNTED] = counted_tokens(self, batch, recorded.log_probs)
        self.add_token_coefficients(batch, recorded)
        metrics = self._metrics["train"]
        metrics[f"{self.metrics_prefix}/extra_forward_passes"].append(float(not recorded_by_trl))
        metrics[f"{self.metrics_prefix}/seconds"].append(time.perf_counter() - start)
        self._coefficients_added(batch, recorded)
        return batch

    def _coefficients_added(self, batch: dict[str, Any], recorded: RecordedPass) -> None:
        """For subclasses that keep something of a finished rollout batch."""

    @torch.no_grad()
    def record_policy(self, batch: dict[str, Any]) -> RecordedPass:
        """Run the policy over a local rollout batch, without gradient, and record its completions."""
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        multimodal = {key: batch[key] for key in MULTIMODAL_KEYS if key in batch}
        with (
            self._record_first_pass() as passes,
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            self._get_per_token_logps_and_entropies(
                self.model,
                input_ids,
                attention_mask,
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
                **multimodal,
            )
        return passes.pop()

    @contextmanager
    def _record_first_pass(self) -> Iterator[list[RecordedPass]]:
        """Record the first pass that the policy makes inside this context. The list stays empty if it makes none."""
        self._passes = passes = []
        try:
            yield passes
        finally:
            self._passes = None

    def _recording(
        self, policy: torch.nn.Module, completion_mask: torch.Tensor
    ) -> AbstractContextManager[HiddenStates | None]:
        """Context of the recorded pass, which gives the hidden states if the subclass wants them."""
        return nullcontext()

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        forward = super()._get_per_token_logps_and_entropies
        # Only the first pass: TRL makes the policy's own before the reference's
        if self._passes != [] or model is not self.model:
            return forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        if self.records_entropies:
            kwargs["compute_entropy"] = True
        completion_mask = attention_mask[:, -logits_to_keep:].bool()
        with self._recording(self.accelerator.unwrap_model(model), completion_mask) as hidden_states:
            outputs = forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self._passes.append(RecordedPass(outputs[0], outputs[1], hidden_states))
        return outputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        coefficients = inputs.get("token_coefficients")
        if coefficients is None and self.model.training and self.coefficients_enabled:
            raise RuntimeError(
                f"A rollout batch came to the loss without the coefficients of {self._name}: this TRL does not hand on what "
                "_generate_and_score_completions returns."
            )
        if coefficients is not None:
            # A copy: TRL keeps this dict for further updates, which would otherwise apply the coefficients again
            inputs = {**inputs, "advantages": inputs["advantages"].unsqueeze(1) * coefficients}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    @property
    def _all_reduce(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        return self.accelerator.reduce if self.accelerator.num_processes > 1 else None

    def _gather_uneven(self, values: torch.Tensor) -> torch.Tensor:
        """The 1-D tensors of all processes, concatenated. -inf marks padding, and is no value."""
        padded = self.accelerator.pad_across_processes(values, pad_index=-torch.inf)
        gathered = self.accelerator.gather(padded)
        return gathered[gathered > -torch.inf]
