"""What is sent to a server for one sample, and what its answer says.

The completions endpoint gets our own prompts, made as in training, as token ids: a server that tokenizes a text may put a
second begin-of-sequence token before it. A server that takes texts only gets the text of which its tokenizer makes these
ids. The chat endpoint gets messages, which the server renders.

Servers apply what a model's own generation config says, and defaults of theirs, to what a request leaves out. So every field
that shapes the distribution is sent, in the words that the server knows: its dialect.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..responses import CLOSE, OPEN
from .generate import Completion, Request
from .options import Decoding
from .server import BrokenError


# How servers call it when a completion ended because of them
ABORTED = ("abort", "cancelled", "error")


class Dialect(Enum):
    """What a server takes besides OpenAI's fields, in the order in which it is tried."""

    ENGINE = "token ids, top_k, min_p, repetition_penalty, stop_token_ids"  # vLLM, SGLang, llama.cpp
    TRANSFORMERS = "generation_config"  # `transformers serve`, which refuses fields that it does not know
    PLAIN = "nothing"


@dataclass(frozen=True)
class Protocol:
    """How samples are asked for.

    Args:
        model: Its name on the servers.
        tokenizer: Makes the prompts of the completions endpoint. None: the chat endpoint.
        decoding: How to sample.
        ends: Token ids that end a completion besides those that the server knows.
    """

    model: str
    tokenizer: PreTrainedTokenizerBase | None
    decoding: Decoding
    ends: tuple[int, ...]

    @classmethod
    def make(cls, model: str, tokenizer: PreTrainedTokenizerBase | None, decoding: Decoding) -> "Protocol":
        return cls(
            model, tokenizer, decoding, () if tokenizer is None else tuple(decoding.format.end_token_ids(tokenizer))
        )

    @property
    def endpoint(self) -> str:
        """Below a server's address."""
        return "chat/completions" if self.tokenizer is None else "completions"

    def body(self, request: Request, dialect: Dialect, context: int | None) -> dict[str, Any]:
        """What asks for a sample. `context`: the longest prompt with completion, in tokens, where it is known.

        Raises:
            ValueError: As `text_for`.
        """
        decoding, tokenizer = self.decoding, self.tokenizer
        stops = decoding.format.stop_strings
        body: dict[str, Any] = {"model": self.model, "max_tokens": decoding.max_tokens, "seed": request.seed}
        if tokenizer is None:
            body["messages"] = json.loads(request.prompt)
        else:
            body["prompt"] = list(request.prompt_ids) if dialect is Dialect.ENGINE else self.text_for(request)
            if context is not None:
                body["max_tokens"] = min(decoding.max_tokens, context - len(request.prompt_ids))
        sampling: dict[str, Any] = {"temperature": decoding.temperature, "top_p": decoding.top_p}
        if dialect is Dialect.ENGINE:
            # -1 is "all tokens" for each of them; SGLang refuses 0. llama.cpp's own min_p is 0.05.
            sampling |= {"top_k": decoding.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
            if self.ends:
                body["stop_token_ids"] = list(self.ends)
        elif dialect is Dialect.TRANSFORMERS:
            # Without do_sample it takes the likeliest token at any temperature
            config: dict[str, Any] = {"do_sample": True, "top_k": decoding.top_k, "min_p": 0.0}
            if decoding.temperature == 0:
                sampling, config = {}, {"do_sample": False}
            sampling["generation_config"] = json.dumps({**config, "repetition_penalty": 1.0})
            # The end tokens of the model's generation config end it there; another one must be given as text
            stops = stops + [tokenizer.decode([end]) for end in self.ends if end != tokenizer.eos_token_id]
        elif tokenizer is None:
            body["max_completion_tokens"] = body.pop("max_tokens")  # OpenAI's newer name
        return {**body, **sampling, **({"stop": stops} if stops else {})}

    def text_for(self, request: Request) -> str:
        """The text of which a server's tokenizer makes the prompt's tokens, special ones included.

        Raises:
            ValueError: There is none.
        """
        tokenizer = self.tokenizer
        assert tokenizer is not None  # the completions endpoint has one
        for text in (request.prompt, request.prompt.removeprefix(tokenizer.bos_token or "")):
            if tuple(tokenizer(text)["input_ids"]) == request.prompt_ids:
                return text
        raise ValueError(
            f"The prompt of {request.problem} cannot be sent as text: its tokens would get further special ones. Use a "
            "server that takes token ids (vLLM, SGLang, llama.cpp), or --endpoint chat."
        )

    def completion(self, answer: Mapping[str, Any]) -> Completion:
        """The sample in a server's answer, of which nothing is taken for granted.

        Raises:
            BrokenError: The answer lacks what makes a sample.
        """
        choices, usage = answer.get("choices"), answer.get("usage")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(usage, dict):
            raise BrokenError("its answer has no choices, or no usage")
        text = choice.get("text") if self.tokenizer is not None else _message_text(choice.get("message"))
        tokens, prompt_tokens = usage.get("completion_tokens"), usage.get("prompt_tokens")
        if not isinstance(text, str) or not _is_count(tokens):
            raise BrokenError("its answer has no text, or no number of tokens")
        reason = choice.get("finish_reason")
        reason = reason[:40] if isinstance(reason, str) else None
        if reason in ABORTED:
            raise BrokenError(f"it ended a completion by {reason!r}")
        text = text.encode(errors="replace").decode()  # half of a surrogate pair is no text
        for stop in self.decoding.format.stop_strings:  # `transformers serve` leaves it in
            text = text.partition(stop)[0]
        truncated = reason == "length" if reason is not None else tokens >= self.decoding.max_tokens
        reported = {"finish_reason": reason, "prompt_tokens": prompt_tokens if _is_count(prompt_tokens) else None}
        return Completion(text, tokens, truncated, None, reported)


def _message_text(message: Any) -> Any:
    """A chat's answer. Thoughts that the server took out of it stand before it again, as the model wrote them."""
    if not isinstance(message, dict):
        return None
    content = "" if message.get("content") is None else message["content"]
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if not isinstance(thoughts, str) or not isinstance(content, str):
        return content
    return f"{OPEN}{thoughts}{CLOSE}{content}" if content else f"{OPEN}{thoughts}"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31
