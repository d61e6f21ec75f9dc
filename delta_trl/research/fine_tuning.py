"""The supervised warm-up of a small model on a CPU, for the made tasks."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import ProgressCallback
from trl import SFTConfig, SFTTrainer

from ..config import CHECKPOINTING
from ..progress import ReadableProgressCallback


def fine_tune(
    model: Any, samples: list[dict[str, str]], folder: str | Path, *, batch: int, tokenizer: Any = None, **options: Any
) -> SFTTrainer:
    """
    Fine-tune all weights in float32 on `samples` (`prompt`, `completion`), `batch` a step, each once, and save the model.

    `options` are further ones of TRL's `SFTConfig`; `model` and `tokenizer` as `SFTTrainer` takes them.
    """
    checkpointing: dict[str, Any] = {CHECKPOINTING: False}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=len(samples) // batch,
            per_device_train_batch_size=batch,
            lr_scheduler_type="cosine",
            bf16=False,
            **checkpointing,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            **options,
        ),
        train_dataset=Dataset.from_list(samples),
        processing_class=tokenizer,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ReadableProgressCallback)
    trainer.train()
    trainer.save_model(str(folder))
    return trainer
