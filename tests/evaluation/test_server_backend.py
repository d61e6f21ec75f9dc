"""Evaluation over servers, with a stand-in that fails in every way. A real server: `test_transformers_serve.py`."""

import json
import shutil
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from support.evaluation_model import adding_tokenizer, question
from support.openai_standin import DROP, HANG, ServerStandIn

from delta_trl.evaluation import server, server_backend, server_queue
from delta_trl.evaluation.__main__ import main as evaluate
from delta_trl.evaluation.generate import Request
from delta_trl.evaluation.models import ModelSource, find_model
from delta_trl.evaluation.options import Decoding, Engine
from delta_trl.evaluation.problem import Benchmark, Problem
from delta_trl.evaluation.run import Task, run_share
from delta_trl.evaluation.samples import read_evaluation
from delta_trl.evaluation.server import BrokenError, _retry_after
from delta_trl.evaluation.server_backend import ServerBackend
from delta_trl.evaluation.server_protocol import Dialect, Protocol


pytestmark = pytest.mark.trained


PLAIN = Decoding(samples=2, top_p=1.0, max_tokens=40, prompt_format="{question}")
PROBLEMS = tuple(Problem(f"{a}+{b}", question(a, b), str(a + b)) for a in range(1, 6) for b in range(1, 4))
TASK = Task(((Benchmark("sums", "Sums", "file"), PROBLEMS),), PLAIN)
KEY = "sk-the-key-of-this-test"
# Beyond what a machine's integers hold
NO_DATES = (f"Mon, 01 Jan {'9' * 20} 00:00:00 GMT", f"Mon, 01 Jan 2026 00:00:00 +{'9' * 14}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tokenizer is all that is needed here of a model."""
    path = tmp_path_factory.mktemp("model")
    adding_tokenizer().save_pretrained(path)
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(server_queue, "FIRST_PAUSE", 0.02)


def engine(*servers, **options) -> Engine:
    settings = {"served_model": "model", "concurrency": 4, "retries": 3, **options}
    return Engine("server", base_url=[getattr(s, "url", s) for s in servers], **settings)


def evaluated(folder, path, *servers, task=TASK, **options):
    """What the record file holds after an evaluation of it all."""
    source = find_model(str(folder))
    backend = ServerBackend(source, engine(*servers, **options))
    run_share(backend, task, source, path, "server", settings=backend.settings)
    return read_evaluation(path).benchmarks["sums"]


def failing(*answers):
    """A fault for each of the first requests, in turn."""
    return lambda body, number: answers[number - 1] if number <= len(answers) else None


GOOD = {"choices": [{"text": "a", "finish_reason": "stop"}], "usage": {"completion_tokens": 3, "prompt_tokens": 6}}


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "0"}, {"error": {"message": "slow down"}}),
        (500, {}, {"error": "out of memory"}),
        (503, {"Retry-After": NO_DATES[0]}, b"<html>no healthy upstream</html>"),
        (200, {}, b'{"choices": [{"text": "cut o'),
        (200, {}, b"[" * 100_000),
        (200, {}, [1, 2]),
        (200, {}, {**GOOD, "choices": []}),  # fewer than asked for
        (200, {}, {**GOOD, "choices": None}),
        (200, {}, {**GOOD, "choices": ["a"]}),
        (200, {}, {"error": {"message": "an error with status 200"}}),
        (200, {}, {**GOOD, "choices": [{"text": None, "finish_reason": "stop"}]}),
        (200, {}, {**GOOD, "choices": [{"text": "a", "finish_reason": "abort"}]}),
        (200, {}, {**GOOD, "usage": {"completion_tokens": "3"}}),
        (200, {}, {**GOOD, "usage": {"completion_tokens": -1}}),
        (200, {}, {**GOOD, "usage": {"completion_tokens": 10**400}}),
        (200, {}, {**GOOD, "usage": None}),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        (200, {}, b"\xff\xfe" * 100),
        (200, {"Content-Length": 1000}, b"{"),  # the connection ends before the answer does
        (200, {"Content-Length": "many"}, b"{}"),
        DROP,
    ],
    ids=str,
)  # fmt: skip
def test_whatever_a_server_answers_the_request_is_sent_again(fault, folder, tmp_path):
    with ServerStandIn(fault=failing(fault, None, fault)) as standin:
        found = evaluated(folder, tmp_path / "out.jsonl", standin)
    assert (found.missing, found.correct.mean()) == (0, 1.0)
    assert (
        len(standin.bodies) >= 1 + 30 + 2 + 1
    )  # the first try, the samples, two failures, and a sign of life after one


