"""Rollout batches of a policy, sampled by TRL's own machinery and scored by every method alike.

On a made task each batch takes one real DAPO update, after which the policy and the optimiser are put back: the update is
what methods need that look at how the policy moved, and the next batch comes from the same policy again. On a task of real
language, whose policy is a pretrained model, there is no update.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from ...coefficients import Coefficients
from ...config import DeltaGRPOConfig
from ...credit import NEEDS, Credit
from ...jsonl import append_lines
from ...rewards import math_reward
from ...rollout import Rollout
from ...token_credit import TokenCreditTrainer
from ..language import LANGUAGE_TASKS
from ..sampling import RolloutSampler, earlier_records, language_rows, model_digest, sampling_config, seed_of
from ..tasks import TASKS
from .answers import LANGUAGE_READINGS, LanguageReading
from .measures import measure
from .methods import CreditMethod
from .tokens import CLASSES, TOKEN_TASKS, Reading, TokenTask, require_characters, require_task, token_classes


# The longest ledger has 190 tokens
MAX_COMPLETION_LENGTH = 200
# The quickstart's
LEARNING_RATE = 1e-4


class CreditScorer(TrainerCallback):
    """
    Scores methods on every rollout batch of a policy that stays as it is.

    Args:
        methods, after_update: By name, see `methods.py`.
        task (`TokenTask`): How completions are read.
        on_batch (`Callable`): Receives the record of each batch.
        first_batch (`int`): Number of the first batch: batches are seeded one by one, so that any of them can be repeated.
        trainer_arguments: Of a [`TokenCreditTrainer`] with one update a rollout batch.
    """

    def __init__(
        self,
        methods: dict[str, CreditMethod],
        after_update: dict[str, CreditMethod],
        task: TokenTask,
        on_batch: Callable[[dict[str, Any]], None],
        first_batch: int,
        args: DeltaGRPOConfig,
        **trainer_arguments,
    ):
        self.methods, self.after_update, self.task, self.on_batch = methods, after_update, task, on_batch
        self.batch_number = first_batch
        args.credit = Credit("a measurement", self._score, needs=frozenset(NEEDS))  # ty: ignore[invalid-attribute-access]
        self.trainer = TokenCreditTrainer(args=args, callbacks=[self], **trainer_arguments)
        self._policy = {name: tensor.detach().clone() for name, tensor in self.trainer.model.state_dict().items()}

    @property
    def batch_seed(self) -> int:
        """Of everything random in the current batch."""
        return seed_of(self.trainer.args.seed, self.batch_number)

    def on_step_begin(self, args, state, control, **kwargs):
        torch.manual_seed(self.batch_seed)

    def _score(self, rollout: Rollout, options: DeltaGRPOConfig) -> Coefficients:
        questions = [row["prompt"].strip() for row in rollout.inputs]
        self._rollout = rollout
        self._classes = token_classes(rollout, self.trainer.processing_class, self.task, questions)
        require_task(self._classes, rollout, self.task, self.trainer.model.config._name_or_path)
        self._values = values_of(self.methods, rollout, self.batch_seed)
        return Coefficients(torch.ones_like(rollout.log_probs))  # so that the update is plain DAPO's

    def on_step_end(self, args, state, control, **kwargs):
        """Score what needs the update, hand over the record, and undo the update."""
        self._values |= values_of(self.after_update, self._rollout, self.batch_seed)
        rewards = self.trainer._local_rewards(len(self._rollout.inputs))
        self.on_batch(batch_record(self.batch_number, self._rollout, self._classes, rewards, self._values))
        self.trainer.model.load_state_dict(self._policy)
        self.trainer.optimizer.state.clear()
        self.batch_number += 1


def values_of(methods: dict[str, CreditMethod], rollout: Rollout, seed: int) -> dict[str, torch.Tensor]:
    """The coefficients of each method, shape (N,). A method may overwrite hidden states, and remembers no other batch."""

    def own() -> Rollout:
        generator = torch.Generator().manual_seed(seed)
        return replace(rollout, hidden=rollout.hidden.clone(), generator=generator, memory={})

    return {name: method(own()) for name, method in methods.items()}


def batch_record(
    number: int, rollout: Rollout, classes: np.ndarray, rewards: Sequence[float], values: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """One line of batches.jsonl: what the batch held, and how each method's coefficients score."""
    return {
        "batch": number,
        "reward": float(np.mean(rewards)),
        "responses": len(rollout.inputs),
        "tokens": len(rollout.ids),
        **{name: int((classes == number).sum()) for number, name in enumerate(CLASSES)},
        "methods": {name: measure(coefficients, rollout, classes) for name, coefficients in values.items()},
    }


