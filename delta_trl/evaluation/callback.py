"""Evaluating checkpoints while a model trains, and remembering the best: the paper picks it by AIME25 avg@8."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from ..jsonl import parse_json
from .benchmarks import find_benchmarks
from .generate import TransformersBackend
from .models import ModelSource
from .options import Decoding
from .problem import Benchmark
from .run import Task, run_share
from .samples import read_evaluation
from .statistics import average


logger = logging.getLogger(__name__)

BEST_FILE = "best_checkpoint.json"


class EvaluationCallback(TrainerCallback):
    """After every k-th checkpoint evaluates a benchmark, logs avg@n, and remembers the best checkpoint.

    Completions are drawn from the model in memory with transformers, every process its share. That suits models and
    completions that training itself could generate this way. For long completions of large models leave it out, and
    let another machine run `python -m delta_trl.evaluation --model OUTPUT_DIR` with vLLM, which takes the newest checkpoint.

    Per-sample records are in `<output_dir>/evaluation/checkpoint-<step>.jsonl`; the best checkpoint so far and the
    figures of all are in `<output_dir>/best_checkpoint.json`, which a resumed training continues. The trainer is told
    too (`state.best_model_checkpoint`), so `save_total_limit` does not delete the best.

    Args:
        trainer: The trainer that it is added to: `trainer.add_callback(EvaluationCallback(trainer, "aime25"))`.
        benchmark: Name, local file or entry, see `find_benchmarks`.
        decoding: How to sample. The default is the paper's, with 8 samples a problem.
        every: Evaluate each `every`-th checkpoint, >= 1.
        batch_size: Completions at a time in each process.

    Raises:
        ValueError: More than one benchmark is named, `every` is below 1, or the trainer saves no checkpoints.
    """

    def __init__(
        self,
        trainer: Any,
        benchmark: str | Benchmark = "aime25",
        decoding: Decoding | None = None,
        every: int = 1,
        batch_size: int = 64,
    ):
        benchmarks = [benchmark] if isinstance(benchmark, Benchmark) else find_benchmarks([benchmark])
        if len(benchmarks) > 1:
            raise ValueError(
                f"A checkpoint is picked by one benchmark, and {benchmark!r} stands for {len(benchmarks)}. Name one of them."
            )
        if every < 1:
            raise ValueError(f"every is at least 1, got {every}.")
        if trainer.args.save_strategy == SaveStrategy.NO:
            raise ValueError(
                'EvaluationCallback evaluates checkpoints, and save_strategy="no" saves none. Set save_strategy="steps" and '
                "save_steps, or leave the callback out."
            )
        self.trainer, self.every, self.batch_size = trainer, every, batch_size
        self.task = Task.load(benchmarks, decoding or Decoding(samples=8))
        self.key = f"eval_{benchmarks[0].name}_avg@{self.task.decoding.samples}"
        self.saved = 0
        self.scores: dict[int, float] = {}  # avg@n in [0, 1] by training step

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint so far; of equal ones the first."""
        return max(self.scores, key=self.scores.__getitem__, default=None)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Continues what a training that is resumed had found."""
        file = Path(args.output_dir) / BEST_FILE
        if state.global_step and file.exists():
            known = _scores(file)
            # Steps beyond the one resumed from will be trained and evaluated again.
            self.scores = {step: score for step, score in known.items() if step <= state.global_step}
            self.saved = len(self.scores) * self.every
            self._tell(args, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Evaluates the checkpoint that was just saved. Every process of the training takes part."""
        self.saved += 1
        if self.saved % self.every:
            return
        from trl.models.utils import unwrap_model_for_generation

        accelerator = self.trainer.accelerator
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        path = Path(args.output_dir) / "evaluation" / f"{checkpoint.name}.jsonl"
        if accelerator.is_main_process:
            # A training that is resumed writes the checkpoint anew; the weights may be others.
            path.unlink(missing_ok=True)
        accelerator.wait_for_everyone()
        with unwrap_model_for_generation(self.trainer.model_wrapped, accelerator) as model:
            training = model.training
            model.eval()
            run_share(
                TransformersBackend(model, self.trainer.processing_class, self.batch_size),
                self.task,
                ModelSource(str(checkpoint), None, None),
                path,
                dtype=str(model.dtype).removeprefix("torch."),
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                even=True,
            )
            accelerator.wait_for_everyone()
            (benchmark,) = read_evaluation(path).benchmarks.values()
            score = average([benchmark.correct])
            # In evaluation mode TRL's `log` does not add, and forget, the training metrics it is still collecting.
            error = {} if score.standard_error is None else {f"{self.key}_error": score.standard_error}
            self.trainer.log({self.key: score.value, **error})
            model.train(training)
        self.scores[state.global_step] = score.value
        self._tell(args, state)
        if accelerator.is_main_process:
            self._write(args)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Says so if not a single checkpoint was evaluated."""
        if not self.scores and state.is_world_process_zero:
            logger.warning(
                f"EvaluationCallback evaluated nothing: it takes every {self.every}. checkpoint, and this training saved "
                f"{self.saved}. Lower every or save_steps ({args.save_steps})."
            )

    def _tell(self, args: TrainingArguments, state: TrainerState) -> None:
        # A metric that the user picks checkpoints by has precedence in the trainer's own book-keeping.
        if self.best_step is not None and args.metric_for_best_model is None:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{self.best_step}")
            state.best_metric = self.scores[self.best_step]

    def _write(self, args: TrainingArguments) -> None:
        best = self.best_step
        content = {
            "best_checkpoint": str(Path(args.output_dir) / f"checkpoint-{best}"),
            "metric": self.key,
            "value": self.scores[best],
            "scores": self.scores,
        }
        file = Path(args.output_dir) / BEST_FILE
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(file)  # whole, or as it was, whenever the process ends


def _scores(file: Path) -> dict[int, float]:
    """What an earlier start found. A file that its death tore is left out: the checkpoints to come are evaluated."""
    try:
        return {int(step): float(score) for step, score in parse_json(file.read_bytes())["scores"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning(f"{file} cannot be read ({error}): the scores of earlier checkpoints are forgotten.")
        return {}