def test_an_answer_without_end_is_not_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "LARGEST_ANSWER", 10_000)
    endless = (200, {"Content-Length": 10**9}, b" " * 1_000_000)
    with ServerStandIn(fault=failing(endless)) as standin:
        assert evaluated(folder, tmp_path / "out.jsonl", standin).missing == 0


def test_a_server_that_asks_for_time_gets_it(folder, tmp_path):
    with ServerStandIn(fault=failing((429, {"Retry-After": "1"}, {}))) as standin:
        found = evaluated(folder, tmp_path / "out.jsonl", standin, concurrency=1)
    assert found.missing == 0
    assert standin.times[2] - standin.times[1] >= 0.99


def test_retry_after_is_seconds_or_a_date_and_bounded():
    assert _retry_after("2.5") == 2.5
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60))
    assert 50 < _retry_after(in_a_minute) <= 60
    assert _retry_after(format_datetime(datetime.now() + timedelta(days=900))) == server.LONGEST_RETRY_AFTER
    for nothing in (None, "", "soon", "-5", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT", *NO_DATES):
        assert _retry_after(nothing) == 0.0


def test_a_request_that_always_fails_is_left_out_and_named(folder, tmp_path, caplog):
    """The server works for all others, and for this one the next time."""
    bad = list(adding_tokenizer()(question(3, 2))["input_ids"])
    fault = lambda body, number: (500, {}, {"error": "assertion failed"}) if body["prompt"] == bad else None  # noqa: E731
    path = tmp_path / "out.jsonl"
    with ServerStandIn(fault=fault) as standin:
        found = evaluated(folder, path, standin)
        assert found.without_sample == ["3+2"]
        assert found.missing == 2
        assert caplog.text.count("A sample of problem 3+2 of sums is left out, and counts as wrong") == 1
        assert "500: assertion failed" in caplog.text
        standin.fault = lambda body, number: None
        before = path.read_text()
        assert evaluated(folder, path, standin).missing == 0
    assert path.read_text().startswith(before)


def test_a_request_that_is_refused_is_left_out_and_one_line_says_when_all_are(folder, tmp_path, caplog):
    bad = list(adding_tokenizer()(question(1, 1))["input_ids"])
    too_long = (400, {}, {"message": "maximum context length is 8 tokens"})
    with ServerStandIn(fault=lambda body, number: too_long if body["prompt"] == bad else None) as standin:
        assert evaluated(folder, tmp_path / "out.jsonl", standin).without_sample == ["1+1"]
        assert len(standin.bodies) == 1 + 30  # not asked again
        standin.fault = lambda body, number: too_long if len(body["prompt"]) > 1 else None  # longer than what is tried
        with pytest.raises(ValueError, match=r"Every request was refused.*answers 400: maximum context length is 8"):
            evaluated(folder, tmp_path / "none.jsonl", standin)


def test_servers_that_hang_are_left_and_their_requests_go_to_the_others(folder, tmp_path, caplog):
    with ServerStandIn(fault=lambda body, number: HANG) as hanging, ServerStandIn() as working:
        found = evaluated(folder, tmp_path / "out.jsonl", hanging, working, request_timeout=2.0)
    assert (found.missing, found.correct.mean()) == (0, 1.0)
    assert len(hanging.bodies) > 1
    assert f"{hanging.url}: it did not answer within 2 seconds" in caplog.text


def test_all_servers_gone_is_one_line_and_the_next_start_continues(folder, tmp_path, capsys):
    """The second start knows the samples of the first, and other servers."""
    problems = tmp_path / "sums.jsonl"
    problems.write_text("".join(json.dumps({"question": p.question, "answer": p.answer}) + "\n" for p in PROBLEMS))
    arguments = ["--model", folder, "--benchmark", problems, "--samples", 2, "--prompt_format", "{question}"]
    arguments += ["--backend", "server", "--output", tmp_path / "out", "--served_model", "model", "--retries", 2]
    with ServerStandIn(fault=lambda body, number: DROP if number > 7 else None) as dying, ExitStack() as stack:
        more = ["--base_url", dying.url, "--concurrency", 2]
        with pytest.raises(SystemExit, match="2"):  # six samples after two first tries
            evaluate(list(map(str, [*arguments, *more])))
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"error: ConnectionError: no server is left ({dying.url}: the connection failed")
        assert "Of 30 samples 6 are finished and kept: the same command continues" in last
        (path,) = (tmp_path / "out").glob("*.jsonl")
        kept = path.read_text()
        assert kept.count('"sample":') == 6
        two = [stack.enter_context(ServerStandIn()) for _ in range(2)]
        evaluate(list(map(str, [*arguments, "--base_url", *[s.url for s in two]])))
    assert path.read_text().startswith(kept)
    assert sum(len(s.bodies) for s in two) == 24 + 2 * 2  # two first tries of each: by the command, and at the start
    assert all(len(s.bodies) > 10 for s in two)  # both had a share
    assert read_evaluation(path).benchmarks["sums"].missing == 0
    assert "on servers as 'model', endpoint completions" in capsys.readouterr().out


