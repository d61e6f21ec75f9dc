"""Hashed agreement, a method of our own: what became of the same choice at the same place, in time linear in the tokens.

A place is a bucket of locality-sensitive hashing: hidden states on the same sides of `PLANES` random hyperplanes. Two states
at angle θ share it with probability (1 − θ/π)^`PLANES`. Everything is a sum by bucket over the tokens of the *other*
responses, taken over `TABLES` draws of the planes:

    z = sign(A) · (√d Σ A' √d' [y = y'] / mean d + c Σ A' c' / mean c²) / (n + ridge)

with n the number of those tokens, d = 1 − p, c = log π − E log π, and the means over all tokens with A ≠ 0. So a token
agrees with others if the same token turned out there as its own response did (first sum), or if likelier tokens did and it
is one of them, or less likely ones (second sum). √d has the mean square length of the gradient of log π with respect to the
logits: E ‖e_y − p‖² = E (1 − p_y). Then α = sigmoid(z / σ), σ the mean of |z|, and λ as in DelTA.

Sums over (place, token) are a count sketch: each pair adds its sum, times a random sign, to one of 2^`SLOT_BITS` slots, so
that no table grows with the vocabulary, and a collision is noise of mean 0. A token's own response is subtracted exactly: a
sum that contains a token agrees with it, whatever it is. Where no other response was, z is 0.

Cost: a product of the states with `PLANES` · `TABLES` columns, a few sums and sorts of (N,) vectors for each table, and one
sum over processes of the tables, `TABLES` · (2^`SLOT_BITS` + 2 · 2^`PLANES`) numbers. The LM head is not read: −E log π
is the entropy that TRL's own pass gives.

Symbols: N tokens of this process, H hidden size, y a token's id, p its probability.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch

from ..coefficients import NO_CONTRAST, NON_FINITE, Coefficients
from ..config import DeltaGRPOConfig
from ..credit import Credit, Work, all_ones, bounded
from ..rollout import Rollout
from ..sweeps import chunks, weighted_sums
from ..trainer import DeltaGRPOTrainer


# Chosen by the credit benchmark, without training, as the ridge and σ were: docs/results/credit.md
PLANES, TABLES = 14, 16
N_PLACES = 2**PLANES
# A slot is shared by few pairs as long as a rollout batch has not many more distinct ones
SLOT_BITS = 18
N_SLOTS = 2**SLOT_BITS
# As a share of the mean n
RIDGE = 0.03
# Of planes and hashes, which are the same on all processes and in all rollout batches
SEED = 0
# Options of DelTA that mean nothing here
UNREAD = ("coef_features", "coef_refinement_steps", "coef_top_k")


def places(hidden: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """
    The bucket of each hidden state in each table, shape (N, `TABLES`), int16.

    `hidden` has shape (N, H), any floating dtype, and may lie on another device than `centre`, shape (H,), float32, which is
    subtracted. A chunk of states at a time is moved and cast.
    """
    planes = torch.randn(len(centre), TABLES * PLANES, generator=torch.Generator().manual_seed(SEED)).to(centre)
    powers = 2.0 ** torch.arange(PLANES, device=centre.device)
    found = torch.empty(len(hidden), TABLES, dtype=torch.int16, device=centre.device)
    for part, rows in chunks(hidden, centre.device, centre.dtype):
        above = ((rows - centre) @ planes > 0).unflatten(1, (TABLES, PLANES))
        found[part] = (above.to(powers) @ powers).to(torch.int16)
    return found


def slots(place: torch.Tensor, ids: torch.Tensor, table: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The slot of each pair of a place and a token in one table, int64, and its sign, ±1, float32. All shapes (N,)."""
    generator = torch.Generator().manual_seed(SEED + table)
    first, second = (2 * torch.randint(2**62, (2,), generator=generator) + 1).tolist()
    mixed = (ids * N_PLACES + place) * first  # modulo 2^64
    mixed = (mixed ^ (mixed >> 32)) * second
    mixed = mixed >> 63 - SLOT_BITS & 2 * N_SLOTS - 1  # the highest bits depend on all
    return mixed >> 1, 1.0 - 2.0 * (mixed & 1)


def of_others(
    values: torch.Tensor, keys: torch.Tensor, responses: torch.Tensor | None, table: torch.Tensor
) -> torch.Tensor:
    """
    The sum of the other responses' values at each token's key, of the shape of `values`.

    `keys` and `responses` have shape (N,), `values`, (N, ...), are what these tokens added to the sums of all, `table`, with
    a row for each key. `responses` is `None` where they added nothing.
    """
    if responses is None:
        return table[keys]
    _, own = (responses * len(table) + keys).unique(return_inverse=True)
    return table[keys] - torch.zeros_like(values).index_add_(0, own, values)[own]


