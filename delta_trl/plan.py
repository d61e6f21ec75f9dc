"""What a run will do and need, from its configuration and the model's `config.json` alone: `scripts/train.py --plan`.

Every count is exact. Memory is an estimate, made of the terms that `ASSUMPTIONS` names, for responses of full length.
"""

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM, HfArgumentParser, PreTrainedConfig
from trl import ModelConfig, get_peft_config

from .config import DeltaGRPOConfig
from .data import DataArguments


if TYPE_CHECKING:
    from peft import PeftConfig

GB = 1e9
DEFAULT_GPU_MEMORY_GB = 80.0

# Bytes of optimizer state for each trained parameter, as a multiple of that parameter's own size, where it is not the two
# moments of AdamW in the parameter's dtype. 8-bit states are one byte each.
EIGHT_BIT_OPTIMIZERS = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit")

ASSUMPTIONS = """\
GB is 10^9 bytes. Every response has full length; attention is memory-efficient (SDPA or FlashAttention).
weights, gradients, optimizer: AdamW. DeepSpeed under bf16 keeps 2 + 2 bytes a parameter and 12 for the optimizer (a
  float32 copy and two moments); FSDP2 4 + 4 + 8, the same sum. Without either, weights and gradients have the dtype of the
  loaded model and each moment too; DDP holds gradients twice (its buckets). Frozen weights (LoRA) need neither.
activations: one micro-batch; with checkpointing the input of every layer, and one layer recomputed, forward and backward.
  TRL's fused LM head never holds the logits.
KV cache: of all responses of a rollout batch at once under transformers' generate; vLLM takes its share of the GPU for
  weights and cache, and gives it back between rollouts only with vllm_enable_sleep_mode.
hidden states: those DelTA keeps of a rollout batch, one row for each response token, if all stay on the GPU.
Not counted: CUDA context, communication buffers, fragmentation (2 to 4 GB), layers that ZeRO-3 and FSDP2 gather for a
  moment (up to 2 GB by DeepSpeed's default)."""


@dataclass
class PlanArguments:
    """Options of the plan, for a script's own arguments to inherit from."""

    plan: bool = field(
        default=False,
        metadata={
            "help": "Print what the run would do and the memory it would need, and stop. Reads the model's config.json, "
            "not its weights; needs no GPU. Configurations that cannot work are refused."
        },
    )
    plan_processes: int | None = field(
        default=None,
        metadata={"help": "For plan, on the command line: number of processes. Default: the launcher's, or 1."},
    )
    plan_gpu_memory: float | None = field(
        default=None,
        metadata={"help": "For plan: memory of one GPU in GB. Default: that of the GPU here, or 80."},
    )

    def __post_init__(self):
        if not self.plan and (self.plan_processes, self.plan_gpu_memory) != (None, None):
            raise ValueError("plan_processes and plan_gpu_memory describe a plan: add --plan, or leave them out.")


def plan_arguments(arguments: list[str] | None) -> PlanArguments:
    """The plan's options alone, read before a config is built: its checks depend on the number of processes."""
    parser = HfArgumentParser(PlanArguments, add_help=False, allow_abbrev=False)
    return parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)[0]


def config_on(processes: int | None) -> type[DeltaGRPOConfig]:
    """`DeltaGRPOConfig` as it would be built by one of `processes` processes, on a machine that need not have a GPU.

    TRL derives the rollout batch from the number of processes, and refuses those that do not fit: with this class, a plan
    for 8 GPUs passes through the same checks.
    """

    class PlannedConfig(DeltaGRPOConfig):
        world_size = processes or int(os.environ.get("WORLD_SIZE", "1"))

        def __post_init__(self):
            self.use_cpu = self.use_cpu or not torch.cuda.is_available()  # which would refuse bf16 without a GPU
            super().__post_init__()

    return PlannedConfig


