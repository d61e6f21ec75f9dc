"""Whole evaluations: the command as a user runs it, killed, resumed, in several processes, with both back-ends."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from support.benchmarks import MATH, SHARED, needs_aime24
from support.evaluation_model import adding_folder, question, random_model
from support.forked import python
from support.places import ROOT
from transformers import AutoModelForCausalLM

from delta_trl.evaluation.__main__ import main as evaluate
from delta_trl.evaluation.__main__ import parse as parse_evaluation
from delta_trl.evaluation.benchmarks import find_benchmarks
from delta_trl.evaluation.generate import Completion, Request
from delta_trl.evaluation.models import find_model
from delta_trl.evaluation.options import Decoding, Engine
from delta_trl.evaluation.problem import Benchmark, Problem
from delta_trl.evaluation.run import Task, evaluate_models, grade_samples, run_share
from delta_trl.evaluation.samples import read_evaluation
from delta_trl.evaluation.vllm_backend import VllmBackend, split_devices
from delta_trl.research.tasks import BOX, character_tokenizer
from delta_trl.rewards.math.reasons import NO_BOX


pytestmark = pytest.mark.trained

COMMAND = ["-m", "delta_trl.evaluation"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
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


def run_command(*arguments, launcher=(), **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python() if launcher else sys.executable, *launcher, *COMMAND, *map(str, arguments)],
        env={**ENVIRONMENT, **environment}, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


def here(held_out, output, samples=4, batch_size=16, model=None, **decoding) -> Path:
    """The same evaluation in this process."""
    settings = {"samples": samples, "top_p": 1.0, "max_tokens": 40, "prompt_format": "{question}", **decoding}
    task = Task.load(find_benchmarks([str(held_out)]), Decoding(**settings))
    engine = Engine(backend="transformers", batch_size=batch_size)
    (path,) = evaluate_models([str(model or adding_folder())], task, engine, output)
    return path


def samples_of(path: Path) -> dict:
    """What a sample is, without how long it took."""
    (benchmark,) = read_evaluation(path).benchmarks.values()
    return {key: {**sample, "seconds": None} for key, sample in benchmark.samples.items()}


def test_a_record_holds_everything_about_its_sample(held_out, tmp_path):
    path = here(held_out, tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 1 + 30 * 4
    sample = samples_of(path)["7", 2]
    assert {"benchmark", "seed", "completion", "tokens", "truncated", "answer", "reason"} < set(sample)
    assert sample["prompt"] == question(2, 6)
    evaluation = read_evaluation(path)
    assert (evaluation.settings["model"], evaluation.settings["top_p"]) == (str(adding_folder()), 1.0)
    assert {"torch", "transformers", "math-verify", "delta_trl"} < set(evaluation.settings["versions"])
    for found in samples_of(path).values():
        assert found["score"] == float(f"{BOX}{found['solution']}}}" in found["completion"])
    assert 0.3 < evaluation.benchmarks["held_out"].correct.mean() < 0.95  # 0.62 of this model


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


def test_a_limit_takes_the_first_problems_and_says_so(held_out, tmp_path, capsys):
    arguments = [
        "--model",
        adding_folder(),
        "--benchmark",
        held_out,
        "--samples",
        2,
        *PLAIN,
        "--backend",
        "transformers",
    ]

    def run(*more):
        evaluate(list(map(str, [*arguments, "--output", tmp_path, *more])))
        return capsys.readouterr().out

    printed = run("--limit", 3)
    assert "held_out (first 3 of 30)" in printed
    assert "only the first 3 problems of each benchmark (--limit)" in printed
    (path,) = tmp_path.glob("*.jsonl")
    evaluation = read_evaluation(path)
    assert (evaluation.settings["limit"], evaluation.benchmarks["held_out"].problems) == (3, ["0", "1", "2"])
    assert "(first 3 of 30)" in (tmp_path / "results.tex").read_text()
    # An interrupted part continues, and no other set of problems joins it
    whole, lines = samples_of(path), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    run("--limit", 3)
    assert samples_of(path) == whole
    for more, now in ((["--limit", 4], "4"), ([], "null")):
        with pytest.raises(SystemExit):
            run(*more)
        assert f"limit: 3 in the file, now {now}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("--limit", 0)
    assert "limit must be at least 1, got 0" in capsys.readouterr().err


def test_a_limit_above_the_number_of_problems_is_no_part(held_out):
    task = Task.load(find_benchmarks([str(held_out)]), Decoding(), limit=99)
    ((benchmark, problems),) = task.benchmarks
    assert (benchmark.title, len(problems)) == ("held_out", 30)


def test_completions_are_graded_as_in_training():
    """A wrong answer, none, one whose thought never ends, the right one, and the right one inside the prompt's thought."""
    texts = [rf"It is {BOX}5}}.", "It is 4.", rf"{BOX}4}} <think> and", rf"{BOX}4}}", rf"{BOX}4}}"]
    prompts = ["Question\n"] * 4 + ["Question\n<think>\n"]
    records = grade_samples(
        [
            (Request("b", "p", i, 0, prompt, (1,), "4"), Completion(text, 3, False, None))
            for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]
    )
    assert [record["score"] for record in records] == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert [record["reason"] == NO_BOX for record in records] == [False, True, False, False, False]
    assert [record["completion"] for record in records] == texts


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"backend": "sglang"}, "backend must be one of .*'sglang'"),
        ({"dtype": "fp8"}, "dtype must be one of .*'fp8'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"gpu_memory_utilization": math.nan}, r"gpu_memory_utilization must be in \(0, 1\], got nan"),
        ({"max_model_len": 0}, "max_model_len must be at least 1"),
        ({"backend": "transformers", "data_parallel_size": 2}, "torchrun --nproc_per_node"),
        ({"backend": "vllm", "tensor_parallel_size": 0}, "at least 1"),
    ],
)
def test_engines_that_cannot_be_are_refused(engine, message):
    with pytest.raises(ValueError, match=message):
        Engine(**engine)


