"""Made tasks small enough to learn on a laptop: sums and products of digits, written out step by step.

The quickstart, the tests and the studies use them. Problems come in DeepMath-103K's schema, so they take the same path as
real data. In `quickstart` and `ledger` the mistakes to unlearn are slips: greedy decoding of the warm model is right. The
ledger words every step anew, so that many tokens are uncertain and few of them decide, as in real reasoning. In
`precedence` the model prefers a wrong method: it works from left to right, so greedy decoding is wrong where the product
comes second.
"""

import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .code_task import TOKENS, code_problems, written_program


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

OPERANDS = 4
# How far off a wrong step is written: mistakes that look like a slip, so that a digit decides
SLIPS = (-10, -1, 1, 10)
# The ledger's wording. None has a digit, so that the digits of a solution are those of its sums and its box
LEDGER_STEPS = (
    "So we get {sum}. ",
    "Next, adding the number {operand} to {total} gives {sum}. ",
    "Then, step by step: {sum}. ",
    "We know that {sum}, fine. ",
    "Hence {sum}. ",
    "Continue with {sum}. ",
)
# The wording of `precedence`, which suits sums and products alike
PRECEDENCE_STEPS = (
    "So we get {step}. ",
    "Next, {step} here. ",
    "Then, step by step: {step}. ",
    "We know that {step}, fine. ",
    "Hence {step}. ",
    "Continue with {step}. ",
)
# How often the warm-up's solutions of `precedence` work from left to right, whatever the operators
LEFT_TO_RIGHT = 0.75
CLOSINGS = ("The answer is", "Therefore, the final answer is", "In total we have", "Thus")
CHARACTERS = "0123456789+-*/=.,:;?!()[]{}<>$^_'\"\\| \nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
BOX = "\\boxed{"


def arithmetic_problems(n_problems: int, seed: int = 0) -> list[dict]:
    """
    Draw distinct problems, in DeepMath-103K's schema: question, final_answer, difficulty, topic.

    Args:
        n_problems (`int`): How many, at most 9⁴ = 6561.
        seed (`int`): The same seed gives the same problems in the same order.

    Raises:
        `ValueError`: if more problems are asked for than there are.
    """
    everything = list(itertools.product(range(1, 10), repeat=OPERANDS))
    if n_problems > len(everything):
        raise ValueError(f"There are {len(everything)} distinct problems; {n_problems} were asked for.")
    return [
        {
            "question": "+".join(map(str, operands)) + "=?",
            "final_answer": str(sum(operands)),
            "difficulty": 1.0,
            "topic": "Mathematics -> Arithmetic -> Addition",
        }
        for operands in random.Random(seed).sample(everything, n_problems)
    ]


def written_solution(question: str, rng: random.Random, error_rate: float = 0.0) -> str:
    """
    Write the solution of one of `arithmetic_problems` step by step, each step wrong with probability `error_rate`.

    A wrong step is carried on, so that the boxed answer follows from what is written before it.
    """
    sums = _written_sums(question, rng, error_rate)
    steps = ", then ".join(f"{total}+{operand}={result}" for total, operand, result in sums)
    return f"so {steps}. The answer is ${BOX}{sums[-1][2]}}}$"


def written_ledger(question: str, rng: random.Random, error_rate: float = 0.0) -> str:
    """
    Write the same sums as `written_solution` in more words: about 100 characters, few of which decide.

    Each step takes one of six phrasings and the end one of four closings, at random.
    """
    sums = _written_sums(question, rng, error_rate)
    steps = [
        rng.choice(LEDGER_STEPS).format(total=total, operand=operand, sum=f"{total}+{operand}={result}")
        for total, operand, result in sums
    ]
    return f"{''.join(steps)}{rng.choice(CLOSINGS)} ${BOX}{sums[-1][2]}}}$"


def _written_sums(question: str, rng: random.Random, error_rate: float) -> list[tuple[int, int, int]]:
    """Total so far, operand and written result of every step."""
    total, *operands = map(int, question.removesuffix("=?").split("+"))
    sums = []
    for operand in operands:
        result = total + operand + (rng.choice(SLIPS) if rng.random() < error_rate else 0)
        sums.append((total, operand, result))
        total = result
    return sums


