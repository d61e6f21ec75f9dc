"""reasoning-gym's scorers in a process of their own: an answer such as 1e999999999 can keep one busy for hours.

Run as a script, this file is that process. One JSON array a line: `[entry, answer]` in, the score out; answer null makes
the problem and scores nothing. The parent ends the process when it takes too long, and starts another for the next answer.
"""

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


START_SECONDS = 120.0  # for importing reasoning-gym and making a problem, which for some takes many seconds
SCORE_SECONDS = 5.0
MEMORY_BYTES = 4 * 2**30
MAX_ANSWER_CHARACTERS = 10_000  # of an answer; longer ones score 0


class Scorer:
    """The parent's side. Threads may share it; a forked child starts a process of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._made: set[str] = set()
        self._lock = threading.Lock()

    def score(self, entry: str, answer: str) -> float:
        """reasoning-gym's score of an answer, 0 if there is none to be had.

        Raises:
            RuntimeError: The process does not start, or cannot make the problem.
        """
        if len(answer) > MAX_ANSWER_CHARACTERS:
            return 0.0
        with self._lock:
            if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
                self._start()
            if entry not in self._made:
                if self._ask([entry, None], START_SECONDS) is None:
                    raise RuntimeError(f"reasoning-gym does not make the problem {entry}.")
                self._made.add(entry)
            score = self._ask([entry, answer], SCORE_SECONDS)
            return 0.0 if score is None else score

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process = None

    def _start(self) -> None:
        self.close()
        self._made.clear()
        command = [sys.executable, "-P", "-W", "ignore", str(Path(__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._owner = os.getpid()

    def _ask(self, request: list[str | None], seconds: float) -> float | None:
        process = self._process
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write((json.dumps(request) + "\n").encode("ascii"))
            if select.select([process.stdout], [], [], seconds)[0] and (line := process.stdout.readline()):
                return json.loads(line)
        self.close()
        return None


SCORER = Scorer()
atexit.register(SCORER.close)
os.register_at_fork(after_in_child=SCORER.__init__)


def main() -> None:
    import resource

    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a dataset prints must not end up between the replies
    import reasoning_gym

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or most > MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, most))
    datasets: dict[str, Any] = {}
    entries: dict[str, dict] = {}
    for line in sys.stdin:
        entry, answer = json.loads(line)
        if entry not in entries:
            made = json.loads(entry)
            index, options = made.pop("index"), made.pop("options")
            key = json.dumps([made, options])
            if key not in datasets:
                datasets[key] = reasoning_gym.create_dataset(**made, **options)
            entries[entry] = {"dataset": datasets[key], "entry": datasets[key][index]}
        score = 0.0
        if answer is not None:
            with contextlib.suppress(Exception):  # scorers raise all kinds of errors for answers that make no sense
                score = float(entries[entry]["dataset"].score_answer(answer, entries[entry]["entry"]))
        replies.write(json.dumps(score) + "\n")


if __name__ == "__main__":
    main()
