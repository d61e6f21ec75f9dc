"""Every hostile program is denied: as root and as an ordinary user, with Landlock and without."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.hostile_programs import KINDS, POSTLUDE, PRELUDE
from support.places import ROOT


NOBODY = 65534
PROGRAMS = [(kind, name) for kind, programs in KINDS.items() for name in programs]
# What an ordinary user may not do outside either, depending on the machine
MAY_FAIL_OUTSIDE = {"performance events", "Landlock", "userfaultfd", "io_uring", "bpf"}

# Runs all programs, as another user where uid is not 0
DRIVER = """
import json, os, sys
if {uid}:
    os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
sys.path.insert(0, {root!r})
from delta_trl.sandbox import Limits, Sandbox
sandbox = Sandbox(workers=1, use_landlock={landlock})
limits = Limits(cpu_seconds=5.0, memory_bytes=2**30, output_bytes=2**22)
found = {{}}
for name, program in json.load(sys.stdin).items():
    result = sandbox.run(program, limits=limits)
    found[name] = [result.status, result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")[-200:]]
print(json.dumps([sandbox.layers(), found]))
"""


@pytest.fixture(scope="module")
def surroundings():
    """What the programs look for: files, a listener, a process, a secret in the environment."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o777)
        for name in ("secret", "mine", "planted.py"):
            (folder / name).write_text("x = 1\n")
            (folder / name).chmod(0o666)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "socket"))
        unix.listen(100)
        (folder / "socket").chmod(0o777)
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        stack.callback(other.wait)
        stack.callback(other.kill)
        prelude = PRELUDE.format(
            folder=str(folder), port=listener.getsockname()[1], other=other.pid, socket=str(folder / "socket")
        )
        yield {
            f"{kind}: {name}": prelude + program.replace("{{}}", "{}") + POSTLUDE
            for kind, programs in KINDS.items()
            for name, program in programs.items()
        }


def python_for(uid: int) -> str:
    """An interpreter that a user may run."""
    for candidate in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        with contextlib.suppress(PermissionError, TypeError):
            subprocess.run([candidate, "-c", ""], user=uid, group=uid, extra_groups=[], check=True)
            return candidate
    pytest.skip("no interpreter that an ordinary user may run")


def run_all(programs: dict[str, str], uid: int, landlock: bool) -> tuple[list[str], dict[str, list[str]]]:
    code = DRIVER.format(uid=uid, root=str(ROOT), landlock=landlock)
    child = subprocess.run(
        [python_for(uid) if uid else sys.executable, "-c", code],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        env={**os.environ, "SANDBOX_TEST_SECRET": "hunter2"},
        timeout=300,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize("landlock", [True, False], ids=["landlock", "without landlock"])
@pytest.mark.parametrize("uid", [0, NOBODY], ids=["root", "ordinary user"])
def test_every_program_is_denied(surroundings, uid, landlock):
    if os.geteuid() != 0:
        if uid == 0:
            pytest.skip("needs root")
        uid = 0  # already an ordinary user: stay it
    layers, found = run_all(surroundings, uid, landlock)
    assert "seccomp" in layers
    if not landlock:
        assert "landlock" not in layers
    assert len(found) == len(PROGRAMS) > 120
    assert {name: outcome for name, outcome in found.items() if "ESCAPED" in outcome[1]} == {}
    # Denied by an exception or a signal, not because the program is wrong
    mistakes = ("NameError", "SyntaxError", "TypeError", "ImportError", "AttributeError")
    assert {name: o for name, o in found.items() if any(mistake in o[2] for mistake in mistakes)} == {}


def test_outside_the_sandbox_every_program_succeeds(surroundings):
    """The positive control: what is denied inside is possible outside."""
    failed = {}
    for name, program in surroundings.items():
        reader, writer = os.pipe()
        out = os.fdopen(os.memfd_create("out", os.MFD_ALLOW_SEALING), "w+b")
        with out, tempfile.TemporaryFile() as errors:
            inherited = os.dup2(reader, 77)
            subprocess.run(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env={**os.environ, "SANDBOX_TEST_SECRET": "hunter2"},
                pass_fds=[inherited],
                timeout=300,
            )
            for fd in (reader, writer, inherited):
                os.close(fd)
            out.seek(0)
            if b"ESCAPED" not in out.read():
                errors.seek(0)
                failed[name] = errors.read(2**16)[-300:].decode(errors="replace")
    assert {name: why for name, why in failed.items() if name.partition(": ")[2] not in MAY_FAIL_OUTSIDE} == {}