def test_a_key_is_sent_from_the_environment_and_shown_nowhere(folder, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("MY_KEY", KEY)
    path = tmp_path / "out.jsonl"
    leak = (400, {}, {"error": f"your key {KEY} may not do that"})
    with ServerStandIn(key=KEY, fault=failing(leak)) as standin:
        found = evaluated(folder, path, standin, api_key_env="MY_KEY")
        assert found.missing == 1
        with pytest.raises(
            ValueError, match=r"answers 401.*wants a key: name its variable with --api_key_env"
        ) as wanted:
            evaluated(folder, path, standin)
        monkeypatch.setenv("MY_KEY", "sk-another")
        with pytest.raises(
            ValueError, match=r"answers 401: Incorrect API key provided: \*\*\*. The key is refused"
        ) as other:
            evaluated(folder, path, standin, api_key_env="MY_KEY")
        standin.key = None
        expired = (403, {}, {"error": "expired"})
        standin.fault = lambda body, number: expired if len(body["prompt"]) > 1 else None
        with pytest.raises(ConnectionError, match=r"no server is left .*403: expired"):
            evaluated(folder, tmp_path / "more.jsonl", standin, api_key_env="MY_KEY")
    assert "*** may not do that" in caplog.text
    shown = [path.read_text(), caplog.text, capsys.readouterr().err, str(wanted.value), str(other.value)]
    assert not any(KEY in text or "sk-another" in text for text in shown)


@pytest.mark.parametrize("before", [0, 50, 60, 79])
def test_no_piece_of_a_key_is_shown_where_an_answer_is_cut_off(before, folder, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    echo = (400, {}, b"x" * before + KEY.encode() + b"x" * 100)
    with ServerStandIn(fault=lambda body, number: echo) as standin:
        ServerBackend(find_model(str(folder)), engine(standin, api_key_env="MY_KEY"))
        with pytest.raises(ValueError, match="answers 400") as error:
            ServerBackend(find_model(str(folder)), engine(standin, api_key_env="MY_KEY"))
    assert KEY[:4] not in str(error.value)


@pytest.mark.parametrize("status", [400, 405, 422])
def test_a_refused_list_of_models_is_said_in_a_line(status, folder):
    message = rf"there is no list of models at .*\(it answers {status}: not here\)\.$"
    with (
        ServerStandIn(listing=(status, {}, {"error": "not here"})) as standin,
        pytest.raises(ValueError, match=message),
    ):
        ServerBackend(find_model(str(folder)), engine(standin))


def test_names_of_models_are_shown_without_the_key_and_without_what_turns_a_line_around(folder, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with (
        ServerStandIn(models=(f"of {KEY}", "one\u202ereversed")) as standin,
        pytest.raises(ValueError, match=r'serves "of \*\*\*", "one reversed", and not') as error,
    ):
        ServerBackend(find_model(str(folder)), engine(standin, api_key_env="MY_KEY"))
    assert KEY not in str(error.value)


def test_a_server_that_ignores_how_long_a_completion_may_be_is_refused(folder):
    for tokens in (17, 10**6):
        long = {**GOOD, "usage": {"completion_tokens": tokens, "prompt_tokens": 1}}
        with ServerStandIn() as standin:
            standin.complete = lambda body, long=long: long
            with pytest.raises(ValueError, match=rf"made {tokens} tokens where 16 were asked for at most"):
                ServerBackend(find_model(str(folder)), engine(standin))
    with ServerStandIn() as standin:
        full = {**GOOD, "usage": {"completion_tokens": 16, "prompt_tokens": 1}}
        standin.complete = lambda body: full
        ServerBackend(find_model(str(folder)), engine(standin))


@pytest.mark.parametrize("value", [None, "", "  ", "a\nb", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_said_without_it(value, folder, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ValueError, match="MY_KEY") as error:
        ServerBackend(find_model(str(folder)), engine("http://localhost:9", api_key_env="MY_KEY"))
    assert not value or not value.strip() or value not in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "must be like http://host:8000/v1"),
        ("ftp://host", "must be like http://host:8000/v1"),
        ("http://", "must be like http://host:8000/v1"),
        ("http://host:99999", "must be like http://host:8000/v1, and Port"),
        ("http://host:port", "must be like http://host:8000/v1, and Port"),
        ("http://[::1", "must be like http://host:8000/v1, and Invalid IPv6"),
        ("http://a\x00b", "must be like http://host:8000/v1"),
        ("http://host/v1?key=1", "must be like http://host:8000/v1"),
        ("http://user:secret@host", "must not hold a user's name or password"),
        ("http://127.0.0.1:9", "cannot be used: the connection failed"),
    ],
)
def test_addresses_that_cannot_be(url, message, folder):
    with pytest.raises(ValueError, match=message) as error:
        ServerBackend(find_model(str(folder)), engine(url))
    assert "secret" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_address_is_taken_with_and_without_v1(end, folder):
    with ServerStandIn() as standin:
        backend = ServerBackend(find_model(str(folder)), engine(standin.url.removesuffix("/v1") + end))
        assert backend.states[0].server.url == standin.url
        with pytest.raises(ValueError, match="names a server twice"):
            ServerBackend(find_model(str(folder)), engine(standin.url, standin.url.removesuffix("/v1") + end))
        with pytest.raises(ValueError, match="cannot be used: there is no list of models at"):
            ServerBackend(find_model(str(folder)), engine(standin.url + "/elsewhere"))


def test_a_redirection_is_told_and_not_followed(folder):
    """It could lead the key elsewhere."""
    elsewhere = (301, {"Location": "https://elsewhere/v1"}, b"")
    with ServerStandIn(fault=lambda body, number: elsewhere) as standin:
        ServerBackend(find_model(str(folder)), engine(standin))
        with pytest.raises(
            ValueError, match="it points to https://elsewhere/v1: give the address where the server is"
        ):
            ServerBackend(find_model(str(folder)), engine(standin))


def test_a_model_by_another_name_is_told_what_there_is(folder):
    with ServerStandIn(models=("one", "two")) as standin:
        with pytest.raises(
            ValueError, match=r'serves "one", "two", and not .*\. Name one with --served_model'
        ) as error:
            ServerBackend(find_model(str(folder)), engine(standin, served_model=None))
        assert f'not "{folder}"' in str(error.value)
        ServerBackend(find_model(str(folder)), engine(standin, served_model="two"))
        assert standin.bodies[-1]["model"] == "two"
    with ServerStandIn(models=[1, {"id": 2}, {"id": "x" * 10_000}]) as standin:
        with pytest.raises(ValueError, match='serves "x') as error:
            ServerBackend(find_model(str(folder)), engine(standin))
        assert len(str(error.value)) < 1000
    for empty in ([], None):  # a server that does not tell: what it takes is believed
        with ServerStandIn(models=empty) as standin:
            if empty is None:
                with pytest.raises(ValueError, match="no list of models at"):
                    ServerBackend(find_model(str(folder)), engine(standin))
            else:
                ServerBackend(find_model(str(folder)), engine(standin))


def test_every_field_that_shapes_the_distribution_is_sent(folder, tmp_path):
    """Else a server applies the model's generation config, or defaults of its own."""
    decoding = Decoding(samples=1, temperature=0.6, top_p=0.95, top_k=20, max_tokens=50, prompt_format="paper", seed=3)
    with ServerStandIn(models=[{"id": "model", "max_model_len": 120}]) as standin:
        evaluated(folder, tmp_path / "out.jsonl", standin, task=Task(TASK.benchmarks, decoding))
        body = standin.bodies[-1]
        tokenizer = standin.tokenizer
    prompt = tokenizer.decode(body.pop("prompt"))
    assert prompt.startswith("User:\n")
    assert prompt.endswith("\n\nAssistant:\n")
    assert len({sent["seed"] for sent in standin.bodies}) == 1 + len(PROBLEMS)
    del body["seed"]
    assert body == {
        "model": "model", "max_tokens": 120 - len(tokenizer(prompt)["input_ids"]), "temperature": 0.6, "top_p": 0.95,
        "top_k": 20, "min_p": 0.0, "repetition_penalty": 1.0, "stop": ["\nUser:"],
        "stop_token_ids": [tokenizer.eos_token_id],
    }  # fmt: skip


def test_a_strict_server_gets_text_and_standard_fields_only(folder, tmp_path):
    with ServerStandIn(strict=True) as standin:
        found = evaluated(folder, tmp_path / "out.jsonl", standin)
        assert (found.missing, found.correct.mean()) == (0, 1.0)
        assert {body["prompt"] for body in standin.bodies[1:]} == {problem.question for problem in PROBLEMS}
        assert set(standin.bodies[-1]) == {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}
        task = Task(TASK.benchmarks, Decoding(samples=2, top_k=5, max_tokens=40, prompt_format="{question}"))
        with pytest.raises(ValueError, match=f"top_k is 5, and {standin.url} does not know it"):
            evaluated(folder, tmp_path / "other.jsonl", standin, task=task)


def test_a_text_has_its_special_tokens_once(folder):
    """A tokenizer that puts a token before each text, as a server with it would once more."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = adding_tokenizer()
    tokenizer.bos_token = tokenizer.pad_token
    bos, bos_id = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
    ids = tokenizer("3+4=")["input_ids"]
    assert ids[0] == bos_id
    protocol = Protocol.make("model", tokenizer, PLAIN)
    for prompt in ("3+4=", f"{bos}3+4="):  # as a chat template may write it
        request = Request("b", "p", 0, 0, prompt, tuple(ids), "7")
        assert protocol.body(request, Dialect.TRANSFORMERS, None)["prompt"] == "3+4="
        assert protocol.body(request, Dialect.ENGINE, None)["prompt"] == ids
    without = Request("b", "p", 0, 0, "3+4=", tuple(ids[1:]), "7")
    with pytest.raises(ValueError, match="The prompt of p cannot be sent as text"):
        protocol.body(without, Dialect.PLAIN, None)
    assert protocol.body(without, Dialect.ENGINE, None)["prompt"] == ids[1:]


def test_a_server_that_counts_other_tokens_is_refused(folder):
    with ServerStandIn() as standin:
        counted = standin.complete
        standin.complete = lambda body: {**counted(body), "usage": {"completion_tokens": 1, "prompt_tokens": 2}}
        with pytest.raises(ValueError, match="counts 2 tokens in a prompt of which the tokenizer of 'model' makes 1"):
            ServerBackend(find_model(str(folder)), engine(standin))


def test_requests_under_way_are_bounded_and_dropped_when_the_reader_leaves(folder):
    three = threading.Barrier(3, timeout=60)

    def wait_for_three(body, number):
        three.wait()

    with ServerStandIn(fault=wait_for_three) as standin:
        backend = ServerBackend(find_model(str(folder)), engine(standin, concurrency=3))
        ids = tuple(backend.tokenizer("1+1=")["input_ids"])
        requests = [Request("b", str(i), 0, i, "1+1=", ids, "2") for i in range(400)]
        drawing = backend.generate(requests, PLAIN)
        assert next(drawing)
        drawing.close()
        three.abort()
        assert standin.busiest == 3
        assert len(standin.bodies) < len(requests)
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


def test_more_connections_than_the_system_allows(folder):
    """The soft limit is raised, for some hundred requests at a time on each of many servers; the hard one is told."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with ServerStandIn() as standin:
            ServerBackend(find_model(str(folder)), engine(standin, concurrency=500))
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500 + server_backend.OTHER_FILES
            with pytest.raises(ValueError, match=f"connections at a time, and the system allows this process {hard}"):
                ServerBackend(find_model(str(folder)), engine(standin, concurrency=hard))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_prompts_of_any_characters_arrive(folder, tmp_path):
    texts = ["Größe 1+2=? 🧮 \u2028 \x00", "x" * 300_000]
    problems = tuple(Problem(str(i), text, "3") for i, text in enumerate(texts))
    decoding = Decoding(samples=1, max_tokens=40, prompt_format="chat")
    task = Task(((Benchmark("sums", "Sums", "file"), problems),), decoding)
    with ServerStandIn(strict=True) as standin:
        assert evaluated(folder, tmp_path / "out.jsonl", standin, task=task, endpoint="chat").missing == 0
        sent = {body["messages"][-1]["content"] for body in standin.bodies[1:]}
    assert all(any(content.startswith(text) for content in sent) for text in texts)


def test_the_chat_endpoint_needs_no_tokenizer(tmp_path):
    """A name that no folder and no Hub knows is enough, and the record holds the messages."""
    decoding = Decoding(samples=1, temperature=0, max_tokens=40, prompt_format="chat", system_prompt="Be brief.")
    source = ModelSource("a-model-behind-a-door", None, None)
    with ServerStandIn(models=("a-model-behind-a-door",), strict=True) as standin:
        backend = ServerBackend(source, engine(standin, endpoint="chat", served_model=None))
        run_share(
            backend,
            Task(TASK.benchmarks, decoding),
            source,
            tmp_path / "out.jsonl",
            "server",
            settings=backend.settings,
        )
        with pytest.raises(ValueError, match=r"which prompt_format 'paper' does not make. Add --prompt_format chat"):
            backend.check(Decoding())
        body = standin.bodies[-1]
    evaluation = read_evaluation(tmp_path / "out.jsonl")
    assert (evaluation.benchmarks["sums"].missing, evaluation.benchmarks["sums"].correct.mean()) == (0, 1.0)
    assert evaluation.settings["endpoint"] == "chat"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["max_completion_tokens"] == 40
    assert json.dumps(body["messages"]) in evaluation.benchmarks["sums"].column("prompt")


def completed(tokenizer, choice, tokens=5, **decoding):
    protocol = Protocol("model", tokenizer, Decoding(max_tokens=9, **decoding), ())
    return protocol.completion({"choices": [choice], "usage": {"completion_tokens": tokens, "prompt_tokens": True}})


def test_what_an_answer_says():
    tokenizer = adding_tokenizer()
    cut = completed(tokenizer, {"text": "a\nUser: b\nUser:", "finish_reason": "stop"})
    assert (cut.text, cut.tokens, cut.truncated, cut.reported) == (
        "a", 5, False, {"finish_reason": "stop", "prompt_tokens": None},
    )  # fmt: skip
    assert completed(tokenizer, {"text": "a", "finish_reason": "length"}).truncated
    assert completed(tokenizer, {"text": "a"}, tokens=9).truncated  # no reason is given: the count tells
    assert not completed(tokenizer, {"text": "a"}).truncated
    assert completed(tokenizer, {"text": "\ud800a", "finish_reason": "stop"}).text == "?a"
    assert (
        completed(tokenizer, {"text": "a", "finish_reason": "content_filter"}).reported["finish_reason"]
        == "content_filter"
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "so 3"}, "so 3"),
        ({"content": None}, ""),
        ({"content": "3", "reasoning_content": "1+2"}, "<think>1+2</think>3"),  # SGLang, llama.cpp
        ({"content": "3", "reasoning": "1+2"}, "<think>1+2</think>3"),  # vLLM
        (
            {"content": None, "reasoning_content": r"\boxed{3}"},
            r"<think>\boxed{3}",
        ),  # an answer within thoughts is none
        ({"content": "3", "reasoning_content": None}, "3"),
    ],
)
def test_what_a_chat_says(message, text):
    assert completed(None, {"message": message, "finish_reason": "stop"}).text == text


