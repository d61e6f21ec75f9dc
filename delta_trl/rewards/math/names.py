r"""Names of functions, letters and relations in plain text and in the LaTeX of other countries, as one command each."""

import re


# Plain or upright names, and the command that each is written as. Those of the second line are also words or units: they
# are functions only before a bracket.
_FUNCTIONS = {
    "sqrt": "sqrt", "pi": "pi", "sin": "sin", "cos": "cos", "tan": "tan", "tg": "tan", "ctg": "cot", "cotg": "cot",
    "cot": "cot", "csc": "csc", "cosec": "csc", "arcsin": "arcsin", "arccos": "arccos", "arctan": "arctan",
    "arctg": "arctan", "arcctg": "arccot", "arccot": "arccot", "arcsec": "arcsec", "arccsc": "arccsc", "asin": "arcsin",
    "acos": "arccos", "atan": "arctan", "acot": "arccot", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "coth": "coth",
    "sech": "sech", "csch": "csch", "sh": "sinh", "ch": "cosh", "th": "tanh", "cth": "coth", "arsinh": "arcsinh",
    "arcosh": "arccosh", "artanh": "arctanh", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh",
    "arcsinh": "arcsinh", "arccosh": "arccosh", "arctanh": "arctanh", "arsh": "arcsinh", "arch": "arccosh",
    "arth": "arctanh", "ln": "ln", "log": "log", "lg": "log", "exp": "exp", "gcd": "gcd", "lcm": "lcm",
}  # fmt: skip
_BEFORE_BRACKET = {
    "sec": "sec", "min": "min", "max": "max", "sh": "sinh", "ch": "cosh", "th": "tanh", "arch": "arccosh",
}  # fmt: skip
_PLAIN = "|".join(sorted(set(_FUNCTIONS) - set(_BEFORE_BRACKET), key=len, reverse=True))
_GREEK = "alpha|beta|gamma|delta|epsilon|zeta|theta|lambda|sigma|omega|phi|psi|rho|tau|mu"
_TEXT = r"\\(?:text|operatorname)\{[^{}]*\}"
_WORD = re.compile(
    rf"{_TEXT}|(?<![a-zA-Z\\])(?:(log)_?(2|10)(?=[ (a-z\\]|$)|({_PLAIN})(?![a-zA-Z])"
    rf"|({'|'.join(_BEFORE_BRACKET)})(?= ?\())"
)
_GREEK_WORD = re.compile(rf"{_TEXT}|(?<![a-zA-Z\\])({_GREEK})(?![a-zA-Z])")
_INFINITY = re.compile(
    rf"\\text ?\{{ ?infinity ?\}}|{_TEXT}|(?<![a-zA-Z\\])(?:infinity|infty|inf|oo)(?![a-zA-Z(])", re.IGNORECASE
)
_IN_TEXT = re.compile(r"\\text ?\{ ?infinity ?\}", re.IGNORECASE)
_OPERATOR = re.compile(
    rf"\\(?:operatorname\*?|text|mathrm) ?\{{ ?({_PLAIN}|sec|sh|ch|th|arch) ?\}}(?= ?[({{\\a-zA-Z\d^_])"
)
_COMMAND = re.compile(
    r"\\(tg|ctg|cotg|arctg|arcctg|cosec|lg|sh|ch|th|cth|arsh|arch|arth|arsinh|arcosh|artanh)(?![a-zA-Z])"
)
_CALLS = re.compile(
    r"(?<![a-zA-Z\\])(abs|floor|ceil|ceiling|cbrt|cis|C|binom|binomial|nCr)"
    r"\(((?:[^()]|\([^()]*\)){1,200})\)"
)
_CIS = re.compile(
    r"\\(?:operatorname\{cis\}|text\{ ?cis ?\}|cis(?![a-zA-Z])) ?"
    r"(\([^()]*\)|\\frac\{[^{}]*\}\{[^{}]*\}|[\d\\a-z^{}]+)"
)
_COMBINATIONS = re.compile(
    r"(?<![a-zA-Z\\])(?:\{?\}?\^\{?(\w+)\}?C_\{?(\w+)\}?|C_\{?(\w+)\}?\^\{?(\w+)\}?|C\^\{?(\w+)\}?_\{?(\w+)\}?)(?!\w)"
)
_PLAIN_LETTERS = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{2,}")


def with_commands(text: str) -> str:
    r"""`asin(x)` as `\arcsin(x)`, `\tg` as `\tan`, `abs(x)` as `|x|`, `inf` as `\infty`, `alpha` as `\alpha`."""
    if "operatorname" in text or r"\text" in text or r"\mathrm" in text:
        text = _OPERATOR.sub(lambda m: rf"\{_command(m[1])} ", text)
    text = _COMMAND.sub(lambda m: rf"\{_command(m[1])} ", text)
    if "cis" in text:
        text = _CIS.sub(lambda m: rf"e^{{i{m[1]}}}", text)
    if ("C" in text and "_" in text) or ("^" in text and "C" in text):
        text = _COMBINATIONS.sub(_combination, text)
    if not _PLAIN_LETTERS.search(text) and "(" not in text:
        return text
    text = _INFINITY.sub(
        lambda m: m[0] if m[0].startswith("\\") and not _IN_TEXT.fullmatch(m[0]) else r"\infty ", text
    )
    text = _WORD.sub(_word, text)
    text = _GREEK_WORD.sub(lambda m: rf"\{m[1]} " if m[1] else m[0], text)
    for _ in range(3):  # calls in calls
        replaced = _CALLS.sub(_call, text)
        if replaced == text:
            break
        text = replaced
    return text


def _command(name: str) -> str:
    return "log_{10}" if name == "lg" else "sec" if name == "sec" else _FUNCTIONS.get(name, name)


def _word(match: re.Match) -> str:
    if match[1]:
        return rf"\log_{{{match[2]}}}"
    name = match[3] or match[4]
    return match[0] if not name else rf"\{_BEFORE_BRACKET[name]} " if match[4] else rf"\{_command(name)} "


def _call(match: re.Match) -> str:
    name, inside = match[1], match[2]
    if name == "abs":
        return f"|{inside}|"
    if name == "floor":
        return rf"\lfloor {inside}\rfloor "
    if name.startswith("ceil"):
        return rf"\lceil {inside}\rceil "
    if name == "cbrt":
        return rf"\sqrt[3]{{{inside}}}"
    if name == "cis":
        return rf"e^{{i({inside})}}"
    over, comma, under = inside.partition(",")
    return rf"\binom{{{over.strip()}}}{{{under.strip()}}}" if comma and "," not in under else match[0]


def _combination(match: re.Match) -> str:
    over, under = (match[1], match[2]) if match[1] else (match[3], match[4]) if match[3] else (match[5], match[6])
    if not match[1]:
        # C_5^2 and C_2^5: the larger number is the set's size; with letters the lower one, as the notation has it
        sizes = [int(x) if x.isdigit() else None for x in (match[3] or match[6], match[4] or match[5])]
        over, under = (match[3] or match[6]), (match[4] or match[5])
        if None not in sizes and sizes[0] < sizes[1]:
            over, under = under, over
        if not (over.isdigit() or over in ("n", "m", "N")):
            return match[0]  # a constant C_1^2
    return rf"\binom{{{over}}}{{{under}}}"
