"""Evaluation over real servers: two processes of `transformers serve`, which are killed in the end."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from support.evaluation_model import adding_folder, adding_model, adding_tokenizer, question
from support.health import healthy
from support.openai_standin import ServerStandIn
from support.places import ROOT, TESTS

from delta_trl.evaluation import server_queue
from delta_trl.evaluation.generate import TransformersBackend
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.options import Decoding, Engine
from delta_trl.evaluation.problem import Benchmark, Problem
from delta_trl.evaluation.run import Task, make_requests, run_share
from delta_trl.evaluation.samples import read_evaluation
from delta_trl.evaluation.server_backend import ServerBackend
from delta_trl.evaluation.server_protocol import Dialect


pytestmark = [pytest.mark.slow, pytest.mark.trained]

PROBLEMS = tuple(Problem(f"{a}+{b}", question(a, b), str(a + b)) for a in range(1, 10) for b in range(1, 6))
BENCHMARKS = ((Benchmark("sums", "Sums", "file"), PROBLEMS),)
GREEDY = Decoding(samples=1, temperature=0, max_tokens=30, prompt_format="{question}")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# What the chat endpoint takes for the answer: else it looks for Qwen's marks, as the model is a Qwen3
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "[assistant]",
    "fields": {"content": {"close": "<eos>", "content": "text"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model that adds, with a chat template."""
    path = tmp_path_factory.mktemp("served")
    tokenizer = adding_tokenizer()
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, RESPONSE_TEMPLATE
    adding_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def servers(folder, tmp_path_factory):
    """Addresses and process ids of two servers."""
    ports = [free_port(), free_port()]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "support.transformers_serve", str(folder), *map(str, ports)]
    log = tmp_path_factory.mktemp("log") / "stderr"  # a pipe that nobody reads would stop them
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        pids = [int(pid) for pid in process.stdout.readline().split()]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        deadline = time.monotonic() + 300
        while not (pids and all(map(healthy, urls))):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield list(zip(urls, pids, strict=True))
        process.kill()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def engine(*urls, **options) -> Engine:
    return Engine("server", base_url=list(urls), **{"concurrency": 2, "retries": 2, **options})


def drawn(backend, decoding) -> dict:
    requests = make_requests(Task(BENCHMARKS, decoding), backend.tokenizer)
    return {
        request.problem: (completion.text, completion.tokens, completion.truncated)
        for batch in backend.generate(requests, decoding)
        for request, completion in batch
    }


@pytest.mark.parametrize("end", ["whole", "length", "stop string", "chat"])
def test_greedy_completions_are_those_of_transformers(end, folder, servers, monkeypatch):
    decoding = GREEDY
    if end == "length":
        decoding = replace(GREEDY, max_tokens=5)
    elif end == "stop string":
        monkeypatch.setattr("delta_trl.data.PromptFormat.stop_strings", property(lambda self: ["m:"]))
    elif end == "chat":
        decoding = replace(GREEDY, prompt_format="chat")
    source = find_model(str(folder))
    backend = ServerBackend(source, engine(*[url for url, _ in servers]))
    assert {state.dialect for state in backend.states} == {Dialect.TRANSFORMERS}
    ours, theirs = drawn(backend, decoding), drawn(TransformersBackend.load(source), decoding)
    assert ours == theirs
    assert len(ours) == len(PROBLEMS)
    assert {truncated for _, _, truncated in ours.values()} == {end == "length"}


def test_the_chat_endpoint_says_what_our_own_prompts_get(folder, servers):
    """The server renders the messages with the template that the tokenizer here has, too."""
    decoding = replace(GREEDY, prompt_format="chat", system_prompt="Add.")
    source = find_model(str(folder))
    chat = drawn(ServerBackend(source, engine(servers[0][0], endpoint="chat")), decoding)
    assert chat == drawn(ServerBackend(source, engine(servers[1][0])), decoding)


def test_a_model_that_is_not_served_is_one_line(servers):
    with pytest.raises(
        ValueError, match=r"does not complete a prompt with .*answers 400: Server is pinned to"
    ) as error:
        ServerBackend(find_model(str(adding_folder())), engine(servers[0][0]))
    assert len(str(error.value).splitlines()) == 1


class Killing(ServerBackend):
    """Kills a server's process after so many samples."""

    def generate(self, requests, decoding):
        count = 0
        for batch in super().generate(requests, decoding):
            if count < 20 <= count + len(batch):
                os.kill(self.victim, signal.SIGKILL)
            count += len(batch)
            yield batch


def test_servers_that_are_killed_lose_nothing(folder, servers, tmp_path, monkeypatch, caplog):
    """The first while the second lives, then the second; what is left is drawn by another one."""
    monkeypatch.setattr(server_queue, "FIRST_PAUSE", 0.05)
    task = Task(BENCHMARKS, Decoding(samples=3, top_p=1.0, max_tokens=40, prompt_format="{question}"))
    source = find_model(str(folder))
    (first, first_pid), (second, second_pid) = servers

    def run(backend, path):
        run_share(backend, task, source, tmp_path / path, "server", settings=backend.settings)

    backend = Killing(source, engine(first, second))
    backend.victim = first_pid
    run(backend, "one_killed.jsonl")
    found = read_evaluation(tmp_path / "one_killed.jsonl").benchmarks["sums"]
    assert (found.missing, len(found.samples)) == (0, 3 * len(PROBLEMS))
    assert 0.42 < found.correct.mean() < 0.82  # sampled: 0.62 of this model, with 135 samples
    assert set(found.column("finish_reason")) == {"stop"}
    assert set(found.column("prompt_tokens")) == {len(question(1, 2))}
    assert f"{first}/v1 is given up" in caplog.text or f"{first}/v1: the connection failed" in caplog.text
    with pytest.raises(ValueError, match="cannot be used: the connection failed"):
        ServerBackend(source, engine(first, second))

    backend = Killing(source, engine(second))
    backend.victim = second_pid
    with pytest.raises(ConnectionError, match=r"no server is left .*the same command continues"):
        run(backend, "all_killed.jsonl")
    kept = (tmp_path / "all_killed.jsonl").read_text()
    assert 20 <= kept.count('"sample":') < 3 * len(PROBLEMS)
    with ServerStandIn(models=(str(folder),)) as another:
        run(ServerBackend(source, engine(another.url)), "all_killed.jsonl")
    assert (tmp_path / "all_killed.jsonl").read_text().startswith(kept)
    assert read_evaluation(tmp_path / "all_killed.jsonl").benchmarks["sums"].missing == 0