@dataclass(frozen=True)
class ModelSize:
    """
    What the memory of a run depends on, read off a model without weights.

    Attributes:
        config: The text model's configuration.
        parameters: All parameters, tied ones once.
        trained: Parameters that get a gradient.
    """

    config: PreTrainedConfig
    parameters: int
    trained: int

    @classmethod
    def of(cls, config: PreTrainedConfig, peft_config: "PeftConfig | None" = None, **options) -> "ModelSize":
        with init_empty_weights(include_buffers=True):
            model = AutoModelForCausalLM.from_config(config, **options)
            model.tie_weights()
            parameters = trained = sum(p.numel() for p in model.parameters())
            if peft_config is not None:
                from peft import get_peft_model

                model = get_peft_model(model, peft_config)
                trained, parameters = model.get_nb_trainable_parameters()
        return cls(config.get_text_config(), parameters, trained)

    @property
    def head_dim(self) -> int:
        return getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads

    @property
    def kv_heads(self) -> int:
        return getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads

    def kv_cache_bytes(self, length: int) -> int:
        """Of one sequence in 16 bit; a layer with a sliding window keeps no more than the window."""
        window = getattr(self.config, "sliding_window", None) or length
        kinds = getattr(self.config, "layer_types", None) or ["full_attention"] * self.config.num_hidden_layers
        positions = sum(min(length, window) if kind == "sliding_attention" else length for kind in kinds)
        return positions * 2 * self.kv_heads * self.head_dim * 2

    def activation_bytes(self, tokens: int, *, checkpointing: bool, residual_bytes: int) -> int:
        """Of one micro-batch of `tokens` tokens. Residuals have the weights' dtype, the rest of a layer 16 bit."""
        hidden, inner = self.config.hidden_size, getattr(self.config, "intermediate_size", None)
        inner = inner or 4 * hidden
        queries, keys = self.config.num_attention_heads * self.head_dim, self.kv_heads * self.head_dim
        # Two norms; q, k, v and rotated q, k; attention's result and its projection; gate, up, activation and product
        layer = tokens * 2 * (2 * hidden + 2 * (queries + keys) + keys + queries + hidden + 4 * inner)
        stream = tokens * hidden * residual_bytes
        layers = self.config.num_hidden_layers
        return layers * stream + 2 * layer if checkpointing else layers * (stream + layer) + layer


def hidden_state_bytes(args: DeltaGRPOConfig, size: ModelSize, trainer: str, element_bytes: int) -> int:
    """Of the hidden states that DelTA keeps of one process's rollout batch: a row for each response token."""
    if trainer != "delta" or not args.coef_enabled:
        return 0
    responses = args.per_device_train_batch_size * args.steps_per_generation
    return responses * args.max_completion_length * size.config.hidden_size * element_bytes


@dataclass(frozen=True)
class Memory:
    """Estimated bytes on one GPU under one way to share the training state; see `ASSUMPTIONS`."""

    sharding: str
    weights: float
    gradients: float
    optimizer: float
    activations: float
    generation: float  # what generation takes besides: vLLM's share, or the KV cache and weights gathered for it
    generation_while_training: float
    hidden_states: float

    @property
    def generating(self) -> float:
        return self.weights + self.optimizer + self.generation

    @property
    def scoring(self) -> float:
        return self.weights + self.optimizer + self.hidden_states + self.generation_while_training

    @property
    def updating(self) -> float:
        return self.weights + self.optimizer + self.gradients + self.activations + self.generation_while_training


def generation_boundary(args: DeltaGRPOConfig) -> int:
    """Every so many optimizer steps, an update and a rollout batch end together."""
    micro_batches = args.steps_per_generation * args.num_iterations
    return micro_batches // math.gcd(micro_batches, args.gradient_accumulation_steps)


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
    notes: tuple[str, ...]

    @property
    def max_tokens(self) -> float | None:
        """Response tokens of the whole run, at most."""
        return None if self.rollout_batches is None else self.rollout_batches * self.tokens_per_rollout_batch

    def __str__(self) -> str:
        unknown = "depends on the dataset (num_train_epochs); set max_steps to know"
        prompt = "unlimited" if self.prompt_tokens is None else f"{self.prompt_tokens:,}"
        rows = [
            ("model", f"{self.model}, {self.parameters / GB:.2f} billion parameters, {_share(self)} trained"),
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
            ("hidden states (DelTA)", "hidden_states"),
            ("sum while generating", "generating"),
            ("sum while scoring", "scoring"),
            ("sum while updating", "updating"),
        ):
            lines.append(f"{label:<27}" + "".join(f"{getattr(m, name) / GB:>17.1f}" for m in self.memory))
        lines += ["", "Assumptions:", ASSUMPTIONS]
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(lines)

    @property
    def group_size(self) -> int:
        return self.responses // self.prompts

    @property
    def generation_label(self) -> str:
        return "vLLM: weights, KV cache" if self.vllm else "KV cache, gathered weights"


def _share(plan: Plan) -> str:
    return "all" if plan.trained == plan.parameters else f"{plan.trained / 1e6:.1f} million"


