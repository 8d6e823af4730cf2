"""Guidance of the user's own that reads an observation, as "tests.guidance.own_rules:Measured" in a config."""

import jax.numpy as jnp

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.guidance import Guidance
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree


@pytree
class Measured(Guidance):
    """x̂0 = the observation "y" of each image, whatever the model says."""

    def wrap(self, model, observation):
        if "y" not in observation:
            raise ValueError(f'Measured needs an observation "y", got {sorted(observation)}.')
        y, sde = observation["y"], model.sde

        def estimate(x, t):
            alpha, sigma = (expand_like(value, x) for value in (sde.alpha(t), sde.sigma(t)))
            return Estimate(y + 0 * model(x, t).x0, (x - alpha * y) / jnp.maximum(sigma, 1e-6))

        return FunctionDenoiser(sde, estimate)
