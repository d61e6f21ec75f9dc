"""Which tokens of a ledger's completion decide: the digits of its sums, right or wrong.

A token is a character here (or a special token, which counts as one), so that classes of characters are classes of tokens.
"""

import os
import re
from typing import TYPE_CHECKING

import numpy as np

from ...hidden_states import RolloutTokens
from ..tasks import CLOSINGS, LEDGER_STEPS


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A digit of the result of a true or a false sum, a character at which wordings part, anything else
CLASSES = ("right", "error", "phrasing", "rest")
RIGHT, ERROR, PHRASING, REST = range(len(CLASSES))

# Stands for a token that is no character: in no sum and in no wording
SPECIAL = "\0"

# "a+b=c" that is not part of a longer expression or chain of equations, where it is not clear what was claimed
SUM = re.compile(r"(?<![\d+*/=-])(-?\d+)\+(\d+)=(-?\d+)(?![\d+*/=-])")


def _choices(wordings: list[str]) -> dict[str, list[int]]:
    """Where each wording parts from another that begins alike: the characters that choose."""
    return {
        wording: [
            i
            for i in range(len(wording))
            if len({other[i : i + 1] for other in wordings if other[:i] == wording[:i]}) > 1
        ]
        for wording in wordings
    }


# A step is always chosen among steps and a closing among closings: which of the two comes next is settled by the problem
CHOICES = {
    **_choices([step.partition("{")[0] for step in LEDGER_STEPS]),
    **_choices([f"{closing} $" for closing in CLOSINGS]),
}


def character_classes(text: str, finished: bool = True) -> np.ndarray:
    """
    Class of every character of a completion, shape (len(text),): indices of `CLASSES`.

    Args:
        text (`str`): The completion, one character a token.
        finished (`bool`):
            Whether the completion ended by itself. A sum at the very end of one that was cut off counts for nothing: its
            result may have been going on.
    """
    classes = np.full(len(text), REST)
    for wording, choices in CHOICES.items():
        for found in re.finditer(re.escape(wording), text):
            classes[[found.start() + i for i in choices]] = PHRASING
    for found in SUM.finditer(text):
        if finished or found.end() < len(text):
            true = int(found[1]) + int(found[2]) == int(found[3])
            classes[found.start(3) : found.end(3)] = RIGHT if true else ERROR
    return classes


def token_classes(tokens: RolloutTokens, tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    """Class of every token of a rollout batch, shape (N,): indices of `CLASSES`."""
    responses = tokens.responses.cpu().numpy()
    starts = np.flatnonzero(np.diff(responses, prepend=-1))
    classes = []
    for ids in np.split(tokens.ids.cpu().numpy(), starts[1:]):
        finished = ids[-1] == tokenizer.eos_token_id
        written = tokenizer.convert_ids_to_tokens(ids.tolist())
        # None: an id that the model has and its tokenizer has not
        text = "".join(token if token is not None and len(token) == 1 else SPECIAL for token in written)
        classes.append(character_classes(text, finished))
    return np.concatenate(classes)


def require_ledger(classes: np.ndarray, tokens: RolloutTokens, model: str | os.PathLike) -> None:
    """Raise `ValueError` unless most responses have a sum in the ledger's words."""
    responses = tokens.responses.cpu().numpy()

    def having(wanted: np.ndarray) -> set:
        return set(responses[wanted].tolist())

    written = having(np.isin(classes, (RIGHT, ERROR))) & having(classes == PHRASING)
    share = len(written) / len(set(responses.tolist()))
    if share < 0.5:
        raise ValueError(
            f"Only {share:.0%} of the responses of {model} have a sum in the ledger's words, so its deciding tokens are "
            "unknown. The benchmark needs a model that was warmed up with delta_trl.research.tasks.warm_up(task='ledger'); "
            "without --model one is made."
        )


def require_characters(tokenizer: "PreTrainedTokenizerBase", model: str | os.PathLike) -> None:
    """Raise `ValueError` unless every character of a ledger is a token of its own."""
    sample = "We know that 18+9=27, fine. "
    written = tokenizer.convert_ids_to_tokens(tokenizer(sample, add_special_tokens=False)["input_ids"])
    if written != list(sample):
        raise ValueError(
            f"The tokenizer of {model} reads {sample!r} as {written[:8]}..., but token classes are known for single "
            "characters only. Use a model of delta_trl.research.tasks.warm_up(task='ledger'); without --model one is made."
        )
