"""Sampling completions: what is asked of a back-end, what it returns, and the transformers back-end.

Every sample has a seed of its own, made from its benchmark, problem and index. It does not depend on which samples are
drawn beside it, so an interrupted run that is resumed, another batch size or another number of processes asks for the
same samples. What is guaranteed: the same seed gives the same random numbers. What is not: the same text on other
hardware, other library versions or another back-end, since the probabilities that the numbers are compared with are
then rounded differently. That happens, rarely, between batches of different shape too.
"""

import hashlib
import json
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..data import INSTRUCTION, PromptFormat
from .models import ModelSource
from .options import Decoding


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One sample to draw: whose it is, its seed, and its prompt as text and as token ids."""

    benchmark: str
    problem: str
    index: int
    seed: int
    prompt: str
    prompt_ids: tuple[int, ...]
    solution: str
    grader: str = "math"  # one of `graders.GRADERS`


@dataclass(frozen=True)
class Completion:
    """One sample drawn.

    Args:
        text: Without special tokens, and without the stop string if one ended it.
        tokens: Number of tokens sampled, the end-of-sequence token or stop string included.
        truncated: True if it hit the token limit.
        seconds: From its first to its last token, or None where the back-end does not know.
        reported: What else a server said about it, for the record.
    """

    text: str
    tokens: int
    truncated: bool
    seconds: float | None
    reported: dict[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Draws samples, and yields them as they finish, in any order. Without a tokenizer it takes messages as prompts."""

    name: str
    tokenizer: PreTrainedTokenizerBase | None

    def generate(
        self, requests: Sequence[Request], decoding: Decoding
    ) -> Iterator[list[tuple[Request, Completion]]]: ...


