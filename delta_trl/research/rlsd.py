"""RLSD (arXiv 2604.03128): the same policy, told the gold answer in its prompt, says how much a token weighs.

w = (1 − λ) + λ·clip(exp(sign(A)·(log π(y | x, gold) − log π(y | x))), 1 − ε, 1 + ε)
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from trl.data_utils import is_conversational
from trl.trainer.utils import pad

from ..checks import column_names
from ..token_coefficients import TokenCoefficientsTrainer, for_each_token
from .weights import WeightedGRPOConfig, WeightedGRPOTrainer


SOLUTION = "solution"
PLACEHOLDER = "{solution}"


def rlsd_weights(
    teacher_log_probs: torch.Tensor,
    log_probs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    mix: float = 0.5,
    clip: float = 0.2,
) -> torch.Tensor:
    """The formula above, λ being `mix` and ε `clip`; all shapes (N,). 1 where A = 0."""
    ratio = (advantages.sign() * (teacher_log_probs - log_probs)).exp()
    return (1 - mix) + mix * ratio.clamp(1 - clip, 1 + clip)


@dataclass
class RLSDConfig(WeightedGRPOConfig):
    """
    Configuration of the [`RLSDTrainer`]: [`GRPOBaseConfig`] and RLSD's options.

    Raises:
        `ValueError`: for values that the method does not define, and for `importance_sampling_level="sequence"`.
    """

    method = "RLSD"

    rlsd_mix: float = field(
        default=0.5,
        metadata={"help": "λ, the teacher's share of a token's weight. Above 0 and at most 1. Default as published."},
    )
    rlsd_clip: float = field(
        default=0.2,
        metadata={
            "help": "The ratio of the teacher's to the policy's probability is clipped to 1 ± this. Between 0 and 1. "
            "Default as published."
        },
    )
    rlsd_hint: str = field(
        default="\n\nThe correct answer is {solution}.\n\n",
        metadata={
            "help": "What tells the teacher the answer: {solution} is replaced by the column of that name. It is "
            "appended to the prompt, in a conversational one to the last user message."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self._require_share("rlsd_mix")
        if not 0 < self.rlsd_clip < 1:
            raise ValueError(f"rlsd_clip must lie between 0 and 1; got {self.rlsd_clip}.")
        if PLACEHOLDER not in self.rlsd_hint:
            raise ValueError(
                f"rlsd_hint must contain {PLACEHOLDER}, which is replaced by the answer; got {self.rlsd_hint!r}. Without "
                "it the teacher knows no more than the policy."
            )


class RLSDTrainer(WeightedGRPOTrainer):
    """
    Trainer for RLSD (https://huggingface.co/papers/2604.03128), with an [`RLSDConfig`] as `args`.

    Each rollout batch takes one more pass of the policy without gradient, over prompt, hint and completion. A row whose
    `solution` is `None` has no teacher: its tokens weigh 1.

    Raises:
        `ValueError`: when built with a dataset without the column `solution` or with images, or with `environment_factory`,
            whose prompts the teacher would not see.
    """

    config_class = RLSDConfig
    _seams = {**WeightedGRPOTrainer._seams, "_tokenize_prompts": ("prompts",)}
    metrics_prefix = "rlsd"
    _tag_names = ["trl", "grpo", "rlsd"]
    _name = "RLSD"
    _paper = {"title": "Self-Distilled RLVR", "id": "2604.03128"}

    def __init__(self, model, reward_funcs=None, args: RLSDConfig | None = None, *positional, **kwargs):
        if kwargs.get("environment_factory") is not None:
            raise ValueError(
                "RLSD cannot be combined with environment_factory: the teacher would not see its prompts."
            )
        _check_columns(positional[0] if positional else kwargs.get("train_dataset"))
        super().__init__(model, reward_funcs, args, *positional, **kwargs)
        self._inputs: list[dict[str, Any]] = []

    def _generate_and_score_completions(self, inputs):
        self._inputs = inputs
        return super()._generate_and_score_completions(inputs)

    def token_weights(self, batch, recorded, mask):
        teacher = teacher_log_probs(self, batch, self._inputs, self.args.rlsd_hint)
        has_teacher = torch.tensor([row.get(SOLUTION) is not None for row in self._inputs], device=mask.device)
        return rlsd_weights(
            teacher[mask].float(),
            recorded.log_probs[mask].float(),
            for_each_token(batch["advantages"] * has_teacher, mask),
            mix=self.args.rlsd_mix,
            clip=self.args.rlsd_clip,
        )


def teacher_log_probs(
    trainer: TokenCoefficientsTrainer, batch: dict[str, Any], inputs: list[dict[str, Any]], hint: str
) -> torch.Tensor:
    """Log-probs of a local rollout batch's completions under the policy that was told the answers, shape (B, T).

    `inputs` are the rows of the dataset, one for each completion.
    """
    prompts = [hinted(row["prompt"], row.get(SOLUTION), hint) for row in inputs]
    ids = [torch.tensor(prompt, device=batch["prompt_ids"].device) for prompt in trainer._tokenize_prompts(prompts)[0]]
    masks = [torch.ones_like(prompt) for prompt in ids]
    told = {
        "prompt_ids": pad(ids, padding_value=trainer._tokenizer.pad_token_id, padding_side="left"),
        "prompt_mask": pad(masks, padding_value=0, padding_side="left"),
        "completion_ids": batch["completion_ids"],
        "completion_mask": batch["completion_mask"],
    }
    return trainer.record_policy(told).log_probs


def hinted(prompt: str | list[dict[str, Any]], solution: Any, hint: str) -> str | list[dict[str, Any]]:
    """The prompt with the hint at its end, or at the end of its last user message. As it is if `solution` is `None`.

    Raises:
        `ValueError`: for a conversation in which no user message is a text.
    """
    if solution is None:
        return prompt
    hint = hint.replace(PLACEHOLDER, str(solution))
    if not is_conversational({"prompt": prompt}):
        return prompt + hint
    for number in reversed(range(len(prompt))):
        message = prompt[number]
        if message["role"] == "user" and isinstance(message["content"], str):
            return [*prompt[:number], {**message, "content": message["content"] + hint}, *prompt[number + 1 :]]
    raise ValueError(f"RLSD puts its hint into the last user message, but this prompt has none with a text: {prompt}.")


def _check_columns(dataset: Any) -> None:
    columns = column_names(dataset)
    if columns is None:
        return
    if SOLUTION not in columns:
        raise ValueError(
            "RLSD tells the teacher the answer: the training dataset needs a column 'solution'; it has "
            f"{', '.join(columns)}. Rename the column of the answers."
        )
    if images := {"image", "images"} & set(columns):
        raise ValueError(f"RLSD reads prompts of text only; the training dataset has {', '.join(sorted(images))}.")
