"""Evaluation and training with vLLM itself, on CPUs: `make test-vllm`. An engine takes about a minute to start."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.evaluation_model import adding_model, adding_tokenizer, question, random_model
from support.places import ROOT

from delta_trl.evaluation.engine_guard import descendants
from delta_trl.evaluation.generate import Decoding, TransformersBackend
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.options import Engine
from delta_trl.evaluation.problem import Benchmark, Problem
from delta_trl.evaluation.run import Task, make_requests, run_share
from delta_trl.evaluation.samples import read_evaluation
from delta_trl.evaluation.vllm_backend import VllmBackend
from delta_trl.train.vllm_on_cpus import keep_weights_loadable


SAMPLES = 8
TEMPLATE = "{question}"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
LIMIT = 1800  # seconds of a command: an engine starts in one minute on idle cores, and in many on busy ones
pytestmark = pytest.mark.timeout(2 * LIMIT)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny Qwen3 that adds two digits and is often wrong when sampled."""
    return saved(adding_model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """One that knows nothing: every token can still be learned."""
    return saved(random_model, tmp_path_factory.mktemp("untrained"))


def saved(make, folder: Path) -> Path:
    tokenizer = adding_tokenizer()
    make(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def task() -> Task:
    problems = tuple(
        Problem(f"{a}+{b}", question(a, b), str(a + b)) for a in range(1, 10) for b in range(1, 10) if (a + b) % 3
    )
    return Task(
        ((Benchmark("sums", "Sums", "file"), problems),),
        Decoding(samples=SAMPLES, top_p=1.0, max_tokens=40, prompt_format=TEMPLATE),
    )


@pytest.fixture(scope="session")
def backend(model):
    os.environ.update({key: ENVIRONMENT[key] for key in ("HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE")})
    backend = VllmBackend(find_model(str(model)), Engine("vllm", dtype="float32", gpu_memory_utilization=0.1))
    yield backend
    backend.close()


def drawn(backend, requests, decoding) -> dict:
    """Completions by sample."""
    finished = [pair for portion in backend.generate(requests, decoding) for pair in portion]
    assert len(finished) == len(requests)
    return {(request.problem, request.index): completion for request, completion in finished}


def test_greedy_completions_are_those_of_transformers(backend, model, task):
    decoding = Decoding(samples=1, temperature=0, max_tokens=40, prompt_format=TEMPLATE)
    requests = make_requests(Task(task.benchmarks, decoding), backend.tokenizer)
    ours = drawn(backend, requests, decoding)
    theirs = drawn(
        TransformersBackend.load(find_model(str(model)), "float32", torch.device("cpu"), 64), requests, decoding
    )
    for key, completion in ours.items():
        assert (completion.text, completion.tokens) == (theirs[key].text, theirs[key].tokens), key
        assert completion.truncated == theirs[key].truncated


def test_sampled_pass_rates_agree_within_noise(backend, model, task, tmp_path):
    source = find_model(str(model))
    transformers = TransformersBackend.load(source, "float32", torch.device("cpu"), 128)
    means = []
    for engine in (backend, transformers):
        run_share(engine, task, source, tmp_path / f"{engine.name}.jsonl", "float32")
        found = read_evaluation(tmp_path / f"{engine.name}.jsonl").benchmarks["sums"]
        assert found.missing == 0
        means.append(found.correct.mean())
        assert 0.02 < means[-1] < 0.98  # or nothing is compared
    count = len(task.benchmarks[0][1]) * SAMPLES
    noise = (2 * means[1] * (1 - means[1]) / count) ** 0.5
    assert abs(means[0] - means[1]) < 4 * noise
    seconds = read_evaluation(tmp_path / "vllm.jsonl").benchmarks["sums"].column("seconds")
    assert all(0 < value < 600 for value in seconds)


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(backend, task):
    requests = make_requests(task, backend.tokenizer)[: 6 * SAMPLES]
    whole = drawn(backend, requests, task.decoding)
    shuffled = drawn(backend, requests[::-2], task.decoding)
    same = sum(whole[key].text == completion.text for key, completion in shuffled.items())
    assert same >= len(shuffled) - 1  # rounding differs between batches of unlike shape
    assert len({whole[requests[0].problem, index].text for index in range(SAMPLES)}) > 1
    other = [request.__class__(**{**vars(request), "seed": request.seed + 1}) for request in requests]
    assert any(whole[key].text != completion.text for key, completion in drawn(backend, other, task.decoding).items())


def evaluate(model: Path, problems: Path, output: Path, *options) -> list[str]:
    return [
        *(sys.executable, "-m", "delta_trl.evaluation", "--model", str(model), "--benchmark", str(problems)),
        *("--samples", "64", "--max_tokens", "40", "--top_p", "1", "--prompt_format", TEMPLATE, "--dtype", "float32"),
        *("--backend", "vllm", "--gpu_memory_utilization", "0.1", "--output", str(output), *map(str, options)),
    ]


@pytest.fixture(scope="session")
def problems(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": question(a, b), "answer": str(a + b)} for a in range(1, 6) for b in range(1, 7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_killed_in_the_middle_and_resumed(model, problems, tmp_path):
    command = evaluate(model, problems, tmp_path)
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    files, deadline = [], time.monotonic() + LIMIT
    while not files or files[0].read_bytes().count(b"\n") < 100:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
        files = list(tmp_path.glob("*.jsonl"))
    started = descendants(process.pid)
    (worker,) = [
        pid for pid in started if state_and_parent(pid)[1] == process.pid and "spawn_main" in command_line(pid)
    ]
    assert descendants(worker)  # the engine
    for pid in (process.pid, worker):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    finished = files[0].read_text().splitlines()
    assert len(finished) < 30 * 64
    while any(state_and_parent(pid)[0] != "Z" for pid in started):
        assert time.monotonic() < deadline, "the engine outlived its parents"
        time.sleep(0.5)

    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = read_evaluation(files[0]).benchmarks.values()
    assert (found.missing, len(found.samples)) == (0, 30 * 64)
    after = files[0].read_text().splitlines()
    assert after[: len(finished) - 1] == finished[:-1]  # what was there stays, but for a line that may have been torn


def state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return state, int(parent)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def test_two_engines_share_the_samples(model, problems, tmp_path):
    """On CPUs a device is a NUMA node. Here both engines are given the one there is."""
    environment = {**ENVIRONMENT, "CPU_VISIBLE_MEMORY_NODES": "0,0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = evaluate(model, problems, tmp_path, "--data_parallel_size", 2)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "process 1 of 2" in done.stderr
    (path,) = tmp_path.glob("*.jsonl")
    (found,) = read_evaluation(path).benchmarks.values()
    assert (found.missing, len(found.samples)) == (0, 30 * 64)


def trained(model: Path, output: Path, *options, launcher=()) -> list[dict]:
    command = [sys.executable, *launcher, str(Path(__file__).with_name("vllm_training.py")), str(model), str(output)]
    done = subprocess.run([*command, *options], env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(output.glob("record_*.json"))]


def assert_vllm_follows_the_policy(record: dict, batches: int) -> None:
    assert len(record["batches"]) == batches
    for batch in record["batches"]:
        assert batch["tokens"] > 0
        assert batch["from_policy"] < 0.02  # nats a token: two programs' rounding
        assert all(abs(ratio - 1) < 0.5 for ratio in batch["ratio"])
    assert record["batches"][0]["from_first"] < 0.02
    assert record["batches"][-1]["from_first"] > 0.2  # the policy has moved, and vLLM with it
    losses = [entry for entry in record["history"] if "delta/seconds" in entry]
    assert len(losses) == batches
    assert any("importance_sampling_ratio" in name for name in losses[0])


def test_training_samples_from_the_latest_weights(untrained, tmp_path):
    (record,) = trained(untrained, tmp_path / "run")
    assert_vllm_follows_the_policy(record, batches=4)


def test_training_in_two_processes(untrained, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    records = trained(untrained, tmp_path / "run", "per_device_train_batch_size=8", launcher=launcher)
    assert [record["world"] for record in records] == [2, 2]
    for record in records:
        assert_vllm_follows_the_policy(record, batches=4)


def test_a_colocated_run_is_rehearsed(untrained, problems, tmp_path):
    settings = {
        "model_name_or_path": str(untrained),
        "dataset_name": str(problems),
        "answer_column": "answer",
        "prompt_format": "{question}",
        "max_prompt_length": 40,
        "output_dir": str(tmp_path / "run"),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "max_steps": 3,
        "report_to": "none",
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": 0.1,
        "vllm_max_model_length": 64,
        "vllm_importance_sampling_mode": "token_truncate",
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings))  # which is YAML, too
    command = [sys.executable, "-m", "delta_trl.train", "--config", str(tmp_path / "config.yaml"), "--rehearse"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    report = done.stdout[done.stdout.index("Rehearsed:") :]
    assert "bit for bit, and so are the weights; transformers sampled for this" in report
    assert "vllm_enable_sleep_mode: True -> False (no GPU here)" in report
    assert "vLLM's kernels for CPUs: torch's for linear layers" in report
    assert "use_vllm: True" not in report  # it was used


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # of which vLLM may have kernels of their own
@pytest.mark.parametrize("shape", [(96, 16), (16, 32), (128, 128)])
def test_linear_layers_keep_their_weights_where_they_are_told_to(shape, dtype, monkeypatch):
    from vllm.model_executor.layers import utils

    def layer() -> torch.nn.Module:
        made = torch.nn.Linear(*reversed(shape), bias=False, dtype=dtype).requires_grad_(False)
        utils.dispatch_cpu_unquantized_gemm(made, remove_weight=True)
        return made

    assert layer().weight.numel() == 0
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", utils.dispatch_cpu_unquantized_gemm)  # put back later
    keep_weights_loadable()
    kept = layer()
    assert kept.weight.shape == shape
    hidden = torch.randn(3, shape[1], dtype=dtype)
    for _ in range(2):  # as it is, and updated
        assert torch.equal(kept.cpu_linear(hidden, kept.weight, None), hidden @ kept.weight.T)
        kept.weight.mul_(2)


def test_packed_weights_cannot_be_updated_in_vllm(untrained, tmp_path):
    """Why weights are kept. When this test fails, vLLM or TRL has mended it, and `vllm_on_cpus` can go."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("vllm_training.py")),
        str(untrained),
        str(tmp_path / "run"),
    ]
    done = subprocess.run([*command, "--as-it-is"], env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode != 0
    assert "has no attribute 'weight_loader'" in done.stderr
