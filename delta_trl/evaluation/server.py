"""One server that speaks OpenAI's protocol: its address, its key, what it serves, and what its failures mean.

Whatever it sends is untrusted: answers are bounded in size, and their fields are checked before use. The key is read from
the environment, sent to this server only, and taken out of everything that is said about it.
"""

import asyncio
import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from ..jsonl import parse_json


CONNECT_SECONDS = 20.0
# A list of models needs no computing. A single token does, and may wait behind the completions of others.
LIST_SECONDS = 30.0
PROBE_SECONDS = 300.0
# Far above the longest completion, and far below what fills the memory.
LARGEST_ANSWER = 32 * 2**20  # bytes
LONGEST_RETRY_AFTER = 600.0  # seconds: a server that asks for more is not waited for
# Too many requests, or a model that is not there yet: no fault of the request
BUSY = (408, 425, 429, 502, 503, 504)


class LostError(Exception):
    """A request that can be sent again, to this server or another one: the connection was lost, or no answer came in time.

    Args:
        reason: In words.
        after: Seconds that the server asks to wait.
    """

    def __init__(self, reason: str, after: float = 0.0):
        super().__init__(reason)
        self.after = after


class BusyError(LostError):
    """The server has no room for a request now."""


class BrokenError(LostError):
    """The server is there, and failed at this request."""


class RefusedError(Exception):
    """The server took this request for wrong. It need not be sent again."""


class GoneError(Exception):
    """Nothing more is to be had from the server: it refuses the key, or does not have the model any more.

    Args:
        reason: In words.
        status: HTTP's.
    """

    def __init__(self, reason: str, status: int):
        super().__init__(reason)
        self.status = status


def check_url(url: str) -> None:
    """Raises ValueError for what cannot be a server's address. The message holds no password."""
    try:
        parts = urlsplit(url)
        port = parts.port
        httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise ValueError(f"base_url must be like http://host:8000/v1, and {error}.") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "base_url must not hold a user's name or password. Name the key's variable with --api_key_env."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise ValueError(f"base_url must be like http://host:8000/v1, got {url!r}.")


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable, or None where none is named.

    Raises:
        ValueError: The variable is not set, or holds what cannot be sent. The message does not hold its value.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"api_key_env names {variable}, which is not set. Put the server's key into it.")
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"The key in {variable} has characters that cannot be sent. Copy it again.")
    return key


class Server:
    """One server. Used within one event loop at a time, between `open` and `close`.

    Args:
        url: With or without `/v1` at its end.
        key: Its key, or None.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, url: str, key: str | None, timeout: float):
        check_url(url)
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._key = key

    def open(self) -> None:
        """Makes a client for the running event loop."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        # How many requests are under way is the caller's to say. Each has a connection of its own: a server may close one
        # that waits for the next request just when that is sent.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        self._client = httpx2.AsyncClient(headers=headers, limits=limits, timeout=timeout)

    async def close(self) -> None:
        await self._client.aclose()

    async def find(self) -> dict[str, int | None]:
        """Finds out whether the address ends with `/v1`, and asks for the list of models.

        Returns:
            The longest sequence in tokens, or None where the server does not tell, by the model's name. Empty where there
            is no list.

        Raises:
            LostError, GoneError: See there.
        """
        bases = [self.url] if self.url.endswith("/v1") else [f"{self.url}/v1", self.url]
        said = ""
        for base in bases:
            try:
                found = await self._send("GET", f"{base}/models", None, LIST_SECONDS)
            except (GoneError, RefusedError) as error:
                if isinstance(error, GoneError) and error.status != 404:
                    raise
                said = str(error)
                continue
            except BrokenError:  # `transformers serve`, where there is no cache of the Hub to list
                found = {}
            self.url = base
            return _listed(found)
        places = " or ".join(f"{base}/models" for base in bases)
        raise GoneError(f"there is no list of models at {places} ({said})", 404)

    async def post(self, endpoint: str, body: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """Sends a request and returns the answer.

        Raises:
            LostError, RefusedError, GoneError: See there.
        """
        # Escaped: a prompt may hold half of a surrogate pair, which is no UTF-8.
        content = json.dumps(body).encode()
        return await self._send("POST", f"{self.url}/{endpoint}", content, timeout or self.timeout)

    async def _send(self, method: str, url: str, content: bytes | None, timeout: float) -> dict[str, Any]:
        received = bytearray()
        try:
            async with (
                asyncio.timeout(timeout),
                self._client.stream(method, url, content=content) as response,
            ):
                async for chunk in response.aiter_raw():  # not unpacked: it could grow beyond the bound at once
                    received += chunk
                    if len(received) > LARGEST_ANSWER:
                        raise BrokenError(f"its answer is larger than {LARGEST_ANSWER // 2**20} MB")
        except TimeoutError as error:
            raise LostError(f"it did not answer within {timeout:g} seconds") from error
        except httpx2.RequestError as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise LostError(self.say(f"the connection failed ({reason})")) from error
        return self._answer(response, bytes(received))

    def _answer(self, response: httpx2.Response, received: bytes) -> dict[str, Any]:
        status = response.status_code
        try:
            answer = parse_json(received)
        except ValueError:
            answer = None
        if 200 <= status < 300:
            if not isinstance(answer, dict):
                raise BrokenError(self.say(f"its answer is no JSON object: {self._begin(received)}"))
            return answer
        said = self.say(f"it answers {status}: {_message(answer) or self._begin(received)}")
        after = _retry_after(response.headers.get("Retry-After"))
        if status in BUSY:
            raise BusyError(said, after)
        if status >= 500:
            raise BrokenError(said, after)
        if status in (401, 403):
            remedy = (
                "It wants a key: name its variable with --api_key_env" if self._key is None else "The key is refused"
            )
            raise GoneError(f"{said}. {remedy}", status)
        if 300 <= status < 400:
            target = response.headers.get("Location", "nowhere")
            raise GoneError(self.say(f"it points to {target}: give the address where the server is"), status)
        if status == 404:
            raise GoneError(said, status)
        raise RefusedError(said)

    def say(self, text: str) -> str:
        """What comes from the server: on one line, bounded, and without the key."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self._without_key(text)).split())
        return line if len(line) <= 300 else f"{line[:297]}..."

    def _without_key(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "***")

    def _begin(self, received: bytes) -> str:
        """How an answer begins. The key goes before the end is cut off, which could leave a piece of it."""
        return self._without_key(received[:4096].decode(errors="replace"))[:80] or "nothing"


def _listed(answer: Mapping[str, Any]) -> dict[str, int | None]:
    data = answer.get("data")
    if not isinstance(data, list):
        return {}
    models = {}
    for entry in data:
        if isinstance(entry, dict) and isinstance(name := entry.get("id"), str):
            length = entry.get("max_model_len")
            models[name] = length if type(length) is int and 0 < length < 2**31 else None
    return models


def _message(answer: Any) -> str | None:
    """What an error says: servers put it into different places. None where it is in none of them."""
    found = answer
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) and found.strip() else None


def _retry_after(header: str | None) -> float:
    """Seconds to wait, from a number of seconds or a date; 0 where there is none."""
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
            seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):  # of a year, or a time zone, that no calendar has
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0
