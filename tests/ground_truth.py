"""Exact answers in float64 numpy, independent of the package: mixtures of Gaussians and their probability flow.

x_t = α x0 + σ ε with x0 ~ Σ_k w_k N(μ_k, diag(s_k²)), so p_t = Σ_k w_k N(α μ_k, diag(α² s_k² +
σ²)).
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp


class Mixture(NamedTuple):
    """weights [k], means [k, d], stds [k, d]."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        """log p_t(x), [b]."""
        return np.logaddexp.reduce(self._log_joint(x, alpha, sigma), axis=1)

    def score(self, x, alpha=1.0, sigma=0.0):
        """∇ log p_t(x), [b, d]."""
        pull = (alpha * self.means[None] - x[:, None]) / self._variances(alpha, sigma)[None]
        return np.einsum("bk,bkd->bd", self._posterior(x, alpha, sigma), pull)

    def denoise(self, x, alpha, sigma):
        """(E[x0 | x_t], E[ε | x_t]), [b, d] each; E[x0] by its own formula, not from E[ε]."""
        gain = alpha * self.stds**2 / self._variances(alpha, sigma)
        means = self.means[None] + gain[None] * (x[:, None] - alpha * self.means[None])
        x0 = np.einsum("bk,bkd->bd", self._posterior(x, alpha, sigma), means)
        return x0, -sigma * self.score(x, alpha, sigma)

    def moments(self, alpha=1.0, sigma=0.0):
        """(mean [d], covariance [d, d]) of x_t."""
        mean = self.weights @ self.means
        centred = self.means - mean
        covariance = np.einsum("k,ki,kj->ij", self.weights, centred, centred) + np.diag(self.weights @ self.stds**2)
        return alpha * mean, alpha**2 * covariance + sigma**2 * np.eye(len(mean))

    def sample(self, rng, number, alpha=1.0, sigma=0.0):
        """x_t ~ p_t, [number, d]."""
        which = rng.choice(len(self.weights), size=number, p=self.weights)
        x0 = self.means[which] + self.stds[which] * rng.standard_normal((number, self.means.shape[1]))
        return alpha * x0 + sigma * rng.standard_normal(x0.shape)

    def _variances(self, alpha, sigma):
        return alpha**2 * self.stds**2 + sigma**2

    def _log_joint(self, x, alpha, sigma):
        variances = self._variances(alpha, sigma)[None]
        squares = (x[:, None] - alpha * self.means[None]) ** 2 / variances
        return np.log(self.weights)[None] - 0.5 * np.sum(squares + np.log(2 * np.pi * variances), axis=2)

    def _posterior(self, x, alpha, sigma):
        log_joint = self._log_joint(x, alpha, sigma)
        unnormalized = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
        return unnormalized / unnormalized.sum(axis=1, keepdims=True)


POINTS = Mixture(
    weights=np.array([0.3, 0.5, 0.2]),
    means=np.array([[-1.0, 0.5], [0.8, -0.2], [0.2, 1.2]]),
    stds=np.array([[0.2, 0.3], [0.3, 0.15], [0.25, 0.25]]),
)
GAUSSIAN = Mixture(weights=np.array([1.0]), means=np.array([[0.7, -0.4]]), stds=np.array([[0.6, 1.3]]))


def probability_flow(mixture, x, t, s, coefficients, tolerance=1e-11):
    """x(s) of dx/dt = α'/α x − (σ'/σ − α'/α) σ² ∇ log p_t, from x(t) = `x`, [b, d].

    `coefficients(t)` gives (α, σ, α', σ'). The form without a division by α: α' x0 + σ' ε.
    """

    def velocity(t, flat):
        alpha, sigma, alpha_rate, sigma_rate = coefficients(t)
        x0, eps = mixture.denoise(flat.reshape(x.shape), alpha, sigma)
        return (alpha_rate * x0 + sigma_rate * eps).ravel()

    solution = solve_ivp(velocity, (t, s), x.ravel(), method="DOP853", rtol=tolerance, atol=tolerance)
    assert solution.success
    return solution.y[:, -1].reshape(x.shape)


def moment_errors(x, mean, covariance, allowance=0.0):
    """How many standard errors the sample's moments are beyond `allowance`: (largest of the mean, of the covariance).

    The allowance is relative to the standard deviations: a mean may be off by allowance · √C_ii and a covariance by
    2 · allowance · √(C_ii C_jj) on top. Standard errors come from the sample itself, so that mixtures are right too.
    """
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    std = np.sqrt(np.diag(covariance))
    mean_error = np.maximum(np.abs(x.mean(axis=0) - mean) - allowance * std, 0) / standard_error(x)
    products = np.einsum("bi,bj->bij", x - mean, x - mean)
    excess = np.abs(products.mean(axis=0) - covariance) - 2 * allowance * np.outer(std, std)
    return mean_error.max(), (np.maximum(excess, 0) / standard_error(products)).max()


def standard_error(values):
    """Of the mean over the first axis."""
    return np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
