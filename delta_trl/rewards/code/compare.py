"""Comparison of what a program gave with what was expected. Runs outside the sandbox, on text and plain data only.

Text of standard output is right if its lines equal the expected ones, space at their ends and blank lines at the end
apart; else if its tokens do, one by one: a token that is expected to be a decimal number (with `.` or an exponent) may
differ by 1e-6, relative for numbers above 1, all others must be equal. Upper and lower case differ.

A returned value is right if it has the expected structure: lists of the same length in the same order (tuples are lists,
since JSON has no tuples), dicts of the same keys, equal strings, `True` only for `True`, not for 1. Integers must be
equal (3.0 equals 3); where a float is expected, a number may differ by 1e-6 as above. Instances of classes of the
program's own have no value, whatever their `__eq__` says, because they never leave the sandbox.
"""

import json
import math
import re


FLOAT_TOLERANCE = 1e-6
MAX_INTEGER_DIGITS = 4300  # of an integer: Python's own limit, since reading one takes quadratic time
MAX_VALUE_DEPTH = 100  # of nested lists and dicts
ROOT_TOLERANCE = 1e-4  # as HumanEval has it
MAX_TOKEN = 400  # characters of a decimal number
MAX_PAIRS = 10**6  # elements of two sets that are compared one by one

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def same_text(expected: str, got: str) -> bool:
    """Whether a program's standard output is right."""
    if _lines(expected) == _lines(got):
        return True
    wanted, tokens = expected.split(), got.split()
    return len(wanted) == len(tokens) and all(map(_same_token, wanted, tokens))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_token(expected: str, got: str) -> bool:
    if expected == got:
        return True
    if not any(mark in expected for mark in ".eE") or max(len(expected), len(got)) > MAX_TOKEN:
        return False
    if not (_DECIMAL.fullmatch(expected) and _DECIMAL.fullmatch(got)):
        return False
    return _close(float(expected), float(got))


def _close(expected: float, got: float) -> bool:
    # A share of infinity is infinite, so that every number would be near it
    return math.isfinite(expected) and abs(expected - got) <= FLOAT_TOLERANCE * max(1.0, abs(expected))


def same_value(expected: object, got: object) -> bool:
    """Whether a returned value is right. Both come from `read_value`, so that they are plain data of limited depth."""
    if isinstance(expected, (bool, str)) or expected is None:
        return type(expected) is type(got) and expected == got
    if isinstance(expected, list):
        return isinstance(got, list) and len(expected) == len(got) and all(map(same_value, expected, got))
    if isinstance(expected, dict):
        return (
            isinstance(got, dict)
            and expected.keys() == got.keys()
            and all(same_value(value, got[key]) for key, value in expected.items())
        )
    if isinstance(got, bool) or not isinstance(got, (int, float)):
        return False
    if expected == got:
        return True
    if not isinstance(expected, float):
        return False
    try:
        return (math.isnan(expected) and math.isnan(got)) or _close(expected, float(got))
    except OverflowError:  # an integer beyond the floats
        return False


def same_set(expected: object, got: object) -> bool:
    """Whether a list has the expected elements, in any order and number.

    Where more than `MAX_PAIRS` comparisons could be needed, they must be there word for word.
    """
    expected, got = (
        value["$set"] if isinstance(value, dict) and "$set" in value else value for value in (expected, got)
    )
    if not (isinstance(expected, list) and isinstance(got, list)):
        return same_value(expected, got)
    wanted, given = ({json.dumps(item, sort_keys=True): item for item in items} for items in (expected, got))
    # Only what is not there word for word is looked for among all, since that takes time with the product of their numbers
    missing = [item for key, item in wanted.items() if key not in given]
    further = [item for key, item in given.items() if key not in wanted]
    if len(missing) * len(given) + len(further) * len(wanted) > MAX_PAIRS:
        return False
    return all(any(same_value(e, g) for g in given.values()) for e in missing) and all(
        any(same_value(e, g) for e in wanted.values()) for g in further
    )


def is_root(coefficients: object, got: object) -> bool:
    """Whether a number is a zero of the polynomial with these coefficients, the lowest first."""
    if isinstance(got, bool) or not isinstance(got, (int, float)) or not isinstance(coefficients, list):
        return False
    try:
        return abs(sum(c * float(got) ** power for power, c in enumerate(coefficients))) <= ROOT_TOLERANCE
    except OverflowError:
        return False


def same_absence(expected: object, got: object) -> bool:
    """Whether both are something, or both false or None: for matches, whose form the problem leaves open."""
    return (expected is None or expected is False) == (got is None or got is False)


# How a returned value is compared, by the name that tests give as "oracle"
ORACLES = {None: same_value, "set": same_set, "root": is_root, "not none": same_absence}


def read_value(text: str | bytes) -> object:
    """Plain data from JSON. ValueError for what is no JSON, too deep or has an integer of too many digits."""
    try:
        value = json.loads(text, parse_int=_read_integer)
    except RecursionError:
        raise ValueError(f"the value is nested more than {MAX_VALUE_DEPTH} levels deep") from None
    _check_depth(value)
    return value


def _read_integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits; at most {MAX_INTEGER_DIGITS} are compared")
    return int(digits)


def _check_depth(value: object) -> None:
    """ValueError if a value is nested too deep. Not recursive, since the value may be."""
    level = [value]
    for _ in range(MAX_VALUE_DEPTH):
        inner: list[object] = []
        for item in level:
            if isinstance(item, list):
                inner += item
            elif isinstance(item, dict):
                inner += item.values()
        if not inner:
            return
        level = inner
    raise ValueError(f"the value is nested more than {MAX_VALUE_DEPTH} levels deep")
