"""Sharing requests among servers, some of which may fail.

All servers take from one queue, so that a faster one does more. What a server had under way when it failed goes back, and
the others take it at once. The server rests, longer after each failure, and must complete a short prompt before it gets
requests again; one that does not, time after time, is given up. So a request is only sent to servers that work, and one
that fails there time after time is at fault itself, and left out.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

from .generate import Request
from .server import PROBE_SECONDS, BusyError, GoneError, LostError, RefusedError, Server
from .server_protocol import Dialect, Protocol


logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds that a server rests, doubling


@dataclass
class ServerState:
    """A server that was tried, and how it has done since.

    Args:
        server: The server.
        dialect: What it takes.
        context: Longest prompt with completion, in tokens, where it is known.
        probe: What it completed when it was tried.
    """

    server: Server
    dialect: Dialect
    context: int | None
    probe: dict[str, Any]
    failures: int = field(default=0, init=False)  # since its last completion
    failed_at: float = field(default=0.0, init=False)  # of `time.monotonic`, as the next
    again_at: float = field(default=0.0, init=False)  # when its rest ends
    reason: str | None = field(default=None, init=False)  # why it is not asked now
    gone: bool = field(default=False, init=False)
    said: set[str] = field(default_factory=set, init=False)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)  # of who waits for its rest to end


@dataclass
class _Job:
    request: Request
    failures: int = 0


class RequestQueue:
    """The requests of one call, and what has come of them. Made and used in one event loop.

    Args:
        states: The servers, open.
        protocol: How they are asked.
        concurrency: Requests at a time on each.
        retries: How often a server, or a request, may fail in a row.
        finished: Gets (request, completion) for each sample.
    """

    def __init__(
        self, states: Sequence[ServerState], protocol: Protocol, concurrency: int, retries: int, finished: SimpleQueue
    ):
        self.states = [replace(state) for state in states]  # what a former call saw of them is forgotten
        self.protocol, self.concurrency, self.retries, self.finished = protocol, concurrency, retries, finished
        self.done = 0
        self.refused: str | None = None  # the last reason why a request was left out
        self._problems: set[tuple[str, str]] = set()  # of which some were
        self._todo: asyncio.Queue[_Job] = asyncio.Queue()

    async def run(self, requests: Sequence[Request]) -> None:
        """Settles every request.

        Raises:
            ConnectionError: No server is left.
        """
        for request in requests:
            self._todo.put_nowait(_Job(request))
        slots = min(self.concurrency, len(requests))
        # In turn, so that a few requests are not all the first one's
        work = asyncio.gather(*(self._work(state) for _ in range(slots) for state in self.states))
        settled = asyncio.ensure_future(self._todo.join())
        try:
            await asyncio.wait((work, settled), return_when=asyncio.FIRST_COMPLETED)
            if not settled.done():
                work.result()  # raises what went wrong here
                reasons = "; ".join(f"{state.server.url}: {state.reason}" for state in self.states)
                raise ConnectionError(
                    f"no server is left ({reasons}). Of {len(requests)} samples {self.done} are finished and kept: the same "
                    "command continues, also with other addresses in --base_url."
                )
        finally:
            settled.cancel()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)  # what went wrong in it was raised above

    async def _work(self, state: ServerState) -> None:
        """One of a server's slots: takes requests until the server is gone, or this is cancelled."""
        while await self._ready(state):
            job = await self._todo.get()
            if state.reason is None:
                await self._ask(state, job)
            else:  # it failed while this waited
                self._todo.put_nowait(job)
            self._todo.task_done()

    async def _ask(self, state: ServerState, job: _Job) -> None:
        began = time.monotonic()
        try:
            body = self.protocol.body(job.request, state.dialect, state.context)
            completion = self.protocol.completion(await state.server.post(self.protocol.endpoint, body))
        except RefusedError as error:
            self._leave_out(state, job, str(error))
        except GoneError as error:
            self._todo.put_nowait(job)
            self._give_up(state, str(error))
        except LostError as error:
            self._rest(state, began, error)
            job.failures += not isinstance(error, BusyError)
            if job.failures > self.retries:
                self._leave_out(state, job, str(error))
            else:
                self._todo.put_nowait(job)
        else:
            state.failures = 0
            self.done += 1
            self.finished.put((job.request, completion))

    async def _ready(self, state: ServerState) -> bool:
        """Waits while a server rests, and until it works again. False: it is gone."""
        async with state.lock:
            while state.reason is not None and not state.gone:
                await asyncio.sleep(state.again_at - time.monotonic())
                began = time.monotonic()
                try:
                    answer = await state.server.post(self.protocol.endpoint, state.probe, PROBE_SECONDS)
                    self.protocol.completion(answer)
                except (RefusedError, GoneError) as error:
                    self._give_up(state, str(error))
                except LostError as error:
                    self._rest(state, began, error)
                    if state.failures > self.retries:
                        self._give_up(state, str(error))
                else:
                    state.reason = None
        return not state.gone

    def _rest(self, state: ServerState, began: float, error: LostError) -> None:
        """A server's death fails all that it had under way: what was sent before the last failure is no further one."""
        now = time.monotonic()
        if began >= state.failed_at:
            state.failures, state.failed_at = state.failures + 1, now
        pause = min(FIRST_PAUSE * 2 ** (state.failures - 1), LONGEST_PAUSE)
        state.again_at = max(state.again_at, now + max(pause, error.after))
        state.reason = str(error)
        if state.reason not in state.said:
            state.said.add(state.reason)
            logger.warning(f"{state.server.url}: {state.reason}. It will be tried again.")

    def _give_up(self, state: ServerState, reason: str) -> None:
        if not state.gone:
            state.gone, state.reason = True, reason
            logger.warning(
                f"{state.server.url} is given up: {reason}. Its requests go to the others, if there are any."
            )

    def _leave_out(self, state: ServerState, job: _Job, reason: str) -> None:
        self.refused = f"{state.server.url}: {reason}"
        problem = (job.request.benchmark, job.request.problem)
        if problem not in self._problems:
            self._problems.add(problem)
            logger.warning(
                f"{self.refused}. A sample of problem {problem[1]} of {problem[0]} is left out, and counts as wrong. The "
                "same command asks for it again."
            )
