"""Everything about DelTA that needs a GPU, checked in minutes without network: `make gpu-check`.

Models are random, but of real shapes. Completions are random tokens of a fixed length, so that both sides of a comparison do
the same work; what sampling them would have taken is estimated from a short real generation, and named as an estimate.
"""

import copy
import json
import math
import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..coefficients import delta_coefficients
from ..config import CHECKPOINTING
from ..jsonl import parse_json
from .gpu_bench import Bench, Sizes


REFINEMENTS = 1  # K, as published: 2K + 2 sweeps over the features


@dataclass(frozen=True)
class Finding:
    """One result. `ok` is None where there is nothing to meet."""

    check: str
    value: float
    unit: str
    target: str = ""
    ok: bool | None = None
    note: str = ""


class Check(Bench):
    """The checks. Each yields rows."""

    def equal_bounds(self) -> Iterator[Finding]:
        """Equal bounds must give TRL's weights, bit for bit, after two rollout batches of two updates."""
        first = self.model((*self.sizes.model[:1], 2, *self.sizes.model[2:]))
        weights = {}
        for kind, options in (("grpo", {}), ("delta", {"coef_min": 1.0, "coef_max": 1.0})):
            model = copy.deepcopy(first)
            settings = {"learning_rate": 1e-2, "max_steps": 4, **options}
            self.trainer(kind, model, self.sizes.lengths[0] // 8 or 8, updates=2, **settings).train()
            weights[kind] = model.state_dict()
        moved = max((weights["grpo"][name] - value).abs().max().item() for name, value in first.state_dict().items())
        apart = max((weights["grpo"][name] - value).abs().max().item() for name, value in weights["delta"].items())
        note = f"weights moved by up to {moved:.2g}"
        yield Finding(
            "equal bounds against GRPOTrainer: largest difference of weights", apart, "", "0", apart == 0 < moved, note
        )

    def coefficients(self) -> Iterator[Finding]:
        """The same features on this device and on the CPU; seconds against copies of the bytes that the maths reads."""
        hidden = self.sizes.wide[0]
        n, sweeps = self.sizes.coefficient_tokens, 2 * REFINEMENTS + 2

        def maths(features, advantages, scale) -> None:
            delta_coefficients(features, advantages, feature_scale=scale)

        def copies(features, target) -> None:
            for _ in range(sweeps):
                target.copy_(features)

        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            generator = torch.Generator().manual_seed(0)
            few = torch.randn(min(n, 20_000), hidden, generator=generator).to(dtype)
            advantages = torch.randn(len(few), generator=generator)
            scale = torch.rand(len(few), generator=generator)
            here = delta_coefficients(
                few.to(self.device), advantages.to(self.device), feature_scale=scale.to(self.device)
            ).values.cpu()
            apart = (here - delta_coefficients(few, advantages, feature_scale=scale).values).abs().max().item()
            yield Finding(f"coefficients here against the CPU's, {name}", apart, "", "≤ 1e-3", apart <= 1e-3)

            features = torch.empty(n, hidden, dtype=dtype, device=self.device)
            for part in features.split(8192):
                part.normal_()
            advantages, scale = torch.randn(n, device=self.device), torch.rand(n, device=self.device)
            target = torch.empty_like(features)
            seconds = self.alternate(
                {
                    "maths": partial(maths, features, advantages, scale),
                    "copy": partial(copies, features, target),
                }
            )
            ratio = seconds["maths"] / seconds["copy"]
            note = f"{n:,} tokens, hidden {hidden}, {seconds['maths'] * 1e3:.3g} ms"
            yield self.cost(f"maths over {sweeps} device copies of the features, {name}", ratio, 1.5, note)
            del features, target

    def steps(self) -> Iterator[Finding]:
        """Seconds of a rollout batch, DelTA over GRPO: the updates as measured, and with sampling as estimated."""
        model = self.model(self.sizes.model)
        for length in self.sizes.lengths:
            sampling = self.sampling_seconds(model, length)
            for name, updates, limits in (("misaligned", 4, (1.02, 1.02)), ("aligned", 1, (1.08, 1.04))):
                kinds = ("delta", "grpo")
                seconds = self.rollout_seconds({kind: self.trainer(kind, model, length, updates) for kind in kinds})
                limit = limits[length >= self.sizes.lengths[-1]]
                note = f"{seconds['delta']:.3g} s against {seconds['grpo']:.3g} s"
                ratio = seconds["delta"] / seconds["grpo"]
                yield Finding(f"step without sampling, {name}, {length} tokens: DelTA / GRPO", ratio, "", note=note)
                ratio = (seconds["delta"] + sampling) / (seconds["grpo"] + sampling)
                note = f"sampling estimated at {sampling:.3g} s"
                yield self.cost(f"step, {name}, {length} tokens: DelTA / GRPO", ratio, limit, note)
                self.free()

    def offload(self) -> Iterator[Finding]:
        """Peak memory above the weights, and seconds, with the hidden states on the device and in host memory."""
        model, length = self.model(self.sizes.model), self.sizes.lengths[-1]
        choices = ("never", "auto", "always")
        trainers = {choice: self.trainer("delta", model, length, 1, coef_offload=choice) for choice in choices}
        seconds = self.rollout_seconds(trainers)
        for choice in choices:
            if self.is_cuda:
                self.free()
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                trainers[choice]._step, trainers[choice]._buffered_inputs = 0, None
                trainers[choice].train()
                peak = (torch.cuda.max_memory_allocated() - before) / 1e9
                yield Finding(f"peak above the weights, coef_offload={choice}, {length} tokens", peak, "GB")
        ratio = seconds["always"] / seconds["never"]
        yield self.cost("step without sampling, coef_offload always / never", ratio, 1.03)

    def modes(self) -> Iterator[Finding]:
        """One rollout batch of each mode: everything is finite, and coefficients are not all alike."""
        from peft import LoraConfig

        lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
        length = self.sizes.lengths[0]
        for name, kind, options in (
            ("bf16", "delta", {"bf16": True}),
            ("LoRA", "delta", {"peft_config": lora}),
            ("gradient checkpointing", "delta", {CHECKPOINTING: True}),
            ("no gradient checkpointing", "delta", {CHECKPOINTING: False, "per_device_train_batch_size": 2,
                                                    "steps_per_generation": self.sizes.completions // 2,
                                                    "gradient_accumulation_steps": self.sizes.completions // 2}),
            ("hidden_gradient", "delta", {"coef_features": "hidden_gradient"}),
            ("FIPO", "fipo", {"updates": 2, "max_steps": 2}),
        ):  # fmt: skip
            trainer = self.trainer(kind, self.model(self.sizes.model), length, **{"learning_rate": 1e-4, **options})
            trainer.train()
            (*_, entry) = [entry for entry in trainer.state.log_history if "loss" in entry]
            spread = entry.get("delta/coef/std")
            finite = torch.tensor([entry["loss"], entry["grad_norm"], spread or 0.0]).isfinite().all().item()
            ok = finite and (spread is None or spread > 0)
            value = entry["grad_norm"] if spread is None else spread
            yield Finding(f"{name}: " + ("gradient norm" if spread is None else "spread of the coefficients"), value, "",
                      "finite" if spread is None else "finite, above 0", ok)  # fmt: skip
            del trainer
            self.free()

    def wide(self) -> Iterator[Finding]:
        """The width of an 8B model, with as many of its layers as fit."""
        hidden, layers, inner, heads, kv_heads, head, vocabulary = self.sizes.wide
        if self.is_cuda:
            layer = hidden * head * 2 * (heads + kv_heads) + 3 * hidden * inner
            weights_and_gradients = 2 * (2 + 2)  # bf16 each, and as much for what the optimizer and activations need
            free = torch.cuda.mem_get_info()[0] * 0.5 - 2 * hidden * vocabulary * weights_and_gradients
            layers = max(1, min(layers, int(free / (layer * weights_and_gradients))))
        model = self.model((hidden, layers, inner, heads, kv_heads, head, vocabulary))
        length = self.sizes.lengths[0]
        kinds = ("delta", "grpo")
        seconds = self.rollout_seconds({kind: self.trainer(kind, model, length, 4) for kind in kinds})
        note = f"{layers} layers, {seconds['delta']:.3g} s against {seconds['grpo']:.3g} s"
        ratio = seconds["delta"] / seconds["grpo"]
        yield Finding(
            f"step without sampling, hidden {hidden}, misaligned, {length} tokens: DelTA / GRPO", ratio, "", note=note
        )

    def cost(self, check: str, ratio: float, limit: float, note: str = "") -> Finding:
        """A ratio of seconds with its target, which is one for GPUs: on a CPU nothing is judged."""
        return Finding(check, ratio, "", f"≤ {limit}", ratio <= limit if self.is_cuda else None, note)


CHECKS = ("equal_bounds", "coefficients", "modes", "steps", "offload", "wide")


def run_checks(
    device: str,
    sizes: Sizes,
    output: Path,
    checks: Sequence[str] = CHECKS,
    seconds: float = 500,
    resume: bool = False,
) -> list[Finding]:
    """
    Run the checks, and write `output`/gpu_check.json and gpu_check.md after each row.

    Args:
        device: "cuda" or "cpu".
        sizes: Of models and rollouts.
        output: Folder.
        checks: Names of `CHECKS`.
        seconds: No further check starts after this; what did not run is said in the table.
        resume: Keep what an earlier call left in `output` for the same device, versions and sizes, and run the other checks.
    """
    check, start = Check(device, sizes), time.monotonic()
    machine = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU",
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "peft")},
        "sizes": asdict(sizes),
    }
    output.mkdir(parents=True, exist_ok=True)
    rows, done, took = _earlier(output, machine) if resume else ([], {}, 0.0)  # done: how many rows a check gave

    def write() -> None:
        write_findings(output, rows, {**machine, "seconds": took + time.monotonic() - start, "done": done})

    for name in [name for name in checks if name not in done]:
        if time.monotonic() - start > seconds:
            rows.append(Finding(name, math.nan, "", ok=False, note=f"not run: {seconds:g} seconds were over"))
            write()
            continue
        before = len(rows)
        try:
            for row in getattr(check, name)():
                rows.append(row)
                write()
        except Exception as error:  # one check that fails must not cost the results of the others
            traceback.print_exc()
            rows.append(Finding(name, math.nan, "", ok=False, note=f"{type(error).__name__}: {error}".splitlines()[0]))
        done[name] = len(rows) - before
        write()
        check.free()
    return rows


