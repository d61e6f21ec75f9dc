#!/usr/bin/env python
"""How steady are coefficients on the same rollouts, when rewards are wrong or missing, batches small, responses padded?

    python scripts/stability.py --model outputs/quickstart/warm
    python scripts/stability.py --model HuggingFaceTB/SmolLM2-135M-Instruct --task number_words

Nothing is trained. Responses to the made tasks' sums, or to problems of real language, are sampled once; then rewards are
flipped or taken away, rollout batches made smaller, and wording added or left out. Prints a table, writes it to stability.md
in the folder and draws stability.png. Levels are kept in levels.jsonl as they are measured: after an interruption, run the
command again.
"""

import argparse
from pathlib import Path

from delta_trl.research.language import LANGUAGE_TASKS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--model",
        required=True,
        help="folder of a warmed-up model with one token a character; with --task of any chat model",
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--data", help="problems with the columns question and final_answer (default: sums)")
    given.add_argument("--task", choices=[*LANGUAGE_TASKS], help="problems of real language instead")
    add("--responses", type=int, default=2048, help="responses in all (default: %(default)s)")
    add("--batch_size", type=int, default=256, help="responses of a rollout batch (default: %(default)s)")
    add("--group", type=int, default=8, help="responses of a prompt (default: %(default)s)")
    add("--max_completion_length", type=int, help="tokens of a response (default: 200, or the task's)")
    add("--seed", type=int, default=0, help="of rollouts and disturbances (default: %(default)s)")
    add("--folder", type=Path, default=Path("outputs/stability"), help="where results go (default: %(default)s)")
    add("--kinds", nargs="+", help="only these: flipped, kept, responses, formatting (default: all)")
    add("--of", nargs="+", help="only these features, and hashed_agreement (default: all)")
    return parser.parse_args(arguments)


def main() -> None:
    args = vars(parse())
    from delta_trl.commands import one_line_errors
    from delta_trl.research.sampling import problem_rows, task_rows
    from delta_trl.research.stability import measure_stability
    from delta_trl.research.stability_report import draw_stability, stability_rows, stability_table

    model, folder, task, data = (args.pop(name) for name in ("model", "folder", "task", "data"))
    with one_line_errors():
        problems, longest = (problem_rows(data), 200) if task is None else task_rows(task, args["seed"])
        args["max_completion_length"] = args["max_completion_length"] or longest
        rows = stability_rows(measure_stability(model, problems, folder, **args))
    text = stability_table(rows)
    (folder / "stability.md").write_text(text + "\n")
    print(text)
    print(
        f"\nAlso in {folder / 'stability.md'}; picture: {draw_stability(rows, folder / 'stability.png', folder.name)}"
    )


if __name__ == "__main__":
    main()
