"""Fixtures that several folders use."""

import gc
import importlib.util

import pytest
import support  # noqa: F401 - before torch: it sets what other packages read when they are imported
import torch
from support import cpu
from support.commands import make_project
from trl import GRPOTrainer

from delta_trl import DeltaGRPOTrainer
from delta_trl import credit as credit_module


# Every training collects garbage, and looked through all that importing made: half of the time of a short one
gc.freeze()

torch.set_num_threads(cpu.THREADS)

if importlib.util.find_spec("hypothesis"):  # tests/real runs without
    from hypothesis import settings

    settings.load_profile("ci")  # the same examples in every run, and no deadline that a busy machine would miss


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: a long one that is begun last keeps one process busy when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_report_header() -> str:
    return f"{cpu.cpu_name()}, computing as {torch.backends.cpu.get_cpu_capability()}, threads: {cpu.THREADS}"


@pytest.fixture
def collected(monkeypatch):
    """Everything that passes between the trainer and the maths: rollout batches, features, coefficients, loss inputs."""
    seen = {"batches": [], "features": [], "coefficients": [], "losses": []}
    generate = DeltaGRPOTrainer._generate_and_score_completions
    compute = credit_module.delta_coefficients
    loss = GRPOTrainer.compute_loss

    def generate_and_keep(self, inputs):
        seen["batches"].append(generate(self, inputs))
        return seen["batches"][-1]

    def compute_and_keep(features, advantages, **options):
        seen["features"].append((features.clone(), advantages.clone(), options["feature_scale"]))
        seen["coefficients"].append(compute(features, advantages, **options))
        return seen["coefficients"][-1]

    def loss_and_keep(self, model, inputs, *args, **kwargs):
        seen["losses"].append({k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)})
        return loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DeltaGRPOTrainer, "_generate_and_score_completions", generate_and_keep)
    monkeypatch.setattr(credit_module, "delta_coefficients", compute_and_keep)
    monkeypatch.setattr(GRPOTrainer, "compute_loss", loss_and_keep)
    return seen


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)
