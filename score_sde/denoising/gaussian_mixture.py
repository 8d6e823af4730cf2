"""Densities whose score is known at every noise level: ground truth for solvers and likelihoods."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time


@pytree
class GaussianMixture:
    """p(x0) = Σ_k w_k N(μ_k, diag(s_k²)). One component is a Gaussian.

    At time t the mixture has the means α μ_k and the variances v_k = α² s_k² + σ². So the score,
    E[x0 | x_t] and log p_t have closed forms.

    Args:
      weights: w_k [k], summing to 1.
      means: μ_k [k, *shape].
      stds: s_k [k, *shape], not negative.
    Raises: ValueError for shapes or weights that do not fit.
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k *shape"]
    stds: Float[Array, "k *shape"]

    def __post_init__(self):
        fits = self.means.shape == self.stds.shape and self.weights.shape == self.means.shape[:1]
        proper = bool(jnp.abs(jnp.sum(self.weights) - 1) < 1e-5) and bool(jnp.all(self.weights >= 0))
        if not (fits and self.means.ndim >= 2 and proper and bool(jnp.all(self.stds >= 0))):
            raise ValueError(
                "GaussianMixture needs weights [k] >= 0 that sum to 1, and means and stds >= 0 [k, *shape], got "
                f"weights {self.weights.shape} >= {jnp.min(self.weights)} with sum {jnp.sum(self.weights)}, means "
                f"{self.means.shape}, stds {self.stds.shape} >= {jnp.min(self.stds)}."
            )

    def sample(self, key: Key[Array, ""], number: int) -> Float[Array, "b *shape"]:
        """x0 ~ p, [number, *shape]."""
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, jnp.log(self.weights), shape=(number,))
        noise = jax.random.normal(noise_key, (number, *self.means.shape[1:]), self.means.dtype)
        return self.means[which] + self.stds[which] * noise

    def moments(self) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """(mean, covariance) of the flattened x0."""
        means = self.means.reshape(len(self.weights), -1)
        mean = self.weights @ means
        centred = means - mean[None]
        between = (self.weights[:, None] * centred).T @ centred
        return mean, between + jnp.diag(self.weights @ self.stds.reshape(means.shape) ** 2)

    def log_prob(self, x: Float[Array, "b *shape"], sde: SDE | None = None, t: Time = 0.0) -> Float[Array, " b"]:
        """log p_t(x) in nats per example. Without an SDE, log p(x)."""
        return jax.nn.logsumexp(self._log_joint(x, *self._at(sde, t, x)), axis=1)

    def denoise(self, sde: SDE) -> Denoise:
        """The exact denoise(x, t) -> (E[x0 | x_t], E[ε | x_t]) under `sde`."""
        return ExactDenoise(self, sde)

    def _at(self, sde, t, x):
        """(α μ_k, v_k), each [b or 1, k, d]."""
        alpha, sigma = (1.0, 0.0) if sde is None else (sde.alpha(t), sde.sigma(t))
        alpha, sigma = (jnp.asarray(c, x.dtype).reshape(-1, 1, 1) for c in (alpha, sigma))
        means = self.means.reshape(1, len(self.weights), -1)
        return alpha * means, (alpha * self.stds.reshape(means.shape)) ** 2 + sigma**2

    def _log_joint(self, x, means, variances):
        """log w_k + log N(x; means_k, variances_k): [b, k]."""
        squares = (x.reshape(x.shape[0], 1, -1) - means) ** 2 / variances
        return jnp.log(self.weights)[None] - 0.5 * jnp.sum(squares + jnp.log(2 * jnp.pi * variances), axis=2)


@pytree
class ExactDenoise(Denoise):
    """The posterior means of a mixture: denoise(x, t) -> (E[x0 | x_t], E[ε | x_t])."""

    mixture: GaussianMixture
    sde: SDE

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        mixture, sde = self.mixture, self.sde
        means, variances = mixture._at(sde, t, x)
        posterior = jax.nn.softmax(mixture._log_joint(x, means, variances), axis=1)[:, :, None]
        alpha, sigma = (jnp.asarray(c, x.dtype).reshape(-1, 1, 1) for c in (sde.alpha(t), sde.sigma(t)))
        stds = mixture.stds.reshape(1, *means.shape[1:])
        gap = (x.reshape(x.shape[0], 1, -1) - means) / variances
        x0 = mixture.means.reshape(1, *means.shape[1:]) + alpha * stds**2 * gap
        eps = sigma * gap
        return Estimate(*(jnp.sum(posterior * each, axis=1).reshape(x.shape) for each in (x0, eps)))
