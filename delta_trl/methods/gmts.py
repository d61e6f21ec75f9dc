"""GMTS (arXiv 2608.30632): train on the tokens with the largest entropy x |A|, which stands for the size of their gradient.

The paper's score has the coefficient of the loss in place of |A|: ratio, advantage and clipping. In the first update on a
rollout batch, and here for all of them, that is |A|. The formula is from digests: the paper itself was not at hand.
"""

from dataclasses import dataclass, field

from ..coefficients import Coefficients
from ..config import TokenCreditConfig
from ..credit import Credit
from ..rollout import Rollout


def gmts(rollout: Rollout, options: "GMTSConfig") -> Coefficients:
    """The mean loss of the share of the rollout batch's tokens with the highest score: they weigh alike, the others 0."""
    kept = rollout.top_share(rollout.entropies * rollout.advantages.abs(), options.gmts_share)
    return Coefficients(rollout.mean_one(kept.float()))


@dataclass
class GMTSConfig(TokenCreditConfig):
    """
    Configuration of GMTS: [`TokenCreditConfig`] and the share of tokens.

    Raises:
        `ValueError`: for a share outside (0, 1), and for `importance_sampling_level="sequence"`.
    """

    credit = Credit(
        "GMTS",
        gmts,
        needs=frozenset({"entropies"}),
        paper={
            "title": "GMTS: Gradient Magnitude-based Token Selection Improves RLVR Training for LLM Reasoning",
            "id": "2608.30632",
        },
    )

    gmts_share: float = field(
        default=0.2,
        metadata={
            "help": "Share of the rollout batch's tokens that are trained on. Between 0 and 1. Default as published."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.gmts_share < 1:
            raise ValueError(f"gmts_share must lie between 0 and 1; got {self.gmts_share}. 1 is DAPO: --trainer dapo.")
