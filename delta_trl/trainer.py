"""`DeltaGRPOTrainer`: TRL's `GRPOTrainer`, with each token's advantage multiplied by its DelTA coefficient."""

import math
import textwrap
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object

from .coefficients import NON_FINITE, Coefficients, delta_coefficients
from .config import DeltaGRPOConfig
from .features import FEATURES, Policy, Rows
from .hidden_states import HiddenStates, RolloutTokens, record_hidden_states
from .metrics import coefficient_metrics
from .records import completion_records, write_completion_records
from .token_coefficients import RecordedPass, TokenCoefficientsTrainer, for_each_token
from .token_mask import token_mask


logger = get_logger(__name__)


class DeltaGRPOTrainer(TokenCoefficientsTrainer):
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
    metrics_prefix = "delta"
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
        self._completion_records: list[dict[str, Any]] = []

    @property
    def coefficients_enabled(self) -> bool:
        return self.args.coef_enabled

    def _recording(
        self, policy: torch.nn.Module, completion_mask: torch.Tensor
    ) -> AbstractContextManager[HiddenStates]:
        return record_hidden_states(policy, completion_mask, self.args.coef_offload)

    def _coefficients_added(self, batch: dict[str, Any], recorded: RecordedPass) -> None:
        if self.log_completions:
            kept = math.ceil(self.args.coef_log_completions / self.accelerator.num_processes)
            rewards = self._local_rewards(len(batch["completion_ids"]))[:kept]
            self._completion_records = completion_records(
                batch, recorded.log_probs, token_mask(batch), rewards, self._tokenizer
            )

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
        """Add `token_coefficients` to a local rollout batch: shape (B, T), float32, 1 where `token_mask` is false."""
        mask, hidden = token_mask(batch), recorded.hidden_states.packed
        if len(hidden) > mask.sum():  # those of every completion token were recorded
            hidden = hidden[mask[batch["completion_mask"].bool()].to(hidden.device)]
        # TRL keeps the responses of a prompt next to each other, over the processes in order of rank
        response = torch.arange(len(mask), device=mask.device) + self.accelerator.process_index * len(mask)
        tokens = RolloutTokens(
            hidden=hidden,
            log_probs=recorded.log_probs[mask],
            ids=batch["completion_ids"][mask],
            advantages=for_each_token(batch["advantages"], mask),
            responses=for_each_token(response, mask),
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

    def _local_rewards(self, n_rows: int) -> list[float]:
        """Total rewards of the rollout batch that was just scored; TRL logs those of all processes, in order of rank."""
        per_function = torch.tensor(
            [list(values)[-n_rows * self.accelerator.num_processes :] for values in self._logs["rewards"].values()]
        )
        totals = (per_function * self.reward_weights[:, None]).nansum(0)
        start = self.accelerator.process_index * n_rows
        return totals[start : start + n_rows].tolist()
