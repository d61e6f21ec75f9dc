"""`GRPOBaseTrainer`: what all trainers of this package add to TRL's `GRPOTrainer`, and the baselines' own trainer."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer
from trl.trainer.utils import get_config_model_id

from .checks import check_eval_columns, check_model, check_reward_columns, evaluates, rollout_batch_shortage, takes
from .config import GRPOBaseConfig
from .hub import HubMixin
from .progress import ReadableProgressCallback
from .responses import opens_thought
from .seams import check_seams, check_untested_version, with_signature_of
from .token_mask import SCORED


# Where TRL's asynchronous trainer, or its config, is asked for
NO_ASYNC = (
    "TRL's AsyncGRPOTrainer has no counterpart here: it trains on a stream of samples, while coefficients compare the "
    "tokens of a whole rollout batch. docs/results/previous.md says what came of doing without one. Use DeltaGRPOTrainer "
    "with vLLM, or AsyncGRPOTrainer itself."
)


class GRPOBaseTrainer(HubMixin, GRPOTrainer):
    """
    [`~trl.GRPOTrainer`] on a [`GRPOBaseConfig`]: the same training, in which a reward function that raises or a Hub that
    does not answer costs no finished step, and a model card that says how the model was made.

    Attributes:
        config_class (`type`):
            Of `args`; one with defaults is made where none is given, as [`~trl.GRPOTrainer`] does.

    Raises:
        `ValueError`: when built with another config, or with a reward function that needs a column the dataset lacks.
        `RuntimeError`: when built with a TRL whose `GRPOTrainer` has other methods than those overridden here, another loss,
            or is not TRL's; while training, on all processes, when a reward function raises on any: a checkpoint is saved
            first.
    """

    config_class: ClassVar[type[GRPOBaseConfig]] = GRPOBaseConfig
    args: GRPOBaseConfig
    model: PreTrainedModel
    # Methods of GRPOTrainer that are overridden, and the parameters that the overriding ones rely on
    _seams: ClassVar[dict[str, tuple[str, ...]]] = {
        "_generate_and_score_completions": ("inputs",),
        "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    }

    @with_signature_of(GRPOTrainer.__init__)
    def __init__(
        self, model: Any, reward_funcs: Any = None, args: GRPOBaseConfig | None = None, *rest: Any, **kwargs: Any
    ) -> None:
        check_seams(type(self))
        # TRL turns checkpointing off and on for every pass without gradient, under the names that transformers had for it
        # until 5.18: three warnings in every step, about nothing that a user could change
        warnings.filterwarnings(
            "ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning, r"transformers\.modeling_utils"
        )
        if args is None:
            model_id = model if isinstance(model, str) else get_config_model_id(model.config)
            args = self.config_class(f"{model_id.split('/')[-1]}-{self._name}")
        if "async_grpo" in type(args).__module__:
            raise ValueError(NO_ASYNC)
        if not isinstance(args, self.config_class):
            name = self.config_class.__name__
            raise ValueError(
                f"{type(self).__name__} needs a {name} as args; got {type(args).__name__}. Replace the class name: {name} "
                "takes every option of GRPOConfig."
            )
        check_model(model, args.model_init_kwargs)
        # Before the model is loaded: TRL would find out at the end of the first rollout batch. What a rollout function
        # returns besides completions is handed to the rewards as well, and is not known before it runs.
        train_dataset = kwargs.get("train_dataset", rest[0] if rest else None)
        options = {
            "has_environment": kwargs.get("environment_factory") is not None,
            "has_rollout_func": kwargs.get("rollout_func") is not None,
            "remove_unused_columns": args.remove_unused_columns,
        }
        check_reward_columns(reward_funcs, train_dataset, **options)
        if evaluates(args):
            eval_dataset = kwargs.get("eval_dataset", rest[1] if len(rest) > 1 else None)
            check_eval_columns(reward_funcs, eval_dataset, **options)
        if isinstance(train_dataset, Dataset) and (shortage := rollout_batch_shortage(len(train_dataset), args)):
            warnings.warn(shortage, stacklevel=3)
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        check_untested_version(self)

    def add_callback(self, callback: Any) -> None:
        super().add_callback(callback)
        # A readable progress line replaces the one that transformers adds by itself, whichever came first
        callbacks = self.callback_handler.callbacks
        if any(isinstance(one, ReadableProgressCallback) for one in callbacks):
            for one in [one for one in callbacks if type(one) in (ProgressCallback, PrinterCallback)]:
                self.remove_callback(one)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        batch[SCORED] = self._scored
        return batch

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        # A reward function that raises on one process leaves the others waiting in TRL's gather of the rewards, with
        # nothing saved. So that process takes part in the gather, all hear of it, and all stop with a checkpoint.
        error, reward_funcs = None, self.reward_funcs
        self.reward_funcs = [self._told_of_thoughts(function, prompts) for function in reward_funcs]
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except Exception as raised:
            error = raised
            self.accelerator.gather(torch.zeros(len(prompts), len(self.reward_funcs), device=self.accelerator.device))
        finally:
            self.reward_funcs = reward_funcs
        failures = self.accelerator.reduce(torch.tensor(float(error is not None), device=self.accelerator.device))
        if failures > 0:
            reports = [f"process {self.accelerator.process_index}: {type(error).__name__}: {error}"] if error else []
            if self.accelerator.num_processes > 1:
                reports = gather_object(reports)
            raise RuntimeError(
                f"A reward function raised an exception after step {self.state.global_step} ({'; '.join(reports)}). "
                f"{self._save_before_stopping()} Rewards must come back as one number or None for each completion."
            ) from error
        # TRL gathers the rewards of all processes, in order of rank; the advantages alone do not tell who had none
        local = slice(
            self.accelerator.process_index * len(prompts), (self.accelerator.process_index + 1) * len(prompts)
        )
        self._scored = ~rewards[local].isnan().all(1)
        return rewards

    def _told_of_thoughts(self, function: Callable, prompts: list) -> Callable:
        """A reward function with `opens_thought` for each prompt, if it takes that: as a column, all would have to."""
        if isinstance(function, nn.Module) or not (self._template_opens_thought and takes(function, "opens_thought")):
            return function
        return functools.partial(function, opens_thought=[not isinstance(prompt, str) for prompt in prompts])

    @functools.cached_property
    def _template_opens_thought(self) -> bool:
        """Whether the chat template ends the prompt inside a `<think>`, which no reward function could see otherwise."""
        if not getattr(self.processing_class, "chat_template", None) and not self.chat_template:
            return False
        prompt = self.processing_class.apply_chat_template(
            [{"role": "user", "content": "?"}],
            tokenize=False,
            add_generation_prompt=True,
            chat_template=self.chat_template,
            **self.chat_template_kwargs,
        )
        return opens_thought(prompt)

    def _save_before_stopping(self) -> str:
        """Save a checkpoint of the last finished step unless there is one, on all processes, and say where it is."""
        if self.state.global_step == 0:
            return "No step was finished, so there is nothing to save."
        checkpoint = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        # One answer for all processes, some of which might otherwise see files that others are just writing
        exists = self.accelerator.gather(torch.tensor(float(checkpoint.exists()), device=self.accelerator.device))
        if not exists.any():
            self._save_checkpoint(self.model, trial=None)
            # A process that stops now would have its launcher kill the one that is still writing
            self.accelerator.wait_for_everyone()
        return f"Training stops, and is saved in {checkpoint}: pass that as resume_from_checkpoint to continue."

    def _require_no_dropout(self, reason: str) -> None:
        """Raise `ValueError`, with the reason, if a forward pass of the policy in training mode would drop anything."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                rates = {"p": module.p}
            else:  # a rate that the module hands to a functional dropout, as attention layers do
                rates = {
                    key: rate for key, rate in vars(module).items() if "dropout" in key and isinstance(rate, float)
                }
            for key, rate in rates.items():
                if rate > 0:
                    raise ValueError(
                        f"Dropout is active in the policy: {name}.{key} is {rate}. {reason} {self._without_dropout()}"
                    )

    def _without_dropout(self) -> str:
        """What turns the policy's dropout off: modules by `disable_dropout`, other rates where the model is loaded."""
        advice = [] if self.args.disable_dropout else ["Set disable_dropout=True."]
        config = self.model.config.get_text_config().to_dict()
        rates = dict.fromkeys((k for k, v in config.items() if "drop" in k and isinstance(v, float) and v > 0), 0.0)
        if rates:
            loading = ", ".join(f"{key}=0.0" for key in rates)
            advice.append(
                "What the model reads from its config is turned off where it is loaded, by "
                f"from_pretrained(..., {loading}), or, if the trainer gets its path, by model_init_kwargs={rates}."
            )
        return " ".join(advice)
