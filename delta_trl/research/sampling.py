"""Rollout batches of a policy that stays as it is, sampled and scored by TRL's own machinery, for measurements."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..coefficients import Coefficients
from ..config import CHECKPOINTING, DeltaGRPOConfig
from ..credit import NEEDS, Credit
from ..data import load_math_dataset
from ..jsonl import refuse_differences, update_lines
from ..rewards import math_reward
from ..rollout import Rollout
from ..token_credit import TokenCreditTrainer
from .credit.answers import LANGUAGE_READINGS
from .language import LanguageTask
from .tasks import arithmetic_problems


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such as a run's and a rollout batch's, so that each batch can be repeated alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class RolloutSampler:
    """
    Samples rollout batches with a trainer, and trains nothing.

    Attributes:
        trainer (`TokenCreditTrainer`): Its method of token credit keeps the rollout batch.
        model (`PreTrainedModel`): The policy.
    """

    def __init__(self, model: PreTrainedModel, args: DeltaGRPOConfig, train_dataset: Dataset, tokenizer):
        args.credit = Credit("a measurement", self._keep, needs=frozenset(NEEDS))  # ty: ignore[invalid-attribute-access]
        self.model = model
        self.trainer = TokenCreditTrainer(
            model=model, reward_funcs=math_reward, args=args, train_dataset=train_dataset, processing_class=tokenizer
        )

    def sample(self, rows: list[dict[str, str]], seed: tuple[int, ...]) -> tuple[Rollout, torch.Tensor]:
        """A rollout batch of these prompts with their solutions, in their order, and its rewards, shape (B,), float32.

        The same seed gives the same responses.
        """
        torch.manual_seed(seed_of(*seed))
        self.model.train()
        trainer = self.trainer
        batch = trainer._generate_and_score_completions([row for row in rows for _ in range(trainer.num_generations)])
        return self._rollout, torch.tensor(trainer._local_rewards(len(batch["completion_ids"])))

    def _keep(self, rollout: Rollout, options: DeltaGRPOConfig) -> Coefficients:
        self._rollout = rollout
        return Coefficients(torch.ones_like(rollout.log_probs))


def problem_rows(
    data: str | os.PathLike | None = None, prompt_format: str | None = None, tokenizer=None
) -> list[dict[str, str]]:
    """Rows `prompt`, `solution` of a data file that training reads, or of the made task's sums in a seeded order.

    Without a format the prompt is the question and a new line.
    """
    prompt_format = prompt_format or "{question}\n"
    if data is not None:
        rows = load_math_dataset(
            str(data), prompt_format=prompt_format, tokenizer=tokenizer, max_prompt_length=None
        ).train
        return [{"prompt": row["prompt"], "solution": row["solution"]} for row in rows]
    return [
        {"prompt": prompt_format.replace("{question}", row["question"]), "solution": row["final_answer"]}
        for row in arithmetic_problems(6561)
    ]


def language_rows(task: LanguageTask, problems: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows `prompt`, `solution`, `question` of a task of real language, after its worked example in ChatML."""
    return [
        {
            "prompt": task.prompt_format.replace("{question}", row["question"]),
            "solution": row["final_answer"],
            "question": row["question"],
        }
        for row in problems
    ]


def task_rows(name: str, seed: int) -> tuple[list[dict[str, str]], int]:
    """All problems of a task of real language, as `language_rows`, in an order of this seed; and the tokens of an answer."""
    read = LANGUAGE_READINGS[name]
    return language_rows(read.task, read.task.problems(read.task.n_problems, seed)), read.max_completion_length


def make_sampler(
    model: str | os.PathLike,
    rows: list[dict[str, str]],
    *,
    prompts: int,
    group: int,
    max_completion_length: int,
    output_dir: str | os.PathLike,
) -> RolloutSampler:
    """A sampler of batches of `prompts` prompts with `group` responses each, at temperature 1, in float32."""
    if prompts < 1 or group < 2:
        raise ValueError(f"A rollout batch takes a prompt and two responses to it; got {prompts} prompts x {group}.")
    return RolloutSampler(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        sampling_config(output_dir, prompts, group, max_completion_length=max_completion_length),
        Dataset.from_list(rows),
        AutoTokenizer.from_pretrained(model),
    )


def sampling_config(
    output_dir: str | os.PathLike, prompts: int, group: int, config_class: type = DeltaGRPOConfig, **options: Any
) -> DeltaGRPOConfig:
    """For rollout batches of `prompts` prompts with `group` responses each, in one update, at temperature 1, in float32."""
    return config_class(
        output_dir=str(output_dir),
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        **{CHECKPOINTING: False},
        per_device_train_batch_size=prompts * group,
        gradient_accumulation_steps=1,
        num_generations=group,
        temperature=1.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )


def begin_measurement(
    model: str | os.PathLike, rows: list[dict[str, str]], file: Path, *, prompts: int, settings: dict[str, Any]
) -> tuple[RolloutSampler, list[dict[str, Any]]]:
    """
    A sampler, and the records that an earlier call with these settings left in `file`.

    `settings` name `group` and `max_completion_length`; they go into the file with a digest of the model.

    Raises:
        `ValueError`: if the file was begun with other settings, or if a rollout batch would be too small.
    """
    sizes = {name: settings[name] for name in ("group", "max_completion_length")}
    sampler = make_sampler(model, rows, prompts=prompts, **sizes, output_dir=file.parent / "trainer")
    return sampler, earlier_records(file, {"model": model_digest(sampler.model), **settings})


def model_digest(model: PreTrainedModel) -> str:
    """Tells one model's weights from another's, wherever they lie."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def earlier_records(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a JSON Lines file that begins with these settings; it is made if there is none.

    Raises:
        ValueError: It was begun with others.
    """

    def header(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not lines:
            return [settings]
        refuse_differences(file, lines[0], settings, "settings", "Choose another --folder, or delete the file.")
        return []

    return update_lines(file, header)[1:]
