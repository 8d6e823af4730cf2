"""The denoiser: a network with a parameterization and an SDE. Bound to parameters it is `denoise(x, t)`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.parameterizations import LogSigmaLabel, Parameterization
from score_sde.internal.broadcast import expand_like
from score_sde.internal.layers import Change, Inside, Reading, call
from score_sde.internal.per_example import Weight
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Time

Condition = Mapping[str, Array]
Params = Mapping[str, Any]


class Uncertainty(nn.Module):
    """u(c), the learned log-variance of the loss at c = log(σ/α)/4: a linear map of sines and cosines.

    At first the map is 0. The frequencies are fixed: 1/4, 1/2, … 1/4 · 2^(num_frequencies − 1)
    cycles per unit of c, so up to 4 at the default.

    Source: Karras et al., arXiv 2312.02696, Eq. 14 and App. B.1, which draws the frequencies at
      random.
    """

    num_frequencies: int = 5

    @nn.compact
    def __call__(self, noise_label: Float[Array, " b"]) -> Float[Array, " b"]:
        angle = 0.5 * jnp.pi * noise_label[:, None] * 2.0 ** jnp.arange(self.num_frequencies, dtype=jnp.float32)[None]
        features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
        return nn.Dense(1, kernel_init=nn.initializers.zeros_init())(features)[:, 0]


@pytree
class Denoiser:
    """A network, a parameterization and an SDE, without parameters.

    The parameters are `{"network": …}`. With an `uncertainty` module they also have the entry
    `{"uncertainty": …}`. The network is a Flax module, which is called as `network.apply({"params":
    p}, c_in x, c_noise, condition, train, rngs={"dropout": key})`.
    """

    sde: SDE
    parameterization: Parameterization
    network: nn.Module = static()
    uncertainty: nn.Module | None = static(default=None)

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any], condition: Condition | None = None) -> Params:
        """Draws parameters for inputs like `batch["x"]` and `condition`.

        Only the shape and dtype of `batch["x"]` matter.

        Raises: ValueError for a network whose output has another shape than x.
        """
        x = jnp.zeros(batch["x"].shape, jnp.float32)
        label = jnp.zeros(x.shape[:1], jnp.float32)
        output: Any
        output, variables = self.network.init_with_output(key, x, label, condition)
        if output.shape != x.shape:  # an output of one channel would be broadcast to all channels
            raise ValueError(
                f"The network {type(self.network).__name__} needs an output of the shape of x, {x.shape}, got {output.shape}; "
                "set out_channels or out_features to None."
            )
        params = {"network": variables["params"]}
        if self.uncertainty is not None:
            params["uncertainty"] = self.uncertainty.init(jax.random.fold_in(key, 1), label)["params"]
        return params

    def bind(
        self,
        params: Params,
        condition: Condition | None = None,
        *,
        train: bool = False,
        dropout_key: Key[Array, ""] | None = None,
        weight: Weight = None,
    ) -> "BoundDenoiser":
        """Returns `denoise(x, t) -> Estimate` with these parameters and this condition (arrays with a batch axis).

        Args:
          weight: 0 where x is padding, see `Denoise`.
        """
        return BoundDenoiser(self, params, condition, dropout_key, train, weight=weight)


@pytree
class BoundDenoiser(Denoise):
    """denoise(x, t) -> (x̂0, ε̂). `Denoiser.bind` makes it.

    It is a pytree: other parameters need no new compilation.
    """

    denoiser: Denoiser
    params: Params
    condition: Condition | None
    dropout_key: Key[Array, ""] | None
    train: bool = static()
    changes: tuple[Change | None, ...] = static(default=())
    weight: Weight = None

    @property
    def sde(self) -> SDE:
        return self.denoiser.sde

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        return self.read(x, t, None)[0]

    def read(self, x: Float[Array, "b *shape"], t: Time, reading: Reading | None) -> tuple[Estimate, Inside]:
        """(the estimate, the attention maps and outputs of the layers that `reading` names), from one call.

        Raises: ValueError for a layer that the network does not have. The message lists its layers.
        """
        sde, parameterization = self.denoiser.sde, self.denoiser.parameterization
        c_in, c_noise = parameterization.inputs(sde, t)
        rngs = None if self.dropout_key is None else {"dropout": self.dropout_key}

        def apply(**keywords: Any) -> Any:
            return self.denoiser.network.apply(
                {"params": self.params["network"]},
                expand_like(c_in, x) * x,
                jnp.broadcast_to(c_noise, x.shape[:1]),
                self.condition,
                self.train,
                rngs=rngs,
                **keywords,
            )

        output, inside = call(apply, self.changes, reading)
        return parameterization.decode(output, x, t, sde), inside

    def with_condition(self, condition: Condition) -> "BoundDenoiser":
        """The same denoiser with another condition. The batch size may differ."""
        return dataclasses.replace(self, condition=condition)

    def with_changes(self, changes: Sequence[Change | None]) -> "BoundDenoiser":
        """The same denoiser with changed layers, for a batch whose rows take turns: row i has changes[i % len(changes)].

        A call raises ValueError for a layer that the network does not have.
        """
        return dataclasses.replace(self, changes=tuple(changes))

    def null_condition(self) -> Condition:
        """The condition that training shows in place of a dropped condition: `network.null(condition)`."""
        return self.denoiser.network.null(self.condition)

    def log_variance(self, t: Float[Array, " b"]) -> Float[Array, " b"]:
        """u(t), the learned log-variance of the loss. It does not depend on the noise label of the network.

        Raises: ValueError without an `uncertainty` module.
        """
        denoiser = self.denoiser
        if denoiser.uncertainty is None:
            raise ValueError("A learned weighting needs Denoiser(uncertainty=Uncertainty()), got uncertainty=None.")
        label = LogSigmaLabel()(denoiser.sde, t)
        log_variance: Any = denoiser.uncertainty.apply({"params": self.params["uncertainty"]}, label)
        return log_variance
