# /// script
# requires-python = ">=3.11"
# dependencies = ["delta_trl[report]>=0.2.0"]
#
# [tool.uv.sources]
# delta_trl = { path = "../..", editable = true }
# ///
"""DelTA on DeepMath-103K with Qwen3-0.6B-Base, on one GPU.

    uv run scripts/examples/delta_math_gpu.py                       # in a checkout
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN --env UV_NO_SOURCES=1 scripts/examples/delta_math_gpu.py --push

UV_NO_SOURCES takes delta_trl from the package index instead of the checkout. --push sends the model and its report to
your account.

Cost: 100 steps of 64 completions, at most 1,024 tokens each, so up to 6.6 million tokens. It is planned for 24 GB of GPU
memory. Neither time nor memory was measured on a GPU: try `--steps 2` first, whose
progress line tells the time of a step. The model and the data are 1.5 GB of downloads.
"""

import argparse

from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer, ReadableProgressCallback
from delta_trl.data import load_math_dataset
from delta_trl.report import write_report
from delta_trl.rewards import math_reward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="updates (default: %(default)s)")
    parser.add_argument("--push", action="store_true", help="push the model and its report to the Hub")
    arguments = parser.parse_args()

    # Columns `prompt`, in the paper's format for base models, and `solution`; answers that cannot be checked are left out
    data = load_math_dataset("zwhe99/DeepMath-103K", max_difficulty=4)
    args = DeltaGRPOConfig(
        "outputs/examples/delta_math_gpu",
        max_steps=arguments.steps,
        learning_rate=1e-6,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=8,  # 64 completions an update: 8 prompts, 8 completions each
        num_generations=8,
        max_completion_length=1024,
        model_init_kwargs={"dtype": "bfloat16"},
        log_completions=True,  # with the coefficient of every token, for the report
        num_completions_to_print=0,
        logging_steps=1,
        report_to="none",
        push_to_hub=arguments.push,
    )
    trainer = DeltaGRPOTrainer(
        model="Qwen/Qwen3-0.6B-Base",
        reward_funcs=math_reward,
        args=args,
        train_dataset=data.train,
        callbacks=[ReadableProgressCallback()],
    )
    trainer.train()
    trainer.save_model()
    print(f"Report: {write_report([args.output_dir])}")
    if arguments.push:
        trainer.push_to_hub()


if __name__ == "__main__":
    main()
