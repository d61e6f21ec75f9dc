"""Texts of completions, and the one rule about thoughts: what counts in a response is what follows the last `</think>`.

Training and evaluation, rewards of every kind and the report read responses by it.
"""

from collections.abc import Mapping, Sequence
from typing import Any


OPEN, CLOSE = "<think>", "</think>"


def after_thoughts(response: str) -> str | None:
    """What follows the last closed thought, all of it where there is none. None where a thought never ends."""
    rest = response.rpartition(CLOSE)[2]
    return None if OPEN in rest else rest


def opens_thought(text: str) -> bool:
    """Whether `text`, a prompt as the model reads it or a completion, ends inside a `<think>` that is not closed."""
    return after_thoughts(text) is None


def response_texts(completions: Sequence[str | list[dict[str, Any]]], columns: Mapping[str, Any]) -> list[str]:
    """The texts of completions as TRL passes them to a reward function.

    Args:
        completions: Plain texts, or conversations, of which the last assistant message counts.
        columns: The reward function's other arguments. A plain one of `prompts` that ends inside `<think>`, or a true value
            in `opens_thought`, puts `<think>` before the text.
    """
    texts = [message_text(completion) for completion in completions]
    prompts = columns.get("prompts") or [None] * len(texts)
    opened = columns.get("opens_thought") or [False] * len(texts)
    for i, (prompt, is_open) in enumerate(zip(prompts, opened, strict=True)):
        if is_open or (isinstance(prompt, str) and opens_thought(prompt)):
            texts[i] = OPEN + texts[i]
    return texts


def message_text(completion: str | list[dict[str, Any]]) -> str:
    """A plain completion, or the text of a conversation's last assistant message, "" where there is none."""
    if isinstance(completion, str):
        return completion
    for message in reversed(completion):
        if message.get("role", "assistant") == "assistant":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return "".join(part.get("text", "") for part in content)
    return ""
