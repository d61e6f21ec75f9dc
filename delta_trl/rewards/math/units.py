r"""Units and counted things after a number, currency signs, scale words; and answers that are words.

A unit may be left out, and only that: what is dropped from an answer is a unit or a noun of the lists below, as a whole
token, one at the end. `12\text{ cm or }13`, `5\text{ squared}`, `5\text{ maybe}` keep their text and are wrong.
"""

import re
from functools import lru_cache

from .lists import LIST, elements
from .numerals import literal


_UNIT_NAMES = {
    "uF": "microfarad", "nF": "nanofarad", "pF": "picofarad", "uA": "microampere", "uC": "microcoulomb",
    "uL": "microliter", "um": "micrometer micrometre micron", "us": "microsecond", "ug": "microgram",
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
    "km": "kilometer kilometre", "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "nm": "nanometer", "mg": "milligram", "g": "gram gm", "kg": "kilogram kilo", "lb": "pound lbs", "oz": "ounce",
    "t": "ton tonne", "l": "liter litre L", "ml": "milliliter millilitre mL", "gal": "gallon", "qt": "quart",
    "pint": "pt", "cup": "", "ms": "millisecond", "s": "second sec", "min": "minute", "h": "hour hr", "day": "",
    "week": "wk", "month": "", "year": "yr", "decade": "", "century": "centuries", "mph": "", "kph": "", "acre": "",
    "hectare": "ha", "cent": "¢", "dollar": "usd USD buck", "euro": "EUR", "sterling": "GBP", "yuan": "RMB",
    "yen": "", "rupee": "Rs", "degree": "deg", "radian": "rad", "unit": "", "N": "newton", "J": "joule", "W": "watt",
    "V": "volt", "A": "amp ampere", "C": "coulomb", "K": "kelvin", "Pa": "pascal", "kPa": "", "atm": "",
    "Hz": "hertz", "kHz": "", "ohm": "Ω", "kohm": "kΩ", "Mohm": "MΩ", "mV": "", "kV": "", "mA": "", "MHz": "",
    "GHz": "", "GPa": "", "MPa": "", "MJ": "", "mJ": "", "MW": "", "GeV": "", "dB": "decibel", "knot": "",
    "lumen": "", "weber": "Wb", "henry": "H", "bar": "", "mmHg": "", "ns": "nanosecond", "kN": "", "F": "farad",
    "T": "tesla", "eV": "", "MeV": "", "kJ": "", "kW": "kilowatt", "mol": "mole", "u": "amu", "cal": "calorie",
    "kcal": "", "bit": "", "byte": "", "a.m.": "am AM A.M. A.m.", "p.m.": "pm PM P.M. P.m.", "celsius": "",
    "fahrenheit": "", "tsp": "teaspoon", "tbsp": "tablespoon", "rpm": "", "AU": "", "M": "",
}  # fmt: skip
_NOUN_TEXT = """
actor airplane almond altitude anagram angle animal answer ant ants apple apricot arc arrangement article artist
asymptote athlete atom automorphism bacteria bag baker ball banana banknote barrel basket batch bead bean bear bee
belt berries berry bicycle bike bill bin binomial bird bisector bishop block boat book boot bottle bowl box boxes boy
bread brick brother bucket bug bunch bundle bunny bus buses bushel butterfly button cabbage cable cake calf calorie
can candies candle candy canoe car card carpenter carrot carrots carton case cashew cat cell chair chapter character
chef cherries cherry chess chicken child children chip chocolate choice chord circle cities citizen city class classes
clip coat coconut code coefficient coin color coloring colour colouring combination composite computer cone consonant
contest cookie copies copy corn corner coset coupon course cow crate crayon crocodile cube cuboid cucumber cupful
customer cycle cyclist cylinder dancer daughter deck deer deposit derangement desk diagonal dice die digit dime
dimension discount dish dishes divisor doctor dog doll domino dominoes donut door dot doughnut drawing dress dresses
driver drop duck eagle edge egg eigenvalue eigenvector electrician electron element elephant ellipse email employee
engineer equation error event exam experiment extrema extremum face factor factorization families family fan farmer
fee ferry fig fish fishes flag flavor flavour flies flip floor flower fly friend frog fruit function gallon game
garlic geese gift giraffe girl glass glasses glove goal goat goose grade grape graph group guard guest handful
handshake hat head helicopter hen hexagon hole home homomorphism horse house hyperbola ideal inflection inhabitant
inning installment integer intersection inversion isomorphism item jacket jar job kangaroo key kid kilogram kitten
knight ladies lady lamp lap laptop lawyer layer leaf leaves leg lemon lesson letter level lime line lion lizard load
loaf loan loaves magazine man mango mangoes marble mark marker match matches matrices matrix meal median melon member
men message mice minivan mistake mitten molecule monkey monomial month mother motorcycle mouse move muffin mug
multiple mushroom napkin necklace newspaper nickel note number nurse nut object octagon omelet onion orange orbit
ostrich ounce outcome owl pack package packet page pail painting palindrome pan pancake panda paper parabola paragraph
parameter part partition passenger password path pawn payment peach peaches peanut pear pebble pen pencil pencils
penguin pennies penny pentagon people pepper perch permutation permutations person phone photo photon picture pie
piece pig pigeon pile pilot pineapple pipe pizza place plane plank plant plate player plum plumber poem point pole
polygon polyhedron polynomial portion poster pot potato potatoes present prime prism prize problem program pump
pumpkin pupil puppies puppy pyramid quadrilateral queen question quiz quizzes rabbit rack radish raffle rectangle
reflection region resident revolution rhombus ribbon ring road robot rock rocket roll rook room root rope rose
rotation round row runner sack sail sailor sample sampling sandal sandwich sandwiches satellite scarf scarves
scientist scoop scooter sculpture seashell seat sector seed sentence sequence serving set sheep sheet shelf shell
shelves ship shirt shoe shop sibling side singer sister skirt slice snack snail snake sneaker sock soldier solution
song space sphere spider spoon spoonful square squash stair stamp star state step stick sticker stone store storey
stories story strawberries strawberry string student subgroup subring subset subway suit sweater sweet swimmer
syllable symbol symmetries symmetry table tailor tangent tank task tax taxes teacher team term test tetrahedron ticket
tie tiger tile time token tomato tomatoes toss tourist tournament town toy train tram translation tray tree trial
triangle trinomial trip trolley truck tulip tuple turn turnip turtle twig unicorn value van variable vase vector
vehicle verse vertex vertices video villager visitor vote voter vowel waiter wall walnut watch watermelon way wheel
widget window wire wolf wolves woman women word worker zebra zero zipper
"""
_NOUNS = _NOUN_TEXT.split()
_UNITS = {spelling: unit for unit, others in _UNIT_NAMES.items() for spelling in (unit, *others.split())}
_UNITS |= {noun: noun for noun in _NOUNS if noun not in _UNITS}
_SPEEDS = {"mph": [("mi", 1), ("h", -1)], "kph": [("km", 1), ("h", -1)]}
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3, "cu": 3}
_ADJECTIVES = frozenset(["different", "distinct", "possible", "total", "more", "whole", "full", "old"])
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_CURRENCIES = {"¢": "cent", "₹": "rupee", "₩": "won", "$": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}
_NUMBER_END = re.compile(r"[\d})|!]$|\\pi$|\\infty$")
_TEXT_GROUP = re.compile(r"\\text\{([^{}]*)\}(?:\^\{?(-?\d)\}?)?((?: |/|\\cdot|\*)*)")
_BARE_TAIL = re.compile(
    r"(?<![a-zA-Z\\{_^])((?:(?:square|sq\.?|cubic|cu\.?) )?[a-zA-Z]{2,}(?:/[a-zA-Z]+| per [a-z]+)?)(?:\^\{?(-?\d)\}?)?$"
)
_TEMPERATURE = re.compile(r"(.*\d.*)\^\{\\circ\} ?([CF])")
_LONGEST_UNIT = 60  # characters
_TRIGONOMETRIC = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")


