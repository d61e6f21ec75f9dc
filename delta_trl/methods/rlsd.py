"""RLSD (arXiv 2604.03128): the same policy, told the gold answer in its prompt, says how much a token weighs.

w = (1 − λ) + λ·clip(exp(sign(A)·(log π(y | x, gold) − log π(y | x))), 1 − ε, 1 + ε)
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from trl.data_utils import is_conversational

from ..coefficients import Coefficients
from ..config import TokenCreditConfig
from ..credit import Credit
from ..rollout import Rollout


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
            return [*prompt[:number], {**message, "content": message["content"] + hint}, *prompt[number + 1 :]]  # ty: ignore[invalid-explicit-return]
    raise ValueError(f"RLSD puts its hint into the last user message, but this prompt has none with a text: {prompt}.")


def rlsd(rollout: Rollout, options: "RLSDConfig") -> Coefficients:
    """One more pass of the policy without gradient, over prompt, hint and completion.

    A row whose `solution` is `None` has no teacher: its tokens weigh 1.
    """
    solutions = [row.get(SOLUTION) for row in rollout.inputs]
    prompts = [
        hinted(row["prompt"], told, options.rlsd_hint) for row, told in zip(rollout.inputs, solutions, strict=True)
    ]
    has_teacher = rollout.of_response(torch.tensor([told is not None for told in solutions]))
    weights = rlsd_weights(
        rollout.replay(prompts).float(),
        rollout.log_probs.float(),
        rollout.advantages * has_teacher,
        mix=options.rlsd_mix,
        clip=options.rlsd_clip,
    )
    return Coefficients(weights)


@dataclass
class RLSDConfig(TokenCreditConfig):
    """
    Configuration of RLSD: [`TokenCreditConfig`] and RLSD's options.

    Raises:
        `ValueError`: for values that the method does not define, and for `importance_sampling_level="sequence"`.
    """

    credit = Credit(
        "RLSD",
        rlsd,
        needs=frozenset({"teacher"}),
        paper={"title": "Self-Distilled RLVR", "id": "2604.03128"},
    )

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
