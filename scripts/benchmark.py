"""What DelTA costs. Both sides of every comparison are measured alternately in one process, and a ratio is printed.

    python scripts/benchmark.py                                # a 20 M parameter model on the CPU
    python scripts/benchmark.py --device cuda --shape qwen3-8b # random weights of Qwen3-8B's shape
    python scripts/benchmark.py --only coefficients --json costs.json

Parts: step (training step, DeltaGRPOTrainer over GRPOTrainer), published (features recomputed in K + 2 passes, as published,
over ours), coefficients (the maths alone, against plain reads of the same bytes), memory (what the maths takes besides the
features; on CUDA also the peak with and without offload), features (the other features over output_row).
"""

import argparse
import itertools
import json
import platform
import statistics
import time
from pathlib import Path


SIZES = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
SIZES += ("head_dim", "vocab_size")
SHAPES = {  # in the order of SIZES
    "small": (384, 8, 1152, 6, 2, 64, 8192),
    "qwen3-0.6b": (1024, 28, 3072, 16, 8, 128, 151936),
    "qwen3-8b": (4096, 36, 12288, 32, 8, 128, 151936),
}
PARTS = ("step", "published", "coefficients", "memory", "features")


class Bench:
    """A model, a trainer of each kind that share it, and clocks that wait for the device."""

    def __init__(self, arguments):
        import torch

        self.arguments, self.torch = arguments, torch
        self.device = torch.device(arguments.device)
        self.model = self.tokenizer = None

    def now(self) -> float:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def alternate(self, sides: dict) -> dict[str, list[float]]:
        """Seconds of each function, or what it returns as its own, measured in turn, after one turn that is not counted."""
        seconds = {name: [] for name in sides}
        for turn in range(self.arguments.repeats + 1):
            for name, function in sides.items():
                start = self.now()
                own = function()
                spent = own if isinstance(own, float) else self.now() - start
                if turn:
                    seconds[name].append(spent)
        return seconds

    def trainer(self, kind: str, updates: int, **options):
        """A trainer of `kind` whose rollout batch takes `updates` optimiser steps."""
        from datasets import Dataset
        from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM
        from trl import GRPOTrainer

        from delta_trl import DeltaGRPOConfig, DeltaGRPOTrainer
        from delta_trl.research.tasks import arithmetic_problems, character_tokenizer

        a = self.arguments
        if self.model is None:
            self.tokenizer = character_tokenizer()
            config = Qwen3Config(
                **dict(zip(SIZES, SHAPES[a.shape], strict=True)),
                tie_word_embeddings=False,
                bos_token_id=None,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            self.torch.manual_seed(0)
            dtype = self.torch.bfloat16 if a.device == "cuda" else self.torch.float32
            with self.device:
                self.model = Qwen3ForCausalLM(config).to(dtype)
        settings = {
            "output_dir": "outputs/benchmark",
            "use_cpu": a.device == "cpu",
            "bf16": a.device == "cuda",
            "report_to": "none",
            "logging_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "optim": "sgd",  # the same for both; Adam's states would only take memory
            "learning_rate": 0.0,
            "activation_checkpointing": a.device == "cuda",
            "per_device_train_batch_size": a.completions // 4,
            "gradient_accumulation_steps": 4 // updates,
            "steps_per_generation": 4,
            "num_generations": 8,
            "max_completion_length": a.length,
            # Fixed lengths, so that both sides decode and train on the same number of tokens
            "generation_kwargs": {"min_new_tokens": a.length, "max_new_tokens": a.length},
            "max_steps": updates,
        }
        trainer = {"grpo": GRPOTrainer, "delta": DeltaGRPOTrainer}[kind](
            model=self.model,
            # Random, so that both advantage sides have tokens
            reward_funcs=lambda completions, **kwargs: self.torch.randint(2, (len(completions),)).float().tolist(),
            args=DeltaGRPOConfig(**settings, **options),
            train_dataset=Dataset.from_list(
                [{"prompt": f"{p['question']}\n"} for p in arithmetic_problems(a.completions)]
            ),
            processing_class=self.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def rollout_batch(self, updates: int, **options):
        """A DeltaGRPOTrainer with a finished rollout batch, for parts that need no further generation."""
        trainer = self.trainer("delta", updates, **options)
        kept = {}
        generate = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = lambda inputs: kept.setdefault("batch", generate(inputs))
        trainer.train()
        return trainer, kept["batch"]

    def step(self) -> list[dict]:
        """Seconds from the start of a rollout batch to its last update, without setting up a trainer."""
        from transformers import TrainerCallback

        class Clock(TrainerCallback):
            def on_train_begin(clock, *args, **kwargs):
                clock.total = 0.0

            def on_step_begin(clock, *args, **kwargs):
                clock.start = self.now()

            def on_step_end(clock, *args, **kwargs):
                clock.total += self.now() - clock.start

        def rollout_batch_of(trainer, clock) -> float:
            trainer._step, trainer._buffered_inputs = 0, None  # a new rollout batch
            trainer.train()
            return clock.total

        rows = []
        for name, updates in (("aligned (1 update a rollout batch)", 1), ("misaligned (4 updates)", 4)):
            sides = {}
            for kind in ("delta", "grpo"):
                trainer, clock = self.trainer(kind, updates), Clock()
                trainer.add_callback(clock)
                sides[kind] = lambda trainer=trainer, clock=clock: rollout_batch_of(trainer, clock)
            seconds = self.alternate(sides)
            rows.append(compare(f"step, {name}: DeltaGRPOTrainer / GRPOTrainer", seconds["delta"], seconds["grpo"]))
        return rows

    def published(self) -> list[dict]:
        """Overhead of a rollout batch: K + 2 = 3 further passes, against the maths on recorded states (misaligned)."""
        trainer, batch = self.rollout_batch(4)
        trainer.model.train()

        def overhead(passes: int) -> float:
            recorded = trainer.record_policy(batch)  # stands for TRL's own pass; not counted below
            start = self.now()
            for _ in range(passes):
                recorded = trainer.record_policy(batch)
            trainer.add_token_coefficients({**batch}, recorded)
            return self.now() - start

        seconds = self.alternate({"published": lambda: overhead(3), "ours": lambda: overhead(0)})
        return [compare("overhead, published way / ours", seconds["published"], seconds["ours"])]

    def maths(self, n: int, dtype) -> tuple:
        """Random features (n, 4096), the function that makes coefficients of them, and a name."""
        from delta_trl import delta_coefficients

        features = self.torch.empty(n, 4096, dtype=dtype, device=self.device)
        for part in features.split(8192):
            part.copy_(self.torch.randn(part.shape, device=self.device))
        advantages, scale = self.torch.randn(n, device=self.device), self.torch.rand(n, device=self.device)
        name = f"N = {n}, H = 4096, {str(dtype).removeprefix('torch.')}"
        return features, lambda: delta_coefficients(features, advantages, feature_scale=scale), name

    def coefficients(self) -> list[dict]:
        from delta_trl.coefficients import _chunks

        torch, rows = self.torch, []
        reads = 2 * 1 + 2  # sweeps at K = 1
        for dtype in (torch.float32, torch.bfloat16):
            for n in self.arguments.tokens:
                features, maths, name = self.maths(n, dtype)
                words = features.view(torch.float32)  # a sum over float32 words reads every byte at full speed
                sides = {
                    "maths": maths,
                    "reads": lambda w=words: [w.sum() for _ in range(reads)],
                }
                if dtype == torch.bfloat16:
                    # torch has no product of bfloat16 with float32 sums on a CPU: so much for turning every element into
                    # float32, before any arithmetic
                    sides["casts"] = lambda f=features: [
                        part for _ in range(reads) for part, _ in _chunks(f, self.device, torch.float32)
                    ]
                seconds = self.alternate(sides)
                name = f"coefficients, {name}: maths / {reads} plain reads"
                row = compare(name, seconds["maths"], seconds["reads"])
                if "casts" in seconds:
                    row["casts_alone"] = compare("", seconds["casts"], seconds["reads"])["ratio"]
                row["gigabytes_per_second"] = reads * features.nbytes / statistics.median(seconds["maths"]) / 1e9
                rows.append(row)
                del features, maths, words
        return rows

    def peak(self, function) -> int:
        """Bytes that `function` takes at most, above what is taken before."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
            self.torch.cuda.reset_peak_memory_stats()
            before = self.torch.cuda.memory_allocated()
            function()
            return self.torch.cuda.max_memory_allocated() - before

        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            function()
        events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return max(itertools.accumulate(event.nbytes() for event in events))

    def memory(self) -> list[dict]:
        """Peaks above the level before: of the maths on given features, and on CUDA of recording and maths in a trainer."""
        torch, rows, n = self.torch, [], max(self.arguments.tokens)
        for dtype in (torch.float32, torch.bfloat16):
            features, maths, name = self.maths(n, dtype)
            extra, name = self.peak(maths), f"memory, coefficients, {name}: besides the features"
            rows.append({"name": name, "features_megabytes": features.nbytes / 1e6, "peak_megabytes": extra / 1e6})
            del features, maths
        if self.device.type != "cuda":
            return rows  # there is one memory, and nothing to offload to
        for offload in ("never", "always"):
            trainer, batch = self.rollout_batch(1, coef_offload=offload)
            trainer.model.train()
            kept, before = [], self.torch.cuda.memory_allocated()
            in_pass = self.peak(lambda kept=kept, t=trainer, b=batch: kept.append(t.record_policy(b)))
            recorded, held = kept[0], self.torch.cuda.memory_allocated() - before
            in_maths = held + self.peak(lambda t=trainer, b=batch, r=recorded: t.add_token_coefficients({**b}, r))
            rows.append(
                {
                    "name": f"memory, coef_offload={offload}",
                    "recorded_gigabytes": recorded.hidden_states.packed.nbytes / 1e9,
                    "peak_in_pass_gigabytes": in_pass / 1e9,
                    "peak_in_maths_gigabytes": in_maths / 1e9,
                }
            )
        return rows

    def features(self) -> list[dict]:
        from delta_trl import delta_coefficients
        from delta_trl.features import FEATURES, Policy
        from delta_trl.hidden_states import RolloutTokens

        trainer, batch = self.rollout_batch(1)
        trainer.model.train()
        recorded = trainer.record_policy(batch)
        mask = batch["completion_mask"].bool()
        tokens = RolloutTokens(
            hidden=recorded.hidden_states.packed,
            log_probs=recorded.log_probs[mask],
            ids=batch["completion_ids"][mask],
            advantages=batch["advantages"].unsqueeze(1).expand_as(mask)[mask],
            responses=self.torch.zeros_like(batch["completion_ids"])[mask],
        )
        policy = Policy(trainer.model, trainer.temperature)

        def run(name):
            features, scale = FEATURES[name](tokens, policy)
            delta_coefficients(features, tokens.advantages, feature_scale=scale)

        with self.torch.no_grad():
            seconds = self.alternate({name: lambda name=name: run(name) for name in FEATURES})
        return [
            compare(f"features and maths, {name} / output_row", seconds[name], seconds["output_row"])
            for name in FEATURES
            if name != "output_row"
        ]


def compare(name: str, numerator: list[float], denominator: list[float]) -> dict:
    """Median seconds of both sides, and the ratio turn by turn: median, least, most."""
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    return {
        "name": name,
        "ratio": statistics.median(ratios),
        "least": ratios[0],
        "most": ratios[-1],
        "seconds": statistics.median(numerator),
        "against": statistics.median(denominator),
    }


def show(row: dict) -> str:
    numbers = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "name")
    return f"{row['name']:<86} {numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--shape", choices=SHAPES, default="small", help="shape of the random Qwen3")
    add("--only", choices=PARTS, nargs="+", default=PARTS, help="parts to run")
    add("--repeats", type=int, default=5, help="counted turns of each side")
    add("--completions", type=int, default=32, help="completions of a rollout batch")
    add("--length", type=int, default=128, help="tokens of a completion")
    add("--tokens", type=int, nargs="+", default=[10_000, 100_000], help="N of 'coefficients'")
    add("--json", type=Path, help="write the rows there as well")
    arguments = parser.parse_args()

    import torch

    bench = Bench(arguments)
    machine = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.repeats} turns")
    rows = []
    for part in arguments.only:
        for row in getattr(bench, part)():
            rows.append(row)
            print(show(row), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))
    if bench.model is not None:
        print(f"Model: {sum(p.numel() for p in bench.model.parameters()) / 1e6:.1f} M parameters ({arguments.shape})")


if __name__ == "__main__":
    main()
