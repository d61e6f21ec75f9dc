"""Whether rows, or the code that makes them, are the same as in an earlier run."""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
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


@cache
def code_fingerprint(*folders: str, packages: tuple[str, ...] = ()) -> str:
    """A hash of the package's code in these folders, subfolders included, and of the versions of other packages.

    Part of the key of whatever is kept on disk: a new version must not be answered with what an old one made.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for folder in folders:
        for file in sorted((package / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(package)}\n".encode())
            digest.update(file.read_bytes())
    for name in packages:
        digest.update(f"{name} {version(name)}\n".encode())
    return digest.hexdigest()
