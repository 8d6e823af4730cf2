"""The loss and gradient of a transformer whose heads and hidden features two devices share, and of one device.

python -m tests.parallel.two_devices FILE writes JSON, in a process of its own: the number of devices is fixed when JAX
starts.
"""

import json
import math
import pathlib
import sys

import jax
import jax.numpy as jnp

from score_sde import parallel
from score_sde.networks import DiT
from tests.networks.build import normal, params_for

OPTIONS = {"mlp": "swiglu", "norm": "rms", "qk_norm": "rms", "rope": True}


def measure() -> dict:
    """The losses, the greatest difference of a gradient, and the share of the blocks' numbers on one device."""
    net = DiT(patch_size=2, width=32, depth=1, num_heads=4, mlp_ratio=6.0, num_classes=3, **OPTIONS)
    x, t, condition = normal(0, (4, 4, 4, 3)), jnp.linspace(1.0, 900.0, 4), {"label": jnp.arange(4)}
    params = params_for(net, x, t, condition)

    def loss(params, x):
        return jnp.square(net.apply({"params": params}, x, t, condition)).sum()

    mesh = parallel.make_mesh(2, tensor=2)
    shardings = parallel.tree_sharding(params, mesh, net.tensor_axis)
    divided = jax.tree.map(jax.device_put, params, shardings)
    shared = jax.jit(jax.value_and_grad(loss), in_shardings=(shardings, parallel.replicated(mesh)))
    program = shared.lower(divided, x).compile()
    (one, grad), (two, grad_of_two) = jax.jit(jax.value_and_grad(loss))(params, x), program(divided, x)
    differences = jax.tree.map(
        lambda a, b: float(jnp.abs(a - jax.device_get(b)).max() / jnp.abs(a).max()), grad, grad_of_two
    )
    block = [leaf for leaf in jax.tree.leaves(divided["block_0"]) if leaf.ndim == 2]
    here = sum(math.prod(leaf.addressable_shards[0].data.shape) for leaf in block)
    return {
        "losses": [float(one), float(two)],
        "difference": max(jax.tree.leaves(differences)),
        "share": here / sum(leaf.size for leaf in block),
        "communicates": "all-reduce" in program.as_text(),
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    pathlib.Path(sys.argv[1]).write_text(json.dumps(measure()), encoding="utf-8")
