"""What leaves for the Hugging Face Hub: the model card, and pushes that cannot cost a run."""

import shlex
from concurrent.futures import Future
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.logging import get_logger
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import get_config_model_id

from .commands import own_command
from .run_folder import REPORT
from .version import __version__


logger = get_logger(__name__)

# Refused or unanswered requests, no network or HF_HUB_OFFLINE, a missing token
HUB_ERRORS = (HTTPError, ConnectionError, TimeoutError, LocalTokenNotFoundError)
# What the uploader of large files (Xet) raises besides
UPLOAD_ERRORS = (*HUB_ERRORS, PermissionError, RuntimeError)

# What TRL's card says of a model whose base, or which itself, is no repository on the Hub
NO_BASE_MODEL = "[None](https://huggingface.co/None)"
NO_REPOSITORY = 'model="None"'

# Options of the objective besides the method's own, as the card lists them
OBJECTIVE = (
    "loss_type",
    "scale_rewards",
    "epsilon",
    "epsilon_high",
    "delta",
    "beta",
    "num_generations",
    "num_iterations",
    "temperature",
    "top_entropy_quantile",
    "max_completion_length",
    "learning_rate",
)


# What is mixed in is a trainer; at run time the trainer's class brings that
_Trainer = GRPOTrainer if TYPE_CHECKING else object


class PushError(RuntimeError):
    """The final push failed; the message says where the model is and how to push it later."""


class HubMixin(_Trainer):
    """
    For a TRL trainer: a model card that says how the model was made, and pushes that fail without losing anything.

    transformers creates the repository when the trainer is built, pushes in the background at every save (unless
    `hub_strategy="end"`), where a failure leaves no trace, and once more at the end. Here a Hub that refuses or does not
    answer at the start or during training is warned about and asked again at the next save; the final push raises, after
    the model has been saved, and says how to push later.
    """

    _pushing = False  # inside push_to_hub, whose failure is the caller's to hear
    _saved = False  # inside push_to_hub: the model and its card are on disk
    _dataset_name: str | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        try:
            super().init_hf_repo(token=token, private=private)
        except HUB_ERRORS as error:
            if self._pushing:
                raise
            self.push_in_progress = None
            logger.warning(
                f"The Hub did not create or find the repository for this run ({_summary(error)}). Training goes on, and the "
                "Hub is asked again at the next push. Until then the model is on this disk only: stop now if the disk does "
                "not outlive the run. HF_TOKEN (or hub_token) has to be a token with write permission."
            )

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        self._pushing, self._saved = True, False
        try:
            return super().push_to_hub(*args, **kwargs)
        except UPLOAD_ERRORS as error:
            if self._saved:  # all that is left is the upload
                raise PushError(push_failure(self, error)) from error
            if not isinstance(error, HUB_ERRORS):  # saving failed, which has nothing to do with the Hub
                raise
            # The repository could not be created, before the model is saved, which the other processes are about to do
            self.save_model(_internal_call=True)
            self.create_model_card(model_name=Path(self.args.output_dir).name)
            raise PushError(push_failure(self, error)) from error
        finally:
            self._pushing = False

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        pushes = self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END
        if pushes and self.hub_model_id is None:
            self.init_hf_repo()
            if self.hub_model_id is None:
                return
        before = list(self.push_in_progress.jobs) if pushes and self.push_in_progress is not None else []
        super()._push_from_checkpoint(checkpoint_folder)
        if pushes:
            for job in self.push_in_progress.jobs:
                if job not in before:
                    job.add_done_callback(_warn_if_failed)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        self._dataset_name = dataset_name or self._dataset_name
        is_local = self._dataset_name is not None and Path(self._dataset_name).exists()
        super().create_model_card(
            model_name=model_name, dataset_name=None if is_local else self._dataset_name, tags=tags
        )
        if not self.is_world_process_zero():
            return
        path = Path(self.args.output_dir) / "README.md"
        card = ModelCard.load(path)
        folder = Path(get_config_model_id(self.model.config)).name
        base = f"a model from a local folder (`{folder}`)" if folder else "a model in memory"
        card.text = card.text.replace(NO_BASE_MODEL, base).replace(NO_REPOSITORY, f'model="{path.parent.name}"')
        dataset = f"`{Path(self._dataset_name).name}` (a local file)" if is_local else self._dataset_name
        card.text += self._card_sections(dataset)
        card.save(path)
        self._saved = True

    def _card_sections(self, dataset: str | None) -> str:
        grpo = GRPOConfig.__dataclass_fields__
        own = [f.name for f in fields(self.args) if f.name not in grpo]
        of_loss = [name for name in grpo if name.startswith(f"{self.args.loss_type}_")]  # ty: ignore[missing-attribute]
        options = "".join(f"| `{name}` | {getattr(self.args, name)} |\n" for name in (*own, *OBJECTIVE, *of_loss))
        rewards = ", ".join(f"`{name}`" for name in self.reward_func_names)
        processes = self.accelerator.num_processes
        versions = f"delta_trl {__version__}, accelerate {version('accelerate')}, peft {version('peft')}"
        return (
            f"\n## How this model was made\n\n### Method options\n\n| option | value |\n|---|---|\n{options}\n"
            f"{self._report_section()}"
            f"### Data and rewards\n\n- Dataset: {dataset or 'not named'}\n- Reward functions: {rewards}\n\n"
            f"### Command\n\n```bash\n{typed_command()}\n```\n\n"
            f"On {processes} process{'es' if processes > 1 else ''}, with {versions}.\n"
        )

    def _report_section(self) -> str:
        if not (Path(self.args.output_dir) / REPORT).exists():
            return ""
        return (
            f"### Report\n\n[`{REPORT}`]({REPORT}) has the curves of this run, and completions in which every token is "
            "coloured by its coefficient. It is one file: download it, and open it in a browser.\n\n"
        )