@lru_cache(maxsize=4096)
def unit_name(words: str) -> str:
    """The canonical name of a unit or noun in words, "" for a text that is none. `meters per second` is `m/s`."""
    words = re.sub(r"\b(sq|cu)\.", r"\1 ", words.strip(" ,;~"))
    words = re.sub(r"\bper\b|\ba(?=\s)", "/", words) if " per " in f" {words} " else words
    names, under, power = [], False, 1
    for token in re.findall(r"[a-zA-Z.¢]+|\^?\{?-?\d\}?|/|\S", words.replace("²", "^2").replace("³", "^3")):
        if token == "/":
            under = True
        elif token in ("*", "-"):
            continue
        elif number := re.fullmatch(r"\^?\{?(-?\d)\}?", token):
            if not names:
                return ""
            name, old = names.pop()
            names.append((name, int(number[1]) * (1 if old > 0 else -1)))
        elif token.casefold().strip(".") in _POWER_WORDS:
            exponent = _POWER_WORDS[token.casefold().strip(".")]
            if token.casefold().endswith(("squared", "cubed")):
                if not names:
                    return ""
                names.append((names.pop()[0], exponent))
            else:
                power = exponent
        elif token in _ADJECTIVES:
            continue
        else:
            name = _known(token)
            if name is None:
                return ""
            names += _SPEEDS.get(name, [(name, -power if under else power)])
            power = 1
    if power != 1 and not names:  # "5 square" is no unit
        return ""
    return " ".join(f"{name}{exponent if exponent != 1 else ''}" for name, exponent in sorted(names))


