"""The process of one program: confined first, then run.

Part of the worker process (`worker.py`): standard library only. Everything that happens here after `Isolation.enter` is
under the program's control, so nothing that it reports is believed: it can only give its own output and values.
"""

import _thread
import atexit
import builtins
import contextlib
import contextvars
import fcntl
import gc
import json
import os
import random
import signal
import sys
import threading
import traceback
from concurrent.futures import thread as thread_pools

import adapted
from isolation import DESCRIPTORS
from state import SEED, State
from values import encode


# The descriptors of a program. Runs have what is given and taken as standard input and output, too.
CONTROL, GIVEN, TAKEN = 3, 4, 5
FIRST_FREE = 100  # beyond those, where files are moved to before they get their numbers
RECURSION_OF_CALLED_PROGRAMS = 50_000  # as the judges that call functions set it; programs set their own


def run_program(
    files: list[int], channel: int, limits: dict, isolation, names: dict[str, object], state: State
) -> None:
    """Never returns.

    Args:
        files: Descriptors of the job (JSON), standard input, output and error, what is given to a run or call and what is
            taken from it.
        channel: Descriptor of the socket to the worker.
        limits: See `Isolation.enter`.
        isolation: The worker's `Isolation`.
        names: What a called program finds in its namespace.
        state: The worker's `State`.
    """
    status = 1
    try:
        with open(files[0], "rb") as file:
            job = json.load(file)
        moved = [fcntl.fcntl(file, fcntl.F_DUPFD, FIRST_FREE) for file in (*files[1:4], channel, *files[4:])]
        for target, file in enumerate(moved):
            os.dup2(file, target)
        os.closerange(len(moved), DESCRIPTORS)
        for number in (signal.SIGXFSZ, signal.SIGPIPE, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        isolation.enter(**limits)
        try:
            os.fstat(0)
        except OSError:
            os.fstat = adapted.fstat
            state.accept("os", "fstat")
        if hasattr(sys, "set_int_max_str_digits"):
            sys.set_int_max_str_digits(0)
        status = _answer_calls(job, names) if "function" in job else _run_inputs(job, state)
    except BaseException as error:
        status = _exit_status(error)
    finally:
        os._exit(status & 255)


def _wait_for_next() -> bool:
    """Say that a run is over. Whether there is a next one."""
    os.write(CONTROL, b".")
    return os.read(CONTROL, 1) != b""


def _run_inputs(job: dict, state: State) -> int:
    """The exit status of the last run. Runs go on until one fails, or leaves something behind that another would find."""
    standard = vars(builtins)
    original = standard.copy()
    code, modules, status = None, set(), 1
    try:
        while True:
            os.dup2(GIVEN, 0)
            os.dup2(TAKEN, 1)
            _open_standard_streams()
            random.seed(SEED)
            space = _namespace("__main__")
            space["__builtins__"] = builtins  # the module, as for the interpreter's own __main__
            # A context of its own: what it sets for decimal numbers, or numpy's printing, ends with the run
            context = contextvars.copy_context()
            status = 0
            try:
                if code is None:
                    code = compile(job["program"], "program.py", "exec", dont_inherit=True)
                    modules = state.named_in(code)
                context.run(exec, code, space)
            except BaseException as error:
                status = _exit_status(error)
            del space  # as in the interpreter, only its module and its functions hold on to it
            can_go_on = context.run(_end_like_the_interpreter)
            standard.clear()
            standard.update(original)
            # No further run if a daemon thread would write to its output, or find what this one changed
            if status or not can_go_on or _thread._count() or state.is_changed(modules) or not _wait_for_next():
                return status
            state.reset(modules)
    except OSError:
        return status  # the program closed the channel, or its files: its next run gets a new process


def _answer_calls(job: dict, names: dict[str, object]) -> int:
    _open_standard_streams()
    random.seed(SEED)
    sys.setrecursionlimit(RECURSION_OF_CALLED_PROGRAMS)
    space = _namespace("solution")
    space.update(names)
    exec(compile(job["program"], "program.py", "exec", dont_inherit=True), space)
    while _wait_for_next():
        given = os.pread(GIVEN, os.lseek(GIVEN, 0, os.SEEK_END), 0).decode()
        try:
            arguments = (
                eval(given, {"inf": float("inf"), "nan": float("nan")}) if job["is_python"] else json.loads(given)
            )
            own = space.get(job["function"])
            function = getattr(space["Solution"](), job["function"]) if own is names.get(job["function"]) else own
            answer = "=" + encode(function(*arguments))
        except Exception as error:
            if not job["keep_going"]:
                raise
            answer = "!" + json.dumps(type(error).__name__)
        rest = memoryview(answer.encode())
        while rest:
            rest = rest[os.write(TAKEN, rest) :]
    del space
    _end_like_the_interpreter()
    return 0


def _namespace(name: str) -> dict:
    module = type(sys)(name)
    module.__file__ = "/program.py"
    sys.modules[name] = module
    return vars(module)


def _open_standard_streams() -> None:
    for name, file, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = open(file, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _end_like_the_interpreter() -> bool:
    """What the interpreter does at its end, in its order, without that end, which would take longer than the program.

    Returns whether another run may follow in this process.
    """
    can_go_on = not any(thread.is_alive() for thread in thread_pools._threads_queues)
    if can_go_on:
        while others := [t for t in threading.enumerate() if not t.daemon and t is not threading.current_thread()]:
            for thread in others:
                thread.join()
    else:
        threading._shutdown()  # tells executors that nobody shut down to finish; none can be made after that
    atexit._run_exitfuncs()
    _flush()
    for name in ("stdin", "stdout", "stderr"):  # those that the program opened close their descriptors here, not later
        setattr(sys, name, getattr(sys, f"__{name}__", None))
    for name in ("__main__", "solution"):
        sys.modules.pop(name, None)
    gc.collect()  # files that nobody closed write what they hold, and objects call their `__del__`
    _flush()  # what that printed belongs to this run
    return can_go_on


def _flush() -> None:
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        try:
            getattr(sys, name).flush()
        except (AttributeError, ValueError):
            continue  # replaced, or closed


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
    with contextlib.suppress(OSError):  # closed
        os.write(2, message.encode("utf-8", "replace") + b"\n")
    return 1
