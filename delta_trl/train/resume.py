"""Where a run starts: at the beginning of a folder of its own, or at a checkpoint that was made with the same settings."""

import fnmatch
import json
import os
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..data import ProblemData, rows_fingerprint
from ..run_folder import (
    RUN_FILE,
    STATE_FILE,
    WEIGHTS,
    checkpoints,
    describe_contents,
    find_damage,
    read_record,
)
from ..version import __version__


# Options of the command that describe no run, and secrets
NOT_SETTINGS = ("config", "plan*", "rehearse*", "overwrite_output_dir", "resume_from_checkpoint", "trainer", "debug")
NOT_SETTINGS += ("*_token",)

# What a continued run may change: how long it goes on, what it records, and the machine. Everything else decides what is
# learned. Of a schedule that depends on the number of steps, the rest follows the new number.
MAY_CHANGE = (
    *("max_steps", "num_train_epochs", "output_dir"),
    *("logging_*", "log_*", "report_to", "run_name", "project", "trackio_*", "disable_tqdm", "coef_log_completions"),
    *("num_completions_to_print", "save_*", "enable_jit_checkpoint", "eval_*", "per_device_eval_batch_size"),
    *("num_generations_eval", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    *("push_to_hub", "hub_*", "skip_memory_metrics", "include_num_input_tokens_seen"),
    *("use_vllm", "vllm_mode", "vllm_server_*", "vllm_group_port", "vllm_model_impl", "vllm_gpu_memory_utilization"),
    *("vllm_enable_sleep_mode", "vllm_max_model_length", "vllm_tensor_parallel_size", "use_transformers_*"),
    *("transformers_continuous_batching_config", "activation_checkpointing*", "gradient_checkpointing*"),
    *("torch_compile*", "torch_empty_cache_steps", "use_liger_kernel", "liger_kernel_config"),
    *("attn_implementation", "tf32", "use_cpu"),
    *(
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
    ),
    *("ddp_*", "fsdp*", "deepspeed", "accelerator_config", "ds3_gather_for_generation", "coef_offload"),
    "ignore_data_skip",
)
# Compared by their products, which must not change: with more processes, each takes less
BATCH_OPTIONS = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")
BATCH_OPTIONS += ("generation_batch_size",)
# Compared by the problems that come of them, once these are loaded: the same ones may lie elsewhere
DATA_OPTIONS = ("dataset_name", "dataset_files", "dataset_split", "dataset_revision")
# What a checkpoint has besides the model, and where it may lie; DeepSpeed has folders of its own
STATES_KEPT = {
    "optimizer": ("optimizer*", "global_step*"),
    "learning-rate schedule": ("scheduler*", "global_step*"),
    "random generators": ("rng_state*",),
}


@dataclass
class Start:
    """
    Where a run starts.

    Attributes:
        checkpoint: To continue from; None for the beginning.
        record: Of the run that is continued, else of the new one.
        clear: Whether the folder holds what has to be removed first.
        notes: For the user.
        before: Of the checkpoint; None without one.
    """

    checkpoint: str | None
    record: dict[str, Any]
    clear: bool = False
    notes: list[str] = field(default_factory=list)
    before: dict[str, Any] | None = None


def run_record(script_args: Any, data_args: Any, args: Any, model_args: Any, command: str) -> dict[str, Any]:
    """How a run is made, for `delta_trl_run.json`: paths as typed, settings that differ from defaults, the command."""
    record = {
        "run_id": uuid.uuid4().hex[:12],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "trainer": script_args.trainer,
        "model_name_or_path": model_args.model_name_or_path,
        "dataset": data_args.dataset_name,
        "reward_funcs": script_args.reward_funcs,
        "prompt_format": data_args.prompt_format,
        "system_prompt": data_args.system_prompt,
        "max_prompt_length": data_args.max_prompt_length,
        "max_completion_length": args.max_completion_length,
        "batch": {
            "responses_per_rollout_batch": args.generation_batch_size,
            "responses_per_update": args.per_device_train_batch_size
            * args.gradient_accumulation_steps
            * args.world_size,
        },
        "settings": {name: value for name, value in script_args.given.items() if not _matches(name, NOT_SETTINGS)},
        "command": command,
    }
    return json.loads(json.dumps(record, default=str))


def starting_point(folder: Path, resume: str | bool | None, overwrite: bool, record: dict[str, Any]) -> Start:
    """
    Where training starts, or why it may not.

    Args:
        folder: The run's `output_dir`.
        resume: `resume_from_checkpoint`: a checkpoint, or "true" for the newest complete one of `folder`.
        overwrite: `overwrite_output_dir`.
        record: Of the run to start, see `run_record`.

    Raises:
        ValueError: The folder cannot be written, or holds another run; the checkpoint is not complete, or was made with
            other settings.
        FileNotFoundError: There is no such checkpoint.
    """
    if str(resume).lower() in ("none", "false", ""):
        resume = None
    check_writable(folder)
    if resume is not None and overwrite:
        raise ValueError("resume_from_checkpoint continues a run, overwrite_output_dir removes it. Give one of them.")
    if resume is None:
        held = describe_contents(folder)
        if held and not overwrite:
            raise ValueError(
                f"{folder} holds {held}, which this run would overwrite or be mixed with. Continue it with "
                "--resume_from_checkpoint true, choose another --output_dir, or remove it with --overwrite_output_dir."
            )
        if overwrite and _holds(folder, record["model_name_or_path"]):
            raise ValueError(f"overwrite_output_dir would remove the model to start from, which lies in {folder}.")
        return Start(None, record, clear=bool(held))
    notes = []
    if str(resume).lower() == "true":
        checkpoint = None
        for candidate in reversed(checkpoints(folder)):
            if (fault := find_damage(candidate)) is None:
                checkpoint = candidate
                break
            notes.append(f"{candidate} is not complete ({fault}) and is skipped.")
        if checkpoint is None:
            if any(path for pattern in (STATE_FILE, *WEIGHTS) for path in folder.glob(pattern)):
                raise ValueError(
                    f"{folder} holds a finished run without a checkpoint: there is nothing to continue. Choose another "
                    "--output_dir, or remove it with --overwrite_output_dir."
                )
            notes.append(f"There is no complete checkpoint in {folder}: training starts at the beginning.")
            return Start(None, record, clear=True, notes=notes)
    else:
        checkpoint = Path(str(resume))
        if not checkpoint.is_dir():
            have = ", ".join(str(path) for path in checkpoints(folder)) or "none"
            raise FileNotFoundError(f"There is no checkpoint {checkpoint}. In {folder}: {have}.")
        if fault := find_damage(checkpoint):
            raise ValueError(
                f"{checkpoint} is not complete ({fault}). Name another checkpoint, or 'true' for the newest."
            )
    if lost := [what for what, kept in STATES_KEPT.items() if not any(any(checkpoint.glob(one)) for one in kept)]:
        notes.append(
            f"{checkpoint} has no state of the {' and the '.join(lost)}, as with save_only_model: starting anew there, the "
            "run does not go on as it would have without the interruption."
        )
    before = read_record(checkpoint)
    if before is None:
        notes.append(f"{checkpoint} has no {RUN_FILE}: whether it was made with the same settings is not known.")
        return Start(str(checkpoint), record, notes=notes)
    allowed, refused = differences(before, record)
    if refused:
        listed = "; ".join(f"{name}: {then} then, {now} now" for name, (then, now) in refused.items())
        raise ValueError(
            f"{checkpoint} was made with other settings: {listed}. Undo the change, or start a run of its own in another "
            f"--output_dir. A continued run may only change its length, its records and the machine."
        )
    if allowed:
        listed = ", ".join(f"{name}: {now} (before: {then})" for name, (then, now) in allowed.items())
        notes.append(f"Continued with {listed}.")
    again = {"date": record["date"], "command": record["command"], "version": record["version"]}
    kept = {name: before[name] for name in ("run_id", "date", "command", "version") if name in before}
    resumed = [*before.get("resumed", []), again]
    notes.append(f"Continuing from {checkpoint}.")
    return Start(str(checkpoint), {**record, **kept, "resumed": resumed}, notes=notes, before=before)


def differences(before: dict[str, Any], now: dict[str, Any]) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Settings that differ between two records, by name with both values: those that may change, and the others."""
    old, new = ({"trainer": r.get("trainer"), **r.get("settings", {}), **r.get("batch", {})} for r in (before, now))
    allowed, refused = {}, {}
    for name in sorted(old.keys() | new.keys()):
        then, current = old.get(name, "default"), new.get(name, "default")
        if name in BATCH_OPTIONS or then == current or _same_place(then, current):
            continue
        may_change = _matches(name, MAY_CHANGE) or (name in DATA_OPTIONS and "data" in before)
        (allowed if may_change else refused)[name] = (then, current)
    return allowed, refused


def with_data(start: Start, data: ProblemData) -> Start:
    """
    The start with the problems to train on in its record, if they are those of the checkpoint.

    Raises:
        ValueError: They are others: the place in the data that a run has reached means nothing then.
    """
    now = {"problems": len(data.train), "fingerprint": rows_fingerprint(data.train)}
    then = (start.before or {}).get("data")
    start = replace(start, record={**start.record, "data": now})
    if then is None or then == now:
        return start
    changed = (
        f"The data of {start.record['dataset']} is not that of {start.checkpoint}: {then['problems']} problems then, "
        f"{now['problems']} now"
        + ("" if then["problems"] != now["problems"] else ", with other content or in another order")
    )
    if start.before.get("version") != __version__:  # which may filter or render problems in another way
        note = f"{changed}. Before, it was loaded by delta_trl {start.before.get('version')}, now by {__version__}."
        return replace(start, notes=[*start.notes, note])
    raise ValueError(
        f"{changed}. Bring the old data back (of a dataset on the Hub, dataset_revision names the commit), or start a run "
        "of its own in another --output_dir."
    )


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_writable(folder: Path) -> None:
    """Raise `ValueError` if an output folder cannot be made or written."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ValueError(f"output_dir {folder} cannot be made: {place} is a file. Choose another --output_dir.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {folder} cannot be written: {place} is not yours to write. Choose another.")


def _holds(folder: Path, model: str | None) -> bool:
    return (
        model is not None and Path(model).exists() and folder.resolve() in [(p := Path(model).resolve()), *p.parents]
    )


def _same_place(one: Any, other: Any) -> bool:
    """Whether two texts are one existing path, from here."""
    return all(isinstance(path, str) and os.path.exists(path) for path in (one, other)) and os.path.samefile(
        one, other
    )
