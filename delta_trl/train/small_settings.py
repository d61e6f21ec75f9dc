"""What a rehearsal changes in the options of a run, and why: every change is a line of its report."""

import math
import os
import random
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ..checks import evaluates
from ..config import GRPOBaseConfig
from .vllm_on_cpus import has_vllm_for_cpus


# Tokens of a response, at most
LENGTH = 64
# Updates on a rollout batch, rollout batches for an update, and passes over a rollout batch: at most
UPDATES, ITERATIONS = 2, 2
REWARD = "delta_trl.train.small_settings.told_apart"
ATTENTION, WITHOUT_A_GPU = "attn_implementation", (None, "eager", "sdpa")
# Settings that need a GPU: values of the option, and what stands for them on a machine without any
NEED_A_GPU: tuple[tuple[str, Callable[[Any], bool], Any], ...] = (
    ("fp16", bool, False),
    ("tf32", bool, None),
    (ATTENTION, lambda value: value not in WITHOUT_A_GPU, None),
    ("optim", lambda value: any(word in str(value) for word in ("8bit", "4bit", "bnb", "paged")), "adamw_torch"),
    ("use_liger_kernel", bool, False),
    ("load_in_4bit", bool, False),
    ("load_in_8bit", bool, False),
    ("vllm_enable_sleep_mode", bool, False),
)


