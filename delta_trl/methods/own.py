"""Our own variants: a token weighs by what became of the choices at places like its own.

The paper's features say where a token stands. Those of a method that knows a fork also say which way was taken there.
"""

import torch

from ..coefficients import VARIANCE_FLOOR
from ..config import DeltaGRPOConfig
from ..credit import bounded
from ..rollout import Rollout


# Ridge of the slopes, as a share of the largest eigenvalue; chosen by the credit benchmark, without training
SLOPE_RIDGE = 0.03
# Rows that are held in float64 at a time
SLOPE_ROWS = 8192
# How alike two places are: exp((cosine − 1) / PLACE_WIDTH). The ridge is a share of the mean mass of similar places. Both
# were chosen by the credit benchmark on three rollout batches of precedence, without training.
PLACE_WIDTH = 0.05
PLACE_RIDGE = 0.1
# Tokens whose similarities to all others are held at a time
PLACE_ROWS = 256


def _slopes(rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
    """
    How much the advantage rises with the likelihood of the choice, place by place.

    The choice is v = log π − E log π (`temperature_gradient`): positive for the favourite, negative for a slip. The slope
    of the advantage over it is linear in the hidden state h: A ≈ (w·h + b)·v, by ridge regression over all tokens. It is
    near 0 where likely and unlikely choices turn out alike, as a phrasing does, and large where the choice decides.

    Returns:
        Slopes w·h + b and choices v, shapes (N,), float32.
    """
    v = rollout.features("temperature_gradient")[:, 0]
    hidden = rollout.hidden.to(v)
    count, squares = rollout.reduce(torch.stack([v.new_tensor(len(v)), hidden.square().sum()]).double())
    # The intercept weighs as much as all of h together, so that the penalty hardly holds it
    hidden = torch.cat([hidden, (squares / count).sqrt().to(hidden).expand(len(v), 1)], dim=1)
    target = rollout.advantages.to(v)[:, None]
    size = hidden.shape[1]
    gram, moments = (hidden.new_zeros(size, columns, dtype=torch.float64) for columns in (size, 1))
    for rows, a, choice in zip(*(t.split(SLOPE_ROWS) for t in (hidden, target, v[:, None])), strict=True):
        x = (rows * choice).double()
        gram += x.T @ x
        moments += x.T @ a.double()
    gram, moments = rollout.reduce(gram), rollout.reduce(moments)
    eigenvalues, axes = torch.linalg.eigh(gram)
    penalised = (eigenvalues + SLOPE_RIDGE * eigenvalues[-1]).clamp(min=VARIANCE_FLOOR)
    weights = axes @ ((axes.T @ moments) / penalised[:, None])
    return (hidden @ weights.to(hidden))[:, 0], v


def _moments(rollout: Rollout, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and mean square of z over the tokens of all processes."""
    sums = torch.stack([torch.ones_like(z), z, z.square()]).sum(1, dtype=torch.float64)
    count, total, squares = rollout.reduce(sums)
    return total / count, squares / count


def _weighed(rollout: Rollout, options: DeltaGRPOConfig, z: torch.Tensor) -> torch.Tensor:
    """λ of α = sigmoid(z / σ), where σ² is the mean square of z."""
    _, mean_square = _moments(rollout, z)
    deviation = mean_square.clamp(min=VARIANCE_FLOOR).sqrt()
    return bounded(rollout, options, torch.sigmoid(z / deviation.to(z)))


def token_advantage(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """α = sigmoid(z / σ), z = sign(A) (w·h + b) v: a token weighs more if its own advantage, as estimated by `_slopes`, has
    the sign of its response's, and less if it has the other. σ² is the mean square of z."""
    slope, v = _slopes(rollout)
    z = rollout.advantages.sign().to(v) * slope * v
    return _weighed(rollout, options, z)


def stake_and_choice(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """α = sigmoid((z − z̄) / std z), z = max(w·h + b, 0) (1 + ½ sign(A) tanh v): the places where the choice decides, by the
    slopes of `_slopes`, and there the favourite of a right response and the slip of a wrong one."""
    slope, v = _slopes(rollout)
    z = slope.clamp(min=0) * (1 + rollout.advantages.sign().to(v) * torch.tanh(v) / 2)
    mean, mean_square = _moments(rollout, z)
    deviation = (mean_square - mean.square()).clamp(min=VARIANCE_FLOOR).sqrt()
    return bounded(rollout, options, torch.sigmoid(((z - mean) / deviation).to(z)))


def group_agreement(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """α = sigmoid(z / σ), z = sign(A) v·Σ A' v' over the tokens of the prompt group's other responses: a token weighs more
    if its own gradient points where theirs want to go, and less if it points away. σ² is the mean square of z.

    A token's own response is left out: a sum that contains a token agrees with it, whatever it is.
    """
    v = rollout.features(options.coef_features)
    a = rollout.advantages.to(v)
    size = rollout.group_size
    of_response = v.new_zeros(rollout.n_groups * size, v.shape[1])
    of_response = rollout.reduce(of_response.index_add_(0, rollout.responses, v * a[:, None]))
    of_group = of_response.unflatten(0, (-1, size)).sum(1)
    others = (of_group[rollout.groups] - of_response[rollout.responses]) * v
    z = a.sign() * others.sum(1)
    return _weighed(rollout, options, z)


def place_agreement(rollout: Rollout, options: DeltaGRPOConfig) -> torch.Tensor:
    """
    α = sigmoid(z / σ), z = sign(A) v·Σ k A' v' / (Σ k + ridge) over other responses' tokens with A' ≠ 0: a token weighs more
    if what was chosen at similar places turned out as its own response did. σ² is the mean square of z.

    k = exp((cos(h, h') − 1) / width), of hidden states less their mean. v is the gradient of log π with respect to the
    hidden state and to the logarithm of the inverse temperature (`hidden_gradient`, `temperature_gradient`), each scaled to
    mean square length 1: which token was chosen, and whether it was the favourite. Costs N² H, for the N tokens of all
    processes.
    """
    used = rollout.sides.any(0)
    parts = [rollout.features(name)[used] for name in ("hidden_gradient", "temperature_gradient")]
    sums = torch.stack([used.sum(), *(part.square().sum() for part in parts)]).double()
    count, *squares = rollout.reduce(sums)
    v = torch.cat(
        [part * (count / square).sqrt().to(part) for part, square in zip(parts, squares, strict=True)], dim=1
    )
    a, responses, hidden = (x[used].to(v) for x in (rollout.advantages, rollout.responses, rollout.hidden))
    place = torch.nn.functional.normalize(hidden - (rollout.reduce(hidden.sum(0).double()) / count).to(v), dim=1)

    def of_all(rows: torch.Tensor) -> torch.Tensor:
        return rollout.gather(rows.flatten()).unflatten(0, (-1, rows.shape[1]))

    places, outcomes, of_response = of_all(place), of_all((v * a[:, None]).nan_to_num()), rollout.gather(responses)
    agreement, mass = torch.empty_like(a), torch.empty_like(a)
    for start in range(0, len(a), PLACE_ROWS):
        rows = slice(start, start + PLACE_ROWS)
        k = ((place[rows] @ places.T - 1) / PLACE_WIDTH).exp_()
        k.masked_fill_(responses[rows, None] == of_response, 0.0)
        agreement[rows], mass[rows] = ((k @ outcomes) * v[rows]).sum(1), k.sum(1)
    ridge = PLACE_RIDGE * rollout.reduce(mass.sum().double()) / count
    z = a.new_zeros(len(used))
    z[used] = a.sign() * agreement / (mass + ridge.to(mass))
    return _weighed(rollout, options, z)
