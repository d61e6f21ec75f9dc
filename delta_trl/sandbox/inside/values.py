"""Python values as JSON: how a called program's results leave its process, and how expected values are written to match.

Part of the worker process (`worker.py`): standard library only.
"""

import json
import re


def encode(value: object) -> str:
    """A value as one line of JSON. Tuples become lists; sets and other values that JSON lacks become {"$type": ...}."""
    try:
        return json.dumps(value)
    except TypeError:
        return json.dumps(_plain(value))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        if all(key is None or isinstance(key, (str, int, float)) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {"$dict": sorted(([_plain(key), _plain(item)] for key, item in value.items()), key=json.dumps)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"$set": sorted((_plain(item) for item in value), key=json.dumps)}
    if isinstance(value, complex):
        return {"$complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": value.hex()}
    if isinstance(value, re.Match):
        return {"$match": value[0]}
    if type(value).__module__ == "numpy":
        return _plain(value.tolist())
    return value
