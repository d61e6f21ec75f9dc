r"""What can be decided about a gold and an answer from their text alone, without a computer algebra system.

Both come in canonical spelling (`extraction.canonical`). Numbers, words and equal spellings end here, in microseconds.

Policy, where mathematics leaves a choice:
- A percentage is its value: 50% is 1/2 and is not 50. Where the gold is 50%, 50 will do: the sign counts as a unit.
- A decimal stands for an exact non-integer value if it differs by less than half a unit of the sixth decimal and by
  less than 1e-5 of the value: 0.333333 is 1/3, and 0.33 is not. Integers must be met exactly.
- A unit is optional, but two different units are a wrong answer. Nothing is converted between units.
- Words are compared whole, ignoring case: `no` is not `on`, and `True` is not `Yes`.
- A numeral in another base must keep its base.
- An answer that leaves the work undone is none: an integral, sum, product, limit, determinant, gcd, lcm, extremum or
  residue that the gold does not have; or sums and products of plain numbers where the gold is a number.
- In a chain that starts with a name, `x = a = b`, the last part is the answer. In one that starts with a number every
  part that is a number must be the gold: `1 = 2 = 3` is not 3. `y = y` says nothing. What follows an approximation
  sign after a value is not looked at.
- Groups and rings (`\mathbb{Z}_2 \times \mathbb{Z}_2`) are compared as text, factor by factor in any order.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from .extraction import canonical, closing_brace


CORRECT = "correct"
WRONG = "wrong"
UNEVALUATED = "unevaluated"
TOO_COSTLY = "too costly"
UNPARSEABLE_ANSWER = "unparseable answer"

# Decimal against exact value; math-verify rounds at the sixth decimal too, but without the relative bound two tiny
# numbers would be equal.
DECIMAL_ABSOLUTE = Fraction(5, 10**7)
DECIMAL_RELATIVE = Fraction(1, 10**5)

# The cost guard. The longest of MATH's 500 golds has 56 characters; polynomials and matrices take a few hundred.
MAX_CHARACTERS = 1500
MAX_DEPTH = 30
MAX_DIGITS = 400
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 1000


@dataclass(frozen=True)
class Literal:
    """A number that is written out: integer, decimal, fraction, mixed number, scientific notation or percentage."""

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
]
_BASED = re.compile(r"[0-9A-F]*[0-9][0-9A-F]*_\{?(?:\d+|\\text\{[a-z]+\})\}?")


def _fraction(number: str | None) -> Fraction:
    """1 for the missing factor of a bare power of ten."""
    return Fraction(number.replace(",", "").replace(" ", "").rstrip(".")) if number else Fraction(1)


@lru_cache(maxsize=16384)
def literal(text: str) -> Literal | None:
    """The number that `text` writes out, or None. A zero denominator is no number."""
    while text.startswith("(") and text.endswith(")") and "," not in text:  # (1,234) is a pair
        text = text[1:-1]
    if len(text) > MAX_DIGITS or not any(c.isdigit() for c in text):
        return None
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
    else:
        value = _fraction(groups["number"]) * Fraction(10) ** int(groups.get("power") or 0)
    sign = -1 if groups["sign"] == "-" else 1
    return Literal(sign * value * percent, is_decimal="." in text)


def literals_agree(gold: Literal, answer: Literal) -> bool:
    difference = abs(gold.value - answer.value)
    if difference == 0:
        return True
    if not (gold.is_decimal or answer.is_decimal) or gold.value.denominator == 1 or answer.value.denominator == 1:
        return False
    return difference <= DECIMAL_ABSOLUTE and difference <= DECIMAL_RELATIVE * abs(gold.value)


_UNIT_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter", "m": "meter metre",
    "km": "kilometer kilometre", "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "mg": "milligram", "g": "gram gm", "kg": "kilogram", "lb": "pound", "oz": "ounce", "l": "liter litre",
    "ml": "milliliter", "ms": "millisecond", "s": "second sec", "min": "minute", "h": "hour hr", "day": "", "week": "",
    "month": "", "year": "yr", "mph": "", "km/h": "kmh kph", "m/s": "", "cent": "", "dollar": "usd", "euro": "",
    "degree": "deg", "radian": "rad", "%": "percent percentage pct", "unit": "", "person": "people", "point": "",
}  # fmt: skip
_UNITS = {spelling: unit for unit, others in _UNIT_NAMES.items() for spelling in (unit, *others.split())}
_SPELLED_OUT = sorted((s for s in _UNITS if len(s) > 1 and s != "in"), key=len, reverse=True)
_POWER_WORDS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cubed": "3"}
_TEXT_UNIT = re.compile(r"\\text\{([^{}]*)\}(?:\^\{?([23])\}?)?$")
_BARE_UNIT = re.compile(
    rf"(?<![a-zA-Z\\])((?:square |sq\.? |cubic )?(?:{'|'.join(map(re.escape, _SPELLED_OUT))})s?)(?:\^\{{?([23])\}}?)?$"
)
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound sterling"}
_CURRENCY = re.compile(r"^\\?[$€£]|\\?[$€£]$")
# One letter is a unit only where no one writes a variable: after a number and a space, or with a power.
_LETTER_UNIT = re.compile(r"(?:(?<=\d) ([mgslh])|(?<=\d) ?(m)\^\{?([23])\}?)$")
_SCALES = {"thousand": "000", "million": "000000", "billion": "000000000"}


def _unit(words: str, power: str | None) -> str:
    """The canonical name of a unit in words, "" for a text that is no unit known here."""
    power = power or ""
    names = []
    for word in re.sub(r"[().,]", " ", words.casefold().replace("^", "")).split():
        if word in _POWER_WORDS:
            power = _POWER_WORDS[word]
            continue
        singular = word.removesuffix("s") if word not in _UNITS else word
        if singular[-1:] in "23" and singular[:-1] in _UNITS:
            singular, power = singular[:-1], singular[-1]
        if singular not in _UNITS:
            return ""
        names.append(_UNITS[singular])
    return " ".join(names) + power


@lru_cache(maxsize=16384)
def split_unit(text: str) -> tuple[str, str]:
    r"""(`text` without unit and currency sign, canonical unit or ""). `3\text{ cm}` gives ("3", "cm")."""
    unit = ""
    if currency := _CURRENCY.search(text):
        text, unit = text[: currency.start()] + text[currency.end() :], _CURRENCIES[currency[0].strip("\\ ")]
    if text.endswith(r"^{\circ}"):
        return text.removesuffix(r"^{\circ}"), "degree"
    if letter := _LETTER_UNIT.search(text):
        return text[: letter.start()], (letter[1] or letter[2]) + (letter[3] or "")
    match = _TEXT_UNIT.search(text) or _BARE_UNIT.search(text)
    if not match or not match.start() or not re.search(r"[\d})]|\\pi", text[: match.start()]):
        return text, unit
    words, body = match[1].strip(), text[: match.start()].rstrip(" \\,;")
    if re.search(r"(?<![a-zA-Z])(?:and|or|if|where)(?![a-zA-Z])", words):
        return text, unit
    if zeros := _SCALES.get(words.casefold()):
        return (body + zeros if body.isdigit() else text), unit
    if words.casefold() in ("percent", "percentage", "pct"):
        return body + r"\%", unit
    return body, _unit(words, match[2]) or unit


_KNOWN_WORDS = {"yes", "no", "true", "false", "odd", "even", "east", "west", "none", "dne", "both", "one", "two"}
_WORDS = re.compile(r"[^\W\d_]+(?:[ '\-][^\W\d_]+)*[.!]?")
_MAX_WORDS = 4


@lru_cache(maxsize=16384)
def words(text: str) -> str | None:
    r"""`text` as lower-case words if that is what it is (`\text{Evelyn}`, `Yes`, `does not exist`), else None.

    Two or three bare letters are a product unless they are a known word, and more than four words are a sentence.
    """
    inner = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    in_text = inner != text
    inner = " ".join(inner.split())
    if inner.startswith("(") and inner.endswith(")"):
        inner = inner[1:-1].strip()
    if not _WORDS.fullmatch(inner):
        return None
    inner = inner.rstrip(".!").casefold()
    if len(inner.split()) > _MAX_WORDS:
        return None
    if in_text or inner in _KNOWN_WORDS or len(inner) > 3:
        return inner
    return None


# Operators that ask for work. The pattern names the operator in its first group that matched.
_UNDONE = re.compile(
    r"\\(i{0,3}nt|oint|sum|prod|coprod|lim|limsup|liminf|det|gcd|max|min|sup|inf|partial|[bp]?mod|argmax|argmin)"
    r"(?![a-zA-Z])"
    r"|\\begin\{(vmatrix|Vmatrix)\}"
    r"|(?<![a-zA-Z])(gcd|lcm|mod|lim|det|sum|prod|int|integral|max|min|tr|rank|derivative)(?![a-zA-Z])"
    r"|(\\frac\{d\}\{d[a-z]\})"
)
_PLAIN_ARITHMETIC = re.compile(r"[\d\s+\-*().{}]|\\times|\\cdot")


def undone_operators(text: str) -> set[str]:
    return {next(filter(None, match.groups())) for match in _UNDONE.finditer(text)}


def _is_plain_arithmetic(text: str) -> bool:
    return not _PLAIN_ARITHMETIC.sub("", text) and bool(re.search(r"\d", text))


_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)")
_VARIABLE = re.compile(r"\\text|(?<![\\a-zA-Z])[a-zA-Z]")
_COMMANDS = re.compile(r"\\(?!text)[a-zA-Z]+")
_RELATION = re.compile(r"\\(?:le|ge|ne|lt|gt|in|equiv|approx|sim|subset)(?![a-zA-Z])|[<>=]")
_LIST = re.compile(r"[,;]|\\text\{ ?(?:and|or) ?\}|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])")
_NAME = re.compile(r"(?:[a-zA-Z]|\\[a-zA-Z]+)(?:_\{?\w+\}?)?'*(?:\([a-zA-Z](?:,[a-zA-Z])*\))?")


def _has_variable(text: str) -> bool:
    return bool(_VARIABLE.search(_COMMANDS.sub(" ", text).replace("e^", " ")))


def candidates(gold: str, answer: str) -> tuple[str, list[str]] | None:
    r"""The gold and the parts of the answer that must all equal it; None for an identity such as `y = y`.

    Takes `x = 3` apart against `3` and against `x = 3`, chains such as `x = 1 + 2 = 3`, and what is only a rounding of
    the answer before it, as in `\frac{1}{3} \approx 0.33`. Everything else stays whole.
    """
    exact, _, rounded = (part.strip() for part in answer.partition(r"\approx"))
    if rounded:
        answer = f"{exact}={rounded}" if _NAME.fullmatch(exact) else exact
    parts = [part.strip() for part in _EQUALS.split(answer)]
    gold_parts = [part.strip() for part in _EQUALS.split(gold)]
    gold_name = gold_parts[0] if len(gold_parts) > 1 and _NAME.fullmatch(gold_parts[0]) else None
    if len(parts) == 1:
        if gold_name and not (_LIST.search(gold) or _RELATION.search(answer)):
            return gold_parts[-1], [answer]
        return gold, [answer]
    if any(_LIST.search(_in_brackets_removed(part)) for part in parts[:-1]):
        return gold, [answer]  # several equations
    if len(set(parts)) < len(parts):
        return None
    if gold_name is not None and gold_name == parts[0] and not _LIST.search(gold):
        return gold_parts[-1], parts[-1:]
    if len(gold_parts) > 1 or _RELATION.search(gold):
        return gold, [answer]
    if _has_variable(parts[0]) or undone_operators(parts[0]):
        return gold, parts[-1:]
    steps = [step for step in parts[:-1] if not (_has_variable(step) or undone_operators(step))]
    return gold, steps + parts[-1:]


def _in_brackets_removed(text: str) -> str:
    return re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", text)


# Structures are compared as text: a computer algebra system takes Z_4 for a number and a product for a product.
_STRUCTURE = re.compile(r"\\mathbb\{[A-Z]\}|\\(?:rtimes|ltimes|oplus|otimes|cong)(?![a-zA-Z])")


def _structure(text: str) -> list[str] | None:
    """The factors of a group or ring in words, in a fixed order, or None: Z/4Z is Z_4, and A x B is B x A."""
    if (
        not _STRUCTURE.search(text)
        or re.fullmatch(r"\\mathbb\{[A-Z]\}", text)
        or re.search(r"\\(?:setminus|cup|cap|in)(?![a-zA-Z])|[=<>,]", text)
    ):
        return None
    text = re.sub(r"(\\mathbb\{Z\})/\(?([^()/]+?)\1\)?", r"\1_\2", text.replace("{}", ""))
    text = re.sub(r"_\{([^{}]*)\}", r"_\1", text)
    if re.search(r"\\[lr]times", text):
        return [text]
    return sorted(part.strip("() ") for part in re.split(r"\\(?:times|oplus)(?![a-zA-Z])", text))


def _outer_brackets(text: str) -> tuple[str, str] | None:
    """The pair of brackets around a list that fills all of `text`, such as ("[", ")") of an interval."""
    opening = "\\{" if text.startswith("\\{") else text[:1]
    closing = "\\}" if text.endswith("\\}") else text[-1:]
    if opening not in ("(", "[", "\\{") or closing not in (")", "]", "\\}"):
        return None
    depth, has_comma = 0, False
    inner = text[len(opening) : len(text) - len(closing)]
    for character in inner:
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif character == "," and depth == 0:
            has_comma = True
    return (opening, closing) if has_comma else None


def too_costly(text: str) -> bool:
    """True for text that no reasonable answer looks like and that could keep a computer algebra system busy."""
    if len(text) > MAX_CHARACTERS or re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        return True
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest > MAX_DEPTH or _has_tower(text) or _has_huge_factorial(text)


def _has_tower(text: str) -> bool:
    """An exponent above MAX_EXPONENT, or three powers on top of each other."""
    position = 0
    while (position := text.find("^", position)) >= 0:
        position += 1
        exponent = _group(text, position)
        if exponent.count("^") >= 2 or any(int(n[:9]) > MAX_EXPONENT for n in re.findall(r"\d+", exponent)):
            return True
        for base, power in re.findall(r"(\d+)\s*\^\s*\{?\s*(\d+)", exponent):
            if len(base) * int(power) > 4 and int(base) ** int(power) > MAX_EXPONENT:  # 2^{9^9}
                return True
    return False


def _group(text: str, start: int) -> str:
    if text[start : start + 1] == "{":
        end = closing_brace(text, start)
        return text[start + 1 : end] if end > 0 else text[start + 1 :]
    match = re.compile(r"\s*[+-]?(?:\d+|\\[a-zA-Z]+|.)").match(text, start)
    return match[0] if match else ""


def _has_huge_factorial(text: str) -> bool:
    for match in re.finditer(r"(\d*)\s*([)}]?)\s*!(?!=)", text):
        digits, bracket = match[1], match[2]
        if bracket and re.search(r"[!^]", text[: match.start()]):
            return True
        if digits and int(digits[:9]) > MAX_FACTORIAL:
            return True
    return False


def decide(gold: str, answer: str, *, is_final: bool = True) -> str | None:
    """A reason (CORRECT, WRONG, UNEVALUATED, TOO_COSTLY, UNPARSEABLE_ANSWER), or None: ask math-verify.

    Takes canonical spellings; `answer` is one candidate (see `candidates`), `is_final` False for all but the last
    part of a chain, where arithmetic may still be undone.
    """
    if not answer:
        return UNPARSEABLE_ANSWER
    if _key(gold) == _key(answer):
        return CORRECT
    gold_words, answer_words = words(gold), words(answer)
    if gold_words is not None:
        return CORRECT if gold_words in (answer_words, answer.strip("()").casefold()) else WRONG
    if answer_words is not None and literal(gold) is not None:
        return WRONG
    if len(gold) == len(answer) == 1:  # A is not a
        return WRONG
    gold_based, answer_based = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if (gold_based or answer_based) and (gold_based or literal(gold)) and (answer_based or literal(answer)):
        return CORRECT if _without_braces(gold) == _without_braces(answer) else WRONG
    gold_body, gold_unit = split_unit(gold)
    answer_body, answer_unit = split_unit(answer)
    if gold_unit and answer_unit and gold_unit != answer_unit:
        return WRONG
    gold_number, answer_number = literal(gold_body), literal(answer_body)
    # A decimal comma. `1,22` alone is a list of two numbers; against 1.22 it is the other notation.
    if gold_number is None and answer_number is not None and answer_number.is_decimal:
        gold_number = literal(_decimal_point(gold_body))
    elif answer_number is None and gold_number is not None and gold_number.is_decimal:
        answer_number = literal(_decimal_point(answer_body))
    if gold_number is not None and answer_number is not None:
        if literals_agree(gold_number, answer_number):
            return CORRECT
        if not gold_body.endswith("%") or answer_body.endswith("%"):
            return WRONG
        # Like a unit, the sign may be left out.
        return CORRECT if literals_agree(literal(gold_body.rstrip("\\%")), answer_number) else WRONG
    structure = _structure(gold)
    if structure is not None:
        return CORRECT if structure == _structure(answer) else WRONG
    if _key(gold_body) == _key(answer_body):
        return CORRECT
    if undone_operators(answer) - undone_operators(gold):
        return UNEVALUATED
    if is_final and gold_number is not None and _is_plain_arithmetic(answer_body):
        return UNEVALUATED
    gold_brackets, answer_brackets = _outer_brackets(gold), _outer_brackets(answer)
    if gold_brackets and answer_brackets and gold_brackets != answer_brackets:
        return WRONG
    return TOO_COSTLY if too_costly(answer) else None


def _decimal_point(text: str) -> str:
    return re.sub(r"(-?\d+),(\d+)", r"\1.\2", text) if re.fullmatch(r"-?\d+,\d+", text) else text


def _without_braces(text: str) -> str:
    return text.replace("{", "").replace("}", "")


def _key(text: str) -> str:
    return text.replace(", ", ",")


def obviously_scorable(gold: str) -> bool:
    """True if every answer to `gold` can be graded without parsing it: a written-out number or a word."""
    return (
        literal(split_unit(gold)[0]) is not None
        or words(gold) is not None
        or _structure(gold) is not None
        or bool(_BASED.fullmatch(gold))
    )


__all__ = ["Literal", "candidates", "canonical", "decide", "literal", "obviously_scorable", "split_unit", "words"]