def _earlier(output: Path, machine: dict[str, Any]) -> tuple[list[Finding], dict[str, int], float]:
    """Rows of the checks that are done in `output`, how many each gave, and seconds; nothing from another machine."""
    try:
        report = parse_json((output / "gpu_check.json").read_bytes())
    except (FileNotFoundError, ValueError):  # there is none, or its writing was cut off
        return [], {}, 0.0
    if any(report.get(name) != json.loads(json.dumps(value)) for name, value in machine.items()):
        return [], {}, 0.0
    done = report.get("done", {})
    # What comes after these rows is of a check that was cut off, or says that one was not run
    return [Finding(**row) for row in report["rows"][: sum(done.values())]], done, report["seconds"]


def write_findings(output: Path, rows: Sequence[Finding], machine: dict[str, Any]) -> None:
    report = {**machine, "rows": [asdict(row) for row in rows]}
    (output / "gpu_check.json").write_text(json.dumps(report, indent=1))
    (output / "gpu_check.md").write_text(findings_table(rows, machine))


def findings_table(rows: Sequence[Finding], machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{machine['device']}, {versions}, {machine['seconds']:.0f} s",
        "",
        "| check | value | target | met | note |",
    ]
    lines += ["|:--|--:|:--|:--|:--|"]
    for row in rows:
        met = {True: "yes", False: "**no**", None: "–"}[row.ok]
        lines.append(
            f"| {row.check} | {row.value:.4g} {row.unit} | {row.target} | {met} | {row.note.replace('|', '/')} |"
        )
    return "\n".join(lines) + "\n"
