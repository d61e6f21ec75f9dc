"""Pass rates of a study's trained model on the held-out problems."""

from pathlib import Path
from typing import Any

from ...evaluation.statistics import average, pass_at_k
from ..held_out import greedy_and_sampled


def evaluate_final(options: dict[str, Any], samples: int) -> dict[str, float]:
    """Pass rates of a trained model on the held-out problems, in [0, 1]: `final/greedy`, `final/pass@1`, `final/pass@N`.

    Args:
        options: The run's, as in its YAML file.
        samples: N, completions a problem at the training's temperature, for pass@1 and pass@N.
    """
    output = Path(options["output_dir"])
    greedy, sampled = greedy_and_sampled(output, output, options, samples, options["seed"])
    return {
        "final/greedy": average([greedy]).value,
        "final/pass@1": average([sampled]).value,
        f"final/pass@{samples}": pass_at_k([sampled], samples).value,
    }
