"""The single files of scripts/examples: short, with a header that uv reads, and run as a reader runs them."""

import functools
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from support.commands import run_script
from support.places import ROOT

import delta_trl
from delta_trl.data import load_math_dataset
from delta_trl.research.tasks import arithmetic_problems
from delta_trl.version import __version__


EXAMPLES = sorted((ROOT / "scripts" / "examples").glob("*.py"))


def header(path: Path) -> dict:
    """The PEP 723 metadata of a script."""
    lines = path.read_text().splitlines()
    assert lines[0] == "# /// script"
    return tomllib.loads(
        "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[1 : lines.index("# ///")])
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_it_is_run_and_what_it_costs(path):
    text = path.read_text()
    assert len(text.splitlines()) < 80
    metadata = header(path)
    assert metadata["dependencies"][0].startswith("delta_trl")
    assert (path.parent / metadata["tool"]["uv"]["sources"]["delta_trl"]["path"]).resolve() == ROOT
    for said in (f"uv run scripts/examples/{path.name}", "hf jobs uv run ", "\nCost: "):
        assert said in text


@pytest.fixture(scope="module")
def uv_run(tmp_path_factory):
    """
    `uv run` of a script, with nothing but an offline index of one wheel: named delta_trl, it puts this checkout and the
    packages of this environment on the path, so that uv reads the header, resolves it and makes an environment.
    """
    index = tmp_path_factory.mktemp("index")
    info = f"delta_trl-{__version__}.dist-info"
    files = {
        "this_environment.pth": f"{ROOT}\n{sysconfig.get_path('purelib')}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: delta_trl\nVersion: {__version__}\nProvides-Extra: report\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(index / f"delta_trl-{__version__}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)
    options = [
        "--offline",
        "--no-index",
        "--no-config",
        "--no-sources",
        "--find-links",
        index,
        "--python",
        sys.executable,
    ]
    folder = tmp_path_factory.mktemp("reader")
    environment = {**os.environ, "UV_CACHE_DIR": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def run(name: str, *arguments) -> subprocess.CompletedProcess:
        script = ROOT / "scripts" / "examples" / name
        command = [sys.executable, "-m", "uv", "run", *options, script, *arguments]
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, cwd=folder, timeout=500
        )

    return run


@pytest.mark.slow
def test_delta_on_sums_runs_through_uv(uv_run, tmp_path):
    done = uv_run("delta_sums_cpu.py", "--warm_up_steps", 4, "--steps", 2, "--output_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 2/2  reward" in done.stdout
    assert "of the first rollout batch" in done.stdout
    assert "coefficient" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="code_reward needs Linux")
def test_the_rewards_in_trls_own_trainer_run_through_uv(uv_run):
    done = uv_run("rewards_in_trl.py")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "math_reward: [1.0, None]\ncode_reward: [None, 1.0]\nverdict   wrong" in done.stdout
    assert "'code_reward/no_code'" in done.stdout
    assert "train_runtime" in done.stdout


@pytest.mark.trained
def test_the_example_for_a_gpu_trains_here_in_small(project, tmp_path, monkeypatch):
    """Its own code with the sizes, the model and the data of a test."""
    rows = arithmetic_problems(16)
    monkeypatch.setattr("delta_trl.data.load_math_dataset", lambda name, **options: load_math_dataset(rows, **options))
    monkeypatch.setattr(
        delta_trl,
        "DeltaGRPOTrainer",
        lambda model, **options: delta_trl.trainer.DeltaGRPOTrainer(model=str(project / "model"), **options),
        raising=False,
    )
    made = functools.partial(delta_trl.config.DeltaGRPOConfig, use_cpu=True, bf16=False)

    def small(folder, **options):
        return made(
            str(tmp_path / folder), **{**options, "max_completion_length": 8, "gradient_accumulation_steps": 1}
        )

    monkeypatch.setattr(delta_trl, "DeltaGRPOConfig", small, raising=False)
    done = run_script("scripts/examples/delta_math_gpu.py", "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert "step 1/1  reward" in done.stdout
    assert (tmp_path / "outputs/examples/delta_math_gpu/report.html").exists()
