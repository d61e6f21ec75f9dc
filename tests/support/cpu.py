"""What the tests compute on: the CPU's name, threads, and an older CPU's instruction set. Imported before torch, which reads
its variables once."""

import os
import platform
from pathlib import Path


# Tensors here are tiny: a second thread only waits for the first, and much longer when another process has the core.
# Processes that a test starts take the number over.
THREADS = int(os.environ.get("DELTA_TRL_TEST_THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)

# ATEN_CPU_CAPABILITY makes torch's own kernels compute as on an older CPU. MKL and oneDNN ask the CPU themselves, and with
# AVX-512 in oneDNN but not in torch, attention in bfloat16 fails: "pack_vnni2 is only supported when avx512 is supported"
OLDER = {
    "default": {"MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
CAPABILITY = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
for variable, value in OLDER.get(CAPABILITY, {}).items():
    os.environ.setdefault(variable, value)


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
