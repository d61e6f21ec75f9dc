"""An estimate of what one GPU holds during a run, from the configuration and a model without weights."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PreTrainedConfig
from trl import ModelConfig

from ..config import GRPOBaseConfig
from ..features import LOGIT_CHUNK_ELEMENTS
from ..hidden_states import OFFLOAD_SHARE


if TYPE_CHECKING:
    from peft import PeftConfig

GB = 1e9
# Left free by a plan that fits: what ASSUMPTIONS does not count
UNCOUNTED_GB = 4

# Optimizers whose two moments take one byte each. Any other is counted as AdamW, with moments in the parameter's dtype.
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
hidden states: those DelTA keeps of a rollout batch, one row for each response token, where coef_offload puts them; with
  any coef_features but output_row also the LM head and chunks of logits; a variant also copies in float32.
Not counted: CUDA context, communication buffers, fragmentation (2 to 4 GB), layers that ZeRO-3 and FSDP2 gather for a
  moment (up to 2 GB by DeepSpeed's default), and one layer's activations while scoring."""


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
    def lora(self) -> bool:
        """Whether most weights are frozen."""
        return self.trained < self.parameters

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


def hidden_state_bytes(args: GRPOBaseConfig, size: ModelSize, element_bytes: int, free: float) -> tuple[float, float]:
    """Of the hidden states that a method keeps of one process's rollout batch, a row for each response token: on the GPU, of
    which `free` bytes are free when they arrive, and in host memory."""
    if not args.credit_enabled or "hidden" not in args.credit.needs:
        return 0, 0
    responses = args.per_device_train_batch_size * args.steps_per_generation
    elements = responses * args.max_completion_length * size.config.hidden_size
    rows = elements * element_bytes
    working = args.credit.copies * 4 * elements
    options: Any = args  # of DelTA
    # The LM head, gathered, and chunks of float32 logits; hidden gradients then overwrite the states
    if options.coef_features != "output_row":
        working += size.config.vocab_size * size.config.hidden_size * element_bytes + 3 * LOGIT_CHUNK_ELEMENTS * 4
    offloaded = options.coef_offload == "always" or (options.coef_offload == "auto" and rows > OFFLOAD_SHARE * free)
    return (working, rows) if offloaded else (working + rows, 0)


def loaded_bytes(model_args: ModelConfig, config: PreTrainedConfig) -> float:
    """Bytes of one weight of the loaded model. Norms and embeddings of a quantized one are left out of account."""
    if model_args.load_in_4bit or model_args.load_in_8bit:
        return 0.5 if model_args.load_in_4bit else 1.0
    dtype = model_args.dtype or "float32"
    if dtype == "auto":
        dtype = str(config.dtype or "float32").removeprefix("torch.")
    return getattr(torch, dtype).itemsize


def _optimizer_bytes(args: GRPOBaseConfig, parameter_bytes: float) -> float:
    """Bytes of the optimizer's state for one trained parameter, without a sharding that adds a float32 copy."""
    return 2.0 if args.optim in EIGHT_BIT_OPTIMIZERS else 2 * parameter_bytes


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
    hidden_states_on_host: float

    @property
    def generating(self) -> float:
        return self.weights + self.optimizer + self.generation

    @property
    def scoring(self) -> float:
        return self.weights + self.optimizer + self.hidden_states + self.generation_while_training

    @property
    def updating(self) -> float:
        return self.weights + self.optimizer + self.gradients + self.activations + self.generation_while_training

    def fits(self, gpu_memory: float) -> bool:
        """Whether every phase leaves `UNCOUNTED_GB` of `gpu_memory` GB free."""
        return max(self.generating, self.scoring, self.updating) <= (gpu_memory - UNCOUNTED_GB) * GB


def estimate_memory(
    args: GRPOBaseConfig, model_args: ModelConfig, size: ModelSize, length: int, *, gpu_memory: float
) -> tuple[Memory, ...]:
    """
    Memory under each way to share the training state over `args.world_size` processes.

    Args:
        length: Tokens of the longest sequence, prompt and response.
        gpu_memory: Of one GPU, in GB, for vLLM's share and for coef_offload.
    """
    loaded = loaded_bytes(model_args, size.config)
    frozen = size.parameters - size.trained
    trained_bytes = 4.0 if size.lora else loaded  # PEFT keeps adapters in float32
    reference = size.parameters * loaded if args.beta != 0 and not size.lora else 0
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
        weight = half if deepspeed and not size.lora else trained_bytes
        state = 12.0 if deepspeed and weight == 2 else _optimizer_bytes(args, weight)
        buckets = 2 if name == "DDP" else 1
        residual = 2 if (deepspeed and half == 2) or loaded <= 2 else 4
        tokens = args.per_device_train_batch_size * length
        weights = (size.trained * weight + frozen * loaded + reference) / weight_parts
        optimizer = size.trained * state / optimizer_parts
        free = gpu_memory * GB - weights - optimizer - kept
        hidden_states, on_host = hidden_state_bytes(args, size, residual, free)
        columns.append(
            Memory(
                sharding=name,
                weights=weights,
                gradients=buckets * size.trained * weight / gradient_parts,
                optimizer=optimizer,
                activations=size.activation_bytes(
                    tokens, checkpointing=bool(args.gradient_checkpointing), residual_bytes=residual
                ),
                generation=cache + (gathered if weight_parts > 1 else 0),
                generation_while_training=kept,
                hidden_states=hidden_states,
                hidden_states_on_host=on_host,
            )
        )
    return tuple(columns)


def checkpoint_bytes(args: GRPOBaseConfig, model_args: ModelConfig, size: ModelSize) -> int:
    """Of a checkpoint with its optimizer state, at full precision."""
    weight = 4.0 if size.lora else loaded_bytes(model_args, size.config)
    states = 12.0 if weight == 2 and not size.lora else _optimizer_bytes(args, weight)
    return int(size.trained * (weight + states))


def describe_vllm(args: GRPOBaseConfig, size: ModelSize, gpu_memory: float, length: int) -> str | None:
    """What vLLM's share of a GPU holds; None without vLLM."""
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
