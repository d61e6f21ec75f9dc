"""Whether a rehearsal without a GPU has a vLLM that runs there. vLLM itself: tests/real/test_vllm.py."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from trl.generation import vllm_generation

from delta_trl.train.vllm_on_cpus import has_vllm_for_cpus


@pytest.mark.parametrize("for_cpus", [True, False])
def test_a_vllm_for_gpus_is_none_for_cpus(for_cpus, monkeypatch):
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: for_cpus)
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    assert has_vllm_for_cpus() is for_cpus


def test_without_vllm_there_is_none(monkeypatch):
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: False)
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it would fail
    assert not has_vllm_for_cpus()
