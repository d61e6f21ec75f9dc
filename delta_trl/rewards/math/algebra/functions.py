"""Functions that sympy lacks or evaluates at once: they stay as they are for letters and have values at integers."""

import sympy as s


class Gcd(s.Function):
    """The greatest common divisor of integers, in any order. sympy's own is that of polynomials: gcd(m, n) = 1."""

    @classmethod
    def eval(cls, *args):
        return _of_integers(cls, s.igcd, args)


class Lcm(s.Function):
    """The least common multiple of integers, in any order."""

    @classmethod
    def eval(cls, *args):
        return _of_integers(cls, s.ilcm, args)


def _of_integers(cls, function, args):
    if all(isinstance(argument, s.Integer) for argument in args):
        return s.Integer(function(*args))
    in_order = sorted(args, key=s.default_sort_key)
    return None if list(args) == in_order else cls(*in_order)


# The letter that stands for each in the text that the parser gets (see `rewriting`).
PLACEHOLDERS = {
    "G": Gcd,
    "L": Lcm,
    "M": s.Mod,
    "D": lambda x, _: s.factorial2(x),
    "C": lambda x, _: s.coth(x),
    "S": lambda x, _: s.sech(x),
    "H": lambda x, _: s.csch(x),
}
INTEGER_FUNCTIONS = (Gcd, Lcm, s.factorial2, s.floor, s.ceiling, s.Mod, s.factorial, s.binomial)
