r"""What math-verify's parser reads wrongly or not at all, rewritten before it sees the text.

Each entry is listed with its smallest input in docs/development.md, and a test notices when the parser reads that input
rightly by itself. A function it does not know becomes `\mathfrak{X}(a,b)`, which it takes for an unknown function of two
arguments; `functions.PLACEHOLDERS` says which function each letter stands for.
"""

import re

from ..brackets import closing_braces, closing_brackets


_SIMPLE = [
    (re.compile(r"\\gamma(?![a-zA-Z])"), r"\\mathfrak{g}"),  # it takes a gamma before a sign for the gamma function
    (re.compile(r"(?<![a-zA-Z\\])(?<!mathcal\{)E(?![a-zA-Z])"), r"\\mathcal{E}"),  # E for Euler's number
    (re.compile(r"\\(?:lg)(?![a-zA-Z])"), r"\\log_{10}"),
    (re.compile(r"(\d+|[a-zA-Z])!(?=\^)"), r"(\1!)"),
    (re.compile(r"\\(max|min|gcd|lcm)\\\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\\\}"), r"\\\1(\2)"),
    (re.compile(r"\\mathbb\{R\}(?:_\{?>0\}?|_\{?\+\}?|\^\{?\+\}?)"), r"(0,\\infty)"),
    (re.compile(r"\\mathbb\{R\}(?:_\{?<0\}?|_\{?-\}?|\^\{?-\}?)"), r"(-\\infty,0)"),
]
_PRIME = re.compile(r"(?<=[a-zA-Z])('+)(?!['\w])|(?<=[a-zA-Z])('+)(?=\()")
_DOUBLE_FACTORIAL = re.compile(r"(\d+|(?<![a-zA-Z\\])[a-zA-Z]|[)}]) ?!!(?!!)")
_OPERATOR = re.compile(r"\\(gcd|lcm)(?=\()")
_HYPERBOLIC = re.compile(r"\\(coth|sech|csch)(?![a-zA-Z])(?:\^\{?(\d)\}?)? ?")
_ARGUMENT = re.compile(r"\\[a-zA-Z]+|\d*[a-zA-Z]|\d+")
_REMAINDER = re.compile(
    r"((?:\d*[a-zA-Z]|\d+)(?:\^(?:\{[^{}]*\}|\w))?|\([^()]*\)) ?\\bmod ?(\d+|[a-zA-Z]|\{[^{}]*\})(?![\w^])"
)
_LETTERS = {"gcd": "G", "lcm": "L", "coth": "C", "sech": "S", "csch": "H"}


def rewritten(text: str) -> str:
    """Canonical spelling without what the parser reads wrongly."""
    for pattern, replacement in _SIMPLE:
        text = pattern.sub(replacement, text)
    if "'" in text:  # it drops primes: y' = 2y would be y = 2y
        text = _PRIME.sub(lambda m: f"_{{p{len(m[1] or m[2])}}}", text)
    if r"\bmod" in text:
        text = _REMAINDER.sub(r"\\mathfrak{M}(\1,\2)", text)
    if "!!" in text:
        text = _double_factorials(text)
    text = _OPERATOR.sub(lambda m: rf"\mathfrak{{{_LETTERS[m[1]]}}}", text)
    return _hyperbolic(text) if _HYPERBOLIC.search(text) else text


def _double_factorials(text: str) -> str:
    """`(2k-1)!!` as a function of two arguments: it takes one for the factorial of a factorial."""
    opening = {end: start for start, end in (closing_brackets(text) | closing_braces(text)).items()}
    while match := _DOUBLE_FACTORIAL.search(text):
        start = opening.get(match.start(), match.start()) if match[1] in ")}" else match.start()
        body = text[start : match.end(1)]
        body = body[1:-1] if body[:1] in "({" and len(body) > 1 else body
        text = text[:start] + rf"\mathfrak{{D}}({body},0)" + text[match.end() :]
        opening = {end: start for start, end in (closing_brackets(text) | closing_braces(text)).items()}
    return text


def _hyperbolic(text: str) -> str:
    r"""`\coth x` as a function of two arguments: it reads cot(hx)."""
    for _ in range(text.count("\\")):
        match = _HYPERBOLIC.search(text)
        if match is None:
            break
        position = match.end()
        if text[position : position + 1] in ("(", "{"):
            pairs = closing_brackets(text) if text[position] == "(" else closing_braces(text)
            end = pairs.get(position)
            if end is None:
                break
            body, end = text[position + 1 : end], end + 1
        elif argument := _ARGUMENT.match(text, position):
            body, end = argument[0], argument.end()
        else:
            break
        power = f"^{{{match[2]}}}" if match[2] else ""
        text = text[: match.start()] + rf"\mathfrak{{{_LETTERS[match[1]]}}}({body},0){power}" + text[end:]
    return text
