"""The process of one program: confined first, then run.

Part of the worker process (`worker.py`): standard library only. Everything that happens here after `Isolation.enter` is
under the program's control, so nothing that it reports is believed: it can only give its own values.
"""

import atexit
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


RESULTS = 3  # descriptor of the file that takes one line a call
MACHINE = os.uname().machine
SEED = 0  # the same program gets the same verdict
RECURSION_OF_CALLED_PROGRAMS = 50_000  # as the judges that call functions set it; programs set their own


def run_program(files: list[int], limits: dict, isolation, names: dict[str, object]) -> None:
    """Never returns. `files`: the job (JSON), then standard input, output and error, and the results."""
    status = 1
    try:
        with open(files[0], "rb") as file:
            job = json.load(file)
        # In this order none overwrites one that is still to be copied: the worker has its own 0 to 2.
        for target, file in enumerate(files[1:]):
            os.dup2(file, target)
        _close_all_above(RESULTS, but=isolation.ruleset)
        for number in (signal.SIGXFSZ, signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        isolation.enter(**limits)
        status = _run(job, limits["cpu_seconds"], names)
    except Exception:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status & 255)


def _close_all_above(last: int, but: int | None) -> None:
    if but is not None:
        os.closerange(last + 1, but)
        last = but
    os.closerange(last + 1, 65536)


def _run(job: dict, cpu_seconds: float, names: dict[str, object]) -> int:
    _open_standard_streams()
    _repair_fstat()
    random.seed(SEED)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    calls = job.get("calls")
    module = types.ModuleType("__main__" if calls is None else "solution")
    sys.modules[module.__name__] = module
    space = module.__dict__
    space["__file__"] = "/program.py"
    if calls is not None:
        space.update(names)
        sys.setrecursionlimit(RECURSION_OF_CALLED_PROGRAMS)
    try:
        try:
            exec(compile(job["program"], "program.py", "exec", dont_inherit=True), space)
            if calls is not None:
                return _answer(job, calls, space, cpu_seconds)
        finally:
            _finish(space)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        os.write(2, str(leaving.code).encode("utf-8", "replace"))
        return 1
    except BaseException as error:
        last = traceback.format_exception_only(error)[-1]
        where = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "program.py"]
        line = f"line {where[-1]}: " if where else ""
        os.write(2, (line + last)[-2000:].encode("utf-8", "replace"))
        return 1
    return 0


# (number of the system call, layout of its struct stat, where mode, size and the other fields of os.stat_result are)
_FSTAT = {
    "x86_64": (5, "=QQQIIIIQqqqQQQQQQ24x", (3, 1, 0, 2, 4, 5, 8, 11, 13, 15)),
    "aarch64": (80, "=QQIIIIQQqiiqQQQQQQ8x", (2, 1, 0, 3, 4, 5, 8, 12, 14, 16)),
}


def _repair_fstat() -> None:
    """Some versions of glibc (2.33 to 2.38) implement fstat by a call that takes a path, which the filter refuses.

    Programs that read their input fast ask for its size: they get it by the call that takes a descriptor.
    """
    try:
        os.fstat(0)
    except PermissionError:
        number, layout, fields = _FSTAT[MACHINE]
        syscall = ctypes.CDLL(None, use_errno=True).syscall

        def fstat(fd: int) -> os.stat_result:
            buffer = ctypes.create_string_buffer(struct.calcsize(layout))
            if syscall(number, int(fd), buffer) < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            found = struct.unpack(layout, buffer.raw)
            return os.stat_result(found[i] for i in fields)

        os.fstat = fstat


def _open_standard_streams() -> None:
    for name, file, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = open(file, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _answer(job: dict, calls: list, space: dict, cpu_seconds: float) -> int:
    name = job["function"]
    for call in calls:
        arguments = eval(call, {"inf": float("inf"), "nan": float("nan")}) if job["is_python"] else call
        function = space[name] if name in space else getattr(space["Solution"](), name)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds / len(calls))
        try:
            line = "=" + encode(function(*arguments))
        except Exception as error:
            if not job["keep_going"]:
                raise
            line = "!" + json.dumps(type(error).__name__)
        os.write(RESULTS, line.encode() + b"\n")
    return 0


def encode(value: object) -> str:
    """A value as one line of JSON. Tuples become lists. Other values than JSON's become {"$type": ...}."""
    try:
        return json.dumps(value)
    except TypeError:
        return json.dumps(_plain(value))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        if all(key is None or isinstance(key, (str, int, float)) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {"$dict": sorted(([_plain(key), _plain(item)] for key, item in value.items()), key=json.dumps)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"$set": sorted((_plain(item) for item in value), key=json.dumps)}
    if isinstance(value, complex):
        return {"$complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": value.hex()}
    if type(value).__module__ == "numpy":
        return _plain(value.tolist())
    return value


def _finish(space: dict) -> None:
    """What the interpreter's end does for a program, without the interpreter's end, which would take 10 ms."""
    threading._shutdown()  # waits for threads that nobody joined
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):
            continue  # replaced or closed
    space.clear()
    gc.collect()  # files that nobody closed write what they hold
