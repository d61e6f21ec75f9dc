r"""Numbers that are written out: integers, decimals, fractions, mixed numbers, powers of ten, percentages, repeating
decimals, and numerals in other bases. Read exactly, from canonical spelling."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache


MAX_LITERAL_DIGITS = 4000  # Python converts no more between text and integers

# A decimal stands for an exact value that it equals to six decimals. math-verify rounds at the sixth decimal too, but
# without the relative bound two tiny numbers would be equal.
DECIMAL_ABSOLUTE = Fraction(5, 10**7)
DECIMAL_RELATIVE = Fraction(1, 10**5)


@dataclass(frozen=True)
class Literal:
    """A number that is written out."""

    value: Fraction
    is_decimal: bool


_DIGITS = r"(?:[1-9]\d{0,2}(?:[, ]\d{3})+|\d+)"
_NUMBER = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_LITERALS = [
    re.compile(rf"(?P<sign>[+-]?)(?P<number>{_NUMBER})"),
    re.compile(rf"(?P<sign>[+-]?)\\frac\{{(?P<over>-?{_NUMBER})\}}\{{(?P<under>-?{_NUMBER})\}}"),
    re.compile(rf"(?P<sign>[+-]?)(?P<over>{_NUMBER})/(?P<under>{_NUMBER})"),
    re.compile(r"(?P<sign>[+-]?)(?P<whole>\d+) ?\\frac\{(?P<over>\d+)\}\{(?P<under>\d+)\}"),
    re.compile(r"(?P<sign>[+-]?)(?P<whole>\d+) (?P<over>\d+)/(?P<under>\d+)"),
    re.compile(
        rf"(?P<sign>[+-]?)(?:(?P<number>{_NUMBER})(?:\\times|\\cdot|\*))?10\^\{{?(?P<power>[+-]?\d{{1,3}})\}}?"
    ),
    re.compile(rf"(?P<sign>[+-]?)(?P<number>{_NUMBER})[eE](?P<power>[+-]?\d{{1,3}})"),
    re.compile(r"(?P<sign>[+-]?)(?P<number>\d*\.\d*)\\overline\{(?P<repeated>\d+)\}"),
    re.compile(r"(?P<sign>[+-]?)(?P<number>\d*\.\d*)\\dot\{(?P<repeated>\d)\}"),
    re.compile(r"(?P<sign>[+-]?)(?P<number>\d*\.\d*)\\dot\{(?P<first>\d)\}(?P<repeated>\d*)\\dot\{(?P<last>\d)\}"),
]


def _fraction(number: str | None) -> Fraction:
    """1 for the missing factor of a bare power of ten."""
    return Fraction(number.replace(",", "").replace(" ", "").rstrip(".") or "0") if number else Fraction(1)


@lru_cache(maxsize=16384)
def literal(text: str) -> Literal | None:
    """The number that `text` writes out, or None. A zero denominator is no number."""
    if text.startswith("(") and text.endswith(")") and "," not in text:  # (1,234) is a pair
        text = text.lstrip("(").rstrip(")")
    if len(text) > MAX_LITERAL_DIGITS or not any(c.isdigit() for c in text):
        return None
    if text.startswith("-{") and text.endswith("}"):
        text = "-" + text[2:-1]
    percent = Fraction(1)
    if text.endswith("%"):
        text, percent = text.removesuffix("%").removesuffix("\\"), Fraction(1, 100)
    text = text.strip()
    for pattern in _LITERALS:
        if match := pattern.fullmatch(text):
            break
    else:
        return None
    groups = match.groupdict()
    if "under" in groups:
        over, under = _fraction(groups["over"]), _fraction(groups["under"])
        if under == 0:
            return None
        value = Fraction(groups.get("whole") or 0) + over / under
    elif "repeated" in groups:
        digits = (groups.get("first") or "") + groups["repeated"] + (groups.get("last") or "")
        decimals = len(groups["number"].partition(".")[2])
        value = _fraction(groups["number"]) + Fraction(int(digits), (10 ** len(digits) - 1) * 10**decimals)
    else:
        value = _fraction(groups["number"]) * Fraction(10) ** int(groups.get("power") or 0)
    sign = -1 if groups["sign"] == "-" else 1
    return Literal(sign * value * percent, is_decimal="." in text and "repeated" not in groups)


def literals_agree(gold: Literal, answer: Literal) -> bool:
    difference = abs(gold.value - answer.value)
    if difference == 0:
        return True
    if not (gold.is_decimal or answer.is_decimal) or gold.value.denominator == 1 or answer.value.denominator == 1:
        return False
    return difference <= DECIMAL_ABSOLUTE and difference <= DECIMAL_RELATIVE * abs(gold.value)


def with_decimal_point(text: str) -> str:
    """`12,5` as `12.5`. Only for the one side of a comparison whose other side is a decimal."""
    return text.replace(",", ".") if re.fullmatch(r"-?\d+,\d+", text) else text


_DECIMAL_COMMA = re.compile(r"-?(?:0,\d{2,}|\d{1,3},(?:\d{2}|\d{4,}))")  # 0,25 and 3,14, but neither 3,5 nor 1,234


def decide_numbers(gold: str, answer: str) -> bool | None:
    """Whether two numbers that are written out are the same; None if one of them is no such number."""
    gold_number, answer_number = literal(gold), literal(answer)
    # `-2,1` is a list of two numbers, and so is a gold `12,5`. Against a gold 12.5 it is the other notation of it.
    if answer_number is None and gold_number is not None and gold_number.is_decimal:
        answer_number = literal(with_decimal_point(answer))
    elif (
        gold_number is None
        and answer_number is not None
        and answer_number.is_decimal
        and _DECIMAL_COMMA.fullmatch(gold)
    ):
        gold_number = literal(with_decimal_point(gold))
    if gold_number is None or answer_number is None:
        return None
    if literals_agree(gold_number, answer_number):
        return True
    if not gold.endswith("%") or answer.endswith("%"):
        return False
    # Like a unit, the sign may be left out.
    bare = literal(gold.rstrip("\\%"))
    return bool(bare and literals_agree(bare, answer_number))


_BASE_WORDS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen",
)  # fmt: skip
_BASE_NAMES = {"binary": 2, "octal": 8, "hex": 16, "hexadecimal": 16} | {w: i for i, w in enumerate(_BASE_WORDS, 2)}
_DIGIT = r"(?:\\text\{)?\(?(?P<digits>[0-9A-Fa-f]++(?:\.[0-9A-F]+)?)\)?\}?"
_BASE = r"[{(]*(?:\\text\{ ?)?(?P<base>\d+|[a-z]+)[ })]*"
_BASED = [
    re.compile(rf"{_DIGIT}_{_BASE}"),
    re.compile(rf"{_DIGIT} ?(?:\\text\{{ ?)?,? ?\(?(?:in )?base[- ]?(?:\}} ?)?{_BASE}"),
]


def based(text: str) -> tuple[str, int] | None:
    r"""(digits, base) of `1011_2`, `(1011)_{2}`, `343_{\text{five}}` or `343\text{ base }7`, else None."""
    if "_" not in text and "base" not in text:
        return None
    for pattern in _BASED:
        if (match := pattern.fullmatch(text)) and any(map(str.isdigit, match["digits"])):
            base = int(match["base"][:4]) if match["base"].isdigit() else _BASE_NAMES.get(match["base"])
            if base is not None and 2 <= base <= 36:
                return match["digits"].upper().lstrip("0") or "0", base
    return None
