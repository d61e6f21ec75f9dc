"""`DeltaGRPOTrainer`: TRL's `GRPOTrainer`, with each token's advantage multiplied by its DelTA coefficient."""

import math
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from trl.models.utils import disable_gradient_checkpointing

from .base import GRPOBaseTrainer
from .coefficients import NON_FINITE, Coefficients, delta_coefficients
from .config import DeltaGRPOConfig
from .features import FEATURES, Policy, Rows
from .hidden_states import HiddenStates, RolloutTokens, record_hidden_states
from .metrics import coefficient_metrics
from .records import completion_records, write_completion_records


logger = get_logger(__name__)

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


def token_mask(batch: dict[str, Any]) -> torch.Tensor:
    """Shape (B, T), bool: the completion tokens of a rollout batch that the model wrote and that count in the loss."""
    mask = batch["completion_mask"].bool()
    return mask & batch["tool_mask"].bool() if "tool_mask" in batch else mask


class RecordedPass(NamedTuple):
    """One forward pass of the policy over a rollout batch: log-probs of the completions, (B, T), and hidden states."""

    log_probs: torch.Tensor
    hidden_states: HiddenStates


class DeltaGRPOTrainer(GRPOBaseTrainer):
    """
    Trainer for DelTA, Discriminative Token Credit Assignment for RLVR (https://huggingface.co/papers/2605.21467).

    A drop-in replacement of [`~trl.GRPOTrainer`]: it takes the same arguments, with a [`DeltaGRPOConfig`] as `args`. Once
    for each rollout batch it computes a coefficient for every completion token (0.8 to 1.2 before they are normalised to
    mean 1), by how much more the token's LM-head gradient belongs to its own advantage side than to the other. The only
    change to training is that TRL's loss sees advantages of shape (B, T), multiplied by these coefficients.

    Hidden states are recorded in the pass in which TRL computes old log-probabilities; where TRL makes no such pass, one
    no-grad forward pass is added (`delta/extra_forward_passes` in the logs says which). Evaluation is TRL's.

    Example:

    ```python
    >>> from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
    >>> from delta_trl.rewards import math_reward

    >>> trainer = DeltaGRPOTrainer(
    ...     model="Qwen/Qwen3-0.6B-Base",
    ...     reward_funcs=math_reward,
    ...     args=DeltaGRPOConfig("Qwen3-0.6B-DelTA"),
    ...     train_dataset=dataset,  # columns: prompt, solution
    ... )
    >>> trainer.train()
    ```

    Raises:
        `ValueError`: when built with a `GRPOConfig` that lacks DelTA's options, or with a policy whose dropout stays active.
        `RuntimeError`: while training, on all processes, when a reward function raises on any; a checkpoint is saved first.
    """

    config_class = DeltaGRPOConfig
    _seams = {
        **GRPOBaseTrainer._seams,
        "_generate_and_score_completions": ("inputs",),
        "_get_per_token_logps_and_entropies": (
            *("model", "input_ids", "attention_mask", "logits_to_keep"),
            "batch_size",
        ),
        "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    }
    _tag_names = ["trl", "grpo", "delta"]
    _name = "DelTA"
    _paper = {
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
    }

    def __init__(self, model, reward_funcs=None, args: DeltaGRPOConfig | None = None, *positional, **kwargs):
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        if self.args.coef_enabled:
            self._require_no_dropout(
                "DelTA's coefficients come from a forward pass of their own, and would describe another network than the "
                "one that is updated."
            )
        # Where the first pass of the policy goes, while one is recorded; see `_record_first_pass`
        self._passes: list[RecordedPass] | None = None
        self._completion_records: list[dict[str, Any]] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL calls this once for each rollout batch, before it shuffles and splits the rows and keeps them for every
        # update: a (B, T) tensor added here is carried along, and belongs to the same rows for good.
        if not (self.model.training and self.args.coef_enabled):
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
        self.add_token_coefficients(batch, recorded)
        self._metrics["train"]["delta/extra_forward_passes"].append(float(not recorded_by_trl))
        self._metrics["train"]["delta/seconds"].append(time.perf_counter() - start)
        if self.log_completions:
            kept = math.ceil(self.args.coef_log_completions / self.accelerator.num_processes)
            rewards = self._local_rewards(len(batch["completion_ids"]))[:kept]
            self._completion_records = completion_records(
                batch, recorded.log_probs, token_mask(batch), rewards, self._tokenizer
            )
        return batch

    @torch.no_grad()
    def record_policy(self, batch: dict[str, Any]) -> RecordedPass:
        """Run the policy over a local rollout batch, without gradient: log-probs and hidden states of its completions."""
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

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        forward = super()._get_per_token_logps_and_entropies
        # Only the first pass: TRL makes the policy's own before the reference's
        if self._passes != [] or model is not self.model:
            return forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        completion_mask = attention_mask[:, -logits_to_keep:].bool()
        policy = self.accelerator.unwrap_model(model)
        with record_hidden_states(policy, completion_mask, self.args.coef_offload) as hidden_states:
            outputs = forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self._passes.append(RecordedPass(outputs[0], hidden_states))
        return outputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        coefficients = inputs.get("token_coefficients")
        if coefficients is not None:
            # A copy: TRL keeps this dict for further updates, which would otherwise apply the coefficients again
            inputs = {**inputs, "advantages": inputs["advantages"].unsqueeze(1) * coefficients}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        # The latest rollout batch, once. Every process logs at the same steps, so that gathering here is safe.
        if self.model.training and self.log_completions and self.args.coef_enabled:
            records = gather_object(self._completion_records)
            self._completion_records = []
            if records and self.accelerator.is_main_process:
                write_completion_records(records, self.args.output_dir, self.state.global_step)

    @torch.no_grad()
    def add_token_coefficients(self, batch: dict[str, Any], recorded: RecordedPass) -> None:
        """Add `token_coefficients` to a local rollout batch: shape (B, T), float32, 1 where there is no token."""
        mask, hidden = token_mask(batch), recorded.hidden_states.packed
        if "tool_mask" in batch:
            hidden = hidden[mask[batch["completion_mask"].bool()].to(hidden.device)]
        # TRL keeps the responses of a prompt next to each other, over the processes in order of rank
        response = torch.arange(len(mask), device=mask.device) + self.accelerator.process_index * len(mask)
        tokens = RolloutTokens(
            hidden=hidden,
            log_probs=recorded.log_probs[mask],
            ids=batch["completion_ids"][mask],
            advantages=batch["advantages"].unsqueeze(1).expand_as(mask)[mask],
            responses=response.unsqueeze(1).expand_as(mask)[mask],
        )
        coefficients = self._compute_coefficients(tokens)
        if coefficients.fallback == NON_FINITE:
            logger.warning(
                "A hidden state, log-probability or advantage of this rollout batch is not finite. Its coefficients are "
                "all 1: this batch is trained on without DelTA."
            )
        values = torch.ones(mask.shape, device=mask.device)
        values[mask] = coefficients.values
        batch["token_coefficients"] = values
        metrics = coefficient_metrics(
            coefficients, tokens, all_reduce=self._all_reduce, gather=self.accelerator.gather
        )
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _compute_coefficients(self, tokens: RolloutTokens) -> Coefficients:
        """From the tokens of a rollout batch to their coefficients. Subclasses with another method replace this one.

        `tokens.hidden` may be overwritten: nothing reads it afterwards.
        """
        features, scale = self._features(tokens, self.args.coef_features, out=tokens.hidden)
        return delta_coefficients(
            features,
            tokens.advantages,
            feature_scale=scale,
            coef_min=self.args.coef_min,
            coef_max=self.args.coef_max,
            refinement_steps=self.args.coef_refinement_steps,
            normalize=self.args.coef_normalize,
            all_reduce=self._all_reduce,
        )

    def _features(self, tokens: RolloutTokens, name: str, out: torch.Tensor | None = None) -> Rows:
        """The features of this name, as functions of `FEATURES` return them."""
        policy = Policy(self.accelerator.unwrap_model(self.model), self.temperature, self.args.coef_top_k)
        return FEATURES[name](tokens, policy, out=out)

    @property
    def _all_reduce(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        return self.accelerator.reduce if self.accelerator.num_processes > 1 else None

    def _local_rewards(self, n_rows: int) -> list[float]:
        """Total rewards of the rollout batch that was just scored; TRL logs those of all processes, in order of rank."""
        per_function = torch.tensor(
            [list(values)[-n_rows * self.accelerator.num_processes :] for values in self._logs["rewards"].values()]
        )
        totals = (per_function * self.reward_weights[:, None]).nansum(0)
        start = self.accelerator.process_index * n_rows
        return totals[start : start + n_rows].tolist()
