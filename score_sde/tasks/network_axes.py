"""Code shared by the tasks with one network and random noise levels."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Shaped

from score_sde.sdes import SDE


def tensor_axis_of(network: nn.Module, path: tuple[str, ...]) -> int | None:
    """The axis of a parameter that the network declares by its method `tensor_axis(path inside the network)`, or None.

    `path` is the names on the way to the array in the state. The names after "network" are the path
    inside the network.
    """
    declared = getattr(network, "tensor_axis", None)
    inside = path[path.index("network") + 1 :] if "network" in path else ()
    return declared(inside) if declared is not None and inside else None


def log_snr_of(sde: SDE, t: Float[np.ndarray, " b"]) -> dict[str, Shaped[np.ndarray, " b"]]:
    """The times and their log-SNR, for the report of a loss that is not finite."""
    t = np.asarray(t, np.float32)
    return {"t": t, "log_snr": np.asarray(sde.log_snr(jnp.asarray(t)))}
