"""Joined agreement, a candidate of our own: `hashed_agreement`, and a linear model of the advantage beside it.

`hashed_agreement` knows a choice that other responses made at the same place, and is silent elsewhere. DelTA's margin on the
feature v = (log π − E log π) h (`local_temperature_gradient`) says of every place whether likely choices turn out better
there, and cannot say which token did. Their sum, each on its own scale:

    α = sigmoid(z / σ_z + m / (2 σ_m)),    m = sign(A) v·(μ₊ − μ₋)

with z of `hashed_agreement`, μ± the mean of v on a side, weighed by |A|, and σ the mean size of z and of m. λ as there. The
factor ½ was chosen by the credit benchmark, without training (docs/results/credit.md).
"""

from dataclasses import dataclass, replace

import torch

from ..coefficients import Coefficients
from ..credit import all_ones, bounded
from ..rollout import Rollout
from ..sweeps import projections, weighted_sums
from .hashed_agreement import HashedAgreementGRPOConfig, agreements, mean_size


SHARE = 0.5


def linear_margins(rollout: Rollout) -> torch.Tensor:
    """m of the definition above, shape (N,), float32. Needs a token on either side."""
    size = rollout.advantages.float().abs() * rollout.sides
    choice = rollout.log_probs.float() + rollout.entropies.float()
    sums = rollout.reduce(weighted_sums(rollout.hidden, size * choice, torch.float64))
    mu = sums / rollout.reduce(size.sum(1, dtype=torch.float64))[:, None]
    return rollout.advantages.float().sign() * choice * projections(rollout.hidden, (mu[0] - mu[1]).float())


def joined_agreement(rollout: Rollout, options: "JoinedAgreementGRPOConfig") -> Coefficients:
    """λ of the definition above, on all processes. All 1 where `hashed_agreement` has all 1.

    Raises:
        `ValueError`: as `hashed_agreement`.
    """
    z, found = agreements(rollout)
    if isinstance(found, str):
        return all_ones(rollout, found)
    m = linear_margins(rollout)
    joined = z / mean_size(rollout, z) + SHARE * (m / mean_size(rollout, m))
    return Coefficients(bounded(rollout, options, torch.sigmoid(joined)))


_hashed = HashedAgreementGRPOConfig.credit


@dataclass
class JoinedAgreementGRPOConfig(HashedAgreementGRPOConfig):
    """Configuration of `--trainer joined_agreement`: the options of [`HashedAgreementGRPOConfig`]."""

    credit = replace(
        _hashed,
        name="joined agreement",
        compute=joined_agreement,
        assign=None,  # m has centroids of its own
        work=_hashed.work._replace(
            sweeps=_hashed.work.sweeps + 2, columns=_hashed.work.columns + 3, sums=_hashed.work.sums + 3
        ),
    )