def score_methods(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    methods: dict[str, CreditMethod],
    after_update: dict[str, CreditMethod],
    *,
    task: str = "ledger",
    batches: int = 10,
    prompts: int = 32,
    group: int = 8,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    Score methods on rollout batches of a model that was warmed up on `task`, one of `TOKEN_TASKS`, or of a pretrained one on
    one of `LANGUAGE_READINGS`. Records are kept in `folder`/batches.jsonl as they come.

    An interrupted benchmark continues with the batch that is missing, and more batches may be asked for later.

    Returns:
        One record a batch.

    Raises:
        `ValueError`: if `folder` has batches with other settings, if the model does not write in the task's words, if
            there are not enough problems, or for a method that needs an update on a task of real language.
    """
    made = (TASKS | LANGUAGE_TASKS)[task]
    read: Reading = (TOKEN_TASKS | LANGUAGE_READINGS)[task]
    if after_update and isinstance(read, LanguageReading):
        raise ValueError(
            f"{', '.join(after_update)} can only be scored after an update, and on {task} there is none: name the others "
            "with --methods."
        )
    if min(batches, prompts) < 1 or group < 2 or batches * prompts > made.n_problems:
        raise ValueError(
            f"{batches} batches of {prompts} prompts with {group} responses each were asked for. It takes at least one "
            f"batch, one prompt and two responses, and there are {made.n_problems} problems in all."
        )
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    if isinstance(read, TokenTask):
        require_characters(tokenizer, read, model)
    settings = {
        "task": task,
        "model": model_digest(policy),
        "prompts": prompts,
        "group": group,
        "seed": seed,
        "methods": sorted([*methods, *after_update]),
    }
    file = Path(folder) / "batches.jsonl"
    records = earlier_records(file, settings)
    if batches <= len(records):
        return records[:batches]

    # All of them, so that a batch has the same problems however many batches there are
    problems = made.problems(made.n_problems, seed)[len(records) * prompts : batches * prompts]
    with tqdm(total=batches, initial=len(records), desc="Rollout batches") as bar:

        def keep(record: dict[str, Any]) -> None:
            append_lines(file, [record])
            records.append(record)
            bar.update()

        common = {"prompts": prompts, "group": group, "seed": seed, "output_dir": file.parent / "trainer"}
        if isinstance(read, LanguageReading):
            rows = language_rows(read.task, problems)
            _score_language(policy, tokenizer, rows, methods, read, keep, len(records), **common)
        else:
            rows = [{"prompt": f"{row['question']}\n", "solution": row["final_answer"]} for row in problems]
            _score_made(policy, tokenizer, rows, methods, after_update, read, keep, len(records), **common)
    return records


def _score_language(
    policy,
    tokenizer,
    rows,
    methods,
    reading,
    keep,
    first: int,
    *,
    prompts: int,
    group: int,
    seed: int,
    output_dir: Path,
) -> None:
    options = {"max_completion_length": reading.max_completion_length, "seed": seed}
    config = sampling_config(output_dir, prompts, group, **options)
    sampler = RolloutSampler(policy, config, Dataset.from_list(rows), tokenizer)
    for number, start in enumerate(range(0, len(rows), prompts), first):
        rollout, rewards = sampler.sample(rows[start : start + prompts], (seed, number))
        classes = token_classes(rollout, tokenizer, reading, [row["question"] for row in rollout.inputs])
        require_task(classes, rollout, reading, policy.config._name_or_path)
        values = values_of(methods, rollout, seed_of(seed, number))
        keep(batch_record(number, rollout, classes, rewards.tolist(), values))


def _score_made(
    policy,
    tokenizer,
    rows,
    methods,
    after_update,
    read,
    keep,
    first: int,
    *,
    prompts: int,
    group: int,
    seed: int,
    output_dir: Path,
) -> None:
    scorer = CreditScorer(
        methods,
        after_update,
        read,
        keep,
        first,
        sampling_config(
            output_dir,
            prompts,
            group,
            max_completion_length=MAX_COMPLETION_LENGTH,
            max_steps=len(rows) // prompts,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            shuffle_dataset=False,
            seed=seed,
            logging_strategy="no",
        ),
        model=policy,
        reward_funcs=math_reward,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    scorer.trainer.remove_callback(PrinterCallback)
    scorer.trainer.train()
