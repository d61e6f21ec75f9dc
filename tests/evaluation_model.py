"""A tiny model that can do something, trained on the spot: it adds two digits, and is often wrong when sampled."""

import atexit
import functools
import random
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from delta_trl.research.tasks import BOX, character_tokenizer


def question(a: int, b: int) -> str:
    return f"{a}+{b}=?\n"


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int = 48) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=hidden // 2, max_position_embeddings=1024,
        tie_word_embeddings=False, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


@functools.cache
def trained_folder() -> Path:
    """Folder of the trained model and its tokenizer, made once a process and deleted at its end."""
    folder = Path(tempfile.mkdtemp(prefix="delta_trl_model_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = character_tokenizer()
    train(make_model(tokenizer), tokenizer, folder)
    return folder


def train(model: Qwen3ForCausalLM, tokenizer, folder: Path, words: str = "It is", steps: int = 200) -> None:
    """Teaches a model to answer `words $\\boxed{sum}$.`, and saves it with its tokenizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rng = random.Random(0)
    for _ in range(steps):
        rows, starts = [], []
        for _ in range(48):
            a, b = rng.randint(1, 9), rng.randint(1, 9)
            prompt = tokenizer(question(a, b))["input_ids"]
            rows.append(prompt + tokenizer(f"{words} ${BOX}{a + b}}}$.")["input_ids"] + [tokenizer.eos_token_id])
            starts.append(len(prompt))
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        labels = torch.tensor(
            [
                [-100] * start + row[start:] + [-100] * (width - len(row))
                for row, start in zip(rows, starts, strict=True)
            ]
        )
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
