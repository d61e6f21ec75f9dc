"""`DeltaGRPOTrainer`: TRL's `GRPOTrainer`, with each token's advantage multiplied by its DelTA coefficient."""

import math
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from trl import GRPOTrainer

from .coefficients import Coefficients
from .config import DeltaGRPOConfig
from .metrics import coefficient_metrics
from .previous import PreviousCentroidsTrainer
from .records import completion_records
from .rollout import Rollout
from .run_folder import write_token_records
from .seams import with_signature_of
from .token_credit import RecordedPass
from .token_mask import token_mask


class DeltaGRPOTrainer(PreviousCentroidsTrainer):
    """
    Trainer for DelTA, Discriminative Token Credit Assignment for RLVR (https://huggingface.co/papers/2605.21467).

    A drop-in replacement of [`~trl.GRPOTrainer`]: it takes the same arguments, with a [`DeltaGRPOConfig`] as `args`. Once
    for each rollout batch it computes a coefficient for every completion token (0.8 to 1.2 before they are normalised to
    mean 1), by how much more the token's LM-head gradient belongs to its own advantage side than to the other. The only
    change to training is that TRL's loss sees advantages of shape (B, T), multiplied by these coefficients.

    Hidden states are recorded in the pass in which TRL computes old log-probabilities; where TRL makes no such pass, one
    no-grad forward pass is added (`delta/extra_forward_passes` in the logs says which), unless `coef_centroids` is
    `"previous"`. Evaluation is TRL's.

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
    args: DeltaGRPOConfig

    @with_signature_of(GRPOTrainer.__init__)
    def __init__(
        self, model: Any, reward_funcs: Any = None, args: DeltaGRPOConfig | None = None, *rest: Any, **kwargs: Any
    ) -> None:
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        self._completion_records: list[dict[str, Any]] = []

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
        if self.model.training and self.log_completions and self.args.credit_enabled:
            records = gather_object(self._completion_records)
            self._completion_records = []
            if records and self.accelerator.is_main_process:
                write_token_records(records, Path(self.args.output_dir), self.state.global_step)

    def _coefficient_metrics(self, coefficients: Coefficients, rollout: Rollout) -> dict[str, float]:
        return coefficient_metrics(coefficients, rollout, all_reduce=rollout.reduce, gather=self.accelerator.gather)
