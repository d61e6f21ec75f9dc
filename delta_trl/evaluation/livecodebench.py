"""LiveCodeBench's own files (`code_generation_lite`, JSON Lines), read without running anything that is in them.

All tests together have gigabytes, so that a problem only keeps where its line is; its tests are read when it is graded.
"""

import base64
import json
import pickletools
import zlib

from ..jsonl import parse_json


PLACE = "livecodebench:"  # what the place of a line starts with
MAX_PRIVATE_BYTES = 2**30  # of one problem's private tests
# What a pickled text consists of. Every other opcode (a global, a call, a container) is refused before it means anything.
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}
_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}


def decode_private_tests(text: str) -> list[dict]:
    """The test cases of `private_test_cases`: JSON, or base64 of zlib of a pickle of JSON text.

    Raises:
        ValueError: It is neither, larger than `MAX_PRIVATE_BYTES`, or a pickle of anything but one
            text. Nothing is unpickled.
    """
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(text, validate=True), MAX_PRIVATE_BYTES)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"private tests are neither JSON nor base64 of zlib: {error}") from None
    if not inflater.eof:
        raise ValueError(f"private tests are cut off, or larger than {MAX_PRIVATE_BYTES} bytes")
    return parse_json(_pickled_text(data))


def _pickled_text(data: bytes) -> str:
    texts = []
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in _TEXT and not texts:
            texts.append(argument)
        elif opcode.name == "STOP" and texts:
            return texts[0]
        elif opcode.name not in _AROUND:
            raise ValueError(f"private tests are pickled with {opcode.name} at byte {position}: not a text alone")
    raise ValueError("private tests are a pickle without an end")


def question_of(row: dict) -> str:
    """The problem's text, and how its program gets input."""
    question = row["question_content"].strip()
    starter = (row.get("starter_code") or "").strip()
    if starter:
        return f"{question}\n\nUse this starter code:\n```python\n{starter}\n```"
    return f"{question}\n\nRead the input from standard input and print the answer to standard output."


def tests_at(place: str) -> str:
    """The tests of a problem as `code_reward` takes them, from its line.

    Raises:
        ValueError: They cannot be decoded, or are not of the published form.
    """
    where = parse_json(place.removeprefix(PLACE))
    try:
        with open(where["file"], "rb") as file:
            file.seek(where["offset"])
            row = parse_json(file.readline())
        return json.dumps(_tests(row))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        line = f"{where['file']}, the line at byte {where['offset']}"
        raise ValueError(f"{line}: its tests cannot be read ({type(error).__name__}: {error})") from error


def _tests(row: dict) -> dict:
    cases = [*parse_json(row["public_test_cases"]), *decode_private_tests(row["private_test_cases"])]
    tests = {"inputs": [case["input"] for case in cases], "outputs": [case["output"] for case in cases]}
    if any(case["testtype"] == "functional" for case in cases):
        metadata = row["metadata"]
        tests["fn_name"] = (parse_json(metadata) if isinstance(metadata, str) else metadata)["func_name"]
    return tests
