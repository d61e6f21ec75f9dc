"""Watch DelTA train a tiny language model with verified rewards, on a laptop, offline: `make quickstart`.

1. Make a task, sums in DeepMath-103K's schema, and warm up a 0.4 M parameter Qwen3 on flawed solutions of it.
2. Train it with `delta_trl.train` and configs/quickstart.yaml.
3. Compare pass rates on problems that neither stage has seen, and draw the reward curve and the run report.

`--task code` has the model write one-line functions instead, which run in the sandbox (configs/quickstart_code.yaml, Linux).

A second run reuses the warmed-up model. Options that are not listed here go on to training.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {"math": "configs/quickstart.yaml", "code": "configs/quickstart_code.yaml"}
TITLES = {"math": "DelTA on sums of four digits", "code": "DelTA on one-line functions"}
MADE_TASKS = {"math": "quickstart", "code": "code"}  # in delta_trl.research.tasks
PROBLEMS = 6561
HELD_OUT = 256
SAMPLES = 4


def prepare(task: str, folder: Path, warm_up_steps: int | None) -> None:
    """Write the data, and warm up a model unless an earlier run left one."""
    from delta_trl.research.tasks import TASKS, warm_up, write_problems

    questions = write_problems(TASKS[MADE_TASKS[task]].problems(PROBLEMS, 0), HELD_OUT, folder / "data")
    warm = folder / "warm"
    if (warm / "config.json").exists():
        print(f"Reusing the warmed-up model in {warm}.")
        return
    print("Warming up a random 0.4 M parameter Qwen3 on flawed solutions (a minute or two) ...")
    warm_up(str(warm), questions, task=MADE_TASKS[task], steps=warm_up_steps)


def plot_reward(run: Path, path: Path, title: str) -> None:
    """Draw the mean reward of every step from the trainer's own records."""
    from delta_trl.tables import new_figure

    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    steps, rewards = zip(*((entry["step"], entry["reward"]) for entry in history if "reward" in entry), strict=True)
    figure = new_figure((7, 4))
    axes = figure.subplots()
    axes.plot(steps, rewards, color="tab:blue", alpha=0.35, label="each rollout batch (128 completions)")
    window = 10
    smooth = [sum(rewards[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(rewards))]
    axes.plot(steps, smooth, color="tab:blue", label=f"mean of the last {window}")
    axes.set(xlabel="optimiser step", ylabel="mean verified reward", title=title, ylim=(0, 1))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=CONFIGS, default="math", help="what the model learns (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where everything is written (default: outputs/quickstart[_code])")
    parser.add_argument("--warm_up_steps", type=int, help="optimiser steps of the warm-up (default: the task's)")
    arguments, further = parser.parse_known_args()
    for bars in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):  # of moments: training's stays
        os.environ.setdefault(bars, "1")
    from delta_trl.commands import quiet_dependencies

    quiet_dependencies()
    from delta_trl.report import write_report

    config = CONFIGS[arguments.task]
    folder = arguments.folder or Path("outputs", Path(config).stem)
    data, warm, run, plot = folder / "data", folder / "warm", folder / "delta", folder / "reward.png"
    os.chdir(ROOT)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from delta_trl.research.held_out import pass_rate

    start = time.perf_counter()

    prepare(arguments.task, folder, arguments.warm_up_steps)
    for earlier in (run, folder / "evaluation"):  # or the report and the records would mix in another run
        shutil.rmtree(earlier, ignore_errors=True)
    places = {"problems": data / "test.jsonl", "output": folder / "evaluation"}
    decoding = {"samples": SAMPLES, "max_tokens": 80, "prompt_format": "{question}\n", "batch_size": 256}
    before = pass_rate(warm, **places, **decoding)
    print(f"Pass rate before training: {before:.1f}%. Training with {config} ...", flush=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"),
            *("--num_cpu_threads_per_process", str(torch.get_num_threads())),  # or accelerate says what it chose
            *("-m", "delta_trl.train", "--config", config, "--model_name_or_path", warm),
            *("--dataset_name", data / "train.jsonl", "--output_dir", run, *further),
        ],
        check=True,
    )
    after = pass_rate(run, **places, **decoding)
    plot_reward(run, plot, TITLES[arguments.task])
    report = write_report([run])
    launch = os.path.relpath(Path(sys.executable).with_name("accelerate"), ROOT)
    rows = {
        "pass rate before": f"{before:.1f}%",
        "pass rate after": f"{after:.1f}%  ({after - before:+.1f} points; {HELD_OUT} unseen problems × {SAMPLES} samples)",
        "minutes": f"{(time.perf_counter() - start) / 60:.1f}",
        "model": run,
        "metrics": run / "trainer_state.json",
        "reward curve": plot,
        "report": f"{report} (open it in a browser: curves, and each token with its coefficient)",
        "try next": f"the baseline: {launch} launch -m delta_trl.train --config {config} --trainer dapo --output_dir "
        f"{folder / 'dapo'}",
    }
    print("\n" + "\n".join(f"{name:<17} {value}" for name, value in rows.items()))


if __name__ == "__main__":
    main()