def push_failure(trainer: HubMixin, error: BaseException) -> str:
    """What failed, where the model is, and the command that pushes it later."""
    args = trainer.args
    folder = shlex.quote(str(args.output_dir))
    repository = shlex.quote(trainer.hub_model_id or args.hub_model_id or Path(args.output_dir).absolute().name)
    private = " --private" if args.hub_private_repo else ""
    if not any(Path(args.output_dir).glob("*.safetensors")):
        return f"Pushing to the Hub failed before the model was saved in {args.output_dir} ({_summary(error)})."
    return (
        f"Pushing to the Hub failed ({_summary(error)}). Nothing is lost: the model, the tokenizer and the card are in "
        f"{args.output_dir}. Once the Hub answers and HF_TOKEN holds a token with write permission, push them with:\n\n"
        f"    hf upload {repository} {folder} . --exclude '{PREFIX_CHECKPOINT_DIR}-*/*'{private}\n"
    )


def typed_command() -> str:
    """The command of this process, without secrets and absolute paths."""
    return command_line(own_command())


def is_secret(option: str) -> bool:
    """Whether an option of this name holds a token or a key."""
    return option.endswith(("token", "key", "password", "secret"))


def command_line(arguments: list[str], *, hide_folders: bool = True) -> str:
    """The command as typed, without the values of options that hold a token or a key, and without absolute paths unless
    `hide_folders` is off: a card is public, and a command to repeat needs them."""
    shorten = _relative if hide_folders else str
    script, *rest = arguments
    shown = []
    hide_next = False
    for argument in rest:
        name, equals, value = argument.partition("=")
        secret = name.startswith("-") and is_secret(name)
        if hide_next:
            shown.append("***")
        elif secret and equals:
            shown.append(f"{name}=***")
        else:
            shown.append(f"{name}={shorten(value)}" if equals else shorten(argument))
        hide_next = secret and not equals
    return shlex.join([Path(script).name, *shown])


def _relative(text: str) -> str:
    """A path inside the working directory relative to it, another absolute path by its last name, other text as it is."""
    path = Path(text)
    if not path.is_absolute():
        return text
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _summary(error: BaseException) -> str:
    """The first line of an error, and what the server said: the Hub's errors go on with links."""
    said = getattr(error, "server_message", None)
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}" + (f" {said}" if said else "")


def _warn_if_failed(job: Future) -> None:
    if not job.cancelled() and (error := job.exception()) is not None:
        logger.warning(
            f"A push to the Hub failed during training ({_summary(error)}). Training goes on, and the next save pushes "
            "again. What should have been pushed is on disk."
        )


def check_private(repository: str | None, token: str | None) -> None:
    """Raise `ValueError` if there is no repository, or others can see it, as one that was there before may be."""
    if repository is None:
        raise ValueError("push_to_hub: the Hub did not create or find the repository; the warning above says why.")
    if not HfApi(token=token).repo_info(repository).private:
        raise ValueError(
            f"{repository} is public on the Hub, and a rehearsal pushes to a private one: remove it there."
        )
