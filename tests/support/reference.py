"""A slow float64 transcription of the method that materialises every distance, for comparison."""

import torch


def reference_lambda(
    features, advantages, scale=None, coef_min=0.8, coef_max=1.2, refinement_steps=1, lagged=True
) -> torch.Tensor:
    """λ of every token before normalisation, shape (N,), float64. Both sides must have a token.

    `lagged=False` refreshes the temperatures before the last sigmoid, which is wrong.
    """
    v = features.double() if scale is None else features.double() * scale.double()[:, None]
    a = advantages.double()
    positive, negative = a > 0, a < 0

    def centroids(alpha):
        w = a.abs() * alpha
        return [(w[s, None] * v[s]).sum(0) / w[s].sum() for s in (positive, negative)]

    def margins(mu):
        to_positive, to_negative = (((v - m) ** 2).sum(1) for m in mu)
        return torch.where(negative, to_positive - to_negative, to_negative - to_positive)

    def temperatures(m):
        gamma = [m[s].var(correction=0).clamp(min=1e-8).sqrt() for s in (positive, negative)]
        return torch.where(negative, gamma[1], gamma[0])

    mu = centroids(torch.ones_like(a))
    gamma = temperatures(margins(mu))
    for _ in range(refinement_steps):
        m = margins(mu)
        alpha = torch.sigmoid(m / gamma)
        gamma = temperatures(m)
        mu = centroids(alpha)
    m = margins(mu)
    if not lagged:
        gamma = temperatures(m)
    coefficients = coef_min + (coef_max - coef_min) * torch.sigmoid(m / gamma)
    return torch.where(positive | negative, coefficients, coef_min)


def reference_coefficients(*args, **kwargs) -> torch.Tensor:
    """λ normalised to mean 1, shape (N,), float64."""
    coefficients = reference_lambda(*args, **kwargs)
    return coefficients * len(coefficients) / coefficients.sum()


def reference_statistics(features, advantages, scale, refinement_steps=1) -> tuple[list, list]:
    """What the next rollout batch's λ is made from: refined centroids and lagged temperatures, those of S₊ first."""
    v, a = features.double() * scale.double()[:, None], advantages.double()
    sides = a > 0, a < 0

    def centroids(alpha):
        w = a.abs() * alpha
        return [(w[s, None] * v[s]).sum(0) / w[s].sum() for s in sides]

    def margins(mu):
        to_positive, to_negative = (((v - m) ** 2).sum(1) for m in mu)
        return torch.where(sides[1], to_positive - to_negative, to_negative - to_positive)

    mu = centroids(torch.ones_like(a))
    gamma = [margins(mu)[s].std(correction=0) for s in sides]
    for _ in range(refinement_steps):
        m = margins(mu)
        mu = centroids(torch.sigmoid(m / torch.where(sides[1], gamma[1], gamma[0])))
        gamma = [m[s].std(correction=0) for s in sides]
    return mu, gamma


def reference_at(statistics, features, advantages, scale, coef_min=0.8, coef_max=1.2) -> torch.Tensor:
    """λ of tokens at the statistics of another rollout batch, before normalisation, shape (N,), float64."""
    mu, gamma = statistics
    λ = []
    for h, a, s in zip(features.double(), advantages.tolist(), scale.double(), strict=True):
        own, other, spread = (mu[0], mu[1], gamma[0]) if a > 0 else (mu[1], mu[0], gamma[1])
        m = ((s * h - other) ** 2).sum() - ((s * h - own) ** 2).sum()
        λ.append(coef_min if a == 0 else coef_min + (coef_max - coef_min) / (1 + (-m / spread).exp()))
    return torch.tensor(λ, dtype=torch.float64)