def sample_seed(seed: int, benchmark: str, problem: str, index: int) -> int:
    """The seed of one sample, in [0, 2^31): what every random generator takes."""
    digest = hashlib.sha256(repr((seed, benchmark, problem, index)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def encode_prompt(
    question: str, decoding: Decoding, tokenizer: PreTrainedTokenizerBase | None, instruction: str = INSTRUCTION
) -> tuple[str, list[int]]:
    """The prompt as text and as token ids, made as TRL makes them in training; `instruction` may be empty.

    Without a tokenizer, for those who render and tokenize it themselves, it is JSON, and there are no ids.
    """
    prompt_format = replace(decoding.format, instruction=instruction)
    prompt = prompt_format.render(question, instruct=bool(instruction))
    if tokenizer is None:
        return json.dumps(prompt, ensure_ascii=False), []
    if isinstance(prompt, str):
        return prompt, tokenizer(prompt)["input_ids"]
    prompt_format.check(tokenizer)
    text: Any = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return text, tokenizer(text, add_special_tokens=False)["input_ids"]


def within_context(requests: Sequence[Request], context: int | None, max_tokens: int) -> list[Request]:
    """Drops the requests whose prompt leaves no room for a single token, with a warning: they will count as wrong.

    There is also a warning where completions end at the context's end, before they have `max_tokens`.
    """
    if context is None:
        return list(requests)
    fitting = [request for request in requests if len(request.prompt_ids) < context]
    for problem in sorted({(r.benchmark, r.problem) for r in requests} - {(r.benchmark, r.problem) for r in fitting}):
        logger.warning(f"The prompt of {problem} fills the model's {context} positions. It counts as wrong.")
    room = context - max((len(request.prompt_ids) for request in fitting), default=0)
    if fitting and room < max_tokens:
        logger.warning(
            f"max_tokens is {max_tokens}, but the model's context of {context} positions has room for {room} tokens after "
            "the longest prompt. Completions that reach its end are cut off there, and count as truncated."
        )
    return fitting


class SeededSampler(LogitsProcessor):
    """Samples a batch with one stream of random numbers a row, so that a row does not depend on its neighbours.

    Drawing from the distribution's inverse takes one uniform number a token. The scores come back with only the drawn
    token possible, so that greedy search takes it.

    Args:
        seeds: (B,) one a row.
        steps: Most tokens that will be drawn.
        decoding: Temperature, top-p and top-k, applied in transformers' order.
    """

    def __init__(self, seeds: Sequence[int], steps: int, decoding: Decoding):
        # Drawn on the CPU, where the numbers are the same on every machine.
        self.uniforms = torch.stack(
            [torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
        )
        self.greedy = decoding.temperature == 0
        self.warpers = LogitsProcessorList()
        if not self.greedy and decoding.temperature != 1:
            self.warpers.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_k:
            self.warpers.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1:
            self.warpers.append(TopPLogitsWarper(decoding.top_p))
        self.times: list[float] = []  # when each step was drawn

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, t) tokens so far and (B, V) logits to (B, V) scores: 0 at the drawn token, -inf elsewhere."""
        step = len(self.times)
        self.times.append(time.perf_counter())
        if self.greedy:
            return scores
        # float64: at float32 the sum over 150,000 entries would be off by more than the rarest tokens' shares.
        cumulative = self.warpers(input_ids, scores).double().softmax(dim=-1).cumsum(dim=-1)
        threshold = self.uniforms[:, step : step + 1].to(scores.device) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, threshold, right=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


class TransformersBackend:
    """Generates with transformers, in batches of prompts of similar length.

    Args:
        model: In any state; it is put into evaluation mode while it generates.
        tokenizer: Its tokenizer, with an end-of-sequence token.
        batch_size: Completions at a time.
    """

    name = "transformers"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64):
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, got {batch_size}.")
        # transformers has `generate` in a class of its own, which a model's type does not name
        self.model: Any = model
        self.tokenizer, self.batch_size = tokenizer, batch_size

    @classmethod
    def load(
        cls, source: ModelSource, dtype: str = "auto", device: str | torch.device = "cpu", batch_size: int = 64
    ) -> "TransformersBackend":
        """Loads a model, or a base model with its LoRA adapter.

        Args:
            source: From `find_model`.
            dtype: "auto" for what the weights were saved in, or torch's name of one.
            device: Where it runs.
            batch_size: Completions at a time.
        """
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoModelForCausalLM

        # Not merged: merging rounds the sum of base and adapter to the base's precision.
        auto = AutoModelForCausalLM if source.base is None else AutoPeftModelForCausalLM
        revision = {"revision": source.revision} if source.on_hub and source.revision else {}
        try:
            model = auto.from_pretrained(source.path, dtype=dtype, **revision)
        except OSError as error:
            raise ValueError(f"The model {source.path!r} cannot be loaded: {' '.join(str(error).split())}") from error
        return cls(model.to(device), load_tokenizer(source), batch_size)

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[list[tuple[Request, Completion]]]:
        """Yields a batch at a time, longest prompts first: if memory does not suffice, it fails at once."""
        context = getattr(self.model.config, "max_position_embeddings", None)
        ordered = sorted(
            within_context(requests, context, decoding.max_tokens), key=lambda request: -len(request.prompt_ids)
        )
        stop_ids = _stop_ids(self.model, self.tokenizer, decoding.format)
        with _generation_mode(self.model):
            for start in range(0, len(ordered), self.batch_size):
                batch = ordered[start : start + self.batch_size]
                yield list(zip(batch, self._generate_batch(batch, decoding, stop_ids, context), strict=True))

    def _generate_batch(
        self, batch: Sequence[Request], decoding: Decoding, stop_ids: list[int], context: int | None
    ) -> list[Completion]:
        room = [
            decoding.max_tokens if context is None else min(decoding.max_tokens, context - len(request.prompt_ids))
            for request in batch
        ]
        stop_strings = decoding.format.stop_strings
        pad_id = stop_ids[0]
        width = max(len(request.prompt_ids) for request in batch)
        ids = torch.full((len(batch), width), pad_id)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
        sampler = SeededSampler([request.seed for request in batch], max(room), decoding)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=max(room), eos_token_id=stop_ids, pad_token_id=pad_id
        )
        began = time.perf_counter()
        with torch.no_grad():
            output = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([sampler]),
                **({"stop_strings": stop_strings, "tokenizer": self.tokenizer} if stop_strings else {}),
            )
        completions = []
        for tokens, limit in zip(output[:, width:].tolist(), room, strict=True):
            tokens = tokens[:limit]
            end = next((place for place, token in enumerate(tokens) if token in stop_ids), None)
            text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            cut = min((place for stop in stop_strings if (place := text.find(stop)) >= 0), default=None)
            if cut is not None:
                count = len(tokens[:end])  # what follows a stop string is padding
            else:
                count = len(tokens) if end is None else end + 1
            seconds = sampler.times[count - 1] - began
            completions.append(Completion(text[:cut], count, end is None and cut is None, seconds))
        return completions


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer; for an adapter saved without one, the base model's."""
    from transformers import AutoTokenizer

    saved = source.on_hub or any(source.folder.glob("tokenizer*"))
    revision = {"revision": source.revision} if source.on_hub and source.revision else {}
    tokenizer: Any = AutoTokenizer.from_pretrained(source.path if saved else source.base, **revision)
    return tokenizer


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> list[int]:
    """Tokens that end a completion: the prompt format's, and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    ids = [token for token in dict.fromkeys([*prompt_format.end_token_ids(tokenizer), *listed]) if token is not None]
    if not ids:
        raise ValueError(
            "Neither the tokenizer nor the model's generation config has an end-of-sequence token: every completion "
            "would run to max_tokens. Set tokenizer.eos_token."
        )
    return ids


@contextmanager
def _generation_mode(model: Any) -> Generator[None, None, None]:
    """Evaluation mode, and none of the model's own generation defaults (a repetition penalty, say)."""
    training, config = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = config
        model.train(training)
