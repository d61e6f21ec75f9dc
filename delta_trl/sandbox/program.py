"""The process of one program: confined first, then run.

Part of the worker process (`worker.py`): standard library only. Everything that happens here after `Isolation.enter` is
under the program's control, so nothing that it reports is believed: it can only give its own values.
"""

import _thread
import atexit
import builtins
import contextvars
import ctypes
import gc
import json
import os
import random
import signal
import struct
import sys
import threading
import traceback
import types

from state import SEED, State
from values import encode


RESULTS = 3  # descriptor of the file that takes one line a run or call
RECURSION_OF_CALLED_PROGRAMS = 50_000  # as the judges that call functions set it; programs set their own
MACHINE = os.uname().machine


def run_program(files: list[int], limits: dict, isolation, names: dict[str, object], state: State) -> None:
    """Never returns.

    Args:
        files: Descriptors of the job (JSON), the results, standard error, and standard input and output of each run.
        limits: See `Isolation.enter`, and `cpu_seconds` and `wall_seconds` of one run or call.
        isolation: The worker's `Isolation`.
        names: What a called program finds in its namespace.
        state: The worker's `State`.
    """
    status = 1
    try:
        with open(files[0], "rb") as file:
            job = json.load(file)
        # The worker has its own 0 to 3, so that none of these overwrites a file that is still to be copied.
        for target, file in ((RESULTS, files[1]), (2, files[2])):
            os.dup2(file, target)
            os.close(file)
        for number in (signal.SIGXFSZ, signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        seconds = limits.pop("cpu_seconds"), limits.pop("wall_seconds")
        isolation.enter(**limits)
        try:
            os.fstat(0)
        except PermissionError:
            os.fstat = fstat
            state.accept("os", "fstat")
        if hasattr(sys, "set_int_max_str_digits"):
            sys.set_int_max_str_digits(0)
        status = _run(job, files[3:], seconds, names, state)
    except Exception:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status & 255)


def _run(job: dict, streams: list[int], seconds: tuple[float, float], names: dict[str, object], state: State) -> int:
    """The exit status: of the last run. Runs go on until one fails."""
    has_calls = "calls" in job
    standard = vars(builtins)
    original = standard.copy()
    status, code, modules = 0, None, set()
    while streams and status == 0:
        for target in (0, 1):
            os.dup2(streams[0], target)
            os.close(streams.pop(0))
        _arm(seconds)
        _open_standard_streams()
        random.seed(SEED)
        module = types.ModuleType("solution" if has_calls else "__main__")
        module.__file__ = "/program.py"
        sys.modules[module.__name__] = module
        if has_calls:
            vars(module).update(names)
            sys.setrecursionlimit(RECURSION_OF_CALLED_PROGRAMS)
        try:
            if code is None:
                code = compile(job["program"], "program.py", "exec", dont_inherit=True)
                modules = state.named_in(code)
            # A context of its own: what it sets for decimal numbers, or numpy's printing, ends with the run
            contextvars.copy_context().run(_run_once, code, module, job, names, seconds)
            status = 0
        except BaseException as error:
            status = _exit_status(error)
        if has_calls:
            break
        try:
            os.write(RESULTS, b"=0\n" if status == 0 else b"!%d\n" % status)
            standard.clear()
            standard.update(original)
            # No further run if a daemon thread would write to its output, or find what this one changed
            if _thread._count() or state.is_changed(modules):
                os.write(RESULTS, b".\n")
                break
        except OSError:
            break  # the program closed the file, and perhaps those of the next run
        state.reset(modules)
    return status


def _run_once(
    code: types.CodeType, module: types.ModuleType, job: dict, names: dict[str, object], seconds: tuple[float, float]
) -> None:
    try:
        exec(code, vars(module))
        if "calls" in job:
            _answer(job, vars(module), names, seconds)
    finally:
        _finish(module)


def _arm(seconds: tuple[float, float]) -> None:
    """SIGPROF and SIGALRM end this process. A program can disarm them; the limits for all runs together stay."""
    signal.setitimer(signal.ITIMER_PROF, seconds[0])
    signal.setitimer(signal.ITIMER_REAL, seconds[1])


def _open_standard_streams() -> None:
    for name, file, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = open(file, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _answer(job: dict, space: dict, names: dict[str, object], seconds: tuple[float, float]) -> None:
    name = job["function"]
    for call in job["calls"]:
        _arm(seconds)
        arguments = eval(call, {"inf": float("inf"), "nan": float("nan")}) if job["is_python"] else call
        own = space.get(name)
        function = getattr(space["Solution"](), name) if own is names.get(name) else own
        try:
            line = "=" + encode(function(*arguments))
        except Exception as error:
            if not job["keep_going"]:
                raise
            line = "!" + json.dumps(type(error).__name__)
        os.write(RESULTS, line.encode() + b"\n")


def _finish(module: types.ModuleType) -> None:
    """What the interpreter's end does for a program, without that end, which would take longer than the program."""
    while others := [t for t in threading.enumerate() if not t.daemon and t is not threading.current_thread()]:
        for thread in others:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            continue  # replaced or closed
    vars(module).clear()
    gc.collect()  # files that nobody closed write what they hold


def _exit_status(error: BaseException) -> int:
    """As the interpreter's. The message goes to standard error."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        message = str(error.code)
    else:
        places = [
            place.lineno for place in traceback.extract_tb(error.__traceback__) if place.filename == "program.py"
        ]
        message = f"line {places[-1]}: " if places else ""
        message += traceback.format_exception_only(error)[-1].strip()[-2000:]
    os.write(2, message.encode("utf-8", "replace") + b"\n")
    return 1


# (number of the system call, layout of its struct stat, where mode, inode and the other fields of os.stat_result are)
_FSTAT = {
    "x86_64": (5, "=QQQIIIIQqqqQQQQQQ24x", (3, 1, 0, 2, 4, 5, 8, 11, 13, 15)),
    "aarch64": (80, "=QQIIIIQQqiiqQQQQQQ8x", (2, 1, 0, 3, 4, 5, 8, 12, 14, 16)),
}


def fstat(fd: int) -> os.stat_result:
    """`os.fstat`, by the system call of that name.

    Some versions of glibc (2.33 to 2.38) use one that takes a path, which the filter refuses; and programs that read
    their input fast ask for its size.
    """
    number, layout, fields = _FSTAT[MACHINE]
    buffer = ctypes.create_string_buffer(struct.calcsize(layout))
    if ctypes.CDLL(None, use_errno=True).syscall(number, int(fd), buffer) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    found = struct.unpack(layout, buffer.raw)
    return os.stat_result(found[i] for i in fields)
