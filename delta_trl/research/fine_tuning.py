"""The supervised warm-up of a small model on a CPU, and its pass rate: what the quickstart and SmolLM2's run share."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from ..config import CHECKPOINTING
from ..evaluation.benchmarks import find_benchmarks
from ..evaluation.options import Decoding, Engine
from ..evaluation.run import Task, evaluate_models
from ..evaluation.samples import read_evaluation
from ..evaluation.statistics import average


def fine_tune(
    model: Any, samples: list[dict[str, str]], folder: str | Path, *, batch: int, tokenizer: Any = None, **options: Any
) -> SFTTrainer:
    """
    Fine-tune all weights in float32 on `samples` (`prompt`, `completion`), `batch` a step, each once, and save the model.

    `options` are further ones of TRL's `SFTConfig`; `model` and `tokenizer` as `SFTTrainer` takes them.
    """
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=len(samples) // batch,
            per_device_train_batch_size=batch,
            lr_scheduler_type="cosine",
            bf16=False,
            **{CHECKPOINTING: False},
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            **options,
        ),
        train_dataset=Dataset.from_list(samples),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(folder))
    return trainer


def pass_rate(
    model: Path, problems: Path, output: Path, *, samples: int, max_tokens: int, prompt_format: str, batch_size: int
) -> float:
    """Share of right answers to the held-out problems, in percent, sampled at temperature 1 with fixed seeds."""
    decoding = Decoding(samples=samples, top_p=1.0, max_tokens=max_tokens, prompt_format=prompt_format)
    engine = Engine(backend="transformers", dtype="float32", batch_size=batch_size)
    (file,) = evaluate_models([str(model)], Task.load(find_benchmarks([str(problems)]), decoding), engine, output)
    (benchmark,) = read_evaluation(file).benchmarks.values()
    return 100 * average([benchmark.correct]).value
