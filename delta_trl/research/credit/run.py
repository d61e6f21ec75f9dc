"""Rollout batches of a warmed-up policy, sampled by TRL's own machinery and scored by every method alike.

Each batch takes one real DAPO update, after which the policy and the optimiser are put back: the update is what methods
need that look at how the policy moved, and the next batch comes from the same policy again.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from ...coefficients import Coefficients
from ...hidden_states import RolloutTokens
from ...jsonl import append_lines
from ...rewards import math_reward
from ...token_mask import token_mask
from ..full_gradient import Sequences
from ..sampling import RolloutSampler, earlier_records, model_digest, sampling_config
from ..tasks import TASKS
from .measures import measure
from .methods import AfterUpdate, CreditMethod
from .tokens import CLASSES, TOKEN_TASKS, TokenTask, require_characters, require_task, token_classes


# The longest ledger has 190 tokens
MAX_COMPLETION_LENGTH = 200
# The quickstart's
LEARNING_RATE = 1e-4


class CreditTrainer(RolloutSampler):
    """
    Scores methods on every rollout batch of a policy that stays as it is.

    Args:
        methods, after_update: By name, see `methods.py`.
        task (`TokenTask`): How completions are read.
        on_batch (`Callable`): Receives the record of each batch.
        first_batch (`int`): Number of the first batch: batches are seeded one by one, so that any of them can be repeated.
        Others: As for [`DeltaGRPOTrainer`], with one update a rollout batch.
    """

    def __init__(
        self,
        *positional,
        methods: dict[str, CreditMethod],
        after_update: dict[str, AfterUpdate],
        task: TokenTask,
        on_batch: Callable[[dict[str, Any]], None],
        first_batch: int = 0,
        **kwargs,
    ):
        super().__init__(*positional, **kwargs)
        self.methods, self.after_update, self.task, self.on_batch = methods, after_update, task, on_batch
        self.batch_number = first_batch
        self._policy = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.add_callback(_AfterUpdate(self))

    @property
    def sequences(self) -> Sequences:
        """The current batch's responses with their prompts."""
        return Sequences.of(self.batch, self.num_generations)

    @property
    def batch_seed(self) -> int:
        """Of everything random in the current batch."""
        return int(np.random.SeedSequence((self.args.seed, self.batch_number)).generate_state(1)[0])

    def _generate_and_score_completions(self, inputs):
        torch.manual_seed(self.batch_seed)
        self.inputs = inputs
        self.batch = super()._generate_and_score_completions(inputs)
        self._values = {name: method(self._tokens, self) for name, method in self.methods.items()}
        return self.batch

    def _compute_coefficients(self, tokens: RolloutTokens) -> Coefficients:
        questions = [row["prompt"].strip() for row in self.inputs]
        self._classes = token_classes(tokens, self._tokenizer, self.task, questions)
        require_task(self._classes, tokens, self.task, self.model.config._name_or_path)
        return super()._compute_coefficients(tokens)  # all 1, so that the update is plain DAPO's

    def finish_batch(self) -> None:
        """Score what needs the update, hand over the record, and undo the update."""
        mask = token_mask(self.batch)
        if self.after_update:
            log_ratio = torch.zeros(mask.shape)
            log_ratio[mask] = self.record_policy(self.batch).log_probs[mask] - self._tokens.log_probs
            for name, method in self.after_update.items():
                self._values[name] = method(log_ratio, mask, self.batch["advantages"])[mask]
        self.on_batch(self._record())
        self.model.load_state_dict(self._policy)
        self.optimizer.state.clear()
        self.batch_number += 1

    def _record(self) -> dict[str, Any]:
        tokens, classes = self._tokens, self._classes
        return {
            "batch": self.batch_number,
            "reward": float(np.mean(self._local_rewards(len(self.batch["completion_ids"])))),
            "responses": len(self.batch["completion_ids"]),
            "tokens": len(tokens.ids),
            **{name: int((classes == number).sum()) for number, name in enumerate(CLASSES)},
            "methods": {name: measure(values, tokens, classes) for name, values in self._values.items()},
        }


class _AfterUpdate(TrainerCallback):
    def __init__(self, trainer: CreditTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.finish_batch()


def score_methods(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    methods: dict[str, CreditMethod],
    after_update: dict[str, AfterUpdate],
    *,
    task: str = "ledger",
    batches: int = 10,
    prompts: int = 32,
    group: int = 8,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    Score methods on rollout batches of a model that was warmed up on `task`, one of `TOKEN_TASKS`. Records are kept in
    `folder`/batches.jsonl as they come.

    An interrupted benchmark continues with the batch that is missing, and more batches may be asked for later.

    Returns:
        One record a batch.

    Raises:
        `ValueError`: if `folder` has batches with other settings, if the model does not write in the task's words, or if
            there are not enough problems.
    """
    made, read = TASKS[task], TOKEN_TASKS[task]
    if min(batches, prompts) < 1 or group < 2 or batches * prompts > made.n_problems:
        raise ValueError(
            f"{batches} batches of {prompts} prompts with {group} responses each were asked for. It takes at least one "
            f"batch, one prompt and two responses, and there are {made.n_problems} problems in all."
        )
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
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
    missing = batches - len(records)
    if missing <= 0:
        return records[:batches]

    # All of them, so that a batch has the same problems however many batches there are
    problems = made.problems(made.n_problems, seed)[len(records) * prompts : batches * prompts]
    with tqdm(total=batches, initial=len(records), desc="Rollout batches") as bar:

        def keep(record: dict[str, Any]) -> None:
            append_lines(file, [record])
            records.append(record)
            bar.update()

        trainer = CreditTrainer(
            model=policy,
            reward_funcs=math_reward,
            args=sampling_config(
                file.parent / "trainer",
                prompts,
                group,
                max_completion_length=MAX_COMPLETION_LENGTH,
                max_steps=missing,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                shuffle_dataset=False,
                seed=seed,
                logging_strategy="no",
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": f"{row['question']}\n", "solution": row["final_answer"]} for row in problems]
            ),
            processing_class=tokenizer,
            methods=methods,
            after_update=after_update,
            task=read,
            on_batch=keep,
            first_batch=len(records),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return records
