"""Sampling completions on servers that are already running and speak OpenAI's protocol, wherever they are.

vLLM, SGLang, llama.cpp and `transformers serve` do. Every sample is a request of its own, with its own seed.
"""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

from ..jsonl import short
from .generate import Completion, Request, load_tokenizer, within_context
from .models import ModelSource
from .options import Decoding, Engine
from .server import PROBE_SECONDS, BrokenError, GoneError, LostError, RefusedError, Server, read_key
from .server_protocol import Dialect, Protocol
from .server_queue import RequestQueue, ServerState


# What a server must complete before it gets work
PROBE = "1"
PROBE_DECODING = Decoding(max_tokens=16, prompt_format="{question}")
# Files that a process has open beside its connections, generously
OTHER_FILES = 256


class ServerBackend:
    """Generates on one or several servers.

    Args:
        source: From `find_model`. Its tokenizer makes the prompts, unless the endpoint is "chat".
        engine: The servers' addresses, and how they are asked.

    Raises:
        ValueError: A server cannot be reached, refuses the key, does not serve the model, or makes other tokens of a prompt;
            a revision is asked for, or there are several processes.
    """

    name = "server"

    def __init__(self, source: ModelSource, engine: Engine):
        if source.on_hub and source.revision is not None:
            raise ValueError(f"revision {source.revision!r} is the server's own: set it where the server is started.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                "One process asks all servers. Start the evaluation without torchrun or accelerate launch."
            )
        self.engine = engine
        self.model = engine.served_model or source.path
        self.tokenizer = None if engine.endpoint == "chat" else load_tokenizer(source)
        self.settings = {"endpoint": engine.endpoint, "served_model": self.model}
        key = read_key(engine.api_key_env)
        servers = [Server(url, key, engine.request_timeout) for url in engine.base_url]
        _allow_connections(engine.concurrency * len(servers))
        with _running(self._connect(servers)) as connecting:
            self.states = connecting.result()

    def check(self, decoding: Decoding) -> None:
        """Raises ValueError for decoding that the servers would not follow."""
        if self.tokenizer is None and decoding.prompt_format != "chat":
            raise ValueError(
                f"--endpoint chat sends messages, which prompt_format {decoding.prompt_format!r} does not make. Add "
                "--prompt_format chat, or use --endpoint completions."
            )
        plain = [state.server.url for state in self.states if state.dialect is Dialect.PLAIN]
        if plain and decoding.top_k:
            raise ValueError(f"top_k is {decoding.top_k}, and {plain[0]} does not know it. Leave it out.")

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[list[tuple[Request, Completion]]]:
        """Yields what has finished since the last time. Where it is left early, requests under way are dropped.

        Raises:
            ConnectionError: No server is left.
            ValueError: `check` does, or every request was refused.
        """
        self.check(decoding)
        protocol = Protocol.make(self.model, self.tokenizer, decoding)
        if self.tokenizer is not None:
            contexts = [state.context for state in self.states if state.context is not None]
            requests = within_context(requests, min(contexts, default=None), decoding.max_tokens)
            if any(state.dialect is not Dialect.ENGINE for state in self.states):
                for request in {request.prompt: request for request in requests}.values():
                    protocol.text_for(request)  # or an error before the first request is sent
        if not requests:
            return
        finished: SimpleQueue = SimpleQueue()
        with _running(self._draw(requests, protocol, finished)) as drawing:
            ended = False
            while not ended:
                batch = [finished.get()]
                while not finished.empty():
                    batch.append(finished.get())
                ended = batch[-1] is None
                yield batch[:-1] if ended else batch
            drawing.result()

    async def _draw(self, requests: Sequence[Request], protocol: Protocol, finished: SimpleQueue) -> None:
        """Puts each sample into `finished`, and None at the end."""
        queue = RequestQueue(self.states, protocol, self.engine.concurrency, self.engine.retries, finished)
        for state in self.states:
            state.server.open()
        try:
            await queue.run(requests)
        finally:
            for state in self.states:
                await state.server.close()
            finished.put(None)
        if queue.refused is not None and not queue.done:
            raise ValueError(f"Every request was refused. {queue.refused}.")

    async def _connect(self, servers: Sequence[Server]) -> list[ServerState]:
        for server in servers:
            server.open()
        try:
            states = await asyncio.gather(*map(self._probe, servers))
        finally:
            for server in servers:
                await server.close()
        urls = [server.url for server in servers]
        if len(set(urls)) < len(urls):
            raise ValueError(
                f"base_url names a server twice: {', '.join(urls)}. Name it once, with a higher concurrency."
            )
        return states

    async def _probe(self, server: Server) -> ServerState:
        """Asks for a short completion in each dialect until one is taken."""
        listed, refused = {}, ""
        try:
            listed = await server.find()
            for dialect in Dialect:
                try:
                    state = await self._try(server, dialect, self.engine.max_model_len or listed.get(self.model))
                except (RefusedError, BrokenError, GoneError) as error:
                    if isinstance(error, GoneError) and error.status != 404:
                        raise
                    refused = str(error)
                else:
                    # `transformers serve` lists the Hub's cache, whatever it serves, and refuses other names itself
                    if not listed or self.model in listed or dialect is Dialect.TRANSFORMERS:
                        return state
                    break
        except (LostError, GoneError) as error:
            raise ValueError(f"{server.url} cannot be used: {error}.") from error
        if listed and self.model not in listed:
            names = ", ".join(map(short, list(listed)[:5])) + ", ..." * (len(listed) > 5)
            raise ValueError(
                f"{server.url} serves {server.say(names)}, and not {short(self.model)}. Name one with --served_model."
            )
        raise ValueError(f"{server.url} does not complete a prompt with {self.model!r}: {refused}.")

    async def _try(self, server: Server, dialect: Dialect, context: int | None) -> ServerState:
        if self.tokenizer is None:
            prompt, ids = json.dumps([{"role": "user", "content": PROBE}]), ()
        else:
            prompt, ids = PROBE, tuple(self.tokenizer(PROBE)["input_ids"])
        protocol = Protocol.make(self.model, self.tokenizer, PROBE_DECODING)
        body = protocol.body(Request("", "", 0, 0, prompt, ids, ""), dialect, context)
        completion = protocol.completion(await server.post(protocol.endpoint, body, PROBE_SECONDS))
        if completion.tokens > PROBE_DECODING.max_tokens:
            raise ValueError(
                f"{server.url} made {completion.tokens} tokens where {PROBE_DECODING.max_tokens} were asked for at most: it "
                "does not keep to a completion's length."
            )
        counted = completion.reported["prompt_tokens"]
        if ids and counted not in (None, len(ids)):
            raise ValueError(
                f"{server.url} counts {counted} tokens in a prompt of which the tokenizer of {self.model!r} makes "
                f"{len(ids)}: it serves another model, or puts special tokens before prompts."
            )
        return ServerState(server, dialect, context, body)


@contextmanager
def _running(main: Coroutine[Any, Any, Any]) -> Generator[Future, None, None]:
    """Runs a coroutine in a thread with an event loop of its own (a notebook's thread has one that runs already).

    Whoever leaves before its end, as with Ctrl-C, cancels it.
    """
    started: Future = Future()

    async def run() -> Any:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await main

    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(asyncio.run, run())
        try:
            yield result
        finally:
            loop, task = started.result()
            with suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(task.cancel)


def _allow_connections(count: int) -> None:
    """Lets this process have so many connections open, if the system does.

    Raises:
        ValueError: It does not.
    """
    if sys.platform == "win32":
        return
    import resource

    needed = count + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ValueError(
            f"concurrency asks for {count} connections at a time, and the system allows this process {hard} open files. "
            "Lower it, or raise the limit (ulimit -n)."
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
