"""Random models of real shapes, trainers on random rollouts, and clocks that wait for the device."""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl import GRPOTrainer

from ..baselines import DAPOTrainer
from ..config import CHECKPOINTING, DeltaGRPOConfig, GRPOBaseConfig
from ..methods.fipo import FIPOConfig, FIPOTrainer
from ..methods.hashed_agreement import HashedAgreementGRPOConfig, HashedAgreementGRPOTrainer
from ..trainer import DeltaGRPOTrainer
from .tasks import character_tokenizer


GROUP = 8  # completions a prompt
GENERATED = 32  # tokens of the short generation from which sampling time is estimated


@dataclass(frozen=True)
class Sizes:
    """What is run: shapes of models and lengths. `TINY` is for a CPU, where only the results are checked, not the costs."""

    # hidden size, layers, intermediate size, heads, key-value heads, head size, vocabulary
    model: tuple[int, ...] = (1024, 28, 3072, 16, 8, 128, 151936)  # Qwen3-0.6B
    wide: tuple[int, ...] = (4096, 36, 12288, 32, 8, 128, 151936)  # Qwen3-8B; layers as memory allows
    lengths: tuple[int, ...] = (1024, 8192)
    completions: int = 32
    coefficient_tokens: int = 200_000
    repeats: int = 3


TINY = Sizes((32, 2, 64, 2, 1, 16, 512), (64, 4, 128, 4, 2, 16, 512), (16, 48), 16, 2000, 1)


class Bench:
    """Builds trainers on random models and rollouts, and measures them by `clock`, in seconds."""

    def __init__(self, device: str, sizes: Sizes, clock: Callable[[], float] = time.perf_counter):
        self.device, self.sizes, self.clock = torch.device(device), sizes, clock
        self.is_cuda = self.device.type == "cuda"
        self.tokenizer = character_tokenizer()
        self.folder = tempfile.mkdtemp(prefix="gpu_check_")

    def now(self) -> float:
        if self.is_cuda:
            torch.cuda.synchronize()
        return self.clock()

    def model(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Qwen3ForCausalLM:
        keys = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        sizes: dict[str, Any] = dict(zip((*keys, "head_dim", "vocab_size"), shape, strict=True))
        config = Qwen3Config(
            **sizes,
            tie_word_embeddings=shape == self.sizes.model,
            max_position_embeddings=16384,
            bos_token_id=None,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        torch.manual_seed(0)
        with self.device:
            return Qwen3ForCausalLM(config).to(dtype or (torch.bfloat16 if self.is_cuda else torch.float32))

    def rollouts(self, length: int) -> Callable:
        """Random tokens in place of sampling; the same on every call."""

        def rollout(prompts, trainer):
            generator = torch.Generator().manual_seed(0)
            vocabulary = trainer.model.config.vocab_size
            ids = torch.randint(5, vocabulary, (len(prompts), length), generator=generator).tolist()
            return {
                "prompt_ids": [self.tokenizer(prompt)["input_ids"] for prompt in prompts],
                "completion_ids": ids,
                "logprobs": [[[0.0]] * length for _ in ids],
            }

        return rollout

    def prompts(self) -> list[str]:
        return [f"{i}+{i}=?\n" for i in range(self.sizes.completions)]

    def trainer(
        self, kind: str, model: Any, length: int, updates: int = 1, peft_config=None, rollouts: bool = True, **options
    ):
        """A trainer that is fed `rollouts`, or samples. Rewards differ within each group; weights stay by default."""
        trainer_class, config_class = {
            "grpo": (GRPOTrainer, DeltaGRPOConfig),
            "delta": (DeltaGRPOTrainer, DeltaGRPOConfig),
            "fipo": (FIPOTrainer, FIPOConfig),
            "dapo": (DAPOTrainer, GRPOBaseConfig),
            "hashed_agreement": (HashedAgreementGRPOTrainer, HashedAgreementGRPOConfig),
        }[kind]
        parts = 4
        settings: dict[str, Any] = {
            "output_dir": self.folder,
            "use_cpu": not self.is_cuda,
            "bf16": self.is_cuda,
            "report_to": "none",
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "optim": "sgd",  # the same for both sides; Adam's states would only take memory
            "learning_rate": 0.0,
            "lr_scheduler_type": "constant",
            CHECKPOINTING: self.is_cuda,
            "per_device_train_batch_size": self.sizes.completions // parts,
            "gradient_accumulation_steps": parts // updates,
            "steps_per_generation": parts,
            "num_generations": GROUP,
            "max_completion_length": length,
            "max_steps": updates,
            "seed": 0,
        }
        trainer = trainer_class(
            model=model,
            reward_funcs=lambda completions, **kwargs: [float(i % 3 == 0) for i in range(len(completions))],
            args=config_class(**{**settings, **options}),
            train_dataset=Dataset.from_dict({"prompt": self.prompts()}),
            processing_class=self.tokenizer,
            rollout_func=self.rollouts(length) if rollouts else None,
            peft_config=peft_config,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def turns(self, sides: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Seconds of each side, or the float it returns as its own, measured in turn after one turn that is not counted."""
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(self.sizes.repeats + 1):
            for name, function in sides.items():
                start = self.now()
                own = function()
                if turn:
                    seconds[name].append(own if isinstance(own, float) else self.now() - start)
        return seconds

    def alternate(self, sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """The medians of `turns`."""
        return {name: statistics.median(values) for name, values in self.turns(sides).items()}

    def rollout_sides(self, trainers: dict[str, Any]) -> dict[str, Callable[[], float]]:
        """Functions for `turns`: seconds from the start of a rollout batch to its last update, without setting up."""
        clocks = {name: _Clock(self.now) for name in trainers}
        for name, trainer in trainers.items():
            trainer.add_callback(clocks[name])

        def one(name):
            trainers[name]._step, trainers[name]._buffered_inputs = 0, None  # a new rollout batch
            trainers[name].train()
            return clocks[name].total

        return {name: partial(one, name) for name in trainers}

    def rollout_seconds(self, trainers: dict[str, Any]) -> dict[str, float]:
        return self.alternate(self.rollout_sides(trainers))

    def sampling_seconds(self, model: Any, length: int) -> float:
        """Seconds that transformers' generate would take, from its first tokens: the caches that grow later are left out."""
        prompts = torch.full((self.sizes.completions, 8), 5, device=self.device)
        seconds = {}
        for tokens in (GENERATED // 2, GENERATED):
            start = self.now()
            model.generate(
                prompts, attention_mask=torch.ones_like(prompts), min_new_tokens=tokens, max_new_tokens=tokens
            )
            seconds[tokens] = self.now() - start
        return max(0.0, seconds[GENERATED] - seconds[GENERATED // 2]) / (GENERATED // 2) * length

    def free(self) -> None:
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()


class _Clock(TrainerCallback):
    def __init__(self, now: Callable[[], float]):
        self.now, self.total, self.start = now, 0.0, 0.0

    def on_train_begin(self, *args, **kwargs):
        self.total = 0.0

    def on_step_begin(self, *args, **kwargs):
        self.start = self.now()

    def on_step_end(self, *args, **kwargs):
        self.total += self.now() - self.start
