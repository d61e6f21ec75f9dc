"""The options of the data."""

import json
import os.path
from dataclasses import MISSING, Field, dataclass, field, fields

from .prompts import CODE_INSTRUCTION, INSTRUCTION, PromptFormat


REASONING_GYM = "reasoning_gym/"  # before the name of one of reasoning-gym's datasets
FOR_GENERATED = ("reasoning_gym_size", "reasoning_gym_seed", "reasoning_gym_options")
NOT_FOR_GENERATED = (
    *("problem_type", "dataset_files", "dataset_split", "dataset_revision", "question_column", "answer_column"),
    *("extra_columns", "min_difficulty", "max_difficulty", "topic", "held_out_name", "allow_unscorable"),
)


@dataclass
class DataArguments:
    """Options of the data: of the training command, `delta-trl inspect` and the functions that load data."""

    dataset_name: str = field(
        default="zwhe99/DeepMath-103K",
        metadata={
            "help": "Hub id, or a local .jsonl, .json, .csv or .parquet file (.gz too), a folder of such files, or one that "
            "save_to_disk wrote; or reasoning_gym/NAME for problems that reasoning-gym generates."
        },
    )
    reasoning_gym_size: int = field(default=1000, metadata={"help": "For reasoning_gym/NAME: problems to generate."})
    reasoning_gym_seed: int = field(default=0, metadata={"help": "For reasoning_gym/NAME: seed of the problems."})
    reasoning_gym_options: dict | str | None = field(
        default=None,
        metadata={"help": "For reasoning_gym/NAME: options of its config, in YAML, or as JSON: '{\"min_terms\": 2}'."},
    )
    problem_type: str = field(
        default="math",
        metadata={
            "choices": ["math", "code"],
            "help": "'math': a question and an answer, for 'math_reward'. 'code': a problem and its tests, for "
            "'code_reward', in the schema of Eurus-2-RL-Data, APPS, TACO or MBPP, or with a column 'tests'.",
        },
    )
    dataset_files: str | None = field(
        default=None,
        metadata={
            "help": "Of a dataset on the Hub, the files to read, as in 'Eurus/code_train*.parquet'. Default: all."
        },
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Commit, tag or branch of a dataset on the Hub. Default: the newest."}
    )
    question_column: str = field(
        default="question",
        metadata={
            "help": "Column with the problem. With problem_type 'code' only for datasets with a column 'tests'."
        },
    )
    answer_column: str = field(
        default="final_answer", metadata={"help": "Column with the gold answer; not with problem_type 'code'."}
    )
    extra_columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further columns to hand on to reward functions, which get each as an argument of its name."
        },
    )
    prompt_format: str = field(
        default="paper",
        metadata={
            "help": "'paper' (the published plain text, for base models), 'chat' (the model's chat template), or a "
            "template of your own that contains {question}."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message, only with prompt_format 'chat'. Default: none."}
    )
    min_difficulty: float | None = field(
        default=None, metadata={"help": "Keep problems of at least this difficulty (DeepMath: about 1 to 10)."}
    )
    max_difficulty: float | None = field(
        default=None, metadata={"help": "Keep problems of at most this difficulty (DeepMath: about 1 to 10)."}
    )
    topic: str | None = field(
        default=None,
        metadata={"help": "Keep topics that start with this; 'Mathematics -> ' may be left out, as in 'Algebra'."},
    )
    max_prompt_length: int | None = field(
        default=2048,
        metadata={"help": "Longest rendered prompt in the model's tokens; longer ones are removed. Null: no limit."},
    )
    held_out_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the problems kept out of training, 0 <= share < 1. Chosen by a hash of the question, so "
            "it stays the same when rows are added or reordered."
        },
    )
    held_out_name: str | None = field(
        default=None,
        metadata={
            "help": "Held-out problems of their own instead of a share: Hub id, local file or folder, read with the same "
            "split, columns, prompt format and filters. Training drops the questions that are among them."
        },
    )
    allow_unscorable: bool = field(
        default=False,
        metadata={
            "help": "Go on when more than 5%% of the answers are missing or cannot be scored, or of the tests be used. "
            "Those rows are removed anyway."
        },
    )

    def __post_init__(self):
        _ = self.format
        self.dataset_name = os.path.expanduser(self.dataset_name)
        if self.held_out_name is not None:
            self.held_out_name = os.path.expanduser(self.held_out_name)
        if self.problem_type not in ("math", "code"):
            raise ValueError(f"problem_type must be 'math' or 'code', got {self.problem_type!r}.")
        if self.problem_type == "code" and self.answer_column != "final_answer":
            raise ValueError(
                f"answer_column ({self.answer_column!r}) is not used with problem_type 'code': tests come from the columns "
                "of the dataset's schema, or from 'tests'."
            )
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share must be at least 0 and below 1, got {self.held_out_share}.")
        if self.max_prompt_length is not None and self.max_prompt_length < 1:
            raise ValueError(f"max_prompt_length must be at least 1, or null, got {self.max_prompt_length}.")
        if self.held_out_share and self.held_out_name is not None:
            raise ValueError(
                f"held_out_share ({self.held_out_share}) and held_out_name ({self.held_out_name!r}) are two ways to hold "
                "problems out. Give one of them."
            )

        if isinstance(self.reasoning_gym_options, str):
            self.reasoning_gym_options = json.loads(self.reasoning_gym_options)
        ignored = NOT_FOR_GENERATED if self.is_generated else FOR_GENERATED
        if changed := [option.name for option in fields(self) if option.name in ignored and self._is_changed(option)]:
            raise ValueError(
                f"{', '.join(changed)} would be ignored with dataset_name={self.dataset_name!r}. Leave them out"
                + ("." if self.is_generated else f", or set dataset_name to {REASONING_GYM}NAME.")
            )

    @property
    def is_generated(self) -> bool:
        """Whether reasoning-gym makes the problems."""
        return self.dataset_name.startswith(REASONING_GYM)

    def _is_changed(self, option: Field) -> bool:
        default = option.default if option.default_factory is MISSING else option.default_factory()
        return getattr(self, option.name) != default

    @property
    def format(self) -> PromptFormat:
        """How questions become prompts."""
        instruction = CODE_INSTRUCTION if self.problem_type == "code" else INSTRUCTION
        return PromptFormat(self.prompt_format, self.system_prompt, instruction)
