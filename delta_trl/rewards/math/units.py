r"""Units and counted things after a number, currency signs, scale words; and answers that are words.

A unit may be left out, and only that: what is dropped from an answer is a unit or a noun of the lists below, as a whole
token, one at the end. `12\text{ cm or }13`, `5\text{ squared}`, `5\text{ maybe}` keep their text and are wrong.
"""

import re
from functools import lru_cache


_UNIT_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
    "km": "kilometer kilometre", "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile", "nm": "nanometer",
    "mg": "milligram", "g": "gram gm", "kg": "kilogram kilo", "lb": "pound lbs", "oz": "ounce", "t": "ton tonne",
    "l": "liter litre L", "ml": "milliliter millilitre mL", "gal": "gallon", "qt": "quart", "pint": "pt", "cup": "",
    "ms": "millisecond", "s": "second sec", "min": "minute", "h": "hour hr", "day": "", "week": "wk", "month": "",
    "year": "yr", "decade": "", "century": "centuries", "mph": "", "kph": "", "acre": "", "hectare": "ha",
    "cent": "¢", "dollar": "usd USD buck", "euro": "EUR", "sterling": "GBP", "yuan": "RMB", "yen": "", "rupee": "Rs",
    "degree": "deg", "radian": "rad", "unit": "", "N": "newton", "J": "joule", "W": "watt", "V": "volt",
    "A": "amp ampere", "C": "coulomb", "K": "kelvin", "Pa": "pascal", "kPa": "", "atm": "", "Hz": "hertz", "kHz": "",
    "ohm": "", "F": "farad", "T": "tesla", "eV": "", "MeV": "", "kJ": "", "kW": "kilowatt", "mol": "mole", "u": "amu",
    "cal": "calorie", "kcal": "", "bit": "", "byte": "", "a.m.": "am AM A.M.", "p.m.": "pm PM P.M.", "celsius": "",
    "fahrenheit": "", "tsp": "teaspoon", "tbsp": "tablespoon", "rpm": "", "AU": "", "M": "",
}  # fmt: skip
_NOUN_TEXT = """
angle animal answer apple apricot arrangement atom bacteria bag ball banana barrel basket bead bean bear bee bike
bird block boat book bottle bowl box boxes boy bread brick brother bug bunny bus buses bushel butterfly cake calf
can candies candle candy car card carrot case cat cell chair chicken child children chip chocolate choice circle
cities city class classes clip coin color coloring colour colouring combination computer cookie copies copy corner
course cow crayon cube customer cycle daughter deer desk diagonal dice die digit dime dimension dish dishes dog doll
domino dominoes donut door dot doughnut drop duck edge egg electron element employee equation error event face
factor families family fan fish fishes flag flavor flavour flies floor flower fly friend frog fruit function game
geese gift girl glass glasses goal goat goose grade grape graph group guest handshake hat head hen hole home horse
house inhabitant inning integer item jar job kangaroo key kid kilogram kitten ladies lady lamp lap laptop leaf
leaves leg lemon lesson letter line loaf loaves man marble mark marker match matches matrices matrix meal member men
mice minivan molecule monkey month mother mouse move muffin mug napkin necklace nickel note number object omelet
onion orange ounce outcome pack package packet page pail pan pancake panda paper part partition passenger path peach
peaches peanut pear pebble pen pencil pencils pennies penny people perch permutation permutations person phone photo
photon pie piece pig pigeon pile pineapple pizza place plane plant plate player plum poem point pole polynomial pot
potato potatoes present prize problem program pumpkin pupil puppies puppy question quiz quizzes rabbit raffle
rectangle region revolution ribbon ring road robot rock room root rope rose round row sack sail sample sandwich
sandwiches scoop seashell seat seed sentence serving set sheep sheet shelf shell shelves ship shirt shoe shop
sibling side sister slice snack sock soldier solution song space spider spoon square stair stamp star state step
stick sticker stone store stories story strawberries strawberry string student subset suit sweater sweet swimmer
table tank task teacher team term test ticket tile time tomato tomatoes tourist town toy train tree triangle trip
trolley truck tulip tuple turn turtle twig unicorn value van vase vehicle vertex vertices video visitor vote wall
watch way wheel widget window wolf wolves woman women word worker zebra zero
"""
_NOUNS = _NOUN_TEXT.split()
_UNITS = {spelling: unit for unit, others in _UNIT_NAMES.items() for spelling in (unit, *others.split())}
_UNITS |= {noun: noun for noun in _NOUNS if noun not in _UNITS}
_SPEEDS = {"mph": [("mi", 1), ("h", -1)], "kph": [("km", 1), ("h", -1)]}
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3, "cu": 3}
_ADJECTIVES = frozenset(["different", "distinct", "possible", "total", "more", "whole", "full", "old"])
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "sterling", "¥": "yen"}
_NUMBER_END = re.compile(r"[\d})|!]$|\\pi$|\\infty$")
_TEXT_GROUP = re.compile(r"\\text\{([^{}]*)\}(?:\^\{?(-?\d)\}?)?((?: |/|\\cdot|\*)*)")
_BARE_TAIL = re.compile(
    r"(?<![a-zA-Z\\{_^])((?:(?:square|sq\.?|cubic|cu\.?) )?[a-zA-Z]{2,}(?:/[a-zA-Z]+| per [a-z]+)?)(?:\^\{?(-?\d)\}?)?$"
)
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
    for sign in ("\\$", "$", "€", "£", "¥"):
        if stripped.startswith(sign):
            text = text[: len(text) - len(stripped)] + stripped[len(sign) :].lstrip()
            unit = _CURRENCIES[sign[-1]]
        elif text.endswith(sign):
            text, unit = text.removesuffix(sign).rstrip(), _CURRENCIES[sign[-1]]
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