def precedence_problems(n_problems: int, seed: int = 0) -> list[dict]:
    """
    Draw distinct problems such as 3+5*2=?, in the schema of `arithmetic_problems`.

    In two thirds of them the product comes second, so that working from left to right is wrong; `difficulty` is 2 there
    and 1 elsewhere.

    Args:
        n_problems (`int`): How many, at most 1093.
        seed (`int`): The same seed gives the same problems in the same order.

    Raises:
        `ValueError`: if more problems are asked for than there are.
    """
    rng = random.Random(seed)
    digits = list(itertools.product(range(1, 10), repeat=3))
    everything = [(*numbers, "+", "*") for numbers in digits]
    everything += [(*numbers, "*", "+") for numbers in rng.sample(digits, len(digits) // 2)]
    if n_problems > len(everything):
        raise ValueError(f"There are {len(everything)} distinct problems; {n_problems} were asked for.")
    return [
        {
            "question": f"{a}{first}{b}{second}{c}=?",
            "final_answer": str(a + b * c if first == "+" else a * b + c),
            "difficulty": 2.0 if first == "+" else 1.0,
            "topic": "Mathematics -> Arithmetic -> Order of operations",
        }
        for a, b, c, first, second in rng.sample(everything, n_problems)
    ]


def written_precedence(
    question: str, rng: random.Random, error_rate: float = 0.0, left_to_right: float | None = None
) -> str:
    """
    Write the two steps of one of `precedence_problems`, each result wrong with probability `error_rate`.

    With probability `left_to_right` (`None`: `LEFT_TO_RIGHT` if there are errors at all, else 0) the first operation is
    done first even if it is the sum. Which operation comes first is the fork; all before it is wording.
    """
    a, first, b, second, c = question.removesuffix("=?")
    if left_to_right is None:
        left_to_right = LEFT_TO_RIGHT if error_rate > 0 else 0.0

    def step(x: str, operator: str, y: str) -> tuple[str, str]:
        true = int(x) + int(y) if operator == "+" else int(x) * int(y)
        result = str(true + (rng.choice(SLIPS) if rng.random() < error_rate else 0))
        return result, rng.choice(PRECEDENCE_STEPS).format(step=f"{x}{operator}{y}={result}")

    if first == "*" or rng.random() < left_to_right:
        result, one = step(a, first, b)
        result, two = step(result, second, c)
    else:
        result, one = step(b, second, c)
        result, two = step(a, first, result)
    return f"{one}{two}{rng.choice(CLOSINGS)} ${BOX}{result}}}$"


@dataclass(frozen=True)
class MadeTask:
    """
    Problems, and how the warm-up's flawed solutions of them are written.

    Attributes:
        problems (`Callable`): From a number of problems and a seed to problems in DeepMath-103K's schema.
        n_problems (`int`): How many there are.
        solution (`Callable`): From a question, a random generator and an error rate to a written solution.
        error_rate (`float`): Probability that a written step of the warm-up is wrong.
        warm_up_steps (`int`): Optimiser steps after which somewhat less than half of the sampled answers are right.
        tokens (`tuple[str, ...]`): Tokens of the model besides characters.
    """

    problems: Callable[[int, int], list[dict]]
    n_problems: int
    solution: Callable[[str, random.Random, float], str]
    error_rate: float
    warm_up_steps: int
    tokens: tuple[str, ...] = ()


TASKS = {
    "quickstart": MadeTask(arithmetic_problems, 6561, written_solution, error_rate=0.25, warm_up_steps=400),
    "ledger": MadeTask(arithmetic_problems, 6561, written_ledger, error_rate=0.25, warm_up_steps=600),
    "precedence": MadeTask(precedence_problems, 1093, written_precedence, error_rate=0.1, warm_up_steps=700),
    "code": MadeTask(code_problems, 17_576, written_program, error_rate=0.25, warm_up_steps=300, tokens=TOKENS),
}


def write_problems(problems: list[dict], held_out: int, folder: Path) -> list[str]:
    """Write the first `held_out` problems to test.jsonl and the others to train.jsonl; returns the questions of these."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("test", problems[:held_out]), ("train", problems[held_out:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["question"] for row in problems[held_out:]]


def character_tokenizer(tokens: tuple[str, ...] = ()) -> "PreTrainedTokenizerBase":
    r"""A tokenizer with one token a character, and one for `\boxed{` and each of `tokens`; about 100 in all."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", "<unk>", BOX, *CHARACTERS, *tokens]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join([*map(re.escape, (BOX, *tokens)), r"[\s\S]"])), "isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def tiny_qwen3(tokenizer: "PreTrainedTokenizerBase", seed: int = 0) -> "Qwen3ForCausalLM":
    """A Qwen3 with random weights and 0.4 million parameters, for `tokenizer`, in float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def warm_up(
    output_dir: str,
    questions: list[str],
    *,
    task: str = "quickstart",
    steps: int | None = None,
    error_rate: float | None = None,
    seed: int = 0,
) -> None:
    """
    Fine-tune a random [`tiny_qwen3`] on written solutions, and save it with its tokenizer to `output_dir`.

    The solutions contain mistakes, so the model learns the format but not to be right: something is left for
    reinforcement learning. On two CPU cores about a minute for the quickstart's task, and three for the others.

    Args:
        output_dir (`str`): Folder of the saved model.
        questions (`list[str]`): Of the task's problems; solutions are drawn anew for every sample.
        task (`str`): Which of `TASKS` writes the solutions.
        steps (`int`, *optional*): Optimiser steps of 64 samples; the task's own by default.
        error_rate (`float`, *optional*): Probability that a written step is wrong; the task's own by default.
        seed (`int`): Of weights, samples and their order.

    Raises:
        `ValueError`: for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}.")
    made = TASKS[task]
    steps = made.warm_up_steps if steps is None else steps
    error_rate = made.error_rate if error_rate is None else error_rate
    from .fine_tuning import fine_tune

    rng = random.Random(seed)
    batch = 64
    drawn = [rng.choice(questions) for _ in range(steps * batch)]
    tokenizer = character_tokenizer(made.tokens)
    fine_tune(
        tiny_qwen3(tokenizer, seed),
        [{"prompt": f"{question}\n", "completion": made.solution(question, rng, error_rate)} for question in drawn],
        output_dir,
        batch=batch,
        tokenizer=tokenizer,
        learning_rate=2e-3,
        warmup_steps=steps // 10,
        logging_steps=steps // 4,
        seed=seed,
    )