@pytest.mark.parametrize("message", [None, [], "a", {"content": ["a"]}, {"content": 3, "reasoning": "a"}])
def test_a_chat_that_says_nothing_readable(message):
    with pytest.raises(BrokenError, match="no text"):
        completed(None, {"message": message, "finish_reason": "stop"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs --base_url"),
        ({"base_url": ["u"], "dtype": "bfloat16", "batch_size": 3}, "dtype, batch_size is the server's own"),
        ({"base_url": ["u"], "tensor_parallel_size": 2}, "tensor_parallel_size is the server's own"),
        ({"base_url": ["u"], "gpu_memory_utilization": 0.5}, "gpu_memory_utilization is the server's own"),
        ({"base_url": ["u"], "concurrency": 0}, "concurrency must be at least 1"),
        ({"base_url": ["u"], "retries": -1}, "retries must be at least 0"),
        ({"base_url": ["u"], "request_timeout": float("nan")}, "request_timeout must be a number above 0"),
        ({"base_url": ["u"], "endpoint": "responses"}, "endpoint must be one of"),
        (
            {"base_url": ["u"], "endpoint": "chat", "max_model_len": 9},
            "max_model_len is not used with --endpoint chat",
        ),
        (
            {"backend": "transformers", "base_url": ["u"]},
            "base_url needs --backend server, and the back-end is 'transf",
        ),
        ({"backend": "auto", "api_key_env": "K", "concurrency": 2}, "api_key_env, concurrency needs --backend server"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Engine(**{"backend": "server", **options})


def test_what_the_server_has_settled_is_refused(folder, capsys, monkeypatch):
    arguments = ["--backend", "server", "--base_url", "http://127.0.0.1:9", "--benchmark", "aime25"]
    for more, message in (
        (["--model", "Qwen/Qwen3-8B", "--revision", "main"], "error: revision 'main' is the server's own"),
        (["--model", "a", "b", "--served_model", "c"], "error: served_model names one model, and 2 are given"),
    ):
        with pytest.raises(SystemExit, match="2"):
            evaluate([*arguments, *more])
        assert capsys.readouterr().err.startswith(message)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="Start the evaluation without torchrun"):
        ServerBackend(find_model(str(folder)), engine("http://127.0.0.1:9"))


def test_a_model_that_training_made_is_asked_as_in_training(folder, tmp_path, capsys):
    """But for its dtype, which is the server's."""
    model = tmp_path / "run"
    shutil.copytree(folder, model)
    run = {"prompt_format": "{question}", "max_completion_length": 33, "settings": {"bf16": True}}
    (model / "delta_trl_run.json").write_text(json.dumps(run))
    (tmp_path / "sums.jsonl").write_text(json.dumps({"question": question(1, 2), "answer": 3}))
    with ServerStandIn() as standin:
        arguments = [
            "--model",
            model,
            "--benchmark",
            tmp_path / "sums.jsonl",
            "--samples",
            1,
            "--output",
            tmp_path / "out",
        ]
        arguments += ["--backend", "server", "--base_url", standin.url, "--served_model", "model"]
        evaluate(list(map(str, arguments)))
        assert standin.bodies[-1]["max_tokens"] == 33
    assert "prompt_format '{question}', max_tokens 33." in capsys.readouterr().out
