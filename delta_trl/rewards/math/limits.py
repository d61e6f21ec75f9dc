r"""What is no answer, seen from the text alone: work that is left undone, and text that would take too long to compare."""

import re

from .brackets import closing_braces, closing_brackets, depths


# The cost guard. The longest of MATH's 500 golds has 56 characters; polynomials and matrices take a few hundred.
MAX_CHARACTERS = 1500
MAX_DEPTH = 30
MAX_DIGITS = 400
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 10_000

# Operators that ask for work. The pattern names the operator in its first group that matched.
_UNDONE = re.compile(
    r"\\(i{0,3}nt|oint|sum|prod|coprod|lim|limsup|liminf|det|gcd|lcm|max|min|sup|inf|partial|[bp]?mod|argmax|argmin|nabla"
    r"|Sigma(?=_)|dots|Re|Im|arg|deg|dim|ker|Pr)(?![a-zA-Z])"
    r"|\\(operatorname\*?\{[^{}]*)\}"
    r"|\\begin\{([vV]matrix)\}"
    r"|(?<![a-zA-Z\\])(gcd|lcm|mod|lim|det|sum|prod|int|integral|max|min|tr|rank|derivative|floor|ceil|abs|diff"
    r"|Re|Im|arg|phi|lcd)(?![a-zA-Z])"
    r"|\\frac\{(d|\\partial)[^{}]*\}\{(?:d|\\partial) ?(?:[a-zA-Z]|\\[a-zA-Z]+)\}"
    r"|(\|_|\|\^(?:\{[^{}]*\}|.)_)"  # the bar of an integral that is to be evaluated
    r"|\\(overline|bar|hat)\{[^{}]*[^A-Z{}\d][^{}]*\}"  # a conjugate; \overline{AB} is a name
    r"|\\(?:varphi|phi|sigma|tau|omega|pi|mu)\((\d+)\)"  # Euler's totient and its like, of a number
    r"|[\d)}] ?\\?(%) ?\d"  # the residue of a programmer
    r"|\\end\{pmatrix\}\)?(\^)"  # a power, the inverse or the transpose of a matrix
    r"|[\d)](')"  # a derivative
)


def undone_operators(text: str) -> set[str]:
    """The operators in `text` that ask for work, as names to compare with those of the gold."""
    return {next(filter(None, match.groups()), match[0]) for match in _UNDONE.finditer(text)}


# What says more than a value: alternatives, consequences, denials.
_CONNECTIVES = re.compile(
    r"\\(to|rightarrow|Rightarrow|Longrightarrow|implies|iff|neg|lnot|not[a-z]*|leftrightarrow|mapsto|parallel)(?![a-zA-Z])"
    r"|(\\cancel|\\sout|\\st|\\overset|\\stackrel|\\rlap|\\llap|\\def|\\newcommand)(?![a-zA-Z])"
)


def connectives(text: str) -> set[str]:
    """The arrows, denials and crossings-out in `text`."""
    return {match[0] for match in _CONNECTIVES.finditer(text)}


_PLAIN_ARITHMETIC = re.compile(r"[\d\s+\-*(){}|]|\.(?!\.)|\\times|\\cdot|\\lvert|\\rvert|\^\{?1\}?(?!\d)")


def is_plain_arithmetic(text: str) -> bool:
    """Sums and products of written-out whole numbers or decimals, brackets and bars around them included."""
    return not _PLAIN_ARITHMETIC.sub("", text) and any(c.isdigit() for c in text)


def too_costly(text: str) -> bool:
    """True for text that no reasonable answer looks like and that could keep a computer algebra system busy."""
    if len(text) > MAX_CHARACTERS or re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        return True
    return max(depths(text), default=0) > MAX_DEPTH or _has_tower(text) or _has_huge_factorial(text)


_NUMBER = re.compile(r"(\d+)(?:\.\d*)?")
_NUMBER_POWER = re.compile(r"(\d+)\s*\^\s*\{?\s*(\d+)")
_SINGLE = re.compile(r"\s*[+-]?(?:\d+|\\[a-zA-Z]+|.)")


def _has_tower(text: str) -> bool:
    """An exponent above MAX_EXPONENT, or three powers on top of each other."""
    braces = closing_braces(text)
    end = -1  # of the outermost exponent: what lies inside was seen with it
    for match in re.finditer(r"\^", text):
        position = match.end()
        if position < end:
            continue
        if text[position : position + 1] == "{":
            end = braces.get(position, len(text))
            exponent = text[position + 1 : end]
        else:
            single = _SINGLE.match(text, position)
            exponent = single[0] if single else ""
        if exponent.count("^") >= 2 or any(int(n[1][:9]) > MAX_EXPONENT for n in _NUMBER.finditer(exponent)):
            return True
        for base, power in _NUMBER_POWER.findall(exponent):
            if len(base) * int(power[:9]) > 4 and int(base[:9]) ** min(int(power[:9]), 99) > MAX_EXPONENT:  # 2^{9^9}
                return True
    return False


_FACTORIAL = re.compile(r"(\d*) ?([)}]?) ?!(?!=)")


def _has_huge_factorial(text: str) -> bool:
    """A factorial of a number above MAX_FACTORIAL, of a power of numbers, or of a factorial."""
    if "!" not in text:
        return False
    if re.search(r"! ?[)}]+ ?!|! !|!!!", text):  # n!! is a function of its own
        return True
    opening = {end: start for pairs in (closing_braces(text), closing_brackets(text)) for start, end in pairs.items()}
    seen = 0
    for match in _FACTORIAL.finditer(text):
        if match[1] and int(match[1][:9]) > MAX_FACTORIAL:
            return True
        if match[2]:
            start = max(opening.get(match.start(2), 0), seen)
            inner = text[start : match.start(2)]
            seen = match.end()
            if "!" in inner or re.search(r"\d ?\^", inner):
                return True
            size = 1
            for number in _NUMBER.finditer(inner):
                size *= max(1, int(number[1][:9]))
                if size > MAX_FACTORIAL:
                    return True
    return False
