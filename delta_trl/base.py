"""What the trainers of this package share around TRL's `GRPOTrainer`."""

import functools
from pathlib import Path
from typing import ClassVar

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ._versions import require_tested_trl
from .config import RolloutConfig
from .hub import HubMixin
from .rewards.extraction import opens_thought


require_tested_trl()

from trl import GRPOTrainer  # noqa: E402 (the version check must speak first)
from trl.trainer.utils import get_config_model_id  # noqa: E402


class RolloutTrainer(HubMixin, GRPOTrainer):
    """
    Base class: takes a config of its own class, and a reward function that raises costs no finished step.

    Attributes:
        config_class (`type`):
            Of `args`; one with defaults is made where none is given, as [`~trl.GRPOTrainer`] does.

    Raises:
        `ValueError`: when built with another config.
        `RuntimeError`: while training, on all processes, when a reward function raises on any; a checkpoint is saved first.
    """

    config_class: ClassVar[type[RolloutConfig]]

    def __init__(self, model, reward_funcs=None, args: RolloutConfig | None = None, *positional, **kwargs):
        if args is None:
            model_id = model if isinstance(model, str) else get_config_model_id(model.config)
            args = self.config_class(f"{model_id.split('/')[-1]}-{self._name}")
        if not isinstance(args, self.config_class):
            name = self.config_class.__name__
            raise ValueError(
                f"{type(self).__name__} needs a {name} as args; got {type(args).__name__}. Replace the class name: {name} "
                "takes every option of GRPOConfig."
            )
        super().__init__(model, reward_funcs, args, *positional, **kwargs)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        # A reward function that raises on one process leaves the others waiting in TRL's gather of the rewards, with
        # nothing saved. So that process takes part in the gather, all hear of it, and all stop with a checkpoint.
        error = None
        if self._template_opens_thought:
            inputs = [
                {**row, "opens_thought": not isinstance(prompt, str)}
                for row, prompt in zip(inputs, prompts, strict=True)
            ]
        try:
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except Exception as raised:
            error = raised
            self.accelerator.gather(torch.zeros(len(prompts), len(self.reward_funcs), device=self.accelerator.device))
        failures = self.accelerator.reduce(torch.tensor(float(error is not None), device=self.accelerator.device))
        if failures > 0:
            reports = [f"process {self.accelerator.process_index}: {type(error).__name__}: {error}"] if error else []
            if self.accelerator.num_processes > 1:
                reports = gather_object(reports)
            raise RuntimeError(
                f"A reward function raised an exception after step {self.state.global_step} ({'; '.join(reports)}). "
                f"{self._save_before_stopping()} Rewards must come back as one number or None for each completion."
            ) from error
        return rewards

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
                        f"Dropout is active in the policy: {name}.{key} is {rate}. {reason} Set disable_dropout=True, and "
                        "turn off a rate that the model reads from its config there, for instance "
                        "model_init_kwargs={'attention_dropout': 0.0}."
                    )
