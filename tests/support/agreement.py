"""Rollouts that wander over a few places, and the methods of agreement as loops over pairs of tokens in float64."""

import dataclasses
import math
import threading
from collections.abc import Callable

import torch

from delta_trl.methods.hashed_agreement import RIDGE, TABLES, places, slots
from delta_trl.rollout import Rollout


HIDDEN = 16


def made(rewards, lengths=None, seed=0, vocabulary=5, n_places=6, **fields) -> Rollout:
    """Responses that wander over a few places, with noise; a list of rewards for each prompt group."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.tensor(rewards)
    spread = rewards.std(1, correction=min(1, rewards.shape[1] - 1), keepdim=True)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()
    lengths = torch.tensor(lengths or [9] * len(advantages))
    responses = torch.arange(len(advantages)).repeat_interleave(lengths)
    n, centres = len(responses), torch.randn(n_places, HIDDEN, generator=generator)
    at = torch.randint(n_places, (n,), generator=generator)
    return Rollout(
        hidden=centres[at] + 0.1 * torch.randn(n, HIDDEN, generator=generator) + 1,
        log_probs=-2 * torch.rand(n, generator=generator),
        ids=torch.randint(vocabulary, (n,), generator=generator),
        advantages=advantages[responses],
        responses=responses,
        entropies=torch.rand(n, generator=generator),
        group_size=rewards.shape[1],
        n_groups=len(rewards),
        **fields,
    )


def literal_z(rollout: Rollout) -> dict[int, float]:
    """z of each token with A ≠ 0 by the definition, pair by pair, over the buckets and slots of the module."""
    used = [i for i, a in enumerate(rollout.advantages.tolist()) if a != 0]
    a, h = rollout.advantages.double().tolist(), rollout.hidden.float()
    at = places(rollout.hidden, h[used].mean(0)).tolist()
    slot_of = [
        list(zip(*(x.tolist() for x in slots(torch.tensor(at)[:, t], rollout.ids, t)), strict=True))
        for t in range(TABLES)
    ]
    d = [1 - math.exp(x) for x in rollout.log_probs.tolist()]
    c = (rollout.log_probs.double() + rollout.entropies.double()).tolist()
    mean_d, mean_c = sum(d[i] for i in used) / len(used), sum(c[i] ** 2 for i in used) / len(used)
    n, sums = dict.fromkeys(used, 0.0), dict.fromkeys(used, 0.0)
    for i in used:
        for t in range(TABLES):
            others = [j for j in used if rollout.responses[j] != rollout.responses[i]]
            here = [j for j in others if at[i][t] == at[j][t]]
            n[i] += len(here) / TABLES
            if here:
                same = [j for j in others if slot_of[t][i][0] == slot_of[t][j][0]]
                by_token = sum(slot_of[t][i][1] * slot_of[t][j][1] * a[j] * math.sqrt(d[i] * d[j]) for j in same)
                by_choice = sum(c[i] * a[j] * c[j] for j in here)
                sums[i] += (by_token / mean_d + by_choice / mean_c) / TABLES
    ridge = RIDGE * sum(n.values()) / len(used)
    return {i: math.copysign(1, a[i]) * sums[i] / (n[i] + ridge) for i in used}


def literal_coefficients(x: dict[int, float], n: int, low=0.5, high=1.5, credited=True) -> list[float]:
    """λ of α = sigmoid(x) for n tokens, of which those that are not in x have A = 0."""
    raw = [low + (high - low) / (1 + math.exp(-x[i])) if i in x else low for i in range(n)]
    counted = list(x) if credited else range(n)
    mean = sum(raw[i] for i in counted) / len(counted)
    return [value / mean for value in raw]


def over_mean_size(z: dict[int, float]) -> dict[int, float]:
    sigma = sum(map(abs, z.values())) / len(z)
    return {i: value / sigma for i, value in z.items()}


def on_two_processes(compute: Callable[[Rollout], torch.Tensor], whole: Rollout, cut: int) -> torch.Tensor:
    """λ of both, joined. Threads in place of processes: `reduce` waits for the other one, and sums."""
    barrier, given, results = threading.Barrier(2, timeout=60), [None, None], [None, None]

    def process(rank):
        def reduce(tensor):
            given[rank] = tensor
            barrier.wait()
            total = given[0] + given[1]
            barrier.wait()
            return total

        rows = slice(0, cut) if rank == 0 else slice(cut, None)
        names = ("hidden", "log_probs", "ids", "advantages", "responses", "entropies")
        part = dataclasses.replace(whole, **{name: getattr(whole, name)[rows] for name in names}, reduce=reduce)
        results[rank] = compute(part)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return torch.cat(results)


ROLLOUTS = {
    "three prompts": {"rewards": [[1.0, 0, 0, 1], [0, 0.2, 0, 1], [1, 0, 1, 1]]},
    "one prompt": {"rewards": [[1.0, 0, 0, 1]]},
    "a prompt without advantages": {"rewards": [[1.0, 0, 0, 1], [1, 1, 1, 1]]},
    "uneven lengths": {"rewards": [[1.0, 0, 0, 1], [0, 0, 0, 1]], "lengths": [1, 20, 3, 9, 2, 14, 5, 7]},
    "a vocabulary of 151,936": {"rewards": [[1.0, 0, 0, 1], [0, 0, 0, 1]], "vocabulary": 151_936},
}
