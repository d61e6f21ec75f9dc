# /// script
# requires-python = ">=3.11"
# dependencies = ["delta_trl>=0.2.0"]
#
# [tool.uv.sources]
# delta_trl = { path = "../..", editable = true }
# ///
"""`math_reward` and `code_reward` in TRL's own GRPOTrainer: problems with an answer and problems with tests in one dataset.

    uv run scripts/examples/rewards_in_trl.py              # in a checkout, on Linux
    hf jobs uv run --env UV_NO_SOURCES=1 scripts/examples/rewards_in_trl.py

UV_NO_SOURCES takes delta_trl from the package index instead of the checkout. The model is random and tiny, and learns
nothing: put your own in its place. `code_reward` runs programs in a sandbox, which needs Linux; elsewhere leave it out.

Cost: about 20 seconds of processor time, once the packages are installed; nothing else is downloaded.
"""

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from delta_trl.research.tasks import character_tokenizer, tiny_qwen3
from delta_trl.rewards import code_reward, explain, math_reward


# A reward is None, which TRL leaves out, for a row that lacks its column
MATHS = {"prompt": "What is one half of 3? Put the answer in a box.\n", "solution": "\\frac{3}{2}", "tests": None}
CODE = {
    "prompt": "Write a function double(x) in a fenced block.\n",
    "solution": None,
    "tests": {"fn_name": "double", "inputs": [[2], [-1]], "outputs": [4, -2]},
}


def main() -> None:
    right = ["It is \\boxed{1.5}.", "```python\ndef double(x):\n    return 2 * x\n```"]
    print("math_reward:", math_reward(completions=right, solution=[MATHS["solution"], CODE["solution"]]))
    print("code_reward:", code_reward(completions=right, tests=[MATHS["tests"], CODE["tests"]]))
    print(explain("\\frac{3}{2}", "1.4"))

    tokenizer = character_tokenizer()
    args = GRPOConfig(
        "outputs/examples/rewards_in_trl",
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=16,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = GRPOTrainer(
        model=tiny_qwen3(tokenizer),
        reward_funcs=[math_reward, code_reward],
        args=args,
        train_dataset=Dataset.from_list([MATHS, CODE] * 4),
        processing_class=tokenizer,
    )
    trainer.train()


if __name__ == "__main__":
    main()