def make_plan(
    args: DeltaGRPOConfig,
    data_args: DataArguments,
    model_args: ModelConfig,
    *,
    trainer: str = "delta",
    gpu_memory: float | None = None,
) -> Plan:
    """
    Plan a run on `args.world_size` processes.

    Args:
        args: Parsed with `config_on(processes)`, or by the processes themselves.
        data_args: For the longest prompt.
        model_args: Names the model; its configuration is read, from disk or the Hub, and its weights are not.
        trainer: "delta", or "grpo", which keeps no hidden states.
        gpu_memory: Of one GPU, in GB. Default: that of the GPU here, or 80.

    Raises:
        ValueError: For a run that cannot work, or whose checkpoints could not be resumed exactly.
    """
    source = {"trust_remote_code": args.trust_remote_code}
    config = AutoConfig.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision, **source)
    size = ModelSize.of(config, get_peft_config(model_args), **source)
    context = getattr(size.config, "max_position_embeddings", None)
    boundary = generation_boundary(args)
    _refuse_what_cannot_work(args, data_args, context, boundary)

    steps = args.max_steps if args.max_steps > 0 else None
    updates = args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps
    notes = []
    if steps is not None and steps % boundary:
        notes.append(f"max_steps={steps} ends inside a rollout batch; the next multiple of {boundary} uses it up.")
    if args.use_vllm and args.vllm_importance_sampling_correction and "sequence" in args.vllm_importance_sampling_mode:
        notes.append(
            f"vllm_importance_sampling_mode={args.vllm_importance_sampling_mode!r} sums log-ratios over a whole response: "
            "of long ones most would be masked. Use 'token_truncate', or turn the correction off."
        )
    gpu_memory = gpu_memory or _gpu_memory_here() or DEFAULT_GPU_MEMORY_GB
    memory = _memory(args, data_args, model_args, size, trainer, gpu_memory, notes)
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
        checkpoint_bytes=_checkpoint_bytes(args, model_args, size),
        kv_cache_bytes=size.kv_cache_bytes(_sequence_length(args, data_args)),
        gpu_memory=gpu_memory,
        vllm=_vllm_line(args, size, gpu_memory, _sequence_length(args, data_args)),
        memory=memory,
        notes=tuple(notes),
    )


def _sequence_length(args: DeltaGRPOConfig, data_args: DataArguments) -> int:
    return (data_args.max_prompt_length or 0) + args.max_completion_length


def _refuse_what_cannot_work(
    args: DeltaGRPOConfig, data_args: DataArguments, context: int | None, boundary: int
) -> None:
    length = _sequence_length(args, data_args)
    for name, limit in (("the model's context", context), ("vllm_max_model_length", args.vllm_max_model_length)):
        if limit is not None and length > limit:
            raise ValueError(
                f"Prompts of up to max_prompt_length={data_args.max_prompt_length} tokens and responses of up to "
                f"max_completion_length={args.max_completion_length} make {length}, and {name} is {limit}. Shorten one "
                "of them."
            )
    if args.save_strategy == "steps" and (args.save_steps < 1 or args.save_steps % boundary):
        every = args.save_steps
        following = max(1, math.ceil(every / boundary)) * boundary
        raise ValueError(
            f"save_steps={every:g} is not a multiple of {boundary}, the number of updates after which a rollout batch "
            f"(steps_per_generation={args.steps_per_generation} x num_iterations={args.num_iterations} micro-batches) and "
            f"an update (gradient_accumulation_steps={args.gradient_accumulation_steps}) end together. Rollouts are not "
            f"saved, so a run could not be resumed exactly from such a checkpoint. Set save_steps={following}."
        )
    if args.use_vllm and args.vllm_mode == "colocate" and args.world_size % args.vllm_tensor_parallel_size:
        raise ValueError(
            f"vllm_tensor_parallel_size={args.vllm_tensor_parallel_size} must divide the number of processes, "
            f"{args.world_size}, evenly."
        )


def _gpu_memory_here() -> float | None:
    return torch.cuda.get_device_properties(0).total_memory / GB if torch.cuda.is_available() else None


def _checkpoints(args: DeltaGRPOConfig, steps: int | None) -> int | None:
    if args.save_strategy == "no":
        return 0
    if args.save_strategy != "steps" or steps is None:
        return None
    return math.ceil(steps / args.save_steps)  # one more after the last step, unless it is a multiple


def _loaded_bytes(model_args: ModelConfig, config: PreTrainedConfig) -> float:
    """Bytes of one weight of the loaded model. Norms and embeddings of a quantized one are left out of account."""
    if model_args.load_in_4bit or model_args.load_in_8bit:
        return 0.5 if model_args.load_in_4bit else 1.0
    dtype = model_args.dtype or "float32"
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    return getattr(torch, dtype).itemsize


