"""One training run: checks, trainer, training, saving."""

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import ModelConfig

from ..checks import NoRewardDifferenceCallback, check_prompt_lengths, check_reward_columns, evaluates
from ..config import GRPOBaseConfig
from ..data import DataArguments, ProblemData, load_problem_data
from ..hub import typed_command
from ..methods.names import method_named
from ..run_folder import CHECKPOINT, clear, last_checkpoint, write_record
from ..trainer import DeltaGRPOTrainer
from .arguments import ScriptArguments
from .checks import check_packages, check_problems, check_start, keeps_float32_copy, lost_updates, slow_bfloat16
from .resume import Start, run_record, starting_point, with_data
from .rewards import load_rewards
from .shapes import check_weights, read_model_config, read_tokenizer
from .stopping import Stopped, continuing_command, ending_on_signals


logger = logging.getLogger(__name__)


def build(
    script_args: ScriptArguments,
    data_args: DataArguments,
    args: GRPOBaseConfig,
    model_args: ModelConfig,
    data: ProblemData | None = None,
) -> tuple[Any, Start]:
    """
    The trainer of a run, and where it starts (see `resume.starting_point`), with everything checked that can be before the
    model is loaded. What has to be removed from the output folder is gone then, and nothing else has changed there.

    Args:
        data: Instead of what `data_args` names.

    Raises:
        ValueError, FileNotFoundError: Options, rewards, data, model or folder that do not fit.
    """
    from trl import get_peft_config, get_quantization_config

    from ..progress import ReadableProgressCallback

    logging.basicConfig(level=logging.INFO if args.process_index == 0 else logging.WARNING, format="%(message)s")
    notes = check_start(script_args, data_args, args, model_args)
    check_packages(args)
    rewards = load_rewards(script_args)
    record = run_record(script_args, data_args, args, model_args, typed_command())
    start = decided_by_main(
        args,
        lambda: starting_point(
            Path(args.output_dir), args.resume_from_checkpoint, script_args.overwrite_output_dir, record
        ),
    )
    source = {"revision": model_args.model_revision, "trust_remote_code": args.trust_remote_code}
    config = read_model_config(model_args, trust_remote_code=args.trust_remote_code)
    check_weights(model_args.model_name_or_path)
    tokenizer = read_tokenizer(model_args.model_name_or_path, **source)
    if data is None:
        data = load_problem_data(data_args, tokenizer, check_golds="math_reward" in script_args.reward_funcs)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    check_prompt_lengths(data.longest_prompt, args.max_completion_length, context)
    check_reward_columns(rewards, data.train, remove_unused_columns=args.remove_unused_columns)
    check_problems(len(data.train), args)
    start = decided_by_main(args, lambda: with_data(start, data))
    if not keeps_float32_copy(args) and (lost := lost_updates(args, model_args, config)):
        notes.append(f"{lost[0].upper()}{lost[1:]}")
    if slow := slow_bfloat16(args, model_args):
        notes.append(slow)
    if args.log_completions and "num_completions_to_print" not in script_args.named:
        args.num_completions_to_print = 0  # TRL would print all of them, a table of a rollout batch for each log
        notes.append(
            f"Completions go to {args.output_dir}/completions; num_completions_to_print has some printed, too."
        )
    for note in (*start.notes, *notes):
        logger.info(note)
    if start.clear:  # before the trainer is built, which makes folders of its own in there
        decided_by_main(args, lambda: clear(Path(args.output_dir)))

    args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    trainer = method_named(script_args.trainer).trainer_class(
        model=model_args.model_name_or_path,
        reward_funcs=rewards,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.held_out if evaluates(args) else None,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.add_callback(ReadableProgressCallback)
    trainer.add_callback(NoRewardDifferenceCallback)
    trainer.add_callback(RecordCallback(start.record))
    trainer.add_callback(LengthCallback)
    if args.log_completions and isinstance(trainer, DeltaGRPOTrainer) and find_spec("jinja2"):
        from ..report import HeatMapCallback

        trainer.add_callback(HeatMapCallback(trainer))  # sends to those of report_to that can show them
    return trainer, start


class RecordCallback(TrainerCallback):
    """Stores the run's record with every checkpoint."""

    def __init__(self, record: dict[str, Any]):
        self.record = record

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_record(self.record, Path(args.output_dir) / f"{CHECKPOINT}{state.global_step}")


class LengthReached(Exception):
    """The checkpoint that a run continues from has all of its steps."""


class LengthCallback(TrainerCallback):
    """Raises `LengthReached` once the checkpoint is loaded: transformers would make one step more, in every such start."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if 0 < state.max_steps <= state.global_step:
            raise LengthReached


def decided_by_main(args: GRPOBaseConfig, decide: Callable[[], Any]) -> Any:
    """What the main process decides, or the same error on all processes: they may not see the same files."""
    outcome = [None, None]
    if args.process_index == 0:
        try:
            outcome[0] = decide()
        except (ValueError, OSError) as error:
            outcome[1] = str(error)
    if args.world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    return outcome[0]


def run(trainer: Any, start: Start, data_args: DataArguments) -> None:
    """Train and save. SIGINT and SIGTERM end the process, with one line from the main one."""

    def how_to_go_on(stop: Stopped) -> str:
        state, checkpoint = trainer.state, last_checkpoint(Path(trainer.args.output_dir))
        saved = f"Last checkpoint: {checkpoint}." if checkpoint else "No checkpoint was saved yet."
        return (
            f"{stop} after step {state.global_step} of {state.max_steps}. {saved} To continue: {continuing_command()}"
        )

    with ending_on_signals(how_to_go_on):
        train_and_save(trainer, start, data_args)
        trainer.end()


def train_and_save(trainer: Any, start: Start, data_args: DataArguments) -> None:
    """Train, save and push; the processes stay connected."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        write_record(start.record, folder)
    trainer.accelerator.wait_for_everyone()
    try:
        trainer.train(resume_from_checkpoint=start.checkpoint)
    except LengthReached:
        steps = f"{trainer.state.global_step} of {trainer.state.max_steps} steps"
        logger.info(f"{start.checkpoint} has {steps}: nothing is left to train, and its model is saved as the result.")
    if trainer.is_fsdp_enabled:  # the result is one model, also where checkpoints are each process's share of it
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(_internal_call=True)  # without pushing: that comes last, when everything is on disk
    trainer.save_state()
    if args.push_to_hub and trainer.is_world_process_zero():
        _write_report(folder)  # before the card, which links it
    trainer.create_model_card(model_name=folder.name, dataset_name=data_args.dataset_name)
    trainer.accelerator.print(f"Model and metrics (trainer_state.json) saved to {args.output_dir}.")
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=data_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to the Hub as {trainer.hub_model_id}.")


def _write_report(folder: Path) -> None:
    """What goes up beside the model. A report that cannot be written is said, and keeps nothing else back."""
    if find_spec("jinja2") is None:
        logger.warning("The model goes up without a report, which needs jinja2: pip install 'delta_trl[report]'.")
        return
    from ..report import write_report

    try:
        write_report([folder])
    except (OSError, ValueError) as error:
        logger.warning(f"The model goes up without a report: {error}")
