"""What the workers do for reasoning-gym: its score of an answer to a problem."""

import json
import traceback
from typing import Any

import reasoning_gym


class GymJob:
    """See `delta_trl.rewards.worker`. A request is an entry of `delta_trl.data.gym.generate` and an answer; the reply is the
    score, or the text of the error that kept the problem from being made."""

    def __init__(self) -> None:
        self._datasets: dict[str, Any] = {}
        self._problems: dict[str, dict[str, Any] | str] = {}

    def prepare(self, entry: str, answer: str) -> None:
        if entry not in self._problems:
            try:
                self._problems[entry] = self._make(**json.loads(entry))
            except Exception:
                self._problems[entry] = traceback.format_exc()

    def answer(self, entry: str, answer: str) -> float | str:
        problem = self._problems[entry]
        if isinstance(problem, str):
            return problem
        try:
            return float(problem["dataset"].score_answer(answer, problem["entry"]))
        except MemoryError:
            raise
        except Exception:  # scorers raise all kinds of errors for answers that make no sense
            return 0.0

    def _make(self, name: str, options: dict[str, Any], index: int, **further) -> dict[str, Any]:
        key = json.dumps([name, options, further])
        if key not in self._datasets:
            self._datasets[key] = reasoning_gym.create_dataset(name, **further, **options)
        return {"dataset": self._datasets[key], "entry": self._datasets[key][index]}
