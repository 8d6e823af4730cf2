"""Self-guidance: it moves, resizes, replaces and copies objects by the attention maps of the network itself."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import Conditional, Observation
from score_sde.guidance.beside import Ask, Readable, beside, plain
from score_sde.guidance.energy_guidance import Divisor, normed
from score_sde.guidance.object_energies import ObjectEnergy, Position
from score_sde.guidance.tilt import Tilt, Tilted, tilted
from score_sde.internal.broadcast import expand_like
from score_sde.internal.layers import Inside
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import Time

Batch = Float[Array, "b *shape"]


@pytree
class Reference:
    """A picture whose objects are kept, moved or copied. At time t the network sees α x0 + σ eps.

    Attributes:
      x0: the picture, in the units of x, without a batch axis.
      eps: noise of its shape, which stays the same at all times.
      condition: the condition of the picture, without a batch axis. None: no condition, or the same
        as the condition of each drawn picture.
    """

    x0: Float[Array, "*shape"]
    eps: Float[Array, "*shape"]
    condition: Mapping[str, Array] | None = None


@pytree
class SelfGuidance(Tilt):
    """∇ log p(x_t) − scale ∇E, with an energy E of attention maps and features of the network at x_t.

    So ε̂ grows by scale σ ∇E. It costs a backward pass of the network. With a reference it costs one
    more evaluation, for which no gradient is needed.

    Attributes:
      energy: the energy of an object, such as `Position`. In Python, `Together` adds several.
      reference: a picture to compare the objects with. None: none.
      norm: the divisor of each image's gradient, as in `EnergyGuidance`.

    Raises: ValueError as `Tilt`, for a denoiser without a network, for an energy that needs a
      reference and has none, and, when the network is called, for a name that is no such layer.
    Source: Epstein et al., arXiv 2306.00986, Eq. 3 to 9. They weight it beside classifier-free
      guidance; here it follows `classifier_free` in the list.
    """

    takes_observation: ClassVar[bool] = False

    energy: ObjectEnergy = Position(target=(0.5, 0.5), layers=("middle_cross_attention",))
    reference: Reference | None = None
    norm: Divisor = static(default="none")

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        found = plain(model)
        if not isinstance(found, Readable):
            raise ValueError(
                f"SelfGuidance needs a denoiser whose network it can read, got {type(found).__name__}; put it first in the "
                "list of guidance, or directly after classifier_free or another rule with a scale."
            )
        if self.energy.needs_reference and self.reference is None:
            raise ValueError(
                f"The energy {type(self.energy).__name__} compares an object with a reference, got reference=None; pass "
                "reference=Reference(x0, eps), or give the energy a target."
            )
        return Tilted(model, self)

    def extra_evaluations(self, model: Denoise, t: Time) -> Evaluations:
        return 0 if self.reference is None else plain(model).evaluations(t)

    def change(self, model: Denoise, x: Batch, t: Time, given: Array | None) -> tuple[Estimate, Estimate]:
        reference = self._reference(plain(model), x, t)

        def energy(x):
            answers = beside(model, x, t, Ask(reading=self.energy.reading))
            return jnp.sum(self.energy(answers.inside, reference, x.shape[1:-1])), answers.guided

        gradient, estimate = jax.grad(energy, has_aux=True)(x)
        sigma = expand_like(model.sde.sigma(t), x)
        gradient = normed(self.norm, gradient, estimate.eps / sigma, model.weight)
        return tilted(model.sde, x, t, estimate, -self.scale * gradient), estimate

    def _reference(self, network: Denoise, x: Batch, t: Time) -> Inside:
        """The values inside of the network for the reference, with a batch of 1, or of b where each image has its own time."""
        found, t = self.reference, jnp.asarray(t)
        if found is None:
            return Inside({}, {})
        rows = len(x) if t.ndim or found.condition is None else 1
        if found.condition is not None and isinstance(network, Conditional):
            condition = {name: jnp.repeat(jnp.asarray(v)[None], rows, axis=0) for name, v in found.condition.items()}
            network = network.with_condition(condition)
        x0, eps = (jnp.repeat(jnp.asarray(value, x.dtype)[None], rows, axis=0) for value in (found.x0, found.eps))
        alpha, sigma = (expand_like(value, x0) for value in (network.sde.alpha(t), network.sde.sigma(t)))
        x_t = alpha * x0 + sigma * eps
        return network.read(x_t, t, self.energy.reading)[1] if isinstance(network, Readable) else Inside({}, {})
