"""Two real processes (gloo, on the CPU) under every launcher, against one process on the same rollouts.

Every launcher here is known to fall back to something smaller, without an error, where it lacks something, so the
distributed type, the number of processes and the sharding are asserted before anything is compared.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.forked import python
from support.models import tiny_model
from support.places import SUPPORT


LAUNCH = SUPPORT / "launch"
sys.path.append(str(LAUNCH))

from worker import CASES, RAISES_AFTER, VARIANTS, WITH_COEFFICIENTS, train  # noqa: E402


pytestmark = [pytest.mark.slow, pytest.mark.trained]

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ACCELERATE = ["accelerate.commands.launch", "--main_process_port=0"]
DEEPSPEED = [*ACCELERATE, "--use_deepspeed", "--num_machines=1", "--num_processes=2", "--mixed_precision=no"]
LAUNCHERS = {
    "ddp": TORCHRUN,
    "fsdp2": [*ACCELERATE, f"--config_file={LAUNCH / 'fsdp2.yaml'}"],
    "zero2": [*DEEPSPEED, f"--deepspeed_config_file={LAUNCH / 'zero2.json'}"],
    "zero3": [*DEEPSPEED, f"--deepspeed_config_file={LAUNCH / 'zero3.json'}"],
}
# What each launcher must turn out to be: distributed type, wrapper, ZeRO stage, and the share of the model's parameters
# and of what the optimiser updates that one of two processes holds
EXPECTED = {
    "ddp": ("MULTI_CPU", "DistributedDataParallel", None, 1, 1),
    "fsdp2": ("FSDP", "FSDPQwen3ForCausalLM", None, 0.5, 0.5),
    "zero2": ("DEEPSPEED", "DeepSpeedEngine", 2, 1, 0.5),
    # The optimiser of ZeRO-3 takes its parameters, half of them, for the duration of a step only
    "zero3": ("DEEPSPEED", "DeepSpeedEngine", 3, 0.5, 0),
}


def launch(launcher: str, base: Path, output: Path) -> None:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    command = [python(), "-m", *LAUNCHERS[launcher], str(LAUNCH / "worker.py"), launcher, str(base), str(output)]
    log = output / "log.txt"
    with open(log, "w") as stream:
        status = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, timeout=550)
    if status.returncode != 0:
        pytest.fail(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}", pytrace=False)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_process")
    tiny_model().save_pretrained(folder / "base")
    return folder, {variant: train(folder / "base", folder / variant, variant) for variant in VARIANTS}


@pytest.fixture(scope="module", params=LAUNCHERS)
def launched(request, one_process, tmp_path_factory):
    if request.param.startswith("zero") and sys.platform != "linux":
        pytest.skip("DeepSpeed is among the development dependencies on Linux only")
    folder = tmp_path_factory.mktemp(request.param)
    launch(request.param, one_process[0] / "base", folder)
    return request.param, folder


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")  # the model, or the adapter
    return load_file(file)


def ranks(folder: Path) -> list[dict]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_equal(expected: dict, expected_folder: Path, folder: Path) -> None:
    """Coefficients, losses, gradient norms and saved weights of two processes are those of one."""
    results = ranks(folder)
    for batch, (whole, *parts) in enumerate(
        zip(expected["coefficients"], *(result["coefficients"] for result in results), strict=True)
    ):
        for one, other in zip(whole, [row for part in parts for row in part], strict=True):
            torch.testing.assert_close(
                other, one, rtol=0, atol=1e-5, msg=lambda text, batch=batch: f"rollout batch {batch}: {text}"
            )
    for result in results:
        for one, other in zip(expected["logs"], result["logs"], strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=0, abs=1e-5)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4, abs=1e-5)
            assert other.keys() == one.keys()
            for name in [key for key in one if re.match(r"(fipo|stare|shear|rlsd)/(?!seconds)", key)]:
                assert other[name] == pytest.approx(one[name], rel=0, abs=1e-6), name
    one, other = saved_weights(expected_folder), saved_weights(folder)
    assert one.keys() == other.keys()
    for name, weights in one.items():
        assert weights.dtype == torch.float32
        torch.testing.assert_close(other[name], weights, rtol=0, atol=1e-5)


def test_the_cases_are_what_they_are_called(one_process):
    for variant in WITH_COEFFICIENTS:
        result = one_process[1][variant]
        batches = dict(zip(CASES, result["coefficients"], strict=True))
        lengths = {case: [len(row) for row in rows] for case, rows in batches.items()}
        assert len(set(lengths["uneven lengths"])) > 5
        assert sum(lengths["no token on the second half"][8:]) == 0 < sum(lengths["no token on the second half"][:8])
        assert [n > 0 for n in lengths["one side on each half"]] == [False, True] * 4 + [True, False] * 4
        assert len(set(lengths["all lengths equal"])) == 1
        entries = [entry for entry in result["logs"] if "delta/fallback/no_contrast" in entry]
        assert [entry["delta/fallback/no_contrast"] for entry in entries] == [
            float(case == "no advantage at all") for case in CASES
        ]
        assert [entry["frac_reward_zero_std"] for entry in entries] == [0, 0, 0, 0.5, 1, 0]
        assert {entry["delta/extra_forward_passes"] for entry in entries} == {float(variant != "two updates")}
        for case, rows in batches.items():
            if case != "no advantage at all":
                assert torch.cat(rows).std() > 0.03, case


def test_fipo_weighs_tokens_in_the_second_update_only(one_process):
    entries = one_process[1]["FIPO"]["logs"]
    assert all((entry["fipo/mean"] == 1) == (number % 2 == 0) for number, entry in enumerate(entries[: 2 * 4]))


@pytest.mark.parametrize("variant", ["STARE", "RLSD", "hashed agreement"])
def test_the_rivals_weights_differ_in_the_cases_that_have_a_contrast(one_process, variant):
    for case, rows in zip(CASES, one_process[1][variant]["coefficients"], strict=True):
        if case != "no advantage at all":
            assert torch.cat(rows).std() > 0.03, case


def test_the_model_moves_a_thousand_times_further_than_the_tolerance(one_process):
    folder, _ = one_process
    before = saved_weights(folder / "base")
    for variant in VARIANTS:
        after = saved_weights(folder / variant)
        # The second factor of an adapter starts at zero
        moves = [weights - before.get(name, 0) for name, weights in after.items() if "lora_A" not in name]
        assert max(move.abs().max() for move in moves) > 0.01, variant


def test_the_run_really_is_distributed(launched):
    launcher, folder = launched
    distributed_type, wrapper, stage, parameters, optimised = EXPECTED[launcher]
    adapted = wrapper.replace("Qwen3ForCausalLM", "PeftModelForCausalLM")
    for variant in VARIANTS:
        for result in ranks(folder / variant):
            (here, everywhere), (optimised_here, trainable) = result["parameters"], result["optimised"]
            assert result["num_processes"] == 2
            assert result["distributed_type"] == distributed_type
            assert result["wrapper"] == (wrapper if variant != "LoRA" else adapted)
            assert result["zero_stage"] == stage
            assert everywhere == tiny_model().num_parameters() + (trainable if variant == "LoRA" else 0)
            assert here == pytest.approx(parameters * everywhere, rel=0.02)
            assert optimised_here == pytest.approx(optimised * trainable, rel=0.02)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_equal_one(one_process, launched, variant):
    folder, results = one_process
    assert_equal(results[variant], folder / variant, launched[1] / variant)


def test_a_reward_that_raises_on_one_process_stops_all_with_a_checkpoint(one_process, launched):
    """What is continued from that checkpoint equals the run that was never stopped."""
    folder, results = one_process
    stopped = launched[1] / "stopped"
    expected = [entry["loss"] for entry in results["one update"]["logs"]]
    for result in ranks(stopped):
        assert f"after step {RAISES_AFTER} (process 1: KeyError: 'answer')" in result["message"]
        assert f"is saved in {stopped / f'checkpoint-{RAISES_AFTER}'}" in result["message"]
        assert [entry["loss"] for entry in result["logs"]] == pytest.approx(expected, rel=0, abs=1e-5)
        assert len(result["coefficients"]) == len(CASES) - RAISES_AFTER
    for name, weights in saved_weights(folder / "one update").items():
        torch.testing.assert_close(saved_weights(stopped)[name], weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("launched", ["ddp"], indirect=True)
def test_the_comparison_notices_a_missing_reduction(one_process, launched):
    """The same run with each process computing coefficients from its own tokens only, see worker.py."""
    folder, results = one_process
    with pytest.raises(AssertionError, match="rollout batch 0"):
        assert_equal(results["one update"], folder / "one update", launched[1] / "mutated")
