"""A stand-in for vLLM: the part of its offline engine that the evaluation calls, on transformers.

The tests of `tests/vllm` run the real one, in an environment of its own. This one shows, in the ordinary tests, how the
backend calls it, and lets engines be spread over GPUs that are not there.

Names, signatures and fields are those of vLLM 0.31.0 (`vllm/entrypoints/llm.py`, `vllm/outputs.py`,
`vllm/sampling_params.py`, `vllm/v1/engine/llm_engine.py`), and so is what matters to a caller: `enqueue` returns the
engine's internal ids, outputs bear the external ones, and requests finish in another order than they came in.

What it cannot show: vLLM's speed, its memory, its sampler, tensor parallelism, and that a real engine starts.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from .lora.request import LoRARequest


__version__ = "0.31.0+standin"
torch.set_num_threads(1)


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: LoRARequest | None = None


@dataclass
class RequestStateStats:
    num_generation_tokens: int = 0
    arrival_time: float = 0.0
    queued_ts: float = 0.0
    scheduled_ts: float = 0.0
    first_token_ts: float = 0.0
    last_token_ts: float = 0.0


class RequestOutput:
    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int] | None,
        prompt_logprobs: list | None,
        outputs: list[CompletionOutput],
        finished: bool,
        metrics: RequestStateStats | None = None,
        lora_request: LoRARequest | None = None,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.prompt_logprobs = prompt_logprobs
        self.outputs = outputs
        self.finished = finished
        self.metrics = metrics
        self.lora_request = lora_request


class EngineCore:
    """Holds the interpreter's end until it is shut down, as the process of a real engine does."""

    def __init__(self):
        self.running = threading.Event()
        threading.Thread(target=self.running.wait).start()

    def shutdown(self) -> None:
        self.running.set()


class LLMEngine:
    """Finishes one request a step, the last one added first."""

    def __init__(self, model: str, log_stats: bool):
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.log_stats = log_stats
        self.engine_core = EngineCore()
        self.queue: list[tuple[str, list[int], SamplingParams, LoRARequest | None]] = []

    def has_unfinished_requests(self) -> bool:
        return bool(self.queue)

    def step(self) -> list[RequestOutput]:
        if not self.queue:
            return []
        request_id, prompt_ids, params, lora = self.queue.pop()
        # Fails here, and not in a caller's assertion, if the caller forgets what vLLM needs.
        assert params.n == 1
        assert params.max_tokens is not None
        torch.manual_seed(params.seed)
        stop_ids = sorted({self.tokenizer.eos_token_id, *(params.stop_token_ids or [])})
        config = GenerationConfig(
            do_sample=params.temperature > 0,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            max_new_tokens=params.max_tokens,
            eos_token_id=stop_ids,
            pad_token_id=stop_ids[0],
        )
        ids = torch.tensor([prompt_ids])
        tokens = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        tokens = tokens[0, len(prompt_ids) :].tolist()
        stopped = tokens[-1] in stop_ids
        output = CompletionOutput(
            index=0,
            text=self.tokenizer.decode(tokens, skip_special_tokens=True),
            token_ids=tokens,
            cumulative_logprob=None,
            logprobs=None,
            finish_reason="stop" if stopped else "length",
        )
        metrics = RequestStateStats(scheduled_ts=100.0, last_token_ts=100.5) if self.log_stats else None
        return [RequestOutput(request_id, None, prompt_ids, None, [output], True, metrics, lora)]


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        **kwargs: Any,
    ) -> None:
        unknown = set(kwargs) - {"max_model_len", "disable_log_stats", "enable_lora", "max_lora_rank"}
        if unknown:
            raise TypeError(f"EngineArgs.__init__() got unexpected keyword arguments {sorted(unknown)}")
        self.llm_engine = LLMEngine(model, log_stats=not kwargs.get("disable_log_stats", True))
        positions = self.llm_engine.model.config.max_position_embeddings
        self.model_config = SimpleNamespace(max_model_len=kwargs.get("max_model_len") or positions)
        self.enable_lora = kwargs.get("enable_lora", False)
        self.count = 0
        if "VLLM_STANDIN_LOG" in os.environ:  # lets a test see what each engine was started with
            line = (
                f"{model} {tensor_parallel_size} {os.environ.get('CUDA_VISIBLE_DEVICES')} {sorted(kwargs.items())}\n"
            )
            with Path(os.environ["VLLM_STANDIN_LOG"]).open("a") as log:
                log.write(line)

    def enqueue(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        lora_request: Sequence[LoRARequest] | LoRARequest | None = None,
        priority: list[int] | None = None,
        use_tqdm: Any = True,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[str]:
        if len(prompts) != len(sampling_params):
            raise ValueError("The lengths of prompts and params must be the same.")
        if lora_request is not None and not self.enable_lora:
            raise ValueError(f"Got lora_request {lora_request} but LoRA is not enabled!")
        internal = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            assert len(prompt["prompt_token_ids"]) + params.max_tokens <= self.model_config.max_model_len
            request_id, self.count = str(self.count), self.count + 1
            self.llm_engine.queue.append((request_id, prompt["prompt_token_ids"], params, lora_request))
            internal.append(f"{request_id}-{uuid4().hex[:8]}")
        return internal