def _known(token: str) -> str | None:
    lower = token.casefold()
    for spelling in (token, token.rstrip("."), lower, lower.rstrip(".")):
        # One capital letter is another unit than the small one: N, J; and m is no M.
        if spelling in _UNITS and (len(spelling) > 1 or spelling == token.rstrip(".")):
            return _UNITS[spelling]
        singular = spelling.removesuffix("s")
        if len(singular) > 1 and singular in _UNITS:
            return _UNITS[singular]
    return None


@lru_cache(maxsize=16384)
def split_unit(text: str) -> tuple[str, str]:
    r"""(`text` without unit and currency sign, canonical unit or ""). `3\text{ cm}` gives ("3", "cm").

    Scale words are carried out: `\$5\text{ million}` gives ("5000000", "dollar").
    """
    unit = ""
    stripped = text.lstrip("-")
    for sign in ("\\$", "$", "€", "£", "¥", "¢", "₹", "₩"):
        if stripped.startswith(sign):
            text = text[: len(text) - len(stripped)] + stripped[len(sign) :].lstrip()
            unit = _CURRENCIES[sign[-1]]
        elif text.endswith(sign):
            text, unit = text.removesuffix(sign).rstrip(), _CURRENCIES[sign[-1]]
    if text.endswith('"') and text[-2:-1].isdigit():
        return text[:-1], "in"
    if temperature := _TEMPERATURE.fullmatch(text):
        return temperature[1], "degree " + temperature[2]
    if text.endswith(r"^{\circ}"):
        body = text.removesuffix(r"^{\circ}")
        return (text, unit) if _TRIGONOMETRIC.search(body) else (body, "degree")
    if (split := _text_tail(text) or _bare_tail(text)) is None:
        return text, unit
    body, words, power = split
    for word, zeros in _SCALES.items():
        first, _, rest = words.strip().partition(" ")
        if first.casefold() in (word, word + "s"):
            scaled = _scaled(body, zeros)
            rest_unit = unit_name(rest) if rest else ""
            return (scaled, rest_unit or unit) if scaled and (rest_unit or not rest) else (text, unit)
    temperature = re.fullmatch(r"(.*)\^\{\\circ\}", body)
    if temperature and words.strip() in ("C", "F", "c", "f"):
        return temperature[1], "degree " + words.strip().upper()
    name = unit_name(words + (f"^{power}" if power else ""))
    return (body, name) if name else (text, unit)


