"""JSON Lines files that survive a crash: one object a line, appended under a lock, on disk when a call returns.

A process that is killed while it writes leaves a last line without its end. It is left out on reading, and the next
append cuts it off, so whoever reads what is there does the missing work again. Several processes may append to a file.
"""

import gzip
import json
import logging
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


logger = logging.getLogger(__name__)

Line = dict[str, Any]


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, which raises RecursionError in place of ValueError where JSON is nested too deeply.

    Raises:
        ValueError: The text is no JSON, not UTF-8, or nested more deeply than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_lines(path: str | os.PathLike) -> list[Line]:
    """The objects of a `.jsonl` file, or of a `.jsonl.gz` file. Lines that are not JSON are left out, with a warning.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is JSON, but no object; or the compressed file is cut off or damaged.
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be decompressed: {error}. Restore the file, or remove it.") from error
    return _parse(content, path)


def append_lines(path: str | os.PathLike, lines: Iterable[Mapping[str, Any]]) -> None:
    """Appends lines. The file and its folder are made if they do not exist."""
    with _locked(Path(path)) as file:
        _write(file, lines)


def update_lines(path: str | os.PathLike, more: Callable[[list[Line]], Iterable[Mapping[str, Any]]]) -> list[Line]:
    """Appends what `more` makes of the lines there are, while no other process can append; returns all lines.

    For a header: `more` returns it for an empty file, and otherwise checks it with `refuse_differences`.
    """
    with _locked(Path(path)) as file:
        file.seek(0)
        _write(file, more(_parse(file.read(), path)))
        file.seek(0)
        return _parse(file.read(), path)


def replace_lines(path: str | os.PathLike, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replaces the whole file at once. Only for files that a single process writes."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    append_lines(partial, lines)
    partial.replace(path)


def refuse_differences(
    path: str | os.PathLike, old: Mapping[str, Any], new: Mapping[str, Any], what: str, remedy: str
) -> None:
    """Checks that a file is continued with what it was begun with.

    Raises:
        ValueError: `old`, as read from the file, and `new` differ. The message names what differs, and how to mend it.
    """
    # Through JSON, since that is how the old ones were read: tuples are lists there.
    old, new = _flat(old), _flat(json.loads(json.dumps(new)))
    differing = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if differing:
        changes = "; ".join(
            f"{key}: {short(old.get(key))} in the file, now {short(new.get(key))}" for key in differing
        )
        raise ValueError(f"{path} was begun with other {what}. {changes}. {remedy}")


def short(value: Any) -> str:
    """A value as JSON, cut to what fits into a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


@contextmanager
def _locked(path: Path) -> Generator[BinaryIO, None, None]:
    import fcntl  # not on Windows, where this module can be imported

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _parse(content: bytes, path: str | os.PathLike) -> list[Line]:
    lines, broken = [], []
    for number, text in enumerate(content.split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            line = parse_json(text)
        except ValueError:  # also where the cut went through a character
            broken.append(number)
            continue
        if not isinstance(line, dict):
            raise ValueError(f"{path}, line {number}: a JSON object is required, got {short(line)}.")
        lines.append(line)
    if broken:
        listed = ", ".join(map(str, broken[:5])) + ", ..." * (len(broken) > 5)
        logger.warning(f"{path}: left out line {listed}, which is not JSON: a write was probably cut off there.")
    return lines


def _write(file: BinaryIO, lines: Iterable[Mapping[str, Any]]) -> None:
    """Appends lines to a locked file in one write."""
    # "surrogatepass" is how `json.loads` decodes: no text that a model writes can make this fail.
    text = b"".join(json.dumps(line, ensure_ascii=False).encode(errors="surrogatepass") + b"\n" for line in lines)
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":  # the last writer was killed in the middle of a line
            file.seek(0)
            content = file.read()
            start = content.rfind(b"\n") + 1
            try:
                parse_json(content[start:])
                text = b"\n" + text  # only the newline is missing
            except ValueError:
                file.truncate(start)
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`{"versions": {"torch": "2.13"}}` to `{"versions.torch": "2.13"}`."""
    flat = {}
    for key, value in settings.items():
        nested = {f"{key}.{name}": inner for name, inner in _flat(value).items()} if isinstance(value, dict) else {}
        flat.update(nested or {key: value})
    return flat
