"""How an evaluation samples (`Decoding`) and computes (`Engine`): the options of `python -m delta_trl.evaluation`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Literal, get_args

from ..data import PromptFormat


BackendName = Literal["auto", "vllm", "transformers", "server"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Endpoint = Literal["completions", "chat"]


# Options of `Engine` that only servers know, and those that a server that is running has settled
SERVER_ONLY = ("base_url", "api_key_env", "served_model", "endpoint", "concurrency", "retries", "request_timeout")
NOT_SERVER = ("dtype", "batch_size", "tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization")


@dataclass(frozen=True)
class Decoding:
    """How problems are put to a model and completions sampled. The defaults are the paper's (§4.1).

    Raises:
        ValueError: A number is out of its range, or the prompt format does not exist.
    """

    samples: int = field(default=16, metadata={"help": "completions a problem, n in avg@n"})
    temperature: float = field(default=1.0, metadata={"help": "of the softmax; 0 takes the most likely token"})
    top_p: float = field(
        default=0.7,
        metadata={"help": "sample only from the most likely tokens whose probabilities reach this share, in (0, 1]"},
    )
    top_k: int = field(default=0, metadata={"help": "sample only from the k most likely tokens; 0 for all"})
    max_tokens: int = field(
        default=30_000, metadata={"help": "longest completion, in tokens; one that reaches it is marked truncated"}
    )
    seed: int = field(default=0, metadata={"help": "every sample's seed is made from it"})
    prompt_format: str = field(
        default="paper",
        metadata={
            "help": "paper, chat, or a template with {question}; its stop strings and end tokens end a completion"
        },
    )
    system_prompt: str | None = field(default=None, metadata={"help": "first message, with prompt format chat"})

    def __post_init__(self):
        _ = self.format  # raises ValueError for a prompt format that does not exist
        _require(self, ("samples", "max_tokens"), "at least 1", lambda value: value >= 1)
        _require(self, ("temperature",), "a number >= 0", lambda value: 0 <= value < math.inf)  # False for nan
        _require(self, ("top_p",), "in (0, 1]", lambda value: 0 < value <= 1)
        _require(self, ("top_k",), "at least 0", lambda value: value >= 0)

    @property
    def format(self) -> PromptFormat:
        """The prompt format that training uses too."""
        return PromptFormat(self.prompt_format, self.system_prompt)


@dataclass(frozen=True)
class Engine:
    """How completions are computed, as opposed to how they are sampled.

    Raises:
        ValueError: An option is out of its range, or belongs to a back-end that is not installed or not used.
    """

    backend: BackendName = field(
        default="auto",
        metadata={"help": "auto is vLLM if it is installed and there is a GPU; server is what runs at --base_url"},
    )
    dtype: Dtype = field(
        default="auto",
        metadata={"help": "of the weights; auto is what they were saved in, but never float32 with vLLM"},
    )
    batch_size: int = field(default=64, metadata={"help": "transformers: completions at a time in each process"})
    tensor_parallel_size: int = field(default=1, metadata={"help": "vLLM: GPUs of one engine"})
    data_parallel_size: int = field(default=1, metadata={"help": "vLLM: engines beside each other"})
    gpu_memory_utilization: float = field(
        default=0.9, metadata={"help": "vLLM: share of each GPU's memory, in (0, 1]"}
    )
    max_model_len: int | None = field(
        default=None,
        metadata={
            "help": "vLLM, server: longest prompt with completion; by default what the model allows, or the server says"
        },
    )
    base_url: list[str] = field(
        default_factory=list,
        metadata={"help": "server: addresses such as http://host:8000/v1, which share the samples"},
    )
    api_key_env: str | None = field(
        default=None, metadata={"help": "server: name of the environment variable that holds the key"}
    )
    served_model: str | None = field(
        default=None, metadata={"help": "server: what the model is called there; by default as in --model"}
    )
    endpoint: Endpoint = field(
        default="completions",
        metadata={
            "help": "server: completions gets prompts made as in training; chat gets messages, which the server renders"
        },
    )
    concurrency: int = field(default=64, metadata={"help": "server: requests at a time on each"})
    retries: int = field(default=8, metadata={"help": "server: how often in a row one, or a request, may fail"})
    request_timeout: float = field(
        default=3600.0, metadata={"help": "server: seconds in which a completion must be there"}
    )

    def __post_init__(self):
        for name, kind in (("backend", BackendName), ("dtype", Dtype)):
            _require(self, (name,), f"one of {get_args(kind)}", get_args(kind).__contains__)
        sizes = ("batch_size", "tensor_parallel_size", "data_parallel_size", "concurrency")
        _require(self, sizes, "at least 1", lambda value: value >= 1)
        _require(self, ("gpu_memory_utilization",), "in (0, 1]", lambda value: 0 < value <= 1)
        _require(self, ("max_model_len",), "at least 1", lambda value: value is None or value >= 1)
        _require(self, ("retries",), "at least 0", lambda value: value >= 0)
        _require(self, ("request_timeout",), "a number above 0", lambda value: 0 < value < math.inf)
        _require(self, ("endpoint",), f"one of {get_args(Endpoint)}", get_args(Endpoint).__contains__)
        if self.backend == "vllm" and find_spec("vllm") is None:
            raise ValueError(
                "backend 'vllm' cannot be used here: vllm is not installed. Install it, or use transformers."
            )
        if self.backend == "server":
            self._check_server()
        elif given := self._given(SERVER_ONLY):
            raise ValueError(f"{', '.join(given)} needs --backend server, and the back-end is {self.backend!r}.")
        if self.resolved == "transformers" and self.tensor_parallel_size * self.data_parallel_size > 1:
            raise ValueError(
                "tensor_parallel_size and data_parallel_size are vLLM's. For transformers in N processes, start the "
                "script with `torchrun --nproc_per_node N` or `accelerate launch --num_processes N`."
            )

    def _check_server(self) -> None:
        if find_spec("httpx2") is None:
            raise ValueError("backend 'server' needs httpx2: pip install 'delta_trl[server]'.")
        if not self.base_url:
            raise ValueError("backend 'server' needs --base_url: one or more addresses such as http://host:8000/v1.")
        if given := self._given(NOT_SERVER):
            raise ValueError(f"{', '.join(given)} is the server's own: set it where the server is started.")
        if self.endpoint == "chat" and self.max_model_len is not None:
            raise ValueError(
                "max_model_len is not used with --endpoint chat: its prompts are tokenized by the server."
            )

    def _given(self, names: Sequence[str]) -> list[str]:
        """Those of the options that differ from their defaults."""
        defaults = {option.name: option.default for option in fields(self)}
        return [name for name in names if getattr(self, name) not in ([], defaults[name])]

    @property
    def resolved(self) -> str:
        """The back-end that "auto" stands for here."""
        if self.backend != "auto":
            return self.backend
        import torch

        return "vllm" if torch.accelerator.is_available() and find_spec("vllm") else "transformers"


def _require(options: Any, names: Sequence[str], required: str, holds: Callable[[Any], bool]) -> None:
    for name in names:
        if not holds(getattr(options, name)):
            raise ValueError(f"{name} must be {required}, got {getattr(options, name)!r}.")
