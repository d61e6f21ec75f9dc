"""The baselines of `--trainer`: the base trainer, under each method's name and paper in the model card.

What makes the method are options, see `methods/names.py`: TRL's loss knows them all. GRPO itself is the base trainer.
"""

from .base import GRPOBaseTrainer


class DAPOTrainer(GRPOBaseTrainer):
    """DAPO's objective, the defaults of [`GRPOBaseConfig`], without its dynamic sampling."""

    _tag_names = ["trl", "grpo", "dapo"]
    _name = "DAPO"
    _paper = {"title": "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", "id": "2503.14476"}


class ForkingTokensTrainer(GRPOBaseTrainer):
    """DAPO on the tokens with the highest entropy, with `top_entropy_quantile=0.2`."""

    _tag_names = ["trl", "grpo", "dapo", "forking-tokens"]
    _name = "DAPO on forking tokens"
    _paper = {
        "title": "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM "
        "Reasoning",
        "id": "2506.01939",
    }


class SAPOTrainer(GRPOBaseTrainer):
    """SAPO, with `loss_type="sapo"`."""

    _tag_names = ["trl", "grpo", "sapo"]
    _name = "SAPO"
    _paper = {"title": "Soft Adaptive Policy Optimization", "id": "2511.20347"}
