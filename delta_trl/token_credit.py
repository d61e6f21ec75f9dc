"""`TokenCreditTrainer`: multiplies each token's advantage by a coefficient, by the method that its config points to."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from accelerate.logging import get_logger
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from .base import GRPOBaseTrainer
from .checks import check_teacher
from .coefficients import NON_FINITE, Coefficients
from .config import TokenCreditConfig
from .credit import Credit
from .features import Policy
from .hidden_states import HiddenStates, record_hidden_states
from .rollout import Rollout
from .seams import check_seams, with_signature_of
from .token_mask import COUNTED, ROWS, counted_tokens, token_mask


logger = get_logger(__name__)

# The multimodal entries of a rollout batch, which a forward pass of the policy takes besides ids and masks
MULTIMODAL_KEYS = (
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles"),
    *("image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
)


class RecordedPass(NamedTuple):
    """One forward pass of the policy over a rollout batch.

    Log-probs of the completions, shape (B, T); entropies, shape (B, T), and hidden states where the method needs them.
    """

    log_probs: torch.Tensor
    entropies: torch.Tensor | None
    hidden_states: HiddenStates | None


class TokenCreditTrainer(GRPOBaseTrainer):
    """
    [`~trl.GRPOTrainer`] in which a method credits tokens: the [`Credit`] that the config's class points to.

    Once for each rollout batch it records a forward pass of the policy, and has the method compute a coefficient for every
    completion token. TRL's loss then sees advantages of shape (B, T), multiplied by them. The pass is the one in which TRL
    computes old log-probabilities; where TRL makes none, one without gradient is added. Evaluation is TRL's.

    Metrics, over the tokens of all processes: `NAME/mean` and `NAME/share_above_1` of the coefficients, `NAME/non_finite`,
    1 if they could not be computed and were all set to 1, `NAME/extra_forward_passes` and `NAME/seconds`.

    Raises:
        `ValueError`: when built with a config that points to no method, with a policy whose dropout stays active, or, for a
            method that tells a teacher the answer, with a dataset that lacks it.
        `RuntimeError`: while training, on all processes, when a reward function raises on any; a checkpoint is saved first.
    """

    config_class = TokenCreditConfig
    args: TokenCreditConfig
    _seams: ClassVar[dict[str, tuple[str, ...]]] = {
        **GRPOBaseTrainer._seams,
        "_generate_and_score_completions": ("inputs",),
        "_get_per_token_logps_and_entropies": (
            *("model", "input_ids", "attention_mask", "logits_to_keep"),
            *("batch_size", "compute_entropy"),
        ),
        "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    }

    @with_signature_of(GRPOTrainer.__init__)
    def __init__(
        self, model: Any, reward_funcs: Any = None, args: TokenCreditConfig | None = None, *rest: Any, **kwargs: Any
    ) -> None:
        credit = getattr(self.config_class if args is None else args, "credit", None)
        if isinstance(credit, Credit):
            self._name, self._paper = credit.name, dict(credit.paper)
            self._tag_names = list(dict.fromkeys(("trl", "grpo", credit.prefix, credit.name.lower())))
            if "teacher" in credit.needs:
                check_seams(_WithTeacher)
                check_teacher(credit.name, rest[0] if rest else kwargs.get("train_dataset"), kwargs)
        elif args is None or isinstance(args, self.config_class):  # another kind of config is refused as such
            raise ValueError(
                f"{(self.config_class if args is None else type(args)).__name__} points to no method of token credit. Give "
                "it a class attribute `credit`, or use the config class of a method: docs/methods.md."
            )
        # Where the first pass of the policy goes, while one is recorded; see `_record_first_pass`
        self._passes: list[RecordedPass] | None = None
        self._memory: dict[str, Any] = {}
        self._first_step: int | None = None  # of this process's first rollout batch
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        if self.args.credit_enabled:
            self._require_no_dropout(
                f"{self._name}'s coefficients come from a forward pass of their own, and would describe another network "
                "than the one that is updated."
            )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL calls this once for each rollout batch, before it shuffles and splits the rows and keeps them for every
        # update: a (B, ...) tensor added here is carried along, and belongs to the same rows for good.
        if not self._credits_rollout_batches:
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
        self.add_token_coefficients(batch, recorded, inputs)
        metrics, prefix = self._metrics["train"], self.args.credit.prefix
        metrics[f"{prefix}/extra_forward_passes"].append(float(not recorded_by_trl))
        metrics[f"{prefix}/seconds"].append(time.perf_counter() - start)
        self._coefficients_added(batch, recorded)
        return batch

    @property
    def _credits_rollout_batches(self) -> bool:
        """Whether a rollout batch comes to the loss with coefficients."""
        return self.model.training and self.args.credit_enabled

    @torch.no_grad()
    def add_token_coefficients(
        self, batch: dict[str, Any], recorded: RecordedPass, inputs: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Add `token_coefficients` to a local rollout batch: shape (B, T), float32, 1 where `token_mask` is false."""
        rollout = self._rollout(batch, recorded, inputs)
        coefficients = self.args.credit(rollout, self.args)
        if coefficients.fallback == NON_FINITE:
            logger.warning(
                f"A coefficient of {self._name}, or a hidden state, log-probability or advantage that it depends on, is not "
                "finite. This rollout batch is trained on with coefficients of 1."
            )
        mask = token_mask(batch)
        values = torch.ones(mask.shape, device=mask.device)
        values[mask] = coefficients.values.float()
        batch["token_coefficients"] = values
        for name, value in self._coefficient_metrics(coefficients, rollout).items():
            self._metrics["train"][name].append(value)

    def _rollout(self, batch: dict[str, Any], recorded: RecordedPass, inputs: Sequence[dict[str, Any]]) -> Rollout:
        """The tokens that count, of a local rollout batch or of those rows of it that have a number."""
        mask, args = token_mask(batch), self.args
        process, step = self.accelerator.process_index, self.state.global_step
        self._first_step = step if self._first_step is None else self._first_step
        is_alone = self.accelerator.num_processes == 1
        # TRL keeps a prompt's responses next to each other, over the processes in order of rank
        first = process * (args.generation_batch_size // self.accelerator.num_processes)
        responses = first + batch.get(ROWS, torch.arange(len(mask), device=mask.device))
        if recorded.hidden_states is None:
            hidden = recorded.log_probs.new_empty(int(mask.sum()), 0)
        else:
            hidden = recorded.hidden_states.packed
            assert hidden is not None  # `check_complete` has seen to it
            if len(hidden) > mask.sum():  # those of every completion token were recorded
                hidden = hidden[mask[batch["completion_mask"].bool()].to(hidden.device)]
        return Rollout(
            hidden=hidden,
            log_probs=recorded.log_probs[mask],
            ids=batch["completion_ids"][mask],
            advantages=_for_each_token(batch["advantages"], mask),
            responses=_for_each_token(responses, mask),
            entropies=None if recorded.entropies is None else recorded.entropies[mask].float(),
            group_size=args.num_generations,
            n_groups=args.generation_batch_size // args.num_generations,
            first_response=first,
            policy=Policy(self.accelerator.unwrap_model(self.model), self.temperature, args.coef_top_k),
            batch=batch,
            inputs=inputs,
            replay=lambda prompts=None: self._replay(batch, prompts),
            generator=torch.Generator().manual_seed((args.seed * 1_000_003 + step) * 65_537 + process),
            resumed=self._first_step > 0,
            memory=self._memory,
            **({} if is_alone else {"reduce": self.accelerator.reduce, "gather": self._gather_uneven}),
        )

    def _coefficient_metrics(self, coefficients: Coefficients, rollout: Rollout) -> dict[str, float]:
        """What is logged of the coefficients; the same on every process."""
        values, prefix = coefficients.values, self.args.credit.prefix
        sums = torch.stack([values.sum(), (values > 1).sum(), values.new_tensor(len(values))])
        total, above, count = self.accelerator.reduce(sums).tolist()
        metrics = {f"{prefix}/non_finite": float(coefficients.fallback == NON_FINITE)}
        if count > 0 and coefficients.fallback is None:
            metrics |= {f"{prefix}/mean": total / count, f"{prefix}/share_above_1": above / count}
        return metrics

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

    def _replay(self, batch: dict[str, Any], prompts: Sequence[Any] | None = None) -> torch.Tensor:
        """Log-probs of a rollout batch's tokens under the policy as it is now, after other prompts if there are any."""
        if prompts is not None:
            ids = [torch.tensor(one, device=batch["prompt_ids"].device) for one in self._tokenize_prompts(prompts)[0]]
            masks = [torch.ones_like(one) for one in ids]
            batch = {
                **{name: batch[name] for name in ("completion_ids", "completion_mask", COUNTED) if name in batch},
                "prompt_ids": pad(ids, padding_value=self._tokenizer.pad_token_id, padding_side="left"),
                "prompt_mask": pad(masks, padding_value=0, padding_side="left"),
            }
        return self.record_policy(batch).log_probs[token_mask(batch)]

    @contextmanager
    def _record_first_pass(self) -> Generator[list[RecordedPass], None, None]:
        """Record the first pass that the policy makes inside this context. The list stays empty if it makes none."""
        self._passes = passes = []
        try:
            yield passes
        finally:
            self._passes = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        forward = super()._get_per_token_logps_and_entropies
        # Only the first pass: TRL makes the policy's own before the reference's
        if self._passes != [] or model is not self.model:
            return forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        needs, recording = self.args.credit.needs, nullcontext()
        if "entropies" in needs:
            kwargs["compute_entropy"] = True
        if "hidden" in needs:
            policy, completion_mask = self.accelerator.unwrap_model(model), attention_mask[:, -logits_to_keep:].bool()
            recording = record_hidden_states(policy, completion_mask, self.args.coef_offload)
        with recording as hidden_states:
            outputs = forward(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self._passes.append(RecordedPass(outputs[0], outputs[1], hidden_states))
        return outputs

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        coefficients = inputs.get("token_coefficients")
        if coefficients is None and self._credits_rollout_batches:
            raise RuntimeError(
                f"A rollout batch came to the loss without the coefficients of {self._name}: this TRL does not hand on what "
                "_generate_and_score_completions returns."
            )
        if coefficients is not None:
            # A copy: TRL keeps this dict for further updates, which would otherwise apply the coefficients again
            inputs = {**inputs, "advantages": inputs["advantages"].unsqueeze(1) * coefficients}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _gather_uneven(self, values: torch.Tensor) -> torch.Tensor:
        """The 1-D tensors of all processes, concatenated. -inf marks padding, and is no value."""
        numbers = values if values.is_floating_point() else values.double()  # integers have no -inf
        gathered = self.accelerator.gather(self.accelerator.pad_across_processes(numbers, pad_index=-torch.inf))
        return gathered[gathered > -torch.inf].to(values.dtype)

    def _local_rewards(self, n_rows: int) -> list[float]:
        """Total rewards of the rollout batch that was just scored; TRL logs those of all processes, in order of rank."""
        per_function = torch.tensor(
            [list(values)[-n_rows * self.accelerator.num_processes :] for values in self._logs["rewards"].values()]
        )
        totals = (per_function * self.reward_weights[:, None]).nansum(0)
        start = self.accelerator.process_index * n_rows
        return totals[start : start + n_rows].tolist()


class _WithTeacher(TokenCreditTrainer):
    """Never built: what a method with a teacher relies on besides."""

    _seams = {**TokenCreditTrainer._seams, "_tokenize_prompts": ("prompts",)}


def _for_each_token(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """From one value for each response, shape (B,), to one for each token, shape (N,) with N = `mask.sum()`."""
    return values.unsqueeze(1).expand_as(mask)[mask]
