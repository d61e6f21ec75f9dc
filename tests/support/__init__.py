"""What the tests share. Importing it comes first: it sets what other packages read when they are imported."""

import os
from pathlib import Path

from support import cpu  # noqa: F401 - before torch


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # the tests' rollout functions are meant
# bitsandbytes would import the compiler, for two seconds in every process that a test starts
os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["VLLM_USE_AOT_COMPILE"] = "0"  # vLLM 0.32 would compile ahead of time, and end without the compiler
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed, which would look for a CUDA toolkit
# Processes that a test starts find these modules, too
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
)
