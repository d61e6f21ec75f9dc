"""What all runs of a study start from: the task's data, and a model that is warmed up here or was pretrained."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from ..language import LANGUAGE_TASKS
from ..tasks import TASKS, warm_up, write_problems
from .settings import TaskSettings


# What is fetched of a model on the Hub: its weights once, and what the tokenizer is made of
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


@dataclass(frozen=True)
class StudyStart:
    """
    Attributes:
        model: Folder of the model.
        fingerprint: Of the data, the model's weights and its tokenizer, wherever they lie.
    """

    model: Path
    fingerprint: str


def prepare(task: TaskSettings, folder: Path) -> StudyStart:
    """Write the task's data, and warm a model up or find the pretrained one, unless an earlier start did.

    Raises:
        ValueError: The folder has the data of other task settings, or there is no such pretrained model.
    """
    # Without the place of a pretrained model, which may change: its weights are in the fingerprint
    noting = {name: value for name, value in asdict(task).items() if name != "model" and value is not None}
    settings, noted = json.dumps(noting), folder / "task.json"
    if noted.exists() and {"seed": 0, **json.loads(noted.read_text())} != noting:  # older ones have no seed
        raise ValueError(
            f"{folder} was made for the task {noted.read_text()}; this study asks for {settings}. Results of two tasks "
            "are not mixed: choose another --folder."
        )
    model, data = folder / "warm" if task.model is None else pretrained_folder(task.model), folder / "data"
    if not noted.exists():  # the last file to be written
        problems = (TASKS | LANGUAGE_TASKS)[task.name].problems(task.problems, 0)
        questions = write_problems(problems, task.held_out, data)
        if task.model is None:
            shutil.rmtree(model, ignore_errors=True)
            how = {"steps": task.warm_up_steps, "error_rate": task.error_rate, "seed": task.seed}
            warm_up(str(model), questions, task=task.name, **how)
        noted.write_text(settings)
    digest = hashlib.sha256()
    weights = sorted(model.glob("*.safetensors"))
    for file in (data / "train.jsonl", data / "test.jsonl", *weights, model / "tokenizer.json"):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return StudyStart(model, digest.hexdigest())


def pretrained_folder(model: str) -> Path:
    """The folder of a pretrained model, absolute; one that is named as on the Hub is fetched, or taken from its cache.

    Raises:
        ValueError: There is no such model, or it lacks weights as safetensors or a tokenizer.json.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model, allow_patterns=MODEL_FILES))
        except (OSError, ValueError) as error:  # those of the Hub are both
            reason = " ".join(str(error).split())
            raise ValueError(
                f"task.model is {model!r}, which is neither a folder nor to be had from the Hub ({reason}). Give the "
                "model's folder, with scripts/study.py as --model."
            ) from error
    if not (any(folder.glob("*.safetensors")) and (folder / "tokenizer.json").exists()):
        raise ValueError(
            f"task.model is {model!r}, and {folder} lacks *.safetensors or tokenizer.json. Save the model and its tokenizer "
            "there with save_pretrained."
        )
    return folder.resolve()
