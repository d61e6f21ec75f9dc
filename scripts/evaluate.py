#!/usr/bin/env python
"""Evaluate models on mathematics benchmarks; the defaults are the DelTA paper's (arXiv 2605.21467, §4.1).

    python scripts/evaluate.py --model Qwen/Qwen3-8B-Base outputs/delta-8b --benchmark paper

Every sample is appended to OUTPUT/MODEL.jsonl as it finishes: run the same command again to continue after an
interruption. Compare finished models with scripts/compare.py.

With several GPUs: --tensor_parallel_size and --data_parallel_size (vLLM), or for transformers start the script with
`torchrun --nproc_per_node N` or `accelerate launch --num_processes N`.
"""

import argparse
import logging
import sys
from pathlib import Path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", nargs="+", required=True, metavar="MODEL",
        help="Hub ids or folders, evaluated in turn. A folder holds a model, a LoRA adapter, or a training's "
        "checkpoints, of which the newest complete one is taken")  # fmt: skip
    add("--revision", help="branch, tag or commit on the Hub; needs a single --model")
    add("--benchmark", nargs="+", default=["paper"], metavar="NAME",
        help="aime24, aime25, aime26, hmmt25_feb, hmmt25_nov, hmmt26_feb, brumo25, math500; paper, which is all seven "
        "but math500; a local .jsonl or .parquet; or name=file, a local copy (default: paper)")  # fmt: skip
    add("--question_column", help="of local files; default: question, problem or prompt")
    add("--answer_column", help="of local files; default: answer, final_answer or solution")
    add("--samples", type=int, default=16, help="completions a problem (default: %(default)s)")
    add("--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    add("--top_p", type=float, default=0.7, help="(default: %(default)s)")
    add("--top_k", type=int, default=0, help="0 for all tokens (default: %(default)s)")
    add("--max_tokens", type=int, default=30_000, help="longest completion (default: %(default)s)")
    add("--seed", type=int, default=0, help="every sample's seed derives from it (default: %(default)s)")
    add("--prompt_format", default="paper", help="paper, chat, or a template with {question} (default: %(default)s)")
    add("--system_prompt", help="first message, with --prompt_format chat")
    add("--backend", choices=["auto", "vllm", "transformers"], default="auto",
        help="auto: vLLM if it is installed and there is a GPU")  # fmt: skip
    add(
        "--dtype",
        default="auto",
        help="of the weights; auto: as saved, but never float32 in vLLM (default: %(default)s)",
    )
    add("--batch_size", type=int, default=64, help="transformers: completions at a time (default: %(default)s)")
    add("--tensor_parallel_size", type=int, default=1, help="vLLM: GPUs of one engine (default: %(default)s)")
    add("--data_parallel_size", type=int, default=1, help="vLLM: engines beside each other (default: %(default)s)")
    add("--gpu_memory_utilization", type=float, default=0.9, help="vLLM (default: %(default)s)")
    add("--max_model_len", type=int, help="vLLM: prompt and completion; default: what the model allows")
    add("--output", type=Path, default=Path("outputs/evaluation"), help="folder (default: %(default)s)")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

    from delta_trl.evaluation.benchmarks import find_benchmarks
    from delta_trl.evaluation.generate import Decoding
    from delta_trl.evaluation.report import write_report
    from delta_trl.evaluation.run import Engine, Task, evaluate_models, is_main_process

    def options(kind: type) -> dict:
        return {name: getattr(args, name) for name in kind.__dataclass_fields__}

    try:
        engine = Engine(**options(Engine))
        decoding = Decoding(**options(Decoding))
        benchmarks = find_benchmarks(args.benchmark, args.question_column, args.answer_column)
        files = evaluate_models(args.model, Task.load(benchmarks, decoding), engine, args.output, args.revision)
        if is_main_process():
            print(write_report(files, args.output))
    except (ValueError, ChildProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