def test_each_engine_gets_gpus_of_its_own():
    assert split_devices(["4", "5", "6", "7"], tensor=2, data=2) == [["4", "5"], ["6", "7"]]
    with pytest.raises(ValueError, match="needs 4 devices, and 2 are visible"):
        split_devices(["0", "1"], tensor=2, data=2)


@pytest.mark.parametrize(("module", "command"), [("__main__", "evaluate"), ("compare", "compare")])
def test_help_needs_neither_torch_nor_datasets(module, command):
    code = (
        f"import sys; from delta_trl.evaluation.{module} import parse\n"
        "try: parse(['--help'])\n"
        "finally: assert not {'torch', 'datasets', 'trl', 'scipy', 'sympy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: delta-trl {command}" in done.stdout


def test_options_that_were_given_are_told_from_defaults():
    given = parse_evaluation(["--model", "a", "b", "--temperature", "1.0", "--max-tokens", "30", "--debug"])
    assert given == {"model": ["a", "b"], "temperature": 1.0, "max_tokens": 30, "debug": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "aime23"], "error: Unknown benchmark 'aime23'"),
        (["--temperature", "nan"], "error: temperature must be a number >= 0, got nan."),
        (["--temperature", "inf"], "error: temperature must be a number >= 0, got inf."),
        (["--top_p", "nan"], "error: top_p must be in (0, 1], got nan."),
        (["--samples", "0"], "error: samples must be at least 1, got 0."),
        (["--batch_size", "-1"], "error: batch_size must be at least 1, got -1."),
        (
            ["--benchmark", "list.jsonl"],
            "error: Benchmark 'list' (list.jsonl): list.jsonl, item 1: a JSON object is needed",
        ),
        (
            ["--benchmark", "binary.jsonl"],
            "error: Benchmark 'binary' (binary.jsonl): binary.jsonl is not encoded in UTF-8",
        ),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("list.jsonl").write_text("[1]\n")
    Path("binary.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(SystemExit, match="2"):
        evaluate(["--model", "x", "--backend", "transformers", *arguments])
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(message)
    with pytest.raises(ValueError, match=re.escape(message.removeprefix("error: "))):
        evaluate(["--model", "x", "--backend", "transformers", "--debug", *arguments])


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed(held_out, tmp_path):
    """SIGKILL while samples are being written, then a line torn apart, then the rest."""
    arguments = ["--model", adding_folder(), "--benchmark", held_out, "--samples", 16, *PLAIN, "--batch_size", 2]
    arguments += ["--backend", "transformers", "--output", tmp_path / "killed"]
    process = subprocess.Popen(
        [sys.executable, *COMMAND, *map(str, arguments)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
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
    assert len([line for line in path.read_text().splitlines() if '"sample":' in line]) == 30 * 16


@pytest.mark.slow
def test_two_processes_draw_the_same_samples_as_one(held_out, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    arguments = ["--model", adding_folder(), "--benchmark", held_out, "--samples", 4, *PLAIN]
    done = run_command(*arguments, "--backend", "transformers", "--output", tmp_path / "two", launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "process 1 of 2" in done.stderr  # both really ran: an evaluation that fell back to one would not say so
    assert done.stdout.count("avg@n in points") == 1  # and only one prints
    (path,) = (tmp_path / "two").glob("*.jsonl")
    assert samples_of(path) == samples_of(here(held_out, tmp_path / "one"))


@pytest.fixture
def vllm_stand_in(monkeypatch):
    """Makes `import vllm` find tests/support/standins/vllm in this process, and forget it afterwards."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "support" / "standins")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def test_vllm_gets_what_it_needs_from_an_adapter(vllm_stand_in, tmp_path, monkeypatch):
    base = AutoModelForCausalLM.from_pretrained(adding_folder())
    get_peft_model(base, LoraConfig(r=12, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    monkeypatch.setenv("VLLM_STANDIN_LOG", str(tmp_path / "log"))
    backend = VllmBackend(find_model(str(tmp_path / "adapter")), Engine("vllm", max_model_len=20))
    assert (tmp_path / "log").read_text().startswith(f"{adding_folder()} 1 ")
    assert "('enable_lora', True), ('max_lora_rank', 16)" in (tmp_path / "log").read_text()  # 12 is no rank of vLLM's
    assert (backend.lora.lora_path, backend.lora.lora_int_id) == (str(tmp_path / "adapter"), 1)
    decoding = Decoding(samples=1, prompt_format="{question}", max_tokens=100)
    task = Task(
        ((Benchmark("b", "B", "file"), (Problem("p", question(1, 2), "3"), Problem("q", "9" * 20, "3"))),), decoding
    )
    run_share(backend, task, find_model(str(tmp_path / "adapter")), tmp_path / "out.jsonl", "auto")
    backend.close()
    found = read_evaluation(tmp_path / "out.jsonl").benchmarks["b"]
    assert found.without_sample == ["q"]  # its prompt fills the 20 positions
    assert found.column("tokens")[0] <= 20 - len(question(1, 2))


def test_a_model_that_is_not_there_is_named(held_out, tmp_path, capsys):
    arguments = ["--model", "no/such-model", "--benchmark", str(held_out), "--backend", "transformers"]
    with pytest.raises(SystemExit, match="2"):
        evaluate([*arguments, "--output", str(tmp_path)])
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith("error: The model 'no/such-model' cannot be loaded: ")


def test_vllm_that_is_not_installed_costs_one_line(held_out, capsys, monkeypatch):
    monkeypatch.setattr("delta_trl.evaluation.options.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        evaluate(["--model", "no/such-model", "--benchmark", str(held_out), "--backend", "vllm"])
    assert capsys.readouterr().err.startswith("error: backend 'vllm' cannot be used here: vllm is not installed")


@pytest.mark.slow
def test_the_vllm_backend_with_a_stand_in_for_vllm(held_out, tmp_path):
    """Two engines of two devices each, through the command, with a stand-in for its `LLM` (tests/support/standins/vllm)."""
    arguments = ["--model", adding_folder(), "--benchmark", held_out, "--samples", 3, *PLAIN, "--backend", "vllm"]
    arguments += ["--tensor_parallel_size", 2, "--data_parallel_size", 2, "--output", tmp_path / "out"]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support" / "standins"), ENVIRONMENT["PYTHONPATH"]]),
        "CUDA_VISIBLE_DEVICES": "4,5,6,7",
        "VLLM_STANDIN_LOG": str(tmp_path / "log"),
    }
    done = run_command(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    engines = sorted((tmp_path / "log").read_text().splitlines())
    assert [line.split()[1:3] for line in engines] == [["2", "4,5"], ["2", "6,7"]]
    (path,) = (tmp_path / "out").glob("*.jsonl")
    found, ours = samples_of(path), samples_of(here(held_out, tmp_path / "ours", samples=3))
    assert len(found) == 90
    assert read_evaluation(path).settings["backend"] == "vllm"
    (benchmark,) = read_evaluation(path).benchmarks.values()
    assert set(benchmark.column("seconds")) == {0.5}  # from the engine's own clock
    for key, sample in found.items():
        # The same record but for what was sampled, and each answer beside its own prompt.
        assert set(sample) == set(ours[key])
        for same in ("benchmark", "problem", "sample", "seed", "prompt", "solution"):
            assert sample[same] == ours[key][same]
    assert 0.3 < benchmark.correct.mean() < 0.95  # 0.1 if completions were given to other problems


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
    model = random_model(tokenizer)
    model.config.max_position_embeddings = 4096  # its tokens are characters
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (path,) = evaluate_models([str(tmp_path / "model")], task, Engine("transformers"), tmp_path / "out")
    (found,) = read_evaluation(path).benchmarks.values()
    assert found.missing == 0
    assert found.correct.sum() == 0
    assert "no box" in found.column("reason")
    assert all("put your final answer within \\boxed{}" in prompt for prompt in found.column("prompt"))
