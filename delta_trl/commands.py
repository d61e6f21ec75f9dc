"""What the commands share: errors in one line, and no messages that a user cannot act on."""

import ctypes
import logging
import os
import signal
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


DEBUG = "--debug"
USER_ERRORS = (ValueError, OSError, ImportError)  # OSError: files, the Hub, a port


@contextmanager
def one_line_errors(
    arguments: list[str] | None = None, errors: tuple[type[Exception], ...] = USER_ERRORS, status: int = 2
) -> Generator[None, None, None]:
    """
    What a user can mend is printed as `error: ...`, and the process ends with `status`.

    `--debug` among the arguments (default: the command's) leaves the traceback.
    """
    if DEBUG in (sys.argv[1:] if arguments is None else arguments):
        yield
        return
    try:
        yield
    except errors as error:
        rank = os.environ.get("RANK", "0")
        where = "error" if rank == "0" else f"error on process {rank}"
        text = str(error).strip() or type(error).__name__
        if isinstance(error, OSError):  # those of the Hub go on for lines
            text = " ".join(text.split())
        if isinstance(error, ImportError | ConnectionError):
            text = f"{type(error).__name__}: {text}"
        sys.stderr.write(f"{where}: {text}\n")
        sys.exit(status)


def quiet_dependencies() -> None:
    """Filter messages of dependencies about their own insides, each by its text."""
    # At every step, from TRL's use of a name that transformers renamed
    warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # From the default of TRL's config, whatever the user set
    warnings.filterwarnings("ignore", message=r"`gradient_checkpointing` is deprecated", category=FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
        lambda record: "from kernels-community" not in record.getMessage()
    )
    # DeepSpeed, which accelerate imports, on a machine without a GPU
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    if not sys.stderr.isatty():
        # In a log file, bars that take a moment are lines of their own. Training's bar stays.
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def end_with_parent() -> None:
    """
    Have the system send SIGTERM to this process when the thread of its parent that started it ends, however that ends. On
    Linux; elsewhere nothing.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)


def own_command() -> list[str]:
    """The words of this process's command, as they would be typed."""
    script, *rest = sys.argv
    if Path(script).name == "delta-trl":
        return ["delta-trl", *rest]
    if Path(script).name == "__main__.py":
        return ["python", "-m", "delta_trl.train" if Path(script).parent.name == "train" else "delta_trl", *rest]
    return ["python", script, *rest]
