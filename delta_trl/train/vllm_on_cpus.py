"""vLLM in the training process of a machine without a GPU: whether there is one for CPUs, and that it takes new weights."""

from typing import Any

import torch
from trl.generation import vllm_generation


def has_vllm_for_cpus() -> bool:
    """Whether the vLLM installed here, if any, is one for CPUs. One for GPUs does not start without a GPU."""
    if not vllm_generation.is_vllm_available():
        return False
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


def keep_weights_loadable() -> None:
    """
    Have vLLM's next engine in this process multiply with the parameters of linear layers themselves, as on GPUs.

    On CPUs it packs them for its kernels when it loads a model, those of oneDNN, of SGLang (bf16 where the CPU has AMX) or
    of zentorch, and replaces the parameters by empty ones. What TRL loads after an update then has nowhere to go:
    `'Parameter' object has no attribute 'weight_loader'`, or, of a layer that is not merged with others, `Attempted to load
    weight ... into parameter (torch.Size([0]))`. An LM head keeps its parameters, and would go on computing with what it
    packed first.
    """
    from vllm.model_executor.layers import utils

    packs = utils.dispatch_cpu_unquantized_gemm

    def dispatch(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim == 2:
            layer.cpu_linear = torch.nn.functional.linear
        else:  # of convolutions, whose kernel wants them packed
            packs(layer, remove_weight)

    utils.dispatch_cpu_unquantized_gemm = dispatch
