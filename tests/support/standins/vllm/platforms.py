"""Stand-in for `vllm.platforms`: CUDA with as many GPUs as CUDA_VISIBLE_DEVICES lists."""

from types import SimpleNamespace


current_platform = SimpleNamespace(device_control_env_var="CUDA_VISIBLE_DEVICES", device_count=lambda: 0)
