"""`server.py SOCKET`: imports what is slow to import, and forks a process for every command that a client asks for."""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import types
from pathlib import Path


IMPORTED = (
    "torch",
    "transformers.trainer",
    "trl.trainer.grpo_trainer",
    "peft",
    "datasets",
    "pandas",
    "math_verify",
    "delta_trl.trainer",
)
# Variables that nothing reads before a command runs, or that change time and progress bars alone: others must be those of
# this process
READ_LATE = (
    *("PYTHONPATH", "PYTEST_", "PWD", "OLDPWD", "_", "SHLVL", "COLUMNS", "LINES"),
    *("HF_TOKEN", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS", "TOKENIZERS_PARALLELISM"),
    *("MALLOC_", "PYTORCH_NVML_", "ACCELERATE_", "FSDP_"),
    *("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "TORCH_NCCL_", "NCCL_"),
)


def main() -> None:
    sys.path.pop(0)  # this folder
    before = dict(os.environ)
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is shared with the processes stays so
    by_imports = {name: value for name, value in os.environ.items() if before.get(name) != value}
    become(serve(sys.argv[1], before, by_imports), by_imports)


def serve(address: str, before: dict[str, str], by_imports: dict[str, str]) -> dict:
    """Returns in every forked process, with what it is to be; in this one it ends when stdin is closed."""
    listener, answers = socket.socket(socket.AF_UNIX), os.dup(1)
    listener.bind(address)
    listener.listen(64)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    connections: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    for ready in (0, ended, listener):
        selector.register(ready, selectors.EVENT_READ)
    os.write(answers, b"ready\n")
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:
                for process in connections:
                    kill(process)
                shutil.rmtree(Path(address).parent, ignore_errors=True)
                os._exit(0)
            elif key.fileobj == ended:
                os.read(ended, 1024)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                request, streams = receive(connection)
                if not same_imports(request["environment"], before, by_imports):
                    connection.sendall(b"0\n")
                    connection.close()
                elif process := os.fork():
                    connection.sendall(b"%d\n" % process)
                    connections[process] = connection
                    selector.register(connection, selectors.EVENT_READ, process)
                else:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    selector.close()
                    for other in (listener, connection, *connections.values()):
                        other.close()
                    os.setsid()
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    os.closerange(3, 3 + 64 + max(streams))
                    return request
                for stream in streams:
                    os.close(stream)
            else:  # the client was killed
                kill(key.data)
                selector.unregister(key.fileobj)
        for process in list(connections):
            number, status = os.waitpid(process, os.WNOHANG)
            if number:
                connection = connections.pop(process)
                with contextlib.suppress(KeyError):
                    selector.unregister(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                connection.close()


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as content:
        return json.loads(content.read(int.from_bytes(head, "big"))), streams


def same_imports(environment: dict[str, str], before: dict[str, str], by_imports: dict[str, str]) -> bool:
    """Whether no variable has another value, but for those that are read late and those that imports set."""
    differing = {name for name, value in environment.items() ^ before.items() if value != by_imports.get(name)}
    early = {name for name in differing if not name.startswith(READ_LATE)}
    if early:
        print("Started afresh for other values of", *sorted(early), file=sys.stderr, flush=True)
    return not early


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def become(request: dict, by_imports: dict[str, str]) -> None:
    """Run the command, as Python does."""
    arguments = request["arguments"]
    own = paths(os.environ)
    rest = [path for path in sys.path if path not in own]
    os.environ.clear()
    os.environ.update(request["environment"] | by_imports)
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    sys.executable = sys.orig_argv[0] = request["executable"]
    sys.orig_argv[1:] = arguments
    if arguments[0] == "-u":
        arguments.pop(0)
        sys.stdout.reconfigure(line_buffering=True)
    sys.argv = arguments[1:] if arguments[0] == "-m" else arguments
    first = os.getcwd() if arguments[0] == "-m" else str(Path(arguments[0]).resolve().parent)
    sys.path[:] = [first, *paths(os.environ), *rest]
    importlib.invalidate_caches()
    sys.modules["numpy"].random.seed()  # as an interpreter that starts: every process its own numbers
    sys.modules["torch"].seed()
    if arguments[0] == "-m":
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:  # runpy.run_path would change sys.argv[0]
        main_module = sys.modules["__main__"] = types.ModuleType("__main__")
        main_module.__file__ = os.path.abspath(arguments[0])
        exec(compile(Path(arguments[0]).read_bytes(), main_module.__file__, "exec"), main_module.__dict__)


def paths(environment) -> list[str]:
    return [os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]


if __name__ == "__main__":
    main()