def _scaled(body: str, zeros: int) -> str | None:
    if not re.fullmatch(r"-?\d[\d,]*(?:\.\d+)?", body):
        return None
    whole, _, decimals = body.replace(",", "").partition(".")
    if len(decimals) > zeros:
        return None
    return (whole + decimals.ljust(zeros, "0")).lstrip("0") or "0"


def _text_tail(text: str) -> tuple[str, str, str] | None:
    r"""(body, words, power) where `text` ends in one `\text{...}` or a few joined by `/` or a product sign."""
    start = len(text)
    for _ in range(4):
        earlier = text.rfind(r"\text{", max(0, start - _LONGEST_UNIT), start)
        if earlier < 0 or (group := _TEXT_GROUP.match(text, earlier)) is None or group.end() != start:
            break
        start = earlier
    if start in (0, len(text)) or not _NUMBER_END.search(text[:start].rstrip(" ,~")):
        return None
    groups = list(_TEXT_GROUP.finditer(text, start))
    if len(groups) == 1:
        return text[:start].rstrip(" ,~"), groups[0][1], groups[0][2] or ""
    words = " ".join(f"{g[1]}{'^' + g[2] if g[2] else ''}{'/' if '/' in g[3] else ''}" for g in groups)
    return text[:start].rstrip(" ,~"), words, ""


def _bare_tail(text: str) -> tuple[str, str, str] | None:
    """The same for words without a command, all of two letters or more: one letter may be a variable."""
    tail_start = max(0, len(text) - _LONGEST_UNIT)
    match = _BARE_TAIL.search(text, tail_start)
    while match and match.start() and match.start() > tail_start:
        body = text[: match.start()].rstrip()
        if not _NUMBER_END.search(body):
            # "5 million dollars", "5 cubic centimeters"
            if (earlier := re.search(r"(?<![a-zA-Z\\{_^])[a-zA-Z.]+$", body[-20:])) is None:
                return None
            words = earlier[0] + " " + match[1]
            body = body[: len(body) - len(earlier[0])].rstrip()
            return (body, words, match[2] or "") if body and _NUMBER_END.search(body) else None
        if match[1].casefold() == "in":
            return None
        return body, match[1], match[2] or ""
    return None


_KNOWN_WORDS = frozenset(
    ("yes", "no", "true", "false", "odd", "even", "east", "west", "none", "dne", "both", "one", "two")
)
_WORDS = re.compile(r"[^\W\d_]+(?:(?: |'|-|\. |\.)[^\W\d_]+)*[.!]?")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
MAX_WORDS = 6
TIME = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")  # of a day


@lru_cache(maxsize=16384)
def words(text: str) -> str | None:
    r"""`text` as lower-case words if that is what it is (`\text{Evelyn}`, `Yes`, `does not exist`), else None.

    Two or three bare letters are a product unless they are a known word, and more than six words are a sentence.
    """
    inner = _TEXT.sub(r" \1 ", text)
    in_text = inner != text
    inner = " ".join(inner.split())
    if inner.startswith("(") and inner.endswith(")"):
        inner = inner[1:-1].strip()
    if not _WORDS.fullmatch(inner):
        return None
    inner = inner.rstrip(".!").casefold()
    if len(inner.split()) > MAX_WORDS:
        return None
    if in_text or inner in _KNOWN_WORDS or len(inner) > 3:
        return inner
    return None


def other_text(text: str) -> list[str]:
    """The words inside `\\text{...}`, sorted; linking words apart."""
    found = (" ".join(group.split()).casefold().strip(" .,;:") for group in _TEXT.findall(text))
    return sorted(word for word in found if word and word not in ("and", "or"))


@lru_cache(maxsize=16384)
def without_units(text: str) -> tuple[str, str]:
    """(`text` without the unit of each element of a list, the unit). Different units stay: they are part of it."""
    body, unit = split_unit(text)
    parts = elements(text) if LIST.search(text) else []
    if len(parts) < 2 or literal(body):
        return body, unit
    split = [split_unit(part) for part in parts]
    units = {unit for _, unit in split}
    if not any(units) or len(units - {""}) > 1:
        return text, ""
    return ", ".join(body for body, _ in split), max(units)
