"""Whether rows are the same as in an earlier run."""

import hashlib
import json
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_A_TIME = 256  # a row of code may hold megabytes of tests


def rows_fingerprint(rows: "Dataset") -> str:
    """A hash of the rows' content and order: 64 hexadecimal characters.

    It depends on column names and values alone, so it is the same for the same rows from another file, format, machine or
    version of `datasets` (whose own fingerprint also changes with the path of a file).
    """
    digest = hashlib.sha256()
    for batch in rows.iter(_ROWS_AT_A_TIME):
        names = sorted(batch)
        for row in zip(*(batch[name] for name in names), strict=True):
            digest.update(json.dumps(dict(zip(names, row, strict=True)), default=str).encode("ascii"))
            digest.update(b"\n")
    return digest.hexdigest()
