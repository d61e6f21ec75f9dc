"""What works on macOS and Windows, where nothing but the installed wheel is at hand: python tests/support/other_systems.py

Every module is imported, coefficients are computed, answers that are numbers are graded, and `code_reward` refuses with its
sentence. On Linux, where the tests run it, `code_reward` grades.
"""

import importlib
import pkgutil
import sys

import torch

import delta_trl
from delta_trl import delta_coefficients
from delta_trl.rewards import code_reward, math_reward
from delta_trl.sandbox import SandboxUnavailable


# What runs in processes of its own, which are not started on Windows
INSIDE_WORKERS = ("delta_trl.sandbox.inside", "delta_trl.rewards.worker", "delta_trl.rewards.gym_job")


def main() -> None:
    for name in delta_trl.__all__:
        getattr(delta_trl, name)
    names = [module.name for module in pkgutil.walk_packages(delta_trl.__path__, "delta_trl.")]
    names = [name for name in names if not name.startswith(INSIDE_WORKERS)]
    for name in names:
        importlib.import_module(name)
    print(len(names), "modules")

    features, advantages = torch.eye(4), torch.tensor([1.0, 1.0, -1.0, -1.0])
    coefficients = delta_coefficients(features, advantages).values
    assert coefficients.shape == (4,), coefficients
    assert abs(coefficients.mean() - 1) < 1e-6, coefficients
    print("coefficients", coefficients.tolist())

    answers = [r"It is $\boxed{1.5}$.", r"It is $\boxed{1.4}$.", "It is 1.5."]
    rewards = math_reward(completions=answers, solution=[r"\frac{3}{2}"] * 3)
    assert rewards == [1.0, 0.0, 0.0], rewards
    print("math_reward", rewards)

    program = "```python\ndef double(x):\n    return 2 * x\n```"
    tests = {"fn_name": "double", "inputs": [[2]], "outputs": [4]}
    refusal = ""
    try:
        rewards = code_reward(completions=[program], tests=[tests])
    except SandboxUnavailable as error:
        rewards, refusal = None, str(error)
    if sys.platform == "linux":
        assert rewards == [1.0], rewards
        print("code_reward", rewards)
    else:
        assert rewards is None, "a program ran without a sandbox"
        assert "Programs can only be isolated on Linux" in refusal, refusal
        print("code_reward refuses:", refusal)


if __name__ == "__main__":
    main()
