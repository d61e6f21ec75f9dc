"""Pass rates of a study's trained model on the held-out problems."""

from pathlib import Path
from typing import Any

from ...evaluation.options import Decoding, Engine
from ...evaluation.statistics import average, pass_at_k
from ..held_out import held_out_samples


def evaluate_final(options: dict[str, Any], samples: int) -> dict[str, float]:
    """Pass rates of a trained model on the held-out problems, in [0, 1]: `final/greedy`, `final/pass@1`, `final/pass@N`.

    Args:
        options: The run's, as in its YAML file.
        samples: N, completions a problem at the training's temperature, for pass@1 and pass@N.
    """
    output, problems = Path(options["output_dir"]), Path(options["held_out_name"])
    shared = {
        "top_p": 1.0,
        "max_tokens": options["max_completion_length"],
        "prompt_format": options["prompt_format"],
        "seed": options["seed"],
    }
    dtype = "bfloat16" if options.get("bf16") else options["dtype"]  # what the training's matrix products are in
    engine = Engine(backend="transformers", dtype=dtype, batch_size=options["per_device_eval_batch_size"])
    sampled = Decoding(samples=samples, temperature=options.get("temperature", 1.0), **shared)
    greedy = Decoding(samples=1, temperature=0.0, **shared)
    drawn = [held_out_samples(output, problems, output / "sampled", sampled, engine)]
    likeliest = [held_out_samples(output, problems, output / "greedy", greedy, engine)]
    return {
        "final/greedy": average(likeliest).value,
        "final/pass@1": average(drawn).value,
        f"final/pass@{samples}": pass_at_k(drawn, samples).value,
    }
