"""Samples of a trained model on held-out problems: what the quickstart, SmolLM2's run and the studies share."""

from pathlib import Path

import numpy as np

from ..evaluation.benchmarks import find_benchmarks
from ..evaluation.options import Decoding, Engine
from ..evaluation.run import Task, evaluate_models
from ..evaluation.samples import read_evaluation
from ..evaluation.statistics import average


def held_out_samples(model: Path, problems: Path, output: Path, decoding: Decoding, engine: Engine) -> np.ndarray:
    """Which samples are right, shape (P, n), bool. The samples themselves go into the folder `output`."""
    (file,) = evaluate_models([str(model)], Task.load(find_benchmarks([str(problems)]), decoding), engine, output)
    (benchmark,) = read_evaluation(file).benchmarks.values()
    return benchmark.correct


def pass_rate(
    model: Path, problems: Path, output: Path, *, samples: int, max_tokens: int, prompt_format: str, batch_size: int
) -> float:
    """Share of right answers to the held-out problems, in percent, sampled at temperature 1 with fixed seeds."""
    decoding = Decoding(samples=samples, top_p=1.0, max_tokens=max_tokens, prompt_format=prompt_format)
    engine = Engine(backend="transformers", dtype="float32", batch_size=batch_size)
    return 100 * average([held_out_samples(model, problems, output, decoding, engine)]).value
