"""Let accelerate run FSDP2 on processes without an accelerator.

accelerate 1.15 enters its FSDP branch only for process groups of accelerators, and trains with plain DDP otherwise,
without an error. Nothing behind that branch needs one: sharding, gathering and saving are the real ones, on gloo.
"""

import os

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def let_fsdp2_run_on_cpu() -> None:
    """Call before the first `PartialState` or `Accelerator` of the process is made."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

    def gloo(self, cpu=False, sagemaker_dp=False, backend=None):
        if cpu and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = gloo
