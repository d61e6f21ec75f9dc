"""What the training script shows while it trains."""

from transformers import ProgressCallback


# Label, key in the logs, format. In reading order; what a log does not hold is left out.
COLUMNS = (
    ("reward", "reward", "{:.3f}"),
    ("length", "completions/mean_length", "{:.0f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("grad norm", "grad_norm", "{:.2f}"),
    ("λ+", "delta/coef/mean_positive", "{:.3f}"),
    ("λ-", "delta/coef/mean_negative", "{:.3f}"),
    ("λ sd", "delta/coef/std", "{:.3f}"),
    ("s/step", "step_time", "{:.2f}"),
)


class ReadableProgressCallback(ProgressCallback):
    """
    TRL's progress bar with one short line of metrics instead of the whole dictionary of fifty.

    Every metric still goes to the logging backends and to `trainer_state.json`. λ+ and λ- are the mean coefficients of the
    two advantage sides, `λ sd` is the standard deviation over tokens.
    """

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not (state.is_world_process_zero and self.training_bar is not None):
            return
        values = dict(logs)
        prefix = "eval_" if any(key.startswith("eval_") for key in values) else ""
        parts = []
        for label, key, form in COLUMNS:
            value = values.get(prefix + key)
            if value is not None:
                parts.append(f"{label} {form.format(float(value))}")
        if parts:
            label = "evaluation" if prefix else "step"
            self.training_bar.write(f"{label} {state.global_step}/{state.max_steps}  " + "  ".join(parts))
