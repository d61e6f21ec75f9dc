"""`DeltaGRPOTrainer`: TRL's `GRPOTrainer`, with each token's advantage multiplied by its DelTA coefficient."""

import math
import textwrap
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object

from ._versions import require_tested_trl
from .base import RolloutTrainer
from .coefficients import NO_CONTRAST, NON_FINITE, Coefficients, delta_coefficients
from .config import DeltaGRPOConfig
from .features import FEATURES, HiddenStates, RolloutTokens, record_hidden_states
from .metrics import explained_by_uncertainty
from .records import completion_records, write_completion_records


require_tested_trl()

from trl.models.utils import disable_gradient_checkpointing  # noqa: E402 (the version check must speak first)


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


class DeltaGRPOTrainer(RolloutTrainer):
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
        self._recording = False
        self._recorded: tuple[torch.Tensor, HiddenStates] | None = None
        self._completion_records: list[dict[str, Any]] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL calls this once for each rollout batch, before it shuffles and splits the rows and keeps them for every
        # update: a (B, T) tensor added here is carried along, and belongs to the same rows for good.
        if not (self.model.training and self.args.coef_enabled):
            return super()._generate_and_score_completions(inputs)
        self._recording = True
        try:
            batch = super()._generate_and_score_completions(inputs)
            self._add_token_coefficients(batch)
        finally:
            self._recording, self._recorded = False, None
        return batch

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        # Under PEFT the reference pass runs the same model with its adapters off, after the policy's own pass if there is
        # one. So the first pass is recorded, and `_add_token_coefficients` tells by identity whose it was.
        if not self._recording or model is not self.model or self._recorded is not None:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        completion_mask = attention_mask[:, -logits_to_keep:].bool()
        policy, offload = self.accelerator.unwrap_model(model), self.args.coef_offload
        with record_hidden_states(policy, completion_mask, offload) as hidden_states:
            outputs = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        self._recorded = (outputs[0], hidden_states)
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
    def _add_token_coefficients(self, batch: dict[str, Any]) -> None:
        """Add `token_coefficients` to a local rollout batch: shape (B, T), float32, 1 where there is no token."""
        start = time.perf_counter()
        completion_mask = batch["completion_mask"].bool()
        token_mask = completion_mask & batch["tool_mask"].bool() if "tool_mask" in batch else completion_mask

        old_per_token_logps = batch.get("old_per_token_logps")
        recorded_by_trl = self._recorded is not None and self._recorded[0] is old_per_token_logps
        if not recorded_by_trl:
            self._recorded = None
            self._run_policy(batch)
        per_token_logps, hidden_states = self._recorded

        hidden = hidden_states.packed
        if "tool_mask" in batch:
            hidden = hidden[token_mask[completion_mask].to(hidden.device)]
        # TRL keeps the responses of a prompt next to each other, over the processes in order of rank
        response = torch.arange(len(token_mask), device=token_mask.device)
        response += self.accelerator.process_index * len(token_mask)
        tokens = RolloutTokens(
            hidden=hidden,
            log_probs=per_token_logps[token_mask],
            ids=batch["completion_ids"][token_mask],
            advantages=batch["advantages"].unsqueeze(1).expand_as(token_mask)[token_mask],
            responses=response.unsqueeze(1).expand_as(token_mask)[token_mask],
        )
        coefficients = self._compute_coefficients(tokens)
        if coefficients.fallback == NON_FINITE:
            logger.warning(
                "A hidden state, log-probability or advantage of this rollout batch is not finite. Its coefficients are "
                "all 1: this batch is trained on without DelTA."
            )
        values = torch.ones(token_mask.shape, device=token_mask.device)
        values[token_mask] = coefficients.values
        batch["token_coefficients"] = values
        self._log_coefficients(coefficients, tokens)
        self._metrics["train"]["delta/extra_forward_passes"].append(float(not recorded_by_trl))
        self._metrics["train"]["delta/seconds"].append(time.perf_counter() - start)
        if self.log_completions:
            kept = math.ceil(self.args.coef_log_completions / self.accelerator.num_processes)
            self._completion_records = completion_records(
                batch, per_token_logps, token_mask, self._local_rewards(len(token_mask))[:kept], self._tokenizer
            )

    def _compute_coefficients(self, tokens: RolloutTokens) -> Coefficients:
        """From the tokens of a rollout batch to their coefficients: the one method that another way of credit replaces."""
        features, scale = self._features(tokens, self.args.coef_features)
        return delta_coefficients(
            features,
            tokens.advantages,
            feature_scale=scale,
            coef_min=self.args.coef_min,
            coef_max=self.args.coef_max,
            refinement_steps=self.args.coef_refinement_steps,
            all_reduce=self._all_reduce,
        )

    def _features(self, tokens: RolloutTokens, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features of this name, which may be written over `tokens.hidden`, and a factor for each row or `None`."""
        return FEATURES[name](
            tokens.hidden,
            tokens.log_probs,
            tokens.ids,
            self.accelerator.unwrap_model(self.model),
            self.temperature,
            self.args.coef_top_k,
        )

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

    @torch.no_grad()
    def _run_policy(self, batch: dict[str, Any]) -> None:
        """Run the policy over a rollout batch without gradient, so that its hidden states are recorded."""
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        multimodal = {key: batch[key] for key in MULTIMODAL_KEYS if key in batch}
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            self._get_per_token_logps_and_entropies(
                self.model,
                input_ids,
                attention_mask,
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
                **multimodal,
            )

    def _log_coefficients(self, coefficients: Coefficients, tokens: RolloutTokens) -> None:
        """Add the statistics of one rollout batch, over all processes, to TRL's metrics."""
        advantages = tokens.advantages
        metrics = self._metrics["train"]
        metrics["delta/fallback/no_contrast"].append(float(coefficients.fallback == NO_CONTRAST))
        metrics["delta/fallback/non_finite"].append(float(coefficients.fallback == NON_FINITE))

        positive, negative = advantages > 0, advantages < 0
        credited = positive | negative
        values = coefficients.values[credited]
        # A sum and a count from each process, so that a process without a token weighs nothing
        sums = torch.stack(
            [
                *(values.sum(), values.square().sum(), (values > 1).sum(), credited.sum()),
                *(coefficients.values[positive].sum(), positive.sum()),
                *(coefficients.values[negative].sum(), negative.sum()),
            ]
        )
        total, squares, above, count, positive_total, positive_count, negative_total, negative_count = (
            self.accelerator.reduce(sums).tolist()
        )
        bound = values.new_tensor([torch.inf])
        smallest = self.accelerator.gather(torch.cat([values, bound]).min()).min().item()
        largest = self.accelerator.gather(torch.cat([values, -bound]).max()).max().item()

        if count > 0:
            mean = total / count
            metrics["delta/coef/mean"].append(mean)
            metrics["delta/coef/std"].append(max(0.0, squares / count - mean**2) ** 0.5)
            metrics["delta/coef/min"].append(smallest)
            metrics["delta/coef/max"].append(largest)
            metrics["delta/coef/share_above_one"].append(above / count)
        if positive_count > 0:
            metrics["delta/coef/mean_positive"].append(positive_total / positive_count)
        if negative_count > 0:
            metrics["delta/coef/mean_negative"].append(negative_total / negative_count)
        # Constant coefficients have none of these; but every process must take part in the sums
        doubt = -torch.expm1(tokens.log_probs)
        explained = explained_by_uncertainty(coefficients.values, advantages, doubt, self._all_reduce)
        for name, value in explained.items():
            metrics[f"delta/uncertainty/{name}"].append(value)
        if coefficients.fallback is None:
            statistics = {
                "temperature/positive": coefficients.temperature_positive,
                "temperature/negative": coefficients.temperature_negative,
                "centroid_distance/before": coefficients.distance_before,
                "centroid_distance/after": coefficients.distance_after,
                "centroid_cosine/before": coefficients.cosine_before,
                "centroid_cosine/after": coefficients.cosine_after,
            }
            for name, value in statistics.items():
                if not math.isnan(value):  # another way of credit has no such statistic
                    metrics[f"delta/{name}"].append(value)
