"""Evaluation over `vllm serve`, on a CPU: `make test-vllm`. The server takes a minute or two to start."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.evaluation_model import adding_model, adding_tokenizer, question
from support.health import healthy
from support.places import ROOT

from delta_trl.evaluation.generate import TransformersBackend
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.options import Decoding, Engine
from delta_trl.evaluation.problem import Benchmark, Problem
from delta_trl.evaluation.run import Task, make_requests, run_share
from delta_trl.evaluation.samples import read_evaluation
from delta_trl.evaluation.server_backend import ServerBackend
from delta_trl.evaluation.server_protocol import Dialect


pytestmark = pytest.mark.timeout(2400)

KEY = "sk-of-this-test"
PROBLEMS = tuple(Problem(f"{a}+{b}", question(a, b), str(a + b)) for a in range(1, 10) for b in range(1, 10))
BENCHMARKS = ((Benchmark("sums", "Sums", "file"), PROBLEMS),)
CONTEXT = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer = adding_tokenizer()
    adding_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """Address of a server that wants a key, and calls the model `sums`; and its process."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_API_KEY": KEY}
    options = f"--port {port} --host 127.0.0.1 --dtype float32 --served-model-name sums --max-model-len {CONTEXT}"
    # What `vllm serve` runs. That command asks for the version of a package `vllm`, and vllm-cpu has another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, *options.split()]
    command.append("--enforce-eager")
    log = tmp_path_factory.mktemp("log") / "vllm"
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 1800
        try:
            while not healthy(url):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield url
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)  # with the engine's process


@pytest.fixture
def backend(folder, server, monkeypatch):
    monkeypatch.setenv("SUMS_KEY", KEY)
    return ServerBackend(find_model(str(folder)), engine(server))


def engine(*urls, **options) -> Engine:
    settings = {"served_model": "sums", "api_key_env": "SUMS_KEY", **options}
    return Engine("server", base_url=list(urls), **settings)


def drawn(backend, decoding) -> dict:
    requests = make_requests(Task(BENCHMARKS, decoding), backend.tokenizer)
    return {
        request.problem: (completion.text, completion.tokens, completion.truncated)
        for batch in backend.generate(requests, decoding)
        for request, completion in batch
    }


@pytest.mark.parametrize("max_tokens", [40, 5])
def test_greedy_completions_are_those_of_transformers(max_tokens, backend, folder):
    (state,) = backend.states
    assert (state.dialect, state.context) == (Dialect.ENGINE, CONTEXT)  # token ids, and what the list of models says
    decoding = Decoding(samples=1, temperature=0, max_tokens=max_tokens, prompt_format="{question}")
    ours = drawn(backend, decoding)
    assert ours == drawn(TransformersBackend.load(find_model(str(folder)), "float32"), decoding)
    assert len(ours) == len(PROBLEMS)


def test_samples_are_those_of_the_model_and_a_seed_repeats_them(backend, folder, tmp_path):
    source = find_model(str(folder))
    texts = []
    for path in (tmp_path / "once.jsonl", tmp_path / "again.jsonl"):
        decoding = Decoding(samples=8, top_p=1.0, max_tokens=1000, prompt_format="{question}")
        run_share(backend, Task(BENCHMARKS, decoding), source, path, "server", settings=backend.settings)
        found = read_evaluation(path).benchmarks["sums"]
        assert found.missing == 0  # 1,000 tokens would not fit: each is asked for as many as do
        assert 0.52 < found.correct.mean() < 0.72  # 0.62 of this model, with 648 samples
        assert set(found.column("prompt_tokens")) == {len(question(1, 2))}
        assert KEY not in path.read_text()
        texts.append(found.column("completion"))
    same = sum(a == b for a, b in zip(*texts, strict=True))
    assert same > 0.99 * len(texts[0])


def test_a_wrong_key_and_a_wrong_name_are_one_line_each(backend, folder, server, monkeypatch):
    with pytest.raises(ValueError, match=r'serves "sums", and not "others"\. Name one with --served_model\.$'):
        ServerBackend(find_model(str(folder)), engine(server, served_model="others"))
    monkeypatch.setenv("SUMS_KEY", "sk-wrong")
    with pytest.raises(ValueError, match=r"answers 401: .*The key is refused\.$") as error:
        ServerBackend(find_model(str(folder)), engine(server))
    assert "sk-wrong" not in str(error.value)
