"""How completions are graded: one grader a kind of benchmark, which is all that an evaluation knows about the kind."""

import hashlib
import logging
from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Protocol

from ..data.prompts import CODE_INSTRUCTION, INSTRUCTION
from ..rewards import Verdict, grade, same_answers
from .livecodebench import PLACE, tests_at
from .multiple_choice import grade_choice
from .problem import Problem


if TYPE_CHECKING:
    from ..sandbox import Sandbox


logger = logging.getLogger(__name__)


class Grader(Protocol):
    """What a kind of benchmark has of its own.

    Attributes:
        instruction: What the prompt formats "paper" and "chat" put after a question.
        answer_form: What an answer is looked for in, for messages.
    """

    instruction: str
    answer_form: str

    def grade(self, completions: Sequence[str], references: Sequence[str]) -> list[Verdict]:
        """The verdict on each completion. Its `answer` is what was graded, None if nothing was found."""

    def reference(self, problem: Problem) -> str:
        """What completions of a problem are graded against."""
        return problem.answer

    def record(self, reference: str) -> str:
        """A reference as samples show it."""
        return reference

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool] | None:
        """Whether the answers of each pair agree, for majority@n. None if answers of this kind do not vote."""


class MathGrader(Grader):
    """Boxed answers, by the checker of `math_reward`."""

    instruction = INSTRUCTION
    answer_form = "boxed answer"

    def grade(self, completions: Sequence[str], references: Sequence[str]) -> list[Verdict]:
        return grade(completions, references)

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return same_answers(pairs) if pairs else []


class ChoiceGrader(Grader):
    """Letters of options. A reference is the right one and all of them: `B/ABCD`. The question says how to answer."""

    instruction = ""
    answer_form = "letter"

    def grade(self, completions: Sequence[str], references: Sequence[str]) -> list[Verdict]:
        return [
            grade_choice(completion, *reference.split("/"))
            for completion, reference in zip(completions, references, strict=True)
        ]

    def reference(self, problem: Problem) -> str:
        return f"{problem.answer}/{problem.letters}"

    def record(self, reference: str) -> str:
        return reference.partition("/")[0]

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [first == second for first, second in pairs]


class CodeGrader(Grader):
    """Programs, run on all tests of a problem as `code_reward` runs them. References are tests as JSON text."""

    instruction = CODE_INSTRUCTION
    answer_form = "fenced Python block"
    SECONDS = 6.0  # of CPU time a test, as LiveCodeBench allows

    @cached_property
    def sandbox(self) -> "Sandbox":
        from ..sandbox import Sandbox

        return Sandbox()

    def grade(self, completions: Sequence[str], references: Sequence[str]) -> list[Verdict]:
        from ..rewards.code import grade_code
        from ..rewards.code.extraction import extract_code
        from ..sandbox import Limits

        known = {reference: _tests_at(reference) for reference in set(references) if reference.startswith(PLACE)}
        tests = [known.get(reference, reference) for reference in references]
        verdicts = grade_code(completions, tests, self.sandbox, Limits(cpu_seconds=self.SECONDS))
        return [
            Verdict(verdict.score, extract_code(completion), verdict.reason)
            for completion, verdict in zip(completions, verdicts, strict=True)
        ]

    def reference(self, problem: Problem) -> str:
        return problem.place or problem.answer

    def record(self, reference: str) -> str:
        if reference.startswith(PLACE):
            return reference
        # The tests of one problem may have megabytes, and every sample would repeat them
        return f"tests {hashlib.sha256(reference.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"

    def same(self, pairs: Sequence[tuple[str, str]]) -> None:
        return None


def _tests_at(place: str) -> str:
    """As `tests_at`; "", which grades nothing, where they cannot be read: the other problems are still scored."""
    try:
        return tests_at(place)
    except ValueError as error:
        _warn_once(f"{error}. This problem cannot be scored: its samples count as wrong.")
        return ""


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


GRADERS: dict[str, Grader] = {"math": MathGrader(), "choice": ChoiceGrader(), "code": CodeGrader()}
