"""The rivals that weigh tokens from a recorded pass: trainer, config and options under which their weights differ."""

from datasets import Dataset

from delta_trl.methods.ar import ARConfig
from delta_trl.methods.gtpo import GTPOConfig
from delta_trl.methods.rlsd import RLSDConfig
from delta_trl.methods.stare import STAREConfig
from delta_trl.token_credit import TokenCreditTrainer
from support.models import prompts


RIVALS = {
    "ar": (TokenCreditTrainer, ARConfig, {"ar_alpha": 0.6}),
    "gtpo": (TokenCreditTrainer, GTPOConfig, {"gtpo_beta": 0.5}),
    # A random model's entropy is far above the published target
    "stare": (TokenCreditTrainer, STAREConfig, {"stare_target_entropy": 100.0, "stare_weight": 1.5}),
    "rlsd": (TokenCreditTrainer, RLSDConfig, {"rlsd_mix": 0.8, "rlsd_clip": 0.4}),
}


def solved_prompts(n: int = 64) -> Dataset:
    return prompts(n).map(lambda row, i: {"solution": str(i + i * 7 % 10)}, with_indices=True)
