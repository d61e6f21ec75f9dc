"""`ReadableProgressCallback`: what a training shows while it runs."""

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments


# Label, key in the logs, format. In reading order; what a log does not hold is left out.
SHOWN_METRICS = (
    ("reward", "reward", "{:.3f}"),
    ("length", "completions/mean_length", "{:.0f}"),
    ("token accuracy", "mean_token_accuracy", "{:.3f}"),  # of supervised training
    ("entropy", "entropy", "{:.3f}"),
    ("grad norm", "grad_norm", "{:.2f}"),
    ("λ+", "delta/coef/mean_positive", "{:.3f}"),
    ("λ-", "delta/coef/mean_negative", "{:.3f}"),
    ("λ sd", "delta/coef/std", "{:.3f}"),
    ("s/step", "step_time", "{:.2f}"),
)


class ReadableProgressCallback(ProgressCallback):
    """
    One short line of metrics a log in place of the whole dictionary of fifty, and a progress bar on a terminal only.

    Every metric still goes to the logging backends and to `trainer_state.json`. λ+ and λ- are the mean coefficients of the
    two advantage sides, `λ sd` is the standard deviation over tokens.

    ```python
    >>> trainer.add_callback(ReadableProgressCallback)
    ```

    The trainers of this package then drop the progress callback that transformers adds by itself. Any other trainer keeps
    it, and shows both, until `trainer.remove_callback(transformers.ProgressCallback)` is called before this one is added.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._shows_bar = sys.stderr.isatty() and not args.disable_tqdm
        if self._shows_bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._shows_bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if sys.stderr.isatty() and not args.disable_tqdm:
            super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or logs is None:
            return
        prefix = "eval_" if any(key.startswith("eval_") for key in logs) else ""
        parts = []
        for label, key, form in SHOWN_METRICS:
            value = logs.get(prefix + key)
            if value is not None:
                parts.append(f"{label} {form.format(float(value))}")
        if parts:
            label = "evaluation" if prefix else "step"
            tqdm.write(f"{label} {state.global_step}/{state.max_steps}  " + "  ".join(parts), file=sys.stdout)
            sys.stdout.flush()  # a pipe would keep the line

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._shows_bar:
            super().on_train_end(args, state, control, **kwargs)
