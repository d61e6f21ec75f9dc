#!/usr/bin/env python
"""Do DelTA's LM-head features stand for the full gradient? Measured on rollouts of any model, without training:

    python scripts/proxy_fidelity.py --model outputs/quickstart/warm
    python scripts/proxy_fidelity.py --model Qwen/Qwen3-0.6B-Base --data problems.jsonl --prompt_format paper
    python scripts/proxy_fidelity.py --model HuggingFaceTB/SmolLM2-135M-Instruct --task number_words

Without --data and --task the problems are the made task's sums. Prints a table and writes it to fidelity.md in the folder.
Rollout batches are kept in batches.jsonl as they are measured: after an interruption, run the command again.
"""

import argparse
from pathlib import Path

from delta_trl.research.language import LANGUAGE_TASKS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="folder or Hub id")
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--data", help="problems with the columns question and final_answer: file, folder or Hub id (default: sums)"
    )
    given.add_argument("--task", choices=[*LANGUAGE_TASKS], help="problems of real language instead")
    add("--prompt_format", help="as in training (default: the question and a new line; a task has its own)")
    add("--batches", type=int, default=4, help="rollout batches (default: %(default)s)")
    add("--prompts", type=int, default=32, help="prompts of a rollout batch (default: %(default)s)")
    add("--group", type=int, default=8, help="responses of a prompt (default: %(default)s)")
    add("--max_completion_length", type=int, help="tokens of a response (default: 200, or the task's)")
    add("--folds", type=int, default=8, help="of the cross-fitted coefficients (default: %(default)s)")
    add(
        "--bf16",
        action="store_true",
        help="gradients in bfloat16 (autocast), for a CPU that computes it fast, as with AMX",
    )
    add("--seed", type=int, default=0, help="of the rollouts (default: %(default)s)")
    add("--folder", type=Path, default=Path("outputs/proxy_fidelity"), help="where results go (default: %(default)s)")
    return parser.parse_args(arguments)


def main() -> None:
    args = vars(parse())
    from transformers import AutoTokenizer

    from delta_trl.commands import one_line_errors
    from delta_trl.research.fidelity import fidelity_table, measure_fidelity
    from delta_trl.research.sampling import problem_rows, task_rows

    model, folder, task, data, prompt_format = (
        args.pop(name) for name in ("model", "folder", "task", "data", "prompt_format")
    )
    with one_line_errors():
        if task is None:
            rows = problem_rows(data, prompt_format, AutoTokenizer.from_pretrained(model))
            longest = 200
        elif prompt_format is None:
            rows, longest = task_rows(task, args["seed"])
        else:
            raise ValueError(
                f"--prompt_format has no effect with --task {task}, which has its own. Leave one of them out."
            )
        args["max_completion_length"] = args["max_completion_length"] or longest
        text = fidelity_table(measure_fidelity(model, rows, folder, **args))
    (folder / "fidelity.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
