"""What a training run leaves in its folder besides the model: how it was made, so that no run is mixed with another."""

import fnmatch
import json
import os
import shutil
import struct
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__


RUN_FILE = "delta_trl_run.json"
STATE_FILE = "trainer_state.json"
CHECKPOINT = "checkpoint-"  # and the step: a checkpoint's folder, as transformers names it
# Files and folders of a run, by which one is recognised and which --overwrite_output_dir removes
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
CONTENTS = (f"{CHECKPOINT}*", STATE_FILE, *WEIGHTS, "completions/*")
REMOVED = (*CONTENTS, "completions", RUN_FILE, "*.safetensors.index.json", "training_args.bin", "report.html")

# Options of the command that describe no run, and secrets
NOT_SETTINGS = ("config", "plan*", "overwrite_output_dir", "resume_from_checkpoint", "trainer", "*_token", "debug")

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


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder or one of its checkpoints, which may have it from the folder; None without one."""
    for place in (folder, folder.parent) if folder.name.startswith(CHECKPOINT) else (folder,):
        try:
            record = json.loads((place / RUN_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        if isinstance(record, dict):
            return record
    return None


def write_record(record: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RUN_FILE}"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / RUN_FILE)


def starting_point(folder: Path, resume: str | bool | None, overwrite: bool, record: dict[str, Any]) -> dict[str, Any]:
    """
    Where training starts, or why it may not.

    Args:
        folder: The run's `output_dir`.
        resume: `resume_from_checkpoint`: a checkpoint, or "true" for the newest complete one of `folder`.
        overwrite: `overwrite_output_dir`.
        record: Of the run to start, see `run_record`.

    Returns:
        `checkpoint` (a path, or None for the beginning), `record` (of the run that is continued, else the given one),
        `clear` (whether `folder` holds what has to be removed first) and `notes` for the user.

    Raises:
        ValueError: The folder holds another run, the checkpoint is not complete, or it was made with other settings.
        FileNotFoundError: There is no such checkpoint.
    """
    if str(resume).lower() in ("none", "false", ""):
        resume = None
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
        return {"checkpoint": None, "record": record, "clear": bool(held), "notes": []}
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
            return {"checkpoint": None, "record": record, "clear": True, "notes": notes}
    else:
        checkpoint = Path(str(resume))
        if not checkpoint.is_dir():
            have = ", ".join(str(path) for path in checkpoints(folder)) or "none"
            raise FileNotFoundError(f"There is no checkpoint {checkpoint}. In {folder}: {have}.")
        if fault := find_damage(checkpoint):
            raise ValueError(
                f"{checkpoint} is not complete ({fault}). Name another checkpoint, or 'true' for the newest."
            )
    before = read_record(checkpoint)
    if before is None:
        notes.append(f"{checkpoint} has no {RUN_FILE}: whether it was made with the same settings is not known.")
        return {"checkpoint": str(checkpoint), "record": record, "clear": False, "notes": notes}
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
    return {
        "checkpoint": str(checkpoint),
        "record": {**record, **kept, "resumed": resumed},
        "clear": False,
        "notes": [*notes, f"Continuing from {checkpoint}."],
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Settings that differ between two records, by name with both values: those that may change, and the others."""
    old, new = ({"trainer": r.get("trainer"), **r.get("settings", {}), **r.get("batch", {})} for r in (before, now))
    allowed, refused = {}, {}
    for name in sorted(old.keys() | new.keys()):
        then, current = old.get(name, "default"), new.get(name, "default")
        if name in BATCH_OPTIONS or then == current or _same_place(then, current):
            continue
        (allowed if _matches(name, MAY_CHANGE) else refused)[name] = (then, current)
    return allowed, refused


def describe_contents(folder: Path) -> str | None:
    """What run a folder holds, in a few words; None if none."""
    if not any(path for pattern in CONTENTS for path in folder.glob(pattern)):
        return None
    record = read_record(folder)
    known = f"a run of trainer {record['trainer']!r} of {record['date'][:10]}" if record else "a run"
    number = len(checkpoints(folder))
    return f"{known} with {number} checkpoint{'s' * (number != 1)}"


def clear(folder: Path) -> None:
    """Remove a run from its folder, and leave everything else in it."""
    for pattern in REMOVED:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, complete or not, oldest first."""
    steps = {path: path.name.removeprefix(CHECKPOINT) for path in folder.glob(f"{CHECKPOINT}*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: int(steps[path]))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    return next((path for path in reversed(checkpoints(folder)) if find_damage(path) is None), None)


def find_damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be continued from, as after a process was killed while saving; None if it can."""
    state = checkpoint / STATE_FILE  # which transformers writes last
    if not state.is_file():
        return f"no {STATE_FILE}"
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except ValueError:
        return f"{STATE_FILE} is cut off"
    for path in checkpoint.rglob("*"):
        if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
            return f"{path.name} is cut off"
        if path.suffix == ".safetensors" and not _is_whole(path):
            return f"{path.name} is cut off"
    return None


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file has all the bytes that its header announces."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > size - 8:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _holds(folder: Path, model: str | None) -> bool:
    return (
        model is not None and Path(model).exists() and folder.resolve() in [(p := Path(model).resolve()), *p.parents]
    )


def _same_place(one: Any, other: Any) -> bool:
    """Whether two texts are one existing path, from here."""
    return all(isinstance(path, str) and os.path.exists(path) for path in (one, other)) and os.path.samefile(
        one, other
    )
