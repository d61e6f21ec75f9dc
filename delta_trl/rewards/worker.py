"""The worker process: compares two LaTeX answers with math-verify, under limits, over pipes.

Run as a plain script by `pool.Worker`, so it imports nothing but math-verify and the standard library (no torch, no
user script). One JSON array a line: `[gold, answer]` (answer null: can the gold be parsed?) in, `[reason, last]` out,
where `last` says that the worker exits now. The first line out is `["ready", false]`, or the error that prevents it.
"""

import json
import os
import resource
import select
import signal
import sys
import traceback


ORPHAN_POLL_SECONDS = 5.0  # how often an idle worker checks that its parent lives, should the pipe not tell
MAX_RESIDENT_BYTES = 512 * 2**20  # a worker whose caches grew beyond this is replaced


class OutOfTime(BaseException):
    """Not an Exception: sympy and math-verify swallow those."""


def _raise_out_of_time(signum, frame):
    raise OutOfTime


class Comparer:
    def __init__(self) -> None:
        import logging

        import sympy
        from latex2sympy2_extended import NormalizationConfig, latex2sympy
        from latex2sympy2_extended.latex2sympy2 import normalize_latex
        from math_verify import verify

        logging.disable(logging.WARNING)  # math-verify warns that its own time-outs, unneeded here, are off
        self.sympy = sympy
        self.verify = verify
        self._i = sympy.Symbol("i", real=True)
        settings = NormalizationConfig(basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none")

        def parse(text: str):
            text = normalize_latex(text, settings)
            parsed = latex2sympy(text, is_real=True, convert_degrees=False, normalization_config=None)
            # The parser takes i for a variable like any other.
            return parsed.subs(self._i, sympy.I) if self._i in parsed.free_symbols else parsed

        self._parse = parse
        self._golds: dict[str, object] = {}

    def parse(self, text: str):
        """A sympy object, or None."""
        try:
            parsed = self._parse(text)
        except Exception:  # the parser raises bare Exceptions
            return None
        return parsed if isinstance(parsed, (self.sympy.Basic, self.sympy.MatrixBase)) else None

    def parse_gold(self, text: str):
        if text not in self._golds:
            if len(self._golds) > 1000:
                self._golds.clear()
            self._golds[text] = self.parse(text)
        return self._golds[text]

    def compare(self, gold_text: str, answer_text: str | None) -> str:
        gold = self.parse_gold(gold_text)
        if gold is None or self._is_undefined(gold):
            return "unscorable gold"
        if answer_text is None:
            return "scorable"
        answer = self.parse(answer_text)
        if answer is None or self._is_undefined(answer):
            return "unparseable answer"
        if self._says_nothing(answer):
            return "wrong"
        equal = self._equal_by_value(gold, answer)
        if equal is None:
            equal = self.verify(gold, answer, timeout_seconds=None) and self._parts_agree(gold, answer)
        return "correct" if equal else "wrong"

    def _is_undefined(self, parsed) -> bool:
        s = self.sympy
        return isinstance(parsed, s.Basic) and parsed.has(s.nan, s.zoo)

    def _says_nothing(self, parsed) -> bool:
        """Equations without a variable or true for every value: math-verify takes any two of them for equal."""
        s = self.sympy
        if isinstance(parsed, s.Eq):
            try:
                return not s.simplify(parsed.lhs - parsed.rhs).free_symbols
            except (TypeError, AttributeError, ValueError):
                return False  # sides that cannot be subtracted, such as x = an interval
        return not isinstance(parsed, s.MatrixBase) and any(self._says_nothing(part) for part in parsed.args)

    def _equal_by_value(self, gold, answer) -> bool | None:
        """Whether two expressions have the same value, at a few points if they have variables; None: cannot tell.

        Faster than simplifying the difference, finds more identities, and is relative: to math-verify, whose
        comparison is absolute, two tiny numbers are equal.
        """
        s = self.sympy
        if not (isinstance(gold, s.Expr) and isinstance(answer, s.Expr)) or gold == answer:
            return None
        symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
        if any(len(symbol.name) > 1 for symbol in symbols) or gold.is_Symbol or answer.is_Symbol:
            return None  # words; math-verify also knows that e is E
        try:
            gold, answer = gold.doit(), answer.doit()
            is_complex = gold.has(s.I) or answer.has(s.I)
            if not symbols:
                return self._close(gold, answer)
            agreements = 0
            for point in POINTS:
                values = {symbol: s.Float(point) + s.Rational(i, 7) for i, symbol in enumerate(symbols)}
                a, b = gold.evalf(25, subs=values), answer.evalf(25, subs=values)
                # Outside the reals, roots and logarithms have branches that nobody means.
                if a.is_finite and b.is_finite and (is_complex or (a.is_real and b.is_real)):
                    if not self._close(a, b, "1e-12"):
                        return False
                    agreements += 1
            return True if agreements >= ENOUGH_POINTS else None
        except (TypeError, ValueError, AttributeError, ZeroDivisionError):
            return None  # not every expression has a value

    def _close(self, gold, answer, tolerance: str = "1e-20") -> bool | None:
        s = self.sympy
        if gold.is_Rational and answer.is_Rational:
            return gold == answer
        a, b = gold.evalf(30), answer.evalf(30)
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            return None
        difference, size = abs((gold - answer).evalf(30)), abs(a)
        if difference < ZERO:
            return True
        if tolerance == "1e-20" and (gold.has(s.Float) or answer.has(s.Float)):
            if gold.is_Integer or answer.is_Integer:
                return False
            return bool(difference <= DECIMAL_ABSOLUTE and difference <= DECIMAL_RELATIVE * size)
        return bool(difference <= s.Float(tolerance, 30) * size)

    def _parts_agree(self, gold, answer) -> bool:
        """Of two matrices, tuples, intervals or finite sets that math-verify takes for equal."""
        s = self.sympy
        if isinstance(gold, s.MatrixBase) and isinstance(answer, s.MatrixBase):
            pairs = zip(gold.flat(), answer.flat(), strict=True)
        elif isinstance(gold, (s.Tuple, s.Interval)) and isinstance(answer, type(gold)):
            pairs = zip(gold.args, answer.args, strict=True)
        elif isinstance(gold, s.FiniteSet) and isinstance(answer, s.FiniteSet):
            return all(any(self._equal_by_value(g, a) is not False for a in answer.args) for g in gold.args)
        else:
            return True
        return all(self._equal_by_value(a, b) is not False for a, b in pairs)


# Where expressions with variables are compared. Both signs, so that |x| is not x.
POINTS = ("-1.3718281", "0.5772156", "2.2360679", "-0.2914712", "3.7320508")
ENOUGH_POINTS = 3
ZERO = 1e-90  # what sympy's evaluation leaves of an expression that is exactly zero is smaller
# A decimal against an exact value, as in exact.py, which this script does not import.
DECIMAL_ABSOLUTE = 5e-7
DECIMAL_RELATIVE = 1e-5

WARM_UP = [
    (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"),
    (r"x^2 + 2x - 1", r"(x+1)^2 - 2"),
    (r"\{1, 2\}", r"2, 1"),
    (r"(-\infty, 2) \cup [3, \infty)", r"(-\infty, 2) \cup [3, \infty)"),
    (r"\left(1, \frac{\pi}{2}\right)", r"(1, 0.5\pi)"),
    (r"2e^{-3} + \ln 2", r"\ln(2) + 2e^{-3}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"),
    (r"y = 2x + 3", r"2x - y + 3 = 0"),
]


def resident_bytes() -> int:
    """Memory of this process. Not getrusage's maximum, where /proc tells: that one starts at the size of the parent, which
    in training is far beyond any worker's, since it survives fork and exec."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def main(parent: int, soft_seconds: float, hard_seconds: int, memory_bytes: int) -> None:
    # Whatever prints to standard output (the parser does) must not end up between the replies.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the pipe
    signal.signal(signal.SIGPROF, _raise_out_of_time)

    def reply(text: str, last: bool = False) -> None:
        replies.write(json.dumps([text, last]) + "\n")

    try:
        comparer = Comparer()
        for gold, answer in WARM_UP:
            comparer.compare(gold, answer)
    except Exception:
        reply(traceback.format_exc(), last=True)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or memory_bytes < most:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
    sys.setrecursionlimit(3000)
    reply("ready")

    pending = b""
    while True:
        while b"\n" not in pending:
            readable, _, _ = select.select([0], [], [], ORPHAN_POLL_SECONDS)
            if not readable:
                if os.getppid() != parent:
                    return
                continue
            chunk = os.read(0, 65536)
            if not chunk:
                return
            pending += chunk
        line, _, pending = pending.partition(b"\n")
        gold, answer = json.loads(line)
        # The kernel kills the process if the soft limit cannot (a computation inside C code, a swallowed exception).
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + hard_seconds, hard))
        last = False
        try:
            try:
                signal.setitimer(signal.ITIMER_PROF, soft_seconds)
                reason = comparer.compare(gold, answer)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except OutOfTime:
            reason, last = "timed out", True  # interrupted anywhere: what it left behind is not to be trusted
        except MemoryError:
            reason, last = "timed out", True
        except (RecursionError, Exception):
            # Nested beyond what the parser or sympy can follow, or a defect of theirs: no verdict in favour.
            reason = "unparseable answer" if answer is not None else "unscorable gold"
        last = last or resident_bytes() > MAX_RESIDENT_BYTES
        reply(reason, last)
        if last:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
