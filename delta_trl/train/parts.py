"""Seconds and peak memory of the parts of a run, and which part failed."""

import fnmatch
import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..data import DataArguments
from ..hub import is_secret
from .yaml_file import in_a_line


GB = 1e9
# Methods of a trainer, and the part that each is
MEASURED_METHODS = {
    "train": "updates",
    "_generate_and_score_completions": "scoring and token credit",
    "_generate": "sampling",
    "_calculate_rewards": "rewards",
    "_save_checkpoint": "checkpoint",
    "evaluate": "evaluation",
    "save_model": "final save",
    "create_model_card": "model card",
    "push_to_hub": "push",
}
# Options that bear on a part, by name or pattern: named where it fails and its error names none
BEARING_OPTIONS = {
    "model": ("model_*", "trust_remote_code"),
    "rewards": ("reward_*", "code_reward_*", "soft_overlong_*"),
    "data": tuple(option.name for option in fields(DataArguments)),
    "plan": ("use_peft", "lora_*", "load_in_*"),
    "trainer": (
        *("dtype", "attn_*", "model_init_kwargs", "use_peft", "lora_*", "load_in_*"),
        *("optim*", "deepspeed", "fsdp*", "*vllm*"),
    ),
    "sampling": ("*vllm*", "use_transformers_*", "temperature", "top_*", "min_p", "generation_kwargs"),
    "scoring and token credit": ("coef_*", "trainer", "beta", "bf16", "fp16"),
    "updates": ("loss_type", "bf16", "fp16", "optim*", "*checkpointing*", "deepspeed", "fsdp*", "torch_compile*"),
    "checkpoint": ("save_*",),
    "resume": ("save_*",),
    "evaluation": ("eval_*", "held_out_*", "num_generations_eval"),
    "final save": ("save_*", "deepspeed", "fsdp*"),
    "push": ("push_to_hub", "hub_*"),
}
# Parts of which others inside them are not a share
DIVIDED = ("updates", "scoring and token credit")


@dataclass
class Part:
    """
    Attributes:
        seconds: Without those of the parts inside it.
        host_gb: The process's largest resident memory meanwhile.
        gpu_gb: The largest memory that torch reserved on the GPU meanwhile.
    """

    seconds: float = 0.0
    host_gb: float = 0.0
    gpu_gb: float = 0.0

    def take(self, other: "Part") -> None:
        """The largest of both: of a part in several processes."""
        for name, value in vars(other).items():
            setattr(self, name, max(getattr(self, name), value))


class Parts:
    """
    Measures the parts of this process.

    Attributes:
        done: By name, in the order in which they began.
        failed: The innermost part that was left by an exception; None if none was.
    """

    def __init__(self) -> None:
        self.done: dict[str, Part] = {}
        self.failed: str | None = None
        self._open: list[str] = []
        self._since = time.perf_counter()

    @property
    def current(self) -> str:
        return self._open[-1] if self._open else "start"

    @contextmanager
    def part(self, name: str) -> Generator[None, None, None]:
        """What happens inside belongs to `name`, or to the part around it, unless that is divided."""
        if self._open and self._open[-1] not in DIVIDED:
            name = self._open[-1]
        self._turn()
        self.done.setdefault(name, Part())
        self._open.append(name)
        try:
            yield
        except BaseException:
            self.failed = self.failed or name
            raise
        finally:
            self._turn()
            self._open.pop()

    def watch(self, trainer: Any) -> None:
        """Measure a trainer's `MEASURED_METHODS`."""
        for method, name in MEASURED_METHODS.items():
            setattr(trainer, method, self._measured(name, getattr(trainer, method)))

    def _measured(self, name: str, call: Any) -> Any:
        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        return measured

    def _turn(self) -> None:
        """Give what was measured since the last turn to the innermost part that is open."""
        now = time.perf_counter()
        if self._open:
            part = self.done[self._open[-1]]
            part.seconds += now - self._since
            part.take(Part(part.seconds, *_peaks()))
        self._since = now
        _forget_peaks()


def _peaks() -> tuple[float, float]:
    """GB of host and GPU memory, at most, since `_forget_peaks`."""
    gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    with suppress(OSError, AttributeError):  # Linux
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 / GB, gpu / GB  # ty: ignore[not-subscriptable]
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GB, gpu / GB  # bytes, on a Mac
    return 0.0, gpu / GB  # Windows does not tell


def _forget_peaks() -> None:
    """Elsewhere than on Linux the peak of host memory stays that of the whole process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def failure(part: str | None, error: Exception, given: Mapping[str, Any]) -> str:
    """
    What to say of a rehearsal's error, in a line.

    Args:
        part: Where it was raised.
        given: The options that the run sets.
    """
    text = str(error).strip()
    if isinstance(error, ValueError):
        text = " ".join(text.split())
    else:  # of a library, which may go on for pages
        text = f"{type(error).__name__}: {text.partition(chr(10))[0]}"
    bearing = {
        name: "***" if is_secret(name) else value
        for name, value in given.items()
        if any(fnmatch.fnmatchcase(name, one) for one in BEARING_OPTIONS.get(part, ()))
    }
    if bearing and not any(name in text for name in bearing):
        text += (
            f" (options of this part: {', '.join(f'{name}={in_a_line(value)}' for name, value in bearing.items())})"
        )
    return f"rehearsal, part {part!r}: {text}"
