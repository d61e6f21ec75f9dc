r"""A tiny Qwen3 whose weights are written down: it adds two numbers, and is often wrong when sampled.

Nothing is trained, so the model says the same on every machine, and how likely each answer is follows from a formula. To
`3+4=?` it answers `Sum: \boxed{7}.`. Every token but the sum is certain: each is the only successor of the one before it.
The sum is 7 + k with a probability proportional to exp(-SHARPNESS · k²).

How it works, with one layer and no MLP: the embeddings are one-hot, and the LM head writes each token's successor. The
attention sees numbers and plus signs only, all alike, and averages two values over them: how far a number is above
`MIDDLE` with one `MIDDLE` taken off for each plus sign, and whether it is a plus sign. With `n` tokens seen, one of them a
plus sign, that gives (S - MIDDLE) / n for the sum S, and 1 / n. The LM head makes 2 · s · (S - MIDDLE) - s² of them for the
number MIDDLE + s, which is largest at S. Padding would be seen too and spoil the sum, if it were not masked.
"""

import atexit
import functools
import itertools
import math
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from delta_trl.research.tasks import BOX, character_tokenizer


NUMBERS = [str(number) for number in range(20)]
OPENING = f"Sum: {BOX}"
CLOSING = "}."
MIDDLE = 10  # of the sums: logits stay small around it
SHARPNESS = 1.2  # the right sum has 0.62 and its neighbours 0.19 each; greedily it leads by 1.2 nats
CERTAIN = 1000.0  # logit of the only successor, far above any number's
CONSTANT = 30.0  # in every embedding: beside it, what attention adds hardly moves the norm of a hidden state
HIDDEN, HEAD = 128, 32  # vLLM on CPUs takes heads of 32


def question(a: int, b: int) -> str:
    return f"{a}+{b}=?\n"


def answer(total: int | str) -> str:
    return f"{OPENING}{total}{CLOSING}"


def adding_tokenizer() -> PreTrainedTokenizerBase:
    """The character tokenizer, and one token each for 10 to 19, which makes every sum one token."""
    return character_tokenizer(tuple(NUMBERS[10:]))


def random_model(tokenizer: PreTrainedTokenizerBase, **options) -> Qwen3ForCausalLM:
    """The same shape with random weights: it knows nothing."""
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=HIDDEN, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=HEAD, max_position_embeddings=1024,
        tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, **options,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config)


@torch.no_grad()
def adding_model(tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """The model that the module describes, for `adding_tokenizer`."""
    # With this base a position turns the last of the rotary dimensions by less than 1e-8: attention knows contents only
    model = random_model(tokenizer, rope_parameters={"rope_type": "default", "rope_theta": 1e9})
    for parameter in model.parameters():
        parameter.zero_()
    token = tokenizer.convert_tokens_to_ids
    size = len(tokenizer)
    constant, total, plus_signs = range(size, size + 3)  # dimensions beside those of the tokens
    assert plus_signs < HIDDEN
    norm = math.sqrt((1 + CONSTANT**2) / HIDDEN)  # of every embedding, which the norms' weights take back
    layer, attention = model.model.layers[0], model.model.layers[0].self_attn
    model.model.embed_tokens.weight[:, :size] = torch.eye(size)
    model.model.embed_tokens.weight[:, constant] = CONSTANT
    layer.input_layernorm.weight.fill_(norm)
    layer.post_attention_layernorm.weight.fill_(norm)
    model.model.norm.weight.fill_(norm)

    # A number or a plus sign has the key +1 and everything else -1, in a dimension that hardly turns; the query is +1.
    # The norms make √HEAD of 1; their weights bring the scores to 20 and -20.
    hardly_turns = HEAD - 1
    seen = [token(number) for number in NUMBERS] + [token("+"), tokenizer.pad_token_id, tokenizer.eos_token_id]
    attention.q_proj.weight[hardly_turns, constant] = 1 / CONSTANT
    attention.k_proj.weight[hardly_turns, constant] = -1 / CONSTANT
    attention.k_proj.weight[hardly_turns, seen] = 2.0
    for norm_of in (attention.q_norm, attention.k_norm):
        norm_of.weight.fill_(math.sqrt(20 / math.sqrt(HEAD)))
    attention.v_proj.weight[0, [token(number) for number in NUMBERS]] = torch.arange(20.0)
    attention.v_proj.weight[0, token("+")] = -MIDDLE
    attention.v_proj.weight[1, token("+")] = 1.0
    attention.v_proj.weight[0, [tokenizer.pad_token_id, tokenizer.eos_token_id]] = 5.0
    attention.o_proj.weight[total, 0] = attention.o_proj.weight[plus_signs, 1] = 1.0

    head = model.lm_head.weight
    head[token("S"), :size] = CERTAIN  # after anything that is not part of an answer, one begins
    answered = [*tokenizer.tokenize(answer(0)), tokenizer.eos_token]
    for one, other in itertools.pairwise(answered):
        for before in NUMBERS if one == "0" else [one]:
            head[token("S"), token(before)] = 0.0
            for after in NUMBERS if other == "0" else [other]:
                head[token(after), token(before)] = CERTAIN
    for number in NUMBERS:
        distance = int(number) - MIDDLE
        head[token(number), total] = 3 * SHARPNESS * 2 * distance  # 3 tokens are seen in `3+4=?`
        head[token(number), plus_signs] = -3 * SHARPNESS * distance**2
    return model


@functools.cache
def adding_folder() -> Path:
    """Folder of the model and its tokenizer, made once a process and deleted at its end."""
    folder = Path(tempfile.mkdtemp(prefix="delta_trl_model_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer = adding_tokenizer()
    adding_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert_wide_margins(AutoModelForCausalLM.from_pretrained(folder), tokenizer)
    return folder


@torch.no_grad()
def assert_wide_margins(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """To every question the model gives the sum greedily, with these probabilities. Rounding is 1,000 times smaller."""
    for a in range(1, 10):
        for b in range(1, 10):
            prompt, text = tokenizer(question(a, b))["input_ids"], tokenizer(answer(a + b))["input_ids"]
            text.append(tokenizer.eos_token_id)
            log_probs = model(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            place = text.index(tokenizer.convert_tokens_to_ids(str(a + b)))
            for step, (token, row) in enumerate(zip(text, log_probs, strict=True)):
                first, second = row.topk(2).values.tolist()
                least = 1.0 if step == place else 20.0
                where = f"{question(a, b)!r}, token {step} of {answer(a + b)!r}"
                assert row.argmax() == token, f"{where}: another one is likelier"
                assert first - second > least, f"{where} leads by {first - second:.2f} nats, not {least}"
            weights = torch.tensor([math.exp(-SHARPNESS * (int(number) - a - b) ** 2) for number in NUMBERS])
            shares = log_probs[place, tokenizer.convert_tokens_to_ids(NUMBERS)].exp()
            assert torch.allclose(shares, weights / weights.sum(), atol=0.02), f"{question(a, b)!r}: {shares}"
