"""What DelTA costs, on a CPU or a GPU: the parts of scripts/benchmark.py."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from ..coefficients import delta_coefficients
from ..features import FEATURES
from ..methods.hashed_agreement import HashedAgreementGRPOConfig
from ..rollout import Rollout
from ..sweeps import chunks
from .gpu_bench import GROUP, Bench, Sizes
from .sampling import sampling_config
from .tasks import arithmetic_problems, tiny_qwen3


# Of the part `agreement`: H where N grows, tokens of the pass of an LM head, and of a response
AGREEMENT_SIZE, HEAD_TOKENS, RESPONSE = 256, 256, 100


class CostBench(Bench):
    """The parts. Each yields rows: a name, and figures by name.

    Args:
        shape: Of the random Qwen3, as in `Sizes`.
        completions: Of a rollout batch.
        length: Tokens of a completion.
        token_counts: N of the part `coefficients`.
        repeats: Counted turns of each side.
        clock: Gives seconds. Processor time says more on a machine with other work, of a single thread.
    """

    def __init__(
        self,
        device: str,
        shape: tuple[int, ...],
        completions: int,
        length: int,
        token_counts: Sequence[int],
        repeats: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__(device, Sizes(model=(), completions=completions, repeats=repeats), clock)
        self.shape, self.length, self.token_counts = shape, length, token_counts
        self.shared = None  # the model of all trainers

    def prompts(self) -> list[str]:
        return [problem["question"] + "\n" for problem in arithmetic_problems(self.sizes.completions)]

    def sampling(self, kind: str, updates: int, **options):
        """A trainer whose rollout batch takes `updates` optimiser steps. Both sides sample as many tokens."""
        if self.shared is None:
            self.shared = self.model(self.shape)
        fixed = {"min_new_tokens": self.length, "max_new_tokens": self.length}
        options = {"generation_kwargs": fixed, "logging_strategy": "no", **options}
        return self.trainer(kind, self.shared, self.length, updates, rollouts=False, **options)

    def rollout_batch(self, updates: int, **options):
        """A DeltaGRPOTrainer with a finished rollout batch, for parts that need no further generation."""
        trainer = self.sampling("delta", updates, **options)
        kept = {}
        generate = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = lambda inputs: kept.setdefault("batch", generate(inputs))
        trainer.train()
        return trainer, kept["batch"]

    def step(self) -> Iterator[dict]:
        """Seconds from the start of a rollout batch to its last update, without setting up a trainer."""
        for name, updates in (("aligned (1 update a rollout batch)", 1), ("misaligned (4 updates)", 4)):
            seconds = self.turns(
                self.rollout_sides({kind: self.sampling(kind, updates) for kind in ("delta", "grpo")})
            )
            yield compare_turns(f"step, {name}: DeltaGRPOTrainer / GRPOTrainer", seconds["delta"], seconds["grpo"])

    def previous(self) -> Iterator[dict]:
        """The step with coefficients from the loss's own pass, and with a pass for them, over DAPO's: 1 update."""
        methods = [(kind, of) for kind in ("delta", "hashed_agreement") for of in ("previous", "batch")]
        trainers = {f"{kind}, coef_centroids={of}": self.sampling(kind, 1, coef_centroids=of) for kind, of in methods}
        seconds = self.turns(self.rollout_sides(trainers | {"dapo": self.sampling("dapo", 1)}))
        for name in trainers:
            yield compare_turns(f"step, 1 update: {name} / DAPO", seconds[name], seconds["dapo"])

    def published(self) -> Iterator[dict]:
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

        seconds = self.turns({"published": lambda: overhead(3), "ours": lambda: overhead(0)})
        yield compare_turns("overhead, published way / ours", seconds["published"], seconds["ours"])

    def maths(self, n: int, dtype) -> tuple:
        """Random features (n, 4096), the function that makes coefficients of them, and a name."""
        features = torch.empty(n, 4096, dtype=dtype, device=self.device)
        for part in features.split(8192):
            part.copy_(torch.randn(part.shape, device=self.device))
        advantages, scale = torch.randn(n, device=self.device), torch.rand(n, device=self.device)
        name = f"N = {n}, H = 4096, {str(dtype).removeprefix('torch.')}"
        return features, lambda: delta_coefficients(features, advantages, feature_scale=scale), name

    def coefficients(self) -> Iterator[dict]:
        reads = 2 * 1 + 2  # sweeps at K = 1
        for dtype in (torch.float32, torch.bfloat16):
            for n in self.token_counts:
                features, maths, name = self.maths(n, dtype)
                words = features.view(torch.float32)  # a sum over float32 words reads every byte at full speed
                sides = {"maths": maths, "reads": lambda w=words: [w.sum() for _ in range(reads)]}
                if dtype == torch.bfloat16:
                    # torch has no product of bfloat16 with float32 sums on a CPU: so much for turning every element into
                    # float32, before any arithmetic
                    sides["casts"] = lambda f=features: [
                        part for _ in range(reads) for part, _ in chunks(f, self.device, torch.float32)
                    ]
                seconds = self.turns(sides)
                name = f"coefficients, {name}: maths / {reads} plain reads"
                row = compare_turns(name, seconds["maths"], seconds["reads"])
                if "casts" in seconds:
                    row["casts_alone"] = compare_turns("", seconds["casts"], seconds["reads"])["ratio"]
                row["gigabytes_per_second"] = reads * features.nbytes / statistics.median(seconds["maths"]) / 1e9
                yield row
                del features, maths, words

    def scaling(self) -> Iterator[dict]:
        """Time a token at each N over that at the smallest: 1 where the cost is linear in N."""
        counts = sorted(self.token_counts)
        made = {n: self.maths(n, torch.bfloat16) for n in counts}
        seconds = self.turns({n: maths for n, (_, maths, _) in made.items()})
        per_token = {n: [s / n for s in seconds[n]] for n in counts}
        for n in counts[1:]:
            name = f"coefficients, {made[n][2]}: time a token / that of N = {counts[0]}"
            yield compare_turns(name, per_token[n], per_token[counts[0]])

    def peak(self, function) -> int:
        """Bytes that `function` takes at most, above what is taken before."""
        if self.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            function()
            return torch.cuda.max_memory_allocated() - before

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            function()
        events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return max(itertools.accumulate(event.nbytes() for event in events))

    def memory(self) -> Iterator[dict]:
        """Peaks above the level before: of the maths on given features, and on CUDA of recording and maths in a trainer."""
        n = max(self.token_counts)
        for dtype in (torch.float32, torch.bfloat16):
            features, maths, name = self.maths(n, dtype)
            extra, name = self.peak(maths), f"memory, coefficients, {name}: besides the features"
            yield {"name": name, "features_megabytes": features.nbytes / 1e6, "peak_megabytes": extra / 1e6}
            del features, maths
        if not self.is_cuda:
            return  # there is one memory, and nothing to offload to
        for offload in ("never", "always"):
            trainer, batch = self.rollout_batch(1, coef_offload=offload)
            trainer.model.train()
            kept, before = [], torch.cuda.memory_allocated()
            in_pass = self.peak(lambda kept=kept, t=trainer, b=batch: kept.append(t.record_policy(b)))
            recorded, held = kept[0], torch.cuda.memory_allocated() - before
            in_maths = held + self.peak(lambda t=trainer, b=batch, r=recorded: t.add_token_coefficients({**b}, r))
            yield {
                "name": f"memory, coef_offload={offload}",
                "recorded_gigabytes": recorded.hidden_states.packed.nbytes / 1e9,
                "peak_in_pass_gigabytes": in_pass / 1e9,
                "peak_in_maths_gigabytes": in_maths / 1e9,
            }

    def features(self) -> Iterator[dict]:
        trainer, batch = self.rollout_batch(1)
        trainer.model.train()
        recorded = trainer.record_policy(batch)
        rollout = trainer._rollout(batch, recorded, ())

        def run(name):
            features, scale = rollout.raw_features(name)
            delta_coefficients(features, rollout.advantages, feature_scale=scale)

        with torch.no_grad():
            seconds = self.turns({name: lambda name=name: run(name) for name in FEATURES})
        for name in FEATURES:
            if name != "output_row":
                yield compare_turns(f"features and maths, {name} / output_row", seconds[name], seconds["output_row"])

    def agreement(self) -> Iterator[dict]:
        """`hashed_agreement`: its step over DAPO's on the made tasks' model, its time a token as N grows, its memory, and
        its maths over a pass of an LM head."""
        self.shared = tiny_qwen3(self.tokenizer).to(self.device)
        tokens = self.sizes.completions * self.length
        for updates in (4, 1):
            trainers = {kind: self.sampling(kind, updates) for kind in ("hashed_agreement", "dapo")}
            seconds = self.turns(self.rollout_sides(trainers))
            name = f"step, {tokens} tokens, {updates} update{'s' * (updates > 1)}: hashed_agreement / DAPO"
            yield compare_turns(name, seconds["hashed_agreement"], seconds["dapo"])
        self.shared = None

        counts = sorted(self.token_counts)
        sides = {n: self.agreement_maths(n, AGREEMENT_SIZE) for n in counts}
        seconds = {n: [s / n for s in taken] for n, taken in self.turns(sides).items()}
        for n in counts[1:]:
            name = f"hashed_agreement, N = {n}, H = {AGREEMENT_SIZE}: time a token / that of N = {counts[0]}"
            yield compare_turns(name, seconds[n], seconds[counts[0]])
        features, extra = counts[-1] * AGREEMENT_SIZE * 4, self.peak(sides[counts[-1]])
        yield {
            "name": f"memory, hashed_agreement, N = {counts[-1]}, H = {AGREEMENT_SIZE}: besides the hidden states",
            "hidden_states_megabytes": features / 1e6,
            "peak_megabytes": extra / 1e6,
        }
        del sides

        size, vocabulary, n = self.shape[0], self.shape[-1], counts[0]
        head = torch.randn(vocabulary, size, device=self.device)
        hidden = torch.randn(HEAD_TOKENS, size, device=self.device)
        seconds = self.turns({"maths": self.agreement_maths(n, size), "head": lambda: hidden @ head.T})
        yield compare_turns(
            f"hashed_agreement, H = {size}, N = {n}: a token / logits of one, V = {vocabulary}",
            [s / n for s in seconds["maths"]],
            [s / HEAD_TOKENS for s in seconds["head"]],
        )

    def agreement_maths(self, n: int, size: int) -> Callable[[], torch.Tensor]:
        """The function that makes coefficients of n random tokens, of which groups of responses share places."""
        generator = torch.Generator().manual_seed(0)
        responses = torch.arange(n) // RESPONSE
        groups = int(responses[-1]) // GROUP + 1
        centres = torch.randn(1000, size, generator=generator)
        hidden = torch.empty(n, size)
        for part in hidden.split(8192):
            at = torch.randint(len(centres), (len(part),), generator=generator)
            part.copy_(centres[at]).add_(torch.randn(part.shape, generator=generator), alpha=0.3)
        log_probs = -torch.rand(n, generator=generator)
        rollout = Rollout(
            hidden=hidden.to(self.device),
            log_probs=log_probs.to(self.device),
            ids=torch.randint(self.shape[-1], (n,), generator=generator).to(self.device),
            advantages=torch.where(responses % 2 == 0, 1.0, -1.0).to(self.device),
            responses=responses.to(self.device),
            entropies=torch.rand(n, generator=generator).to(self.device),
            group_size=GROUP,
            n_groups=groups,
        )
        options = sampling_config(self.folder, 1, 2, HashedAgreementGRPOConfig)
        return lambda: options.credit(rollout, options).values


def compare_turns(name: str, numerator: list[float], denominator: list[float]) -> dict:
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
