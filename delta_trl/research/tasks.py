"""A made task small enough to learn on a laptop: sums of four digits, written out step by step.

The quickstart, the tests and the studies use it. Problems come in DeepMath-103K's schema, so they take the same path as
real data. There are two ways to write the same sums, `TASKS`: the quickstart's has one wording; the ledger's words every
step anew, so that many tokens are uncertain and few of them decide, as in real reasoning.
"""

import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING


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
LEDGER_CLOSINGS = ("The answer is", "Therefore, the final answer is", "In total we have", "Thus")
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
    return f"{''.join(steps)}{rng.choice(LEDGER_CLOSINGS)} ${BOX}{sums[-1][2]}}}$"


def _written_sums(question: str, rng: random.Random, error_rate: float) -> list[tuple[int, int, int]]:
    """Total so far, operand and written result of every step."""
    total, *operands = map(int, question.removesuffix("=?").split("+"))
    sums = []
    for operand in operands:
        result = total + operand + (rng.choice(SLIPS) if rng.random() < error_rate else 0)
        sums.append((total, operand, result))
        total = result
    return sums


TASKS: dict[str, Callable[[str, random.Random, float], str]] = {
    "quickstart": written_solution,
    "ledger": written_ledger,
}
# Optimiser steps after which somewhat less than half of the sampled answers are right
WARM_UP_STEPS = {"quickstart": 400, "ledger": 600}


def character_tokenizer() -> "PreTrainedTokenizerBase":
    r"""A tokenizer with one token a character, and one for `\boxed{`; about 100 in all."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<eos>", "<unk>", BOX, *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed\{|[\s\S]"), "isolated")
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
    error_rate: float = 0.25,
    seed: int = 0,
) -> None:
    """
    Fine-tune a random [`tiny_qwen3`] on written solutions, and save it with its tokenizer to `output_dir`.

    The solutions contain mistakes, so the model learns the format but not to be right: something is left for
    reinforcement learning. On two CPU cores about a minute for the quickstart's task, and three for the ledger's.

    Args:
        output_dir (`str`): Folder of the saved model.
        questions (`list[str]`): Of `arithmetic_problems`; solutions are drawn anew for every sample.
        task (`str`): Which of `TASKS` writes the solutions.
        steps (`int`, *optional*): Optimiser steps of 64 samples; `WARM_UP_STEPS` of the task by default.
        error_rate (`float`): Probability that a written step is wrong.
        seed (`int`): Of weights, samples and their order.

    Raises:
        `ValueError`: for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}.")
    steps = WARM_UP_STEPS[task] if steps is None else steps
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rng = random.Random(seed)
    batch = 64
    drawn = [rng.choice(questions) for _ in range(steps * batch)]
    samples = [{"prompt": f"{question}\n", "completion": TASKS[task](question, rng, error_rate)} for question in drawn]
    tokenizer = character_tokenizer()
    trainer = SFTTrainer(
        model=tiny_qwen3(tokenizer, seed),
        args=SFTConfig(
            output_dir=output_dir,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=steps // 10,
            bf16=False,
            activation_checkpointing=False,
            logging_steps=steps // 4,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=seed,
        ),
        train_dataset=Dataset.from_list(samples),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(output_dir)