def _optimizer_bytes(args: DeltaGRPOConfig, parameter_bytes: float) -> float:
    """Bytes of the optimizer's state for one trained parameter, without a sharding that adds a float32 copy."""
    return 2.0 if args.optim in EIGHT_BIT_OPTIMIZERS else 2 * parameter_bytes


def _checkpoint_bytes(args: DeltaGRPOConfig, model_args: ModelConfig, size: ModelSize) -> int:
    weight = 4.0 if size.trained < size.parameters else _loaded_bytes(model_args, size.config)
    states = 12.0 if weight == 2 and size.trained == size.parameters else _optimizer_bytes(args, weight)
    return int(size.trained * (weight + states))


def _vllm_line(args: DeltaGRPOConfig, size: ModelSize, gpu_memory: float, length: int) -> str | None:
    if not args.use_vllm:
        return None
    if args.vllm_mode == "server":
        return "on its own server"
    share = args.vllm_gpu_memory_utilization * gpu_memory * GB
    cache = (share - size.parameters * 2 / args.vllm_tensor_parallel_size) * args.vllm_tensor_parallel_size
    if cache <= 0:
        return f"its share, {share / GB:.1f} GB, cannot hold the weights: raise vllm_gpu_memory_utilization"
    return (
        f"{share / GB:.1f} GB of {gpu_memory:g} on each GPU; its cache holds {cache / size.kv_cache_bytes(length):.1f} "
        "sequences of full length at a time"
    )


def _memory(
    args: DeltaGRPOConfig,
    data_args: DataArguments,
    model_args: ModelConfig,
    size: ModelSize,
    trainer: str,
    gpu_memory: float,
    notes: list[str],
) -> tuple[Memory, ...]:
    length = _sequence_length(args, data_args)
    loaded = _loaded_bytes(model_args, size.config)
    lora = size.trained < size.parameters
    frozen = size.parameters - size.trained
    trained_bytes = 4.0 if lora else loaded  # PEFT keeps adapters in float32
    reference = size.parameters * loaded if args.beta != 0 and not lora else 0
    half = 2 if args.bf16 or args.fp16 else 4

    if args.use_vllm:
        share = args.vllm_gpu_memory_utilization * gpu_memory * GB if args.vllm_mode == "colocate" else 0
        cache, kept, gathered = share, 0 if args.vllm_enable_sleep_mode else share, 0
    else:
        cache = args.per_device_train_batch_size * args.steps_per_generation * size.kv_cache_bytes(length)
        kept, gathered = 0, size.parameters * half  # generate() under ZeRO-3 and FSDP2 needs the whole model

    n = args.world_size
    single = "one GPU" if n == 1 else "DDP"
    columns = []
    for name, weight_parts, gradient_parts, optimizer_parts, deepspeed in (
        (single, 1, 1, 1, False),
        ("ZeRO-2", 1, n, n, True),
        ("ZeRO-2, offload", 1, n, math.inf, True),
        ("ZeRO-3, FSDP2", n, n, n, True),
    ):
        if n == 1 and name in ("ZeRO-2", "ZeRO-3, FSDP2"):
            continue  # nothing to share
        weight = half if deepspeed and not lora else trained_bytes
        state = 12.0 if deepspeed and weight == 2 else _optimizer_bytes(args, weight)
        buckets = 2 if name == "DDP" else 1
        residual = 2 if (deepspeed and half == 2) or loaded <= 2 else 4
        tokens = args.per_device_train_batch_size * length
        columns.append(
            Memory(
                sharding=name,
                weights=(size.trained * weight + frozen * loaded) / weight_parts + reference / weight_parts,
                gradients=buckets * size.trained * weight / gradient_parts,
                optimizer=size.trained * state / optimizer_parts,
                activations=size.activation_bytes(
                    tokens, checkpointing=bool(args.activation_checkpointing), residual_bytes=residual
                ),
                generation=cache + (gathered if weight_parts > 1 else 0),
                generation_while_training=kept,
                hidden_states=hidden_state_bytes(args, size, trainer, residual),
            )
        )
    if not lora and loaded == 2:
        notes.append(
            f"with dtype {model_args.dtype!r}, only DeepSpeed and FSDP2 keep a float32 copy of the weights. On one GPU "
            "without DeepSpeed, and under DDP, an update smaller than 1/256 of a weight is lost, which at "
            f"learning_rate={args.learning_rate:g} is most of them: use dtype 'float32' there (with bf16 on, matrix "
            "products stay in bf16)."
        )
    return tuple(columns)
