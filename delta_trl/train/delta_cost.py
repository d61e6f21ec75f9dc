"""What DelTA adds to a step: an estimate from a run's counts, at a stated bandwidth and speed.

Linear in the number of responses: a fixed number of sweeps over one row for each token and, where TRL makes no pass of its
own to record, one forward pass. Nothing but that pass's attention grows with the square of a response's length.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import DeltaGRPOConfig, GRPOBaseConfig
from ..credit import Work


if TYPE_CHECKING:
    from .memory import ModelSize


# Of one GPU, for a plan: about what an H100 reaches of its 3.35 TB/s and 989 TFLOP/s in bf16
GPU_BYTES_PER_SECOND = 2e12
GPU_FLOPS = 4e14
# Between a GPU and host memory, where hidden states wait that have no room on the GPU: about what PCIe 5 reaches
HOST_BYTES_PER_SECOND = 5e10
# Bytes per element of what processes sum
REDUCED_BYTES = 8

# Products of a token's hidden state with the LM head, by feature: none; logits; logits, and back through the head
HEAD_PRODUCTS = {
    "output_row": 0,
    "temperature_gradient": 1,
    "local_temperature_gradient": 1,
    "hidden_gradient": 2,
}


@dataclass(frozen=True)
class DeltaCost:
    """
    What one rollout batch costs on each process, at full length. Bytes are 8 bit, FLOPs count a multiply-add as two.

    Attributes:
        tokens: Response tokens of the whole rollout batch.
        feature_bytes: Of the hidden states kept by a process.
        sweeps: How often these are read: 2K + 2.
        sweep_seconds: Reading them so often, from the GPU's memory.
        host_sweep_seconds: The same from host memory.
        feature_flops, feature_seconds: Making features from them, through the LM head, or other products with them.
        extra_forward: Whether a forward pass is added, because TRL makes none to record.
        forward_flops, forward_seconds: Of that pass; 0 without it. Attention is counted.
        reductions: Sums over processes.
        reduced_bytes: What a process contributes to them, in all.
        gathered_bytes: The LM head, gathered under ZeRO-3 and FSDP2 for features that read it.
        reads_head: Whether they do.
    """

    tokens: int
    feature_bytes: int
    sweeps: int
    sweep_seconds: float
    host_sweep_seconds: float
    feature_flops: float
    feature_seconds: float
    extra_forward: bool
    forward_flops: float
    forward_seconds: float
    reductions: int
    reduced_bytes: int
    gathered_bytes: int
    reads_head: bool

    @property
    def _features(self) -> str:
        if not self.feature_flops:
            return "none to compute"
        return f"{self.feature_seconds:.2f} s in " + (
            "the LM head" if self.reads_head else "products with hidden states"
        )

    @property
    def seconds(self) -> float:
        """Of all that is computed, without communication, with hidden states on the GPU."""
        return self.sweep_seconds + self.feature_seconds + self.forward_seconds

    def __str__(self) -> str:
        rows = [
            ("tokens", f"at most {self.tokens:,} in a rollout batch"),
            ("hidden states", f"{self.feature_bytes / 1e9:.1f} GB for each process, read {self.sweeps} times"),
            (
                "coefficients",
                f"{self.sweep_seconds:.2f} s, or {self.host_sweep_seconds:.1f} s with them in host memory",
            ),
            ("features", self._features),
            (
                "forward pass",
                f"one is added, {self.forward_seconds:.1f} s"
                if self.extra_forward
                else "none is added: TRL's is recorded",
            ),
            ("communication", f"{self.reductions} sums, {self.reduced_bytes / 1e3:,.0f} KB in all"),
        ]
        if self.gathered_bytes:
            rows.append(("", f"and the LM head, {self.gathered_bytes / 1e9:.2f} GB, where weights are sharded"))
        return "\n".join(f"{name:<27}{value}" for name, value in rows)


def delta_cost(
    *,
    responses: int,
    processes: int,
    prompt_tokens: int,
    completion_tokens: int,
    parameters: int,
    layers: int,
    attention_width: int,
    hidden_size: int,
    vocab_size: int,
    element_bytes: int = 2,
    features: str = "output_row",
    refinement_steps: int = 1,
    extra_forward: bool = False,
    work: Work | None = None,
) -> DeltaCost:
    """
    Estimate what DelTA adds to a rollout batch, at the speeds above.

    Args:
        responses: Of the rollout batch, on all processes.
        processes: Among which they are dealt evenly.
        prompt_tokens, completion_tokens: Lengths of a prompt and a response; every one is taken as full.
        parameters: Of the policy, those that a token passes: of a mixture of experts, the active ones.
        layers: Of the decoder.
        attention_width: Query heads × their dimension.
        hidden_size, vocab_size: Of the LM head.
        element_bytes: Of a hidden state and a weight.
        features: `coef_features`.
        refinement_steps: `coef_refinement_steps`, K.
        extra_forward: Whether TRL makes no pass over the rollout batch that can be recorded; see `has_extra_forward`.
        work: Of a method that takes other work than DelTA, whose features and K then say nothing.
    """
    local_responses = responses / processes
    local_tokens = local_responses * completion_tokens
    feature_bytes = round(local_tokens * hidden_size * element_bytes)
    rounds = refinement_steps + 1
    # Centroids (two sums of H and their masses) and temperatures for each of K + 1 rounds, the counts, the normaliser
    reduced = rounds * (2 * hidden_size + 2 + 6) + 3 + 2
    reads_head = work is None and HEAD_PRODUCTS[features] > 0
    if work is None:
        columns = HEAD_PRODUCTS[features] * vocab_size
        work = Work(2 * rounds, columns, 2 * rounds + 2, reduced * REDUCED_BYTES)
    feature_flops = 2 * local_tokens * hidden_size * work.columns
    length = prompt_tokens + completion_tokens
    # Two for each weight and token; scores and their sum over half of the positions, for the causal mask
    sequence_flops = 2 * parameters * length + 2 * layers * attention_width * length**2
    forward_flops = local_responses * sequence_flops if extra_forward else 0.0
    return DeltaCost(
        tokens=responses * completion_tokens,
        feature_bytes=feature_bytes,
        sweeps=work.sweeps,
        sweep_seconds=work.sweeps * feature_bytes / GPU_BYTES_PER_SECOND,
        host_sweep_seconds=work.sweeps * feature_bytes / HOST_BYTES_PER_SECOND,
        feature_flops=feature_flops,
        feature_seconds=feature_flops / GPU_FLOPS,
        extra_forward=extra_forward,
        forward_flops=forward_flops,
        forward_seconds=forward_flops / GPU_FLOPS,
        reductions=work.sums if processes > 1 else 0,
        reduced_bytes=work.summed_bytes if processes > 1 else 0,
        gathered_bytes=vocab_size * hidden_size * element_bytes if reads_head and processes > 1 else 0,
        reads_head=reads_head,
    )


def cost_of_run(args: GRPOBaseConfig, size: "ModelSize", prompt_tokens: int) -> DeltaCost | None:
    """The cost under a run's options, on `args.world_size` processes; `None` for a method without DelTA's."""
    if not (isinstance(args, DeltaGRPOConfig) and args.credit_enabled):
        return None
    return delta_cost(
        responses=args.generation_batch_size,
        processes=args.world_size,
        prompt_tokens=prompt_tokens,
        completion_tokens=args.max_completion_length,
        parameters=size.parameters,
        layers=size.config.num_hidden_layers,
        attention_width=size.config.num_attention_heads * size.head_dim,
        hidden_size=size.config.hidden_size,
        vocab_size=size.config.vocab_size,
        features=args.coef_features,
        refinement_steps=args.coef_refinement_steps,
        extra_forward=has_extra_forward(args),
        work=args.credit.work,
    )


def has_extra_forward(args: GRPOBaseConfig) -> bool:
    """Whether DelTA adds a pass, as it does where TRL makes none for old log-probabilities, unless the loss's own serves."""
    return not args.has_old_log_probs and getattr(args, "coef_centroids", "batch") == "batch"
