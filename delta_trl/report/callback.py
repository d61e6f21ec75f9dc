"""Heat maps in the logging backends while a run is going. The `delta/` metrics get there through TRL's own logging."""

import importlib
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from ..run_folder import token_record_files
from .notebook import HeatMap, heat_map
from .selection import choose, most_telling_rows
from .text import number, visible
from .token_records import read_completions
from .token_statistics import groups_of


KEY = "delta/heat_map"
HTML_BACKENDS = ("wandb", "trackio")  # modules with the same two functions, `log` and `Html`
SHOWN_TOKENS = 8  # highest, and as many lowest, tokens of a completion in TensorBoard


class HeatMapCallback(TrainerCallback):
    """
    Send a right and a wrong completion of one prompt, coloured by coefficient, to the logging backends of a trainer.

    Weights & Biases and Trackio get HTML. TensorBoard shows no colours, and gets a table of each completion's tokens with
    the highest and lowest coefficients. Other backends get nothing. The source is the newest file of token records, so
    `log_completions=True` is needed, and what is shown may be one log old.

    Args:
        trainer (`Trainer`): The trainer that this callback is added to: its backends are used.
        every (`int`): Least number of steps between two heat maps.

    Raises:
        `ValueError`: if the trainer keeps no token records, or `every` is below 1.

    Example:

    ```python
    >>> trainer.add_callback(HeatMapCallback(trainer))
    ```
    """

    def __init__(self, trainer: Trainer, every: int = 10):
        if not getattr(trainer.args, "log_completions", False):
            raise ValueError(
                "HeatMapCallback shows recorded tokens, and this trainer records none: log_completions is False. Set "
                "log_completions=True in its config."
            )
        if every < 1:
            raise ValueError(f"every is the least number of steps between two heat maps, at least 1; got {every}.")
        self._trainer = trainer
        self._every = every
        self._due = 0
        # An earlier run may have left records in the same folder
        self._sent = _newest(trainer.args.output_dir)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # The records of a step are written after its log. The last ones are there when the Trainer logs its summary, and
        # not later: at the end of training the backends close.
        newest = _newest(args.output_dir)
        due = state.global_step >= self._due or "train_runtime" in logs
        if state.is_world_process_zero and due and newest not in (None, self._sent):
            self._sent, self._due = newest, state.global_step + self._every
            self._send(args, state.global_step, telling_heat_maps(newest[0]))

    def _send(self, args: TrainingArguments, step: int, maps: list[HeatMap]) -> None:
        for callback in self._trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text(KEY, "\n\n".join(map(extremes_table, maps)), step)
        content = "\n".join(shown._repr_html_() for shown in maps)
        for name in HTML_BACKENDS:
            if name in args.report_to:
                backend = importlib.import_module(name)
                if name == "wandb" and backend.run is None:  # switched off by an environment variable
                    continue
                backend.log({KEY: backend.Html(content), "train/global_step": step})


def _newest(output_dir: str) -> tuple[Path, int] | None:
    """The last file of records, and when it was written."""
    files = token_record_files(Path(output_dir))
    return (files[-1], files[-1].stat().st_mtime_ns) if files else None


def telling_heat_maps(path: Path) -> list[HeatMap]:
    """Of the prompt whose completions tell most, one completion of each side."""
    completions = read_completions(path)
    group = choose(groups_of(path, completions))[0]
    maps = []
    for row in most_telling_rows(completions, group, per_side=1):
        tokens = completions.rows(row, row + 1)
        maps.append(
            heat_map(
                [completions.token(position) for position in range(tokens.start, tokens.stop)],
                completions.coefficients[tokens],
                completions.log_probs[tokens],
                completions.advantages[row],
                title=f"Step {group.step}, reward {number(completions.rewards[row], 2)}: {completions.prompt(row)}",
            )
        )
    return maps


def extremes_table(shown: HeatMap) -> str:
    """A Markdown table of the tokens with the highest and lowest coefficients, in the order of λ."""
    order = sorted(range(len(shown.tokens)), key=lambda i: -shown.coefficients[i])
    if len(order) > 2 * SHOWN_TOKENS:
        order = order[:SHOWN_TOKENS] + order[-SHOWN_TOKENS:]
    lines = [
        _literal(visible(shown.title or "", alone=True)).replace("␣", " "),
        "",
        "| token | position | |",
        "|---|---|---|",
    ]
    for i in order:
        token = _literal(visible(shown.tokens[i], alone=True))
        lines.append(f"| {token} | {i + 1} | {shown.facts(i)} |")
    return "\n".join(lines)


def _literal(text: str) -> str:
    """Text that Markdown and HTML both leave alone: entities instead of punctuation."""
    return "".join(f"&#{ord(c)};" if c.isascii() and not c.isalnum() and c != " " else c for c in text)
