"""One run of a study, with the processor time of every step in its log: `python -m delta_trl.research.study.one_run CONFIG`.

With a number of samples after CONFIG, the trained model is evaluated too.
"""

import json
import sys
import time
from pathlib import Path

import yaml
from transformers import TrainerCallback

from ...train.__main__ import main as train
from .final import evaluate_final
from .store import CPU_SECONDS, FINAL_FILE


class StepClock(TrainerCallback):
    """
    Adds `CPU_SECONDS` to each logged step: the processor time of this process in the steps since the last one, with
    generation and coefficients, without evaluation.

    Not the time by the clock, which on a machine with other work says more about that. A run has one thread.
    """

    def __init__(self):
        self._start = self._seconds = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self._seconds += time.process_time() - self._start

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            state.log_history[-1][CPU_SECONDS] = self._seconds
            self._seconds = 0.0


def main(config: str, samples: str | None = None) -> None:
    train(["--config", config], callbacks=[StepClock()])
    if samples is not None:
        options = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        found = evaluate_final(options, int(samples))
        (Path(options["output_dir"]) / FINAL_FILE).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
