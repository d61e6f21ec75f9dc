"""One completion with every token coloured by its coefficient, for notebooks and for what shows HTML."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .page import fill_template
from .text import number, visible


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Distance from 1 at which the colour is full: the published bounds are [0.8, 1.2]
SPREAD = 0.2


@dataclass(frozen=True)
class HeatMap:
    """
    A completion to look at: a notebook shows it when it is the last line of a cell.

    Orange tokens have a coefficient above 1, blue ones below. Hovering over a token, or tapping it, shows its numbers.
    Built by [`heat_map`].

    Attributes:
        tokens: The T tokens of the completion, as text.
        coefficients: T numbers, 1 for a token that counts as much as without token credit.
        log_probs: T natural log-probabilities, or None: hovering shows none.
        advantage: Of the whole completion, or None.
        title: Shown above the tokens.
        spread: Distance from 1 at which the colours are full.
    """

    tokens: list[str]
    coefficients: list[float]
    log_probs: list[float] | None = None
    advantage: float | None = None
    title: str | None = None
    spread: float = SPREAD

    def _repr_html_(self) -> str:
        title = None if self.title is None else visible(self.title)
        spans = [self._span(i) for i in range(len(self.tokens))]
        return fill_template("heat_map.html.jinja", title=title, spans=spans, spread=self.spread)

    def __repr__(self) -> str:
        return f"HeatMap({len(self.tokens)} tokens; shown by a notebook, or as HTML by ._repr_html_())"

    def facts(self, i: int) -> str:
        """What is known of token `i`, in one line."""
        facts = [f"λ {number(self.coefficients[i], 3)}"]
        if self.log_probs is not None:
            facts.append(f"probability {number(100 * math.exp(min(self.log_probs[i], 0.0)), 1)}%")
        if self.advantage is not None:
            facts.append(f"advantage {number(self.advantage, 2, signed=True)}")
        return " · ".join(facts)

    def _span(self, i: int) -> dict[str, Any]:
        distance = self.coefficients[i] - 1 if math.isfinite(self.coefficients[i]) else 0.0
        return {
            "text": visible(self.tokens[i]) or visible(self.tokens[i], alone=True),
            "facts": self.facts(i),
            "side": "high" if distance > 0 else "low",
            "weight": min(1.0, abs(distance) / self.spread),
        }


def heat_map(
    tokens: Any,
    coefficients: Any,
    log_probs: Any = None,
    advantage: Any = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    title: str | None = None,
    spread: float = SPREAD,
) -> HeatMap:
    """
    Colour the tokens of one completion by their coefficients, in a notebook.

    Args:
        tokens: The tokens as strings, or their ids (shape (T,)) if a `tokenizer` is given.
        coefficients: λ of each token, shape (T,).
        log_probs (*optional*): log π of each token, shape (T,).
        advantage (*optional*): The completion's advantage, one number.
        tokenizer (*optional*): Turns ids into text, each id by itself.
        title (`str`, *optional*): A line above the tokens.
        spread (`float`): Distance from 1 at which a colour is full.

    Tensors on any device, arrays and lists are accepted.

    Raises:
        `ValueError`: if the lengths differ, something is not one-dimensional, or ids come without a tokenizer.

    Example:

    ```python
    >>> row = pandas.read_parquet("outputs/run/completions/coefficients_00010.parquet").iloc[0]
    >>> heat_map(row.tokens, row.coefficients, row.log_probs, row.advantage)
    ```
    """
    tokens, coefficients = _as_list(tokens, "tokens"), _as_list(coefficients, "coefficients")
    if tokenizer is not None:
        tokens = [tokenizer.decode([token]) for token in tokens]
    if not all(isinstance(token, str) for token in tokens):
        raise ValueError(
            f"tokens must be strings, or ids together with a tokenizer; got {type(tokens[0]).__name__} and no tokenizer. "
            "Pass tokenizer=trainer.processing_class, or [tokenizer.decode([i]) for i in ids]."
        )
    log_probs = None if log_probs is None else _as_list(log_probs, "log_probs")
    for name, values in (("coefficients", coefficients), ("log_probs", log_probs)):
        if values is not None and len(values) != len(tokens):
            raise ValueError(
                f"{len(values)} {name} for {len(tokens)} tokens; each token needs one. Remove padding from both with the "
                "completion mask."
            )
    if spread <= 0:
        raise ValueError(f"spread must be above 0, the distance from 1 at which a colour is full; got {spread}.")
    return HeatMap(
        tokens=tokens,
        coefficients=[float(value) for value in coefficients],
        log_probs=None if log_probs is None else [float(value) for value in log_probs],
        advantage=None if advantage is None else float(advantage),
        title=title,
        spread=spread,
    )


def _as_list(values: Any, name: str) -> list:
    if isinstance(values, str):
        raise ValueError(f"{name} must be a sequence with one entry a token; got the string {values[:40]!r}.")
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if any(isinstance(value, list | tuple) for value in values):
        raise ValueError(
            f"{name} must belong to one completion, shape (T,); got more dimensions. Index the batch first."
        )
    return values
