"""What a run will do and need, from its configuration and the model's `config.json` alone: `delta-trl train --plan`.

Every count is exact. Memory is an estimate, made of the terms that `ASSUMPTIONS` names, for responses of full length.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from trl import ModelConfig, get_peft_config

from ..config import GRPOBaseConfig
from ..data import DataArguments
from .checks import lost_updates
from .delta_cost import GPU_BYTES_PER_SECOND, GPU_FLOPS, DeltaCost, cost_of_run
from .memory import (
    ASSUMPTIONS,
    GB,
    Memory,
    ModelSize,
    checkpoint_bytes,
    describe_vllm,
    estimate_memory,
)
from .shapes import read_config_or_shape


DEFAULT_GPU_MEMORY_GB = 80.0


@dataclass(frozen=True)
class Plan:
    """The counts of a run, its memory under each sharding, and what to think about before it starts."""

    model: str
    trainer: str
    parameters: int
    trained: int
    processes: int
    responses: int
    prompts: int
    updates_per_rollout_batch: float
    steps: int | None
    rollout_batches: float | None
    tokens_per_rollout_batch: int
    prompt_tokens: int | None
    completion_tokens: int
    context: int | None
    checkpoints: int | None
    checkpoint_bytes: int
    kv_cache_bytes: int
    gpu_memory: float
    vllm: str | None
    memory: tuple[Memory, ...]
    delta: DeltaCost | None
    notes: tuple[str, ...]

    @property
    def max_tokens(self) -> float | None:
        """Response tokens of the whole run, at most."""
        return None if self.rollout_batches is None else self.rollout_batches * self.tokens_per_rollout_batch

    def __str__(self) -> str:
        unknown = "depends on the dataset (num_train_epochs); set max_steps to know"
        prompt = "unlimited" if self.prompt_tokens is None else f"{self.prompt_tokens:,}"
        rows = [
            ("model", f"{self.model}, {_count(self.parameters)} parameters, {_share(self)} trained"),
            ("trainer", f"{self.trainer}, {self.processes} process{'es' * (self.processes > 1)}"),
            ("rollout batch", f"{self.responses:,} responses: {self.prompts:,} prompts x {self.group_size}"),
            ("updates per rollout batch", f"{self.updates_per_rollout_batch:g}"),
            ("optimizer steps", unknown if self.steps is None else f"{self.steps:,}"),
            ("rollout batches", unknown if self.steps is None else f"{self.rollout_batches:,g}"),
            ("tokens per sequence", f"at most {prompt} prompt + {self.completion_tokens:,} response"),
            ("", f"context of the model: {'unknown' if self.context is None else format(self.context, ',')}"),
            ("response tokens", f"at most {self.tokens_per_rollout_batch:,} per rollout batch"),
        ]
        if self.max_tokens is not None:
            rows.append(("", f"at most {self.max_tokens:,.0f} in the run"))
        rows += [
            ("checkpoints", "depends on the dataset" if self.checkpoints is None else f"{self.checkpoints} written"),
            ("", f"{self.checkpoint_bytes / GB:.1f} GB each, with optimizer"),
            ("KV cache", f"{self.kv_cache_bytes / GB:.2f} GB for a sequence of full length"),
        ]
        if self.vllm:
            rows.append(("vLLM", self.vllm))
        lines = [f"{name:<27}{value}" for name, value in rows]
        lines += ["", f"{'estimated GB per GPU':<27}" + "".join(f"{m.sharding:>17}" for m in self.memory)]
        for label, name in (
            ("weights", "weights"),
            ("gradients", "gradients"),
            ("optimizer", "optimizer"),
            ("activations", "activations"),
            (self.generation_label, "generation"),
            ("hidden states", "hidden_states"),
            ("  in host memory", "hidden_states_on_host"),
            ("sum while generating", "generating"),
            ("sum while scoring", "scoring"),
            ("sum while updating", "updating"),
        ):
            lines.append(f"{label:<27}" + "".join(f"{getattr(m, name) / GB:>17.1f}" for m in self.memory))
        fits = ("yes" if m.fits(self.gpu_memory) else "DOES NOT FIT" for m in self.memory)
        lines.append(f"{f'fits in {self.gpu_memory:g} GB':<27}" + "".join(f"{answer:>17}" for answer in fits))
        if self.delta is not None:
            speeds = f"{GPU_BYTES_PER_SECOND / 1e12:g} TB/s and {GPU_FLOPS / 1e12:g} TFLOP/s a process"
            lines += ["", f"DelTA adds to a rollout batch, at {speeds}:", str(self.delta)]
        lines += ["", "Assumptions:", ASSUMPTIONS]
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(lines)

    @property
    def group_size(self) -> int:
        return self.responses // self.prompts

    @property
    def generation_label(self) -> str:
        return "vLLM: weights, KV cache" if self.vllm else "KV cache, gathered weights"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e8 else f"{number / 1e6:.2f} million"


def _share(plan: Plan) -> str:
    return "all" if plan.trained == plan.parameters else f"{plan.trained / 1e6:.1f} million"


def make_plan(
    args: GRPOBaseConfig,
    data_args: DataArguments,
    model_args: ModelConfig,
    *,
    trainer: str = "delta",
    gpu_memory: float | None = None,
    recipe: Path | None = None,
) -> Plan:
    """
    Plan a run on `args.world_size` processes.

    Args:
        args: Parsed with `early.config_on(processes)`, or by the processes themselves.
        data_args: For the longest prompt.
        model_args: Names the model; its configuration is read, from disk or the Hub, and its weights are not.
        trainer: Its name.
        gpu_memory: Of one GPU, in GB. Default: that of the GPU here, or 80.
        recipe: The YAML file; the shape kept beside it serves where the model's configuration cannot be read.

    Raises:
        ValueError: For a run that cannot work, or whose checkpoints could not be resumed exactly.
    """
    source = {"trust_remote_code": args.trust_remote_code}
    config, note = read_config_or_shape(model_args, recipe, **source)
    notes = [] if note is None else [note]
    size = ModelSize.of(config, get_peft_config(model_args), **source)
    context = getattr(size.config, "max_position_embeddings", None)
    boundary = args.generation_boundary
    steps = args.max_steps if args.max_steps > 0 else None
    if args.max_completion_length is None:
        raise ValueError(
            "max_completion_length is None, so that responses have no length to plan with, and transformers ends them "
            "after a few tokens. Set it."
        )
    length = (data_args.max_prompt_length or 0) + args.max_completion_length
    _refuse_what_cannot_work(args, data_args.max_prompt_length, length, context)

    updates = args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps
    if steps is not None and steps % boundary:
        notes.append(f"max_steps={steps} ends inside a rollout batch; the next multiple of {boundary} uses it up.")
    if args.use_vllm and args.vllm_importance_sampling_correction and "sequence" in args.vllm_importance_sampling_mode:
        notes.append(
            f"vllm_importance_sampling_mode={args.vllm_importance_sampling_mode!r} sums log-ratios over a whole response: "
            "of long ones most would be masked. Use 'token_truncate', or turn the correction off."
        )
    if (lost := lost_updates(args, model_args, size.config)) is not None:
        notes.append(lost)
    gpu_memory = gpu_memory or _gpu_memory_here() or DEFAULT_GPU_MEMORY_GB
    return Plan(
        model=model_args.model_name_or_path,
        trainer=trainer,
        parameters=size.parameters,
        trained=size.trained,
        processes=args.world_size,
        responses=args.generation_batch_size,
        prompts=args.generation_batch_size // args.num_generations,
        updates_per_rollout_batch=updates,
        steps=steps,
        rollout_batches=None if steps is None else steps / updates,
        tokens_per_rollout_batch=args.generation_batch_size * args.max_completion_length,
        prompt_tokens=data_args.max_prompt_length,
        completion_tokens=args.max_completion_length,
        context=context,
        checkpoints=_checkpoints(args, steps),
        checkpoint_bytes=checkpoint_bytes(args, model_args, size),
        kv_cache_bytes=size.kv_cache_bytes(length),
        gpu_memory=gpu_memory,
        vllm=describe_vllm(args, size, gpu_memory, length),
        memory=estimate_memory(args, model_args, size, length, gpu_memory=gpu_memory),
        delta=cost_of_run(args, size, data_args.max_prompt_length or 0),
        notes=tuple(notes),
    )


def _refuse_what_cannot_work(
    args: GRPOBaseConfig, max_prompt_length: int | None, length: int, context: int | None
) -> None:
    for name, limit in (("the model's context", context), ("vllm_max_model_length", args.vllm_max_model_length)):
        if limit is not None and length > limit:
            raise ValueError(
                f"Prompts of up to max_prompt_length={max_prompt_length} tokens and responses of up to "
                f"max_completion_length={args.max_completion_length} make {length}, and {name} is {limit}. Shorten one "
                "of them."
            )
    if args.save_every is not None and (inexact := args.find_inexact_checkpoints()):
        raise ValueError(inexact)
    if args.use_vllm and args.vllm_mode == "colocate" and args.world_size % args.vllm_tensor_parallel_size:
        raise ValueError(
            f"vllm_tensor_parallel_size={args.vllm_tensor_parallel_size} must divide the number of processes, "
            f"{args.world_size}, evenly."
        )


def _gpu_memory_here() -> float | None:
    return torch.cuda.get_device_properties(0).total_memory / GB if torch.cuda.is_available() else None


def _checkpoints(args: GRPOBaseConfig, steps: int | None) -> int | None:
    if args.save_strategy == "no":
        return 0
    if steps is None or args.save_every is None:
        return None
    return math.ceil(steps / args.save_every)  # one more after the last step, unless it is a multiple
