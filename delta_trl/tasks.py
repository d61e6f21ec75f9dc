"""A made task small enough to learn on a laptop: sums of four digits, written out step by step.

The quickstart, the tests and the studies use it. Problems come in DeepMath-103K's schema, so they take the same path as
real data.
"""

import itertools
import random
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

OPERANDS = 4
# How far off a wrong step is written: mistakes that look like a slip, so that a digit decides
SLIPS = (-10, -1, 1, 10)
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
    first, *others = map(int, question.removesuffix("=?").split("+"))
    steps, total = [], first
    for operand in others:
        result = total + operand + (rng.choice(SLIPS) if rng.random() < error_rate else 0)
        steps.append(f"{total}+{operand}={result}")
        total = result
    return f"so {', then '.join(steps)}. The answer is ${BOX}{total}}}$"


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
