"""Whole evaluations: the scripts as a user runs them, killed, resumed, in several processes, with both back-ends."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation_model import make_model, question, train, trained_folder
from peft import LoraConfig, get_peft_model
from test_evaluation_benchmarks import MATH, SHARED, needs_aime24
from transformers import AutoModelForCausalLM

from delta_trl.evaluation.benchmarks import Benchmark, Problem, find_benchmarks
from delta_trl.evaluation.generate import Completion, Decoding, Request
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.records import read_run
from delta_trl.evaluation.run import Engine, Task, evaluate_models, grade_samples, run_share
from delta_trl.evaluation.vllm_backend import VllmBackend, split_devices
from delta_trl.research.tasks import BOX, character_tokenizer


ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "evaluate.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
PLAIN = ["--prompt_format", "{question}", "--top_p", "1.0", "--max_tokens", "40"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> Path:
    """30 additions with two operands."""
    path = tmp_path_factory.mktemp("data") / "held_out.jsonl"
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10)][:60:2]
    path.write_text("".join(json.dumps({"question": question(a, b), "answer": a + b}) + "\n" for a, b in pairs))
    return path


def run_script(*arguments, launcher=(), script=SCRIPT, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *launcher, str(script), *map(str, arguments)],
        env={**ENVIRONMENT, **environment}, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


def here(held_out, output, samples=4, batch_size=16, model=None, **decoding) -> Path:
    """The same evaluation in this process."""
    settings = {"samples": samples, "top_p": 1.0, "max_tokens": 40, "prompt_format": "{question}", **decoding}
    task = Task.load(find_benchmarks([str(held_out)]), Decoding(**settings))
    engine = Engine(backend="transformers", batch_size=batch_size)
    (path,) = evaluate_models([str(model or trained_folder())], task, engine, output)
    return path


def samples_of(path: Path) -> dict:
    """What a sample is, without how long it took."""
    (benchmark,) = read_run(path).benchmarks.values()
    return {key: {**sample, "seconds": None} for key, sample in benchmark.samples.items()}


def test_a_record_holds_everything_about_its_sample(held_out, tmp_path):
    path = here(held_out, tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 1 + 30 * 4
    sample = samples_of(path)["7", 2]
    assert {"benchmark", "seed", "prompt", "completion", "tokens", "truncated", "answer", "verdict", "reason"} < set(
        sample
    )
    assert sample["prompt"] == question(2, 6)
    assert sample["settings"]["model"] == str(trained_folder())
    assert sample["settings"]["top_p"] == 1.0
    assert {"torch", "transformers", "math-verify", "delta_trl"} < set(sample["versions"])
    for found in samples_of(path).values():
        right = f"{BOX}{found['solution']}}}" in found["completion"]
        assert (found["verdict"], found["score"]) == (("correct", 1.0) if right else ("wrong", 0.0))
    correct = read_run(path).benchmarks["held_out"].correct
    assert 0.3 < correct.mean() < 0.95  # it was trained, and it is sampled


def test_batch_size_and_resuming_do_not_change_the_samples(held_out, tmp_path):
    whole = here(held_out, tmp_path / "whole", batch_size=64)
    part = here(held_out, tmp_path / "part", batch_size=7)
    assert samples_of(part) == samples_of(whole)
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:1] + lines[40:80]))
    assert samples_of(here(held_out, tmp_path / "part")) == samples_of(whole)
    before = part.read_bytes()
    here(held_out, tmp_path / "part")
    assert part.read_bytes() == before  # there is nothing left to do


def test_other_settings_or_weights_are_refused(held_out, tmp_path):
    here(held_out, tmp_path)
    with pytest.raises(ValueError, match=r"temperature: 1\.0 in the file, now 0\.5"):
        here(held_out, tmp_path, temperature=0.5)
    with pytest.raises(ValueError, match="samples: 4 in the file, now 8"):
        here(held_out, tmp_path, samples=8)


def test_timeouts_and_missing_boxes_are_fields_of_their_own(monkeypatch):
    """One completion with a wrong answer, one without a box, one whose thought never ends; and one of each gold."""
    texts = [rf"It is {BOX}5}}.", "It is 4.", rf"{BOX}4}} <think> and", rf"{BOX}4}}"]
    finished = [
        (Request("b", "p", i, 0, "prompt", (1,), "4"), Completion(text, 3, False, None))
        for i, text in enumerate(texts)
    ]
    records = grade_samples(finished, {"versions": {}})
    assert [record["verdict"] for record in records] == ["wrong", "wrong", "wrong", "correct"]
    assert [record["no_box"] for record in records] == [False, True, False, False]
    # A prompt that opens a thought: the same text is then inside it.
    request = Request("b", "p", 0, 0, "Question\n<think>\n", (1,), "4")
    (record,) = grade_samples([(request, Completion(rf"{BOX}4}}", 3, True, None))], {"versions": {}})
    assert (record["verdict"], record["completion"]) == ("wrong", rf"{BOX}4}}")


def test_a_checker_that_runs_out_of_time_is_recorded_as_such(monkeypatch):
    from delta_trl.rewards.grading import TIMED_OUT, Verdict

    monkeypatch.setattr("delta_trl.evaluation.run.grade", lambda texts, golds: [Verdict(0.0, "x", TIMED_OUT)])
    request = Request("b", "p", 0, 0, "prompt", (1,), "4")
    (record,) = grade_samples([(request, Completion("text", 3, False, None))], {"versions": {}})
    assert (record["timed_out"], record["no_box"], record["verdict"]) == (True, False, "wrong")


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"backend": "sglang"}, "'auto', 'vllm' or 'transformers'"),
        ({"backend": "transformers", "data_parallel_size": 2}, "torchrun --nproc_per_node"),
        ({"backend": "vllm", "tensor_parallel_size": 0}, "at least 1"),
    ],
)
def test_engines_that_cannot_be_are_refused(engine, message):
    with pytest.raises(ValueError, match=message):
        Engine(**engine)


def test_each_engine_gets_gpus_of_its_own():
    assert split_devices(["4", "5", "6", "7"], tensor=2, data=2) == [["4", "5"], ["6", "7"]]
    with pytest.raises(ValueError, match="needs 4 GPUs, and 2 are visible"):
        split_devices(["0", "1"], tensor=2, data=2)


def test_help_is_instant():
    for script in (SCRIPT, SCRIPT.with_name("compare.py")):
        imported = [
            node for node in ast.parse(script.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {alias.name for node in imported for alias in node.names} | {
            getattr(n, "module", "") for n in imported
        }
        assert not any(name and name.startswith(("torch", "transformers", "delta_trl")) for name in names)
        began = time.perf_counter()
        assert run_script("--help", script=script).returncode == 0
        assert time.perf_counter() - began < 2


def test_errors_are_one_line_that_says_what_to_do(tmp_path):
    done = run_script("--model", "x", "--benchmark", "aime23", "--backend", "transformers", "--output", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: Unknown benchmark 'aime23'")


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(held_out, tmp_path):
    """SIGKILL while samples are being written, then a line torn apart, then the rest."""
    arguments = ["--model", trained_folder(), "--benchmark", held_out, "--samples", 16, *PLAIN, "--batch_size", 2]
    arguments += ["--backend", "transformers", "--output", tmp_path / "killed"]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    files = []
    while not files or files[0].read_bytes().count(b"\n") < 20:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
        files = list((tmp_path / "killed").glob("*.jsonl"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (path,) = files
    finished = path.read_bytes().count(b"\n") - 1
    assert finished < 30 * 16
    path.write_bytes(path.read_bytes()[:-100])  # as if the kill had come in the middle of a write
    kept = samples_of(path)
    assert len(kept) == finished - 1

    resumed = here(held_out, tmp_path / "killed", samples=16)
    whole = samples_of(here(held_out, tmp_path / "whole", samples=16))
    assert samples_of(resumed) == whole
    assert len(whole) == 30 * 16
    assert len([line for line in path.read_text().splitlines() if '"sample":' in line]) == 30 * 16 + 1  # the torn one


@pytest.mark.slow
def test_two_processes_draw_the_same_samples_as_one(held_out, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    arguments = ["--model", trained_folder(), "--benchmark", held_out, "--samples", 4, *PLAIN]
    done = run_script(*arguments, "--backend", "transformers", "--output", tmp_path / "two", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "process 1 of 2" in done.stderr  # both really ran: an evaluation that fell back to one would not say so
    assert done.stdout.count("avg@n in points") == 1  # and only one prints
    (path,) = (tmp_path / "two").glob("*.jsonl")
    assert samples_of(path) == samples_of(here(held_out, tmp_path / "one"))


@pytest.fixture
def vllm_stand_in(monkeypatch):
    """Makes `import vllm` find tests/standins/vllm in this process, and forget it afterwards."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "standins")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def test_vllm_gets_what_it_needs_from_an_adapter(vllm_stand_in, tmp_path, monkeypatch):
    base = AutoModelForCausalLM.from_pretrained(trained_folder())
    get_peft_model(base, LoraConfig(r=12, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    monkeypatch.setenv("VLLM_STANDIN_LOG", str(tmp_path / "log"))
    backend = VllmBackend(find_model(str(tmp_path / "adapter")), max_model_len=20)
    assert (tmp_path / "log").read_text().startswith(f"{trained_folder()} 1 ")
    assert "('enable_lora', True), ('max_lora_rank', 16)" in (tmp_path / "log").read_text()  # 12 is no rank of vLLM's
    assert (backend.lora.lora_path, backend.lora.lora_int_id) == (str(tmp_path / "adapter"), 1)
    decoding = Decoding(samples=1, prompt_format="{question}", max_tokens=100)
    task = Task(
        ((Benchmark("b", "B", "file"), (Problem("p", question(1, 2), "3"), Problem("q", "1" * 20, "3"))),), decoding
    )
    run_share(backend, task, find_model(str(tmp_path / "adapter")), tmp_path / "out.jsonl", "auto")
    found = read_run(tmp_path / "out.jsonl").benchmarks["b"]
    assert found.without_sample == ["q"]  # its prompt fills the 20 positions
    assert found.column("tokens")[0] <= 20 - len(question(1, 2))


@pytest.mark.slow
def test_the_vllm_backend_with_a_stand_in_for_vllm(held_out, tmp_path):
    """Two engines of two devices each, through the script, with a stand-in for vLLM's `LLM` (tests/standins/vllm)."""
    arguments = ["--model", trained_folder(), "--benchmark", held_out, "--samples", 3, *PLAIN, "--backend", "vllm"]
    arguments += ["--tensor_parallel_size", 2, "--data_parallel_size", 2, "--output", tmp_path / "out"]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "standins"), ENVIRONMENT["PYTHONPATH"]]),
        "CUDA_VISIBLE_DEVICES": "4,5,6,7",
        "VLLM_STANDIN_LOG": str(tmp_path / "log"),
    }
    done = run_script(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    engines = sorted((tmp_path / "log").read_text().splitlines())
    assert [line.split()[1:3] for line in engines] == [["2", "4,5"], ["2", "6,7"]]
    (path,) = (tmp_path / "out").glob("*.jsonl")
    found, ours = samples_of(path), samples_of(here(held_out, tmp_path / "ours", samples=3))
    assert len(found) == 90
    (benchmark,) = read_run(path).benchmarks.values()
    assert set(benchmark.column("seconds")) == {0.5}  # from the engine's own clock
    for key, sample in found.items():
        # The same record but for what was sampled, and each answer beside its own prompt.
        assert set(sample) == set(ours[key])
        for same in ("benchmark", "problem", "sample", "seed", "prompt", "solution"):
            assert sample[same] == ours[key][same]
        assert sample["settings"]["backend"] == "vllm"
    assert 0.3 < benchmark.correct.mean() < 0.95  # would be about 0.06 if completions were given to other problems
    one_engine = ["--tensor_parallel_size", 1, "--data_parallel_size", 1]
    other = run_script(*arguments, *one_engine, "--temperature", 0.5, **environment)
    assert other.returncode == 1
    assert "temperature: 1.0 in the file, now 0.5" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.mark.slow
def test_thirty_problems_of_sixteen_samples_take_less_than_a_minute(held_out, tmp_path):
    """A model of 0.4 M parameters, the quickstart's size, with completions of some 50 tokens."""
    tokenizer = character_tokenizer()
    model = make_model(tokenizer, hidden=128)
    assert 0.3e6 < model.num_parameters() < 0.5e6
    words = "Counting on from the first number gives"
    train(model, tokenizer, tmp_path / "model", words, steps=80)
    began = time.perf_counter()
    path = here(
        held_out, tmp_path / "out", samples=16, batch_size=64, model=tmp_path / "model", max_tokens=80, top_p=0.7
    )
    assert time.perf_counter() - began < 60
    (found,) = read_run(path).benchmarks.values()
    assert len(found.samples) == 480
    assert sum(found.column("tokens")) > 480 * 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "benchmark",
    [
        pytest.param(f"{MATH}", id="math500"),
        pytest.param(f"aime24={SHARED / 'aime24.jsonl'}", id="aime24", marks=needs_aime24),
    ],
)
def test_real_problems_with_the_papers_prompt(benchmark, tmp_path):
    """The texts, the prompt and the checker are real; the model is tiny and knows nothing of it."""
    task = Task.load(find_benchmarks([benchmark]), Decoding(samples=2, max_tokens=24))
    tokenizer = character_tokenizer()
    model = make_model(tokenizer)
    model.config.max_position_embeddings = 4096  # its tokens are characters
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (path,) = evaluate_models([str(tmp_path / "model")], task, Engine("transformers"), tmp_path / "out")
    (found,) = read_run(path).benchmarks.values()
    assert found.missing == 0
    assert found.correct.sum() == 0
    assert "no box" in found.column("reason")
    assert all("put your final answer within \\boxed{}" in prompt for prompt in found.column("prompt"))
