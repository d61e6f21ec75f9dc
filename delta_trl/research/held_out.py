"""Samples of a trained model on held-out problems: what the quickstart, SmolLM2's run and the studies share."""

from pathlib import Path
from typing import Any

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


def greedy_and_sampled(
    model: Path, output: Path, options: dict[str, Any], samples: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """
    Which answers to a run's held-out problems are right: decoded greedily, shape (P, 1), and sampled at the training's
    temperature, shape (P, `samples`), both bool. All of them go into folders of `output`.

    Args:
        options (`dict`): The run's, as in its YAML file; with bf16 the model answers in it too.
        seed (`int`): Of the samples.
    """
    shared = {
        "top_p": 1.0,
        "max_tokens": options["max_completion_length"],
        "prompt_format": options["prompt_format"],
        "seed": seed,
    }
    dtype = "bfloat16" if options.get("bf16") else options["dtype"]
    engine = Engine(backend="transformers", dtype=dtype, batch_size=options["per_device_eval_batch_size"])
    problems = Path(options["held_out_name"])
    sampled = Decoding(samples=samples, temperature=options.get("temperature", 1.0), **shared)
    greedy = Decoding(samples=1, temperature=0.0, **shared)
    return (
        held_out_samples(model, problems, output / "greedy", greedy, engine),
        held_out_samples(model, problems, output / "sampled", sampled, engine),
    )


def pass_rate(
    model: Path, problems: Path, output: Path, *, samples: int, max_tokens: int, prompt_format: str, batch_size: int
) -> float:
    """Share of right answers to the held-out problems, in percent, sampled at temperature 1 with fixed seeds."""
    decoding = Decoding(samples=samples, top_p=1.0, max_tokens=max_tokens, prompt_format=prompt_format)
    engine = Engine(backend="transformers", dtype="float32", batch_size=batch_size)
    return 100 * average([held_out_samples(model, problems, output, decoding, engine)]).value