class Choices(NamedTuple):
    """
    The N tokens with A ≠ 0: their places, shape (N, `TABLES`); and of shape (N,) ids, A, and c and √d, each over its root
    mean square.
    """

    place: torch.Tensor
    ids: torch.Tensor
    a: torch.Tensor
    choice: torch.Tensor
    length: torch.Tensor

    def keys_and_values(self, number: int) -> tuple[torch.Tensor, ...]:
        """Where each token adds what in a table: 1 and A c to its place, ±A √d to its slot; and the last without A."""
        at = self.place[:, number].long()
        slot, sign = slots(at, self.ids, number)
        at_place = torch.stack([torch.ones_like(self.a), self.a * self.choice], dim=1)
        return at, at_place, slot, self.a * self.length * sign, self.length * sign

    def added(self) -> torch.Tensor:
        """What they add to the tables, shape (`TABLES`, 2 · `N_PLACES` + `N_SLOTS`)."""
        tables = self.a.new_zeros(TABLES, 2 * N_PLACES + N_SLOTS)
        of_places, of_slots = _split(tables)
        for number in range(TABLES):
            at, at_place, slot, at_slot, _ = self.keys_and_values(number)
            of_places[number].index_add_(0, at, at_place)
            of_slots[number].index_add_(0, slot, at_slot)
        return tables

    def agreement(self, tables: torch.Tensor, responses: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """n, and the numerator of z without the sign of A, over the responses in the tables but their own. Shapes (N,)."""
        of_places, of_slots = _split(tables)
        n, agreement = torch.zeros_like(self.a), torch.zeros_like(self.a)
        for number in range(TABLES):
            at, at_place, slot, at_slot, signed = self.keys_and_values(number)
            visits, chosen = of_others(at_place, at, responses, of_places[number]).unbind(1)
            same = of_others(at_slot, slot, responses, of_slots[number])
            agreement += torch.where(visits > 0, self.choice * chosen + signed * same, 0.0)
            n += visits
        return n, agreement


def _split(tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tables' sums by place, shape (`TABLES`, `N_PLACES`, 2), and by slot, (`TABLES`, `N_SLOTS`)."""
    return tables[:, : 2 * N_PLACES].unflatten(1, (N_PLACES, 2)), tables[:, 2 * N_PLACES :]


def choices(rollout: Rollout, statistics: Mapping[str, torch.Tensor]) -> Choices:
    """The tokens with A ≠ 0, with `centre`, `choice_scale` and `doubt_scale` of the statistics."""
    used, a = rollout.sides.any(0), rollout.advantages.float()
    choice = (rollout.log_probs.float() + rollout.entropies.float())[used]
    doubt = rollout.uncertainty[used]
    return Choices(
        places(rollout.hidden, statistics["centre"].to(a))[used],
        rollout.ids[used],
        a[used],
        choice * statistics["choice_scale"].to(a),
        (doubt * statistics["doubt_scale"].to(a)).sqrt(),
    )


def agreements(rollout: Rollout) -> tuple[torch.Tensor, str | dict[str, torch.Tensor]]:
    """
    z of the definition above, shape (N,), float32, 0 where A = 0, and what gives tokens of another rollout batch theirs; or
    0 throughout, and why.

    Raises:
        `ValueError`: on all processes, if one response has tokens on several: its own sums could not be subtracted.
    """
    used, a = rollout.sides.any(0), rollout.advantages.float()
    doubt, choice = rollout.uncertainty, rollout.log_probs.float() + rollout.entropies.float()
    present = a.new_zeros(rollout.n_groups * rollout.group_size)
    present[rollout.responses.unique()] = 1
    broken = (~(a.isfinite() & choice.isfinite())).sum()
    parts = [
        torch.stack([*rollout.sides.sum(1), broken, (doubt * used).sum(), (choice.square() * used).sum()]),
        present,
        weighted_sums(rollout.hidden, used[None].float(), torch.float64)[0],
    ]
    sums = rollout.reduce(torch.cat([part.double() for part in parts]))
    (*sides, broken, doubts, squares), present, centre = sums.split([len(part) for part in parts])
    if broken > 0 or not centre.isfinite().all():  # a hidden state of a token with A = 0, too: 0 · NaN = NaN
        return torch.zeros_like(a), NON_FINITE
    if (present > 1).any():
        raise ValueError(
            f"Response {int(present.argmax())} of this rollout batch has tokens on {int(present.max())} processes. "
            "hashed_agreement compares a token with other responses, and needs all of a response on one process."
        )
    if min(sides) == 0:
        return torch.zeros_like(a), NO_CONTRAST

    count, tiny = sum(sides), torch.finfo(a.dtype).tiny
    statistics = {
        "centre": centre / count,
        "choice_scale": (count / squares.clamp(min=tiny)).sqrt(),
        "doubt_scale": count / doubts.clamp(min=1e-20 * count),  # finite in float32 where every p is 1
    }
    tokens = choices(rollout, statistics)
    statistics["tables"] = rollout.reduce(tokens.added())  # once for all
    n, agreement = tokens.agreement(statistics["tables"], rollout.responses[used])
    statistics["ridge"] = RIDGE * rollout.reduce(n.sum().double()) / count
    return _z(rollout, tokens.a, n, agreement, statistics["ridge"]), statistics


def _z(
    rollout: Rollout, a: torch.Tensor, n: torch.Tensor, agreement: torch.Tensor, ridge: torch.Tensor
) -> torch.Tensor:
    """z, shape (N,), from A, n and the numerator of the tokens with A ≠ 0."""
    z = torch.zeros_like(rollout.log_probs, dtype=torch.float32)
    z[rollout.sides.any(0)] = a.sign() * agreement / (n + ridge.to(n)).clamp(min=torch.finfo(n.dtype).tiny)
    return z


def mean_size(rollout: Rollout, z: torch.Tensor) -> torch.Tensor:
    """σ, the mean of |z| over all processes' tokens with A ≠ 0, at all others of which z is 0; above 0."""
    total, count = rollout.reduce(torch.stack([z.abs().sum(), rollout.sides.sum()]).double())
    return (total / count).to(z).clamp(min=torch.finfo(z.dtype).tiny)


def hashed_agreement(rollout: Rollout, options: "HashedAgreementGRPOConfig") -> Coefficients:
    """
    λ of the definition above, on all processes. All 1 without a token on either side, or with a value that is not finite.

    Raises:
        `ValueError`: as `agreements`.
    """
    z, found = agreements(rollout)
    if isinstance(found, str):
        return all_ones(rollout, found)
    sigma = mean_size(rollout, z)
    return Coefficients(bounded(rollout, options, torch.sigmoid(z / sigma)), statistics={**found, "sigma": sigma})


def assigned_by_tables(rollout: Rollout, statistics: Mapping[str, torch.Tensor], options: Any) -> torch.Tensor:
    """α of tokens with the tables of another rollout batch, shape (N,), all of whose responses are others."""
    tokens = choices(rollout, statistics)
    n, agreement = tokens.agreement(statistics["tables"], None)
    return torch.sigmoid(_z(rollout, tokens.a, n, agreement, statistics["ridge"]) / statistics["sigma"])


@dataclass
class HashedAgreementGRPOConfig(DeltaGRPOConfig):
    """
    Configuration of [`HashedAgreementGRPOTrainer`]: the options of [`DeltaGRPOConfig`] with the defaults that were measured.

    Raises:
        `ValueError`: for what `DeltaGRPOConfig` refuses, and for options that this method does not read.
    """

    credit = Credit(
        "hashed agreement",
        hashed_agreement,
        needs=frozenset({"hidden", "entropies"}),
        prefix="delta",
        work=Work(sweeps=2, columns=PLANES * TABLES, sums=6, summed_bytes=4 * TABLES * (N_SLOTS + 2 * N_PLACES)),
        assign=assigned_by_tables,
    )

    coef_min: float = field(
        default=0.5,
        metadata={"help": "Lower bound of the coefficients before they are normalised to mean 1. Above 0."},
    )
    coef_max: float = field(
        default=1.5,
        metadata={
            "help": "Upper bound of the coefficients before they are normalised to mean 1. coef_min = coef_max switches the "
            "method off: training equals GRPOTrainer bit for bit."
        },
    )
    coef_normalize: str = field(
        default="credited",
        metadata={
            "help": "Tokens over which coefficients are normalised to mean 1. 'credited': those with a non-zero advantage, "
            "so that the step is as large as DAPO's. 'all': of the whole rollout batch, as in published DelTA."
        },
    )

    def __post_init__(self):
        # First: DelTA's own checks advise values of these options
        for option in fields(self):
            if option.name in UNREAD and getattr(self, option.name) != option.default:
                raise ValueError(f"{self.credit.name.capitalize()} does not read {option.name}: leave it out.")
        super().__post_init__()


class HashedAgreementGRPOTrainer(DeltaGRPOTrainer):
    """
    [`DeltaGRPOTrainer`] with the coefficients of `hashed_agreement`. It takes the same arguments, with a
    [`HashedAgreementGRPOConfig`] as `args`, and logs and records the same.

    Raises:
        `ValueError`, `RuntimeError`: as `DeltaGRPOTrainer`, and `ValueError` for a response on several processes.
    """

    config_class = HashedAgreementGRPOConfig
