"""What the workers do for mathematics: whether an answer equals a gold."""

from ..reasons import SCORABLE, UNPARSEABLE_ANSWER, UNSCORABLE_GOLD
from .compare import Comparer


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


class MathJob:
    """See `delta_trl.rewards.worker`. Requests are questions to `Comparer.answer`, replies its reasons."""

    def __init__(self) -> None:
        self._comparer = Comparer()
        for gold, answer in WARM_UP:
            self._comparer.compare(gold, answer)

    def prepare(self, *question) -> None:
        """Nothing: parsing the gold belongs to what is limited."""

    def answer(self, *question) -> str:
        try:
            return self._comparer.answer(question)
        except MemoryError:
            raise
        except Exception:
            # Nested beyond what the parser or sympy can follow, or a defect of theirs: no verdict in favour.
            return UNSCORABLE_GOLD if question[0] == SCORABLE else UNPARSEABLE_ANSWER
