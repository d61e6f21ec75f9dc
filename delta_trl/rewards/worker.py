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
        from math_verify.grader import should_treat_as_complex

        logging.disable(logging.WARNING)  # math-verify warns that its own time-outs, unneeded here, are off
        self.sympy = sympy
        self.verify = verify
        settings = NormalizationConfig(basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none")

        def parse(text: str):
            text = normalize_latex(text, settings)
            return latex2sympy(
                text, is_real=not should_treat_as_complex(text), convert_degrees=False, normalization_config=None
            )

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
        if not self.verify(gold, answer, timeout_seconds=None):
            return "wrong"
        return "correct" if self._really_equal(gold, answer) else "wrong"

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

    def _really_equal(self, gold, answer) -> bool:
        """math-verify's numeric comparison is absolute: two tiny numbers are equal to it. This one is relative."""
        s = self.sympy
        if isinstance(gold, s.MatrixBase) and isinstance(answer, s.MatrixBase):
            return gold.shape == answer.shape and all(
                self._really_equal(a, b) for a, b in zip(gold.flat(), answer.flat(), strict=True)
            )
        if isinstance(gold, s.Tuple) and isinstance(answer, s.Tuple):
            return all(self._really_equal(a, b) for a, b in zip(gold, answer, strict=True))
        if isinstance(answer, s.Eq) and not isinstance(gold, s.Eq):
            answer = answer.rhs
        if isinstance(gold, s.Eq) and not isinstance(answer, s.Eq):
            gold = gold.rhs
        if not (isinstance(gold, s.Expr) and isinstance(answer, s.Expr)) or gold.free_symbols or answer.free_symbols:
            return True
        try:
            exact, given = gold.doit(), answer.doit()
            if exact == given or not (exact.is_finite and given.is_finite):
                return True
            if exact.is_Rational and given.is_Rational:
                return False
            difference, size = abs((exact - given).evalf(30)), abs(exact.evalf(30))
            if exact.has(s.Float) or given.has(s.Float):
                return bool(difference <= 5e-7 and difference <= 1e-5 * size)
            return bool(difference <= s.Float("1e-20", 30) * size)
        except (TypeError, ValueError, AttributeError):
            return True


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
        scale = 1 if sys.platform == "darwin" else 1024
        last = last or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale > MAX_RESIDENT_BYTES
        reply(reason, last)
        if last:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
