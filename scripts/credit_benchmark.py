#!/usr/bin/env python
"""Does a method give more weight to the tokens that decide? Scored on rollout batches that all methods share, no training.

    python scripts/credit_benchmark.py
    python scripts/credit_benchmark.py --task precedence
    python scripts/credit_benchmark.py --methods output_row hidden_gradient random --batches 20
    python scripts/credit_benchmark.py --task larger --model HuggingFaceTB/SmolLM2-135M-Instruct --methods output_row mirror

Prints tables, writes them to credit.md in the folder, and draws credit.png. Rollout batches are kept in batches.jsonl as
they are scored: after an interruption, run the command again.
"""

import argparse
import os
from pathlib import Path

from delta_trl.research.language import LANGUAGE_TASKS


# Problems that the warm-up does not see
HELD_OUT = {"ledger": 256, "precedence": 300}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--task", choices=[*HELD_OUT, *LANGUAGE_TASKS], default="ledger", help="default: %(default)s")
    add(
        "--model",
        help="folder of a model warmed up on the task (default: made in the folder's model/); for "
        f"{', '.join(LANGUAGE_TASKS)} the folder or Hub id of a pretrained one",
    )
    add("--batches", type=int, default=10, help="rollout batches (default: %(default)s)")
    add("--methods", nargs="+", metavar="NAME", help="methods (default: all)")
    add("--prompts", type=int, default=32, help="prompts of a rollout batch (default: %(default)s)")
    add("--group", type=int, default=8, help="responses of a prompt (default: %(default)s)")
    add("--seed", type=int, default=0, help="of problems, rollouts and a model made here (default: %(default)s)")
    add("--folder", type=Path, help="where results go (default: outputs/credit/TASK)")
    add("--json", type=Path, help="write every figure there as well")
    args = parser.parse_args(arguments)
    args.folder = args.folder or Path("outputs/credit") / args.task
    return args


def main() -> None:
    args = parse()
    if args.task in HELD_OUT:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    from delta_trl.commands import one_line_errors
    from delta_trl.research.credit.methods import choose_methods
    from delta_trl.research.credit.run import score_methods
    from delta_trl.research.credit.scores import write_scores
    from delta_trl.research.tasks import TASKS, warm_up

    with one_line_errors():
        methods = choose_methods(args.methods)
        model = args.model
        if args.task in LANGUAGE_TASKS:
            if model is None:
                raise ValueError(
                    f"The task {args.task} takes a pretrained model: name its folder or Hub id with --model, such as "
                    "HuggingFaceTB/SmolLM2-135M-Instruct."
                )
        elif model is None:
            model = args.folder / "model"
            if not (model / "config.json").exists():
                print(f"Warming up a random 0.4 M parameter Qwen3 on flawed solutions, for {model} (minutes) ...")
                made = TASKS[args.task]
                problems = made.problems(made.n_problems, 0)[HELD_OUT[args.task] :]
                warm_up(str(model), [row["question"] for row in problems], task=args.task, seed=args.seed)
        elif not (Path(model) / "config.json").exists():
            raise ValueError(f"There is no model in {model}. Without --model one is made.")
        records = score_methods(
            model,
            args.folder,
            *methods,
            task=args.task,
            batches=args.batches,
            prompts=args.prompts,
            group=args.group,
            seed=args.seed,
        )
        print(write_scores(records, args.folder, args.json))
    print(f"\nAlso in {args.folder / 'credit.md'}; picture: {args.folder / 'credit.png'}")


if __name__ == "__main__":
    main()
