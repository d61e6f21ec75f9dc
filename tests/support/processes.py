"""What the system says of processes."""

import os
import sys
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process has not ended. A zombie has: it waits for whoever adopted it."""
    try:
        if sys.platform == "linux":
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def children(pid: int) -> list[int]:
    """The processes that its main thread started and that have not been waited for. On Linux."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