def told_apart(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    """A reward that depends on the tokens alone: what a random model writes gets no other one, and would train nothing."""
    return [random.Random(str(ids)).random() for ids in completion_ids]


@dataclass(frozen=True)
class Batch:
    """
    A rollout batch in small: with as many updates, where they are few, and gradient accumulation, where there is any.

    Attributes:
        updates: After which it ends together with an update, see `GRPOBaseConfig.generation_boundary`.
    """

    per_device: int
    steps: int
    accumulation: int
    updates: int

    @classmethod
    def of(cls, args: GRPOBaseConfig, processes: int) -> "Batch":
        steps, accumulation = args.steps_per_generation, args.gradient_accumulation_steps
        ratio = Fraction(max(steps, accumulation), min(steps, accumulation)).limit_denominator(UPDATES)
        more, fewer = min(ratio.numerator, UPDATES * ratio.denominator), ratio.denominator
        steps, accumulation = (more, fewer) if steps >= accumulation else (fewer, more)
        if args.gradient_accumulation_steps >= 2 * accumulation:
            steps, accumulation = 2 * steps, 2 * accumulation
        per_device = args.num_generations // math.gcd(args.num_generations, processes * steps)
        if per_device * processes * steps == args.num_generations < args.generation_batch_size:
            per_device *= 2  # more than one prompt, as in the run
        micro_batches = steps * min(args.num_iterations, ITERATIONS)
        return cls(per_device, steps, accumulation, micro_batches // math.gcd(micro_batches, accumulation))

    def prompts(self, processes: int, group: int) -> int:
        """Of a rollout batch."""
        return self.per_device * self.steps * processes // group


@dataclass
class SmallSettings:
    """
    The options of one of a rehearsal's runs.

    Args:
        args: The run's own settings, as `arguments.parse` builds them for a rehearsal.
        model: Folder of the small model.
        processes: Number of processes here.

    Attributes:
        batch: What is sampled at once.
        lines: What was changed and is not plain from the purpose, after a run's options were parsed.
    """

    args: GRPOBaseConfig
    model: str
    processes: int
    batch: Batch = field(init=False)
    lines: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.batch = Batch.of(self.args, self.processes)

    @property
    def never_continued_exactly(self) -> str | None:
        """Why the run's own options keep a resume from repeating it; None if they do not."""
        args = self.args
        if args.save_only_model:
            return "save_only_model keeps too little to continue exactly"
        if args.ignore_data_skip:
            return "with ignore_data_skip, a continued run begins with the first problems again"
        if args.sync_ref_model and args.beta != 0:
            return "sync_ref_model moves the reference model, which is in no checkpoint: a continued run has the first again"
        return None

    @property
    def engine(self) -> bool:
        """Whether the run's vLLM is used: one in the training processes, which needs a GPU, unless it is one for CPUs."""
        if not self.args.use_vllm or self.args.vllm_mode != "colocate":
            return False
        return torch.cuda.is_available() or has_vllm_for_cpus()

    def change(
        self, folder: Path, *, engine: bool, push: bool = False, checkpoint: Path | None = None
    ) -> Callable[[Namespace], None]:
        """
        For `arguments.parse`.

        Args:
            folder: Of the run.
            engine: Whether vLLM samples.
            push: Whether to push where the run does.
            checkpoint: To continue from.
        """

        def apply(options: Namespace) -> None:
            self.lines = []
            self._purpose(options, folder, push, checkpoint)
            self._sizes(options)
            self._sampling(options, engine)
            self._machine(options)

        return apply

    def _purpose(self, options: Namespace, folder: Path, push: bool, checkpoint: Path | None) -> None:
        """What makes it a rehearsal, and is no cut."""
        args = self.args
        options.model_name_or_path, options.model_revision = self.model, "main"
        options.output_dir, options.overwrite_output_dir = str(folder), False
        options.resume_from_checkpoint = None if checkpoint is None else str(checkpoint)
        options.logging_strategy, options.logging_steps = "steps", 1
        if args.save_strategy == "no":
            self.lines.append("save_strategy: no -> steps (for the resume; the run itself saves its end alone)")
        options.save_strategy, options.save_steps, options.save_total_limit = "steps", self.batch.updates, None
        if evaluates(args):
            options.eval_strategy, options.eval_steps = "steps", self.batch.updates
            self._cut(options, "eval_delay", 0)
            group = args.num_generations_eval or args.num_generations
            options.per_device_eval_batch_size = group // math.gcd(group, self.processes)
        options.reward_funcs = [*options.reward_funcs, REWARD]
        if options.reward_weights is not None:
            options.reward_weights = [*options.reward_weights, 1.0]
        options.push_to_hub = bool(args.push_to_hub and push)
        if options.push_to_hub:
            name = args.hub_model_id or Path(args.output_dir).absolute().name
            options.hub_model_id, options.hub_private_repo = f"{name}-rehearsal", True
        self._cut(options, "log_completions_hub_repo", None, "nobody's data set gets a rehearsal")
        if args.report_to:
            self._cut(options, "report_to", "none", "nobody's project gets a rehearsal")

    def _sizes(self, options: Namespace) -> None:
        args, batch = self.args, self.batch
        self._cut(options, "max_completion_length", min(args.max_completion_length, LENGTH))
        options.generation_batch_size = None  # follows from the three below
        self._cut(options, "per_device_train_batch_size", batch.per_device)
        self._cut(options, "steps_per_generation", batch.steps)
        self._cut(options, "gradient_accumulation_steps", batch.accumulation)
        self._cut(options, "num_iterations", min(args.num_iterations, ITERATIONS))
        self._cut(options, "max_steps", 2 * batch.updates, "two rollout batches")
        self._cut(options, "mask_truncated_completions", False, "a random model does not end its responses")

    def _sampling(self, options: Namespace, engine: bool) -> None:
        args = self.args
        if not args.use_vllm or engine:
            sharing = math.gcd(args.vllm_tensor_parallel_size, self.processes)
            if engine:
                self._cut(options, "vllm_tensor_parallel_size", sharing, f"{self.processes} processes share it")
                if not torch.cuda.is_available():
                    self.lines.append(
                        "vLLM's kernels for CPUs: torch's for linear layers, whose weights can be updated"
                    )
            return
        reason = "there is neither a GPU nor vLLM for CPUs here: transformers samples"
        if args.vllm_mode == "server":
            reason = "the server holds the real model: transformers samples"
        elif self.engine:  # of the run that is compared
            reason = ""
        self._cut(options, "use_vllm", False, reason)

    def _machine(self, options: Namespace) -> None:
        if torch.cuda.is_available():
            return
        self._cut(options, "use_cpu", True, "no GPU here")
        loading = self.args.model_init_kwargs or {}
        if loading.get(ATTENTION) not in WITHOUT_A_GPU:
            kept = {name: value for name, value in loading.items() if name != ATTENTION}
            self._cut(options, "model_init_kwargs", kept, "no GPU here")
        for name, needs, instead in NEED_A_GPU:
            if needs(getattr(options, name)):
                self._cut(options, name, instead, "no GPU here")

    def _cut(self, options: Namespace, name: str, value: Any, reason: str = "") -> None:
        before = getattr(options, name)
        if before is None:  # as the config makes of it
            before = getattr(self.args, name, None)
        setattr(options, name, value)
        if before != value:
            self.lines.append(f"{name}: {before} -> {value}" + (f" ({reason})" if reason else ""))


def sharding_lines(trainer: Any) -> list[str]:
    """What accelerate was asked to do and does not do on this machine, without a word."""
    asked = {"FSDP": "ACCELERATE_USE_FSDP", "DEEPSPEED": "ACCELERATE_USE_DEEPSPEED"}
    got = trainer.accelerator.distributed_type.value
    return [
        f"{name}: not on this machine, accelerate takes {got} instead"
        for name, variable in asked.items()
        if os.environ.get(variable, "false").lower() == "true" and got != name
    ]
