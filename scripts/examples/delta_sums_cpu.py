# /// script
# requires-python = ">=3.11"
# dependencies = ["delta_trl[report]>=0.2.0"]
#
# [tool.uv.sources]
# delta_trl = { path = "../..", editable = true }
# ///
"""DelTA on made sums with a model of 0.4 M parameters, on a laptop's CPU, offline.

    uv run scripts/examples/delta_sums_cpu.py              # in a checkout
    hf jobs uv run --env UV_NO_SOURCES=1 scripts/examples/delta_sums_cpu.py

UV_NO_SOURCES takes delta_trl from the package index instead of the checkout.

Cost: about 2 minutes of processor time (reckoned from shorter runs with one thread) and 1 GB of memory, once the packages
are installed; nothing else is downloaded.
"""

import argparse

from datasets import disable_progress_bars

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer, ReadableProgressCallback
from delta_trl.data import load_math_dataset
from delta_trl.report import write_report
from delta_trl.research.tasks import arithmetic_problems, warm_up
from delta_trl.rewards import math_reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm_up_steps", type=int, default=150, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=30, help="updates (default: %(default)s)")
    parser.add_argument("--output_dir", default="outputs/examples/delta_sums_cpu", help="default: %(default)s")
    arguments = parser.parse_args()

    disable_progress_bars()
    problems = arithmetic_problems(2000)  # such as 3+5+9+2=?, in DeepMath's schema
    warm = f"{arguments.output_dir}/warm"
    # On written solutions, a quarter of whose steps are wrong
    warm_up(warm, [problem["question"] for problem in problems], steps=arguments.warm_up_steps)
    data = load_math_dataset(problems, prompt_format="{question}\n")
    args = DeltaGRPOConfig(
        arguments.output_dir,
        max_steps=arguments.steps,
        learning_rate=1e-4,
        per_device_train_batch_size=128,  # 16 prompts, 8 completions each
        gradient_accumulation_steps=1,
        num_generations=8,
        max_completion_length=80,
        use_cpu=True,
        bf16=False,
        log_completions=True,  # with the coefficient of every token, for the report
        num_completions_to_print=0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = DeltaGRPOTrainer(
        model=warm,
        reward_funcs=math_reward,
        args=args,
        train_dataset=data.train,
        callbacks=[ReadableProgressCallback()],
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    print(f"Right: {rewards[0]:.0%} of the first rollout batch, {rewards[-1]:.0%} of the last.")
    print(f"Report: {write_report([args.output_dir])}")


if __name__ == "__main__":
    main()
