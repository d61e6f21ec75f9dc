"""Token records, flattened.

N is the number of completions in a file, M the number of tokens in all of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..run_folder import TOKEN_LISTS, damaged, read_token_records
from .text import decode


@dataclass
class Completions:
    """The completions of one Parquet file, flattened: those of row i are tokens `offsets[i]:offsets[i + 1]`."""

    steps: np.ndarray  # (N,)
    prompts: pa.Array  # (N,) binary
    advantages: np.ndarray  # (N,)
    rewards: np.ndarray  # (N,)
    offsets: np.ndarray  # (N + 1,)
    ids: np.ndarray  # (M,)
    tokens: pa.Array  # (M,) binary
    coefficients: np.ndarray  # (M,)
    log_probs: np.ndarray  # (M,)
    is_token: np.ndarray  # (M,) bool: False where the model did not write the token

    def __len__(self) -> int:
        return len(self.steps)

    def rows(self, start: int, stop: int) -> slice:
        """The tokens of rows `start` to `stop`."""
        return slice(self.offsets[start], self.offsets[stop])

    def groups(self) -> list[tuple[int, int]]:
        """First and last-plus-one row of each prompt's completions, which are adjacent."""
        prompts = self.prompts.to_pylist()
        starts = [
            i for i in range(len(self)) if i == 0 or prompts[i] != prompts[i - 1] or self.steps[i] != self.steps[i - 1]
        ]
        return list(zip(starts, [*starts[1:], len(self)], strict=True))

    def sides(self) -> np.ndarray:
        """Sign of each completion's advantage, shape (N,). One that is not finite belongs to no side, like 0."""
        return np.sign(np.nan_to_num(self.advantages, nan=0.0))

    def token_advantages(self) -> tuple[np.ndarray, np.ndarray]:
        """Each token's advantage, and whether the token carries a gradient: both of shape (M,)."""
        advantages = np.repeat(self.advantages, np.diff(self.offsets))
        usable = self.is_token & np.isfinite(self.coefficients) & np.isfinite(advantages)
        return advantages, usable & (advantages != 0)

    def prompt(self, row: int) -> str:
        return decode(self.prompts[row].as_py())

    def token(self, position: int) -> str:
        return decode(self.tokens[position].as_py())


def read_completions(path: Path) -> Completions:
    """
    Read one file that the trainer wrote with `log_completions=True`.

    Raises:
        `ValueError`: if it is damaged, lacks a column, or has a row with lists of different lengths.
    """
    table = read_token_records(path)
    try:
        return _completions(path, table)
    # A column of another type has other attributes
    except (pa.ArrowException, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(damaged(path, error)) from error


def _completions(path: Path, table: pa.Table) -> Completions:
    lists = {name: _column(table, name) for name in TOKEN_LISTS}
    lengths = {name: np.diff(column.offsets.to_numpy()) for name, column in lists.items()}
    for name in TOKEN_LISTS[1:]:
        differing = np.flatnonzero(lengths[name] != lengths["completion_ids"])
        if differing.size:
            row = differing[0]
            raise ValueError(
                f"{path}, row {row}: {lengths[name][row]} {name} for {lengths['completion_ids'][row]} completion_ids. "
                "Every token needs one of each; the file is damaged, so delete it or record the run again."
            )
    # The casts give columns a type in which every list is empty; Arrow cannot know it then
    ids = lists["completion_ids"].flatten().cast(pa.int64()).to_numpy(zero_copy_only=False)
    if "is_token" in table.column_names:
        is_token = _column(table, "is_token").flatten().cast(pa.bool_()).to_numpy(zero_copy_only=False)
    else:
        is_token = np.ones(len(ids), dtype=bool)
    return Completions(
        steps=table["step"].to_numpy(),
        prompts=_column(table, "prompt").cast(pa.binary()),
        advantages=table["advantage"].to_numpy().astype(np.float64),
        rewards=table["reward"].to_numpy().astype(np.float64),
        offsets=np.concatenate([[0], np.cumsum(lengths["completion_ids"])]),
        ids=ids,
        tokens=lists["tokens"].flatten().cast(pa.binary()),
        coefficients=lists["coefficients"].flatten().cast(pa.float32()).to_numpy(zero_copy_only=False),
        log_probs=lists["log_probs"].flatten().cast(pa.float32()).to_numpy(zero_copy_only=False),
        is_token=is_token,
    )


def _column(table: pa.Table, name: str) -> pa.Array:
    return pa.concat_arrays(table[name].chunks) if table[name].num_chunks else pa.array([], table[name].type)
