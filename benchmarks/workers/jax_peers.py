"""The networks of two JAX projects in the same training step and Heun evaluations: the 2021 code and hackable_diffusion.

    python -m benchmarks.workers.jax_peers score_sde CHECKOUT        python -m benchmarks.workers.jax_peers hackable_diffusion

Each runs with its own defaults: one CPU device, and the default malloc. The 2021 code is imported
from a checkout. Stand-ins replace what today's packages lack and its network does not use
(TensorFlow, flax.optim).
"""

import sys
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from benchmarks.interleave import serve
from benchmarks.unet import BATCH_SIZE, HEUN_STEPS, SHAPE


def score_sde_2021(checkout: str) -> tuple[nn.Module, Callable]:
    """DDPM++ of yang-song/score_sde."""
    import flax
    import flax.training.checkpoints  # asks for TensorFlow, and must not find the stand-in

    for name in ("tensorflow", "flax.optim"):
        sys.modules[name] = types.ModuleType(name)
    flax.optim = sys.modules["flax.optim"]
    flax.optim.Optimizer = object
    sys.path.insert(0, checkout)
    from models.ncsnpp import NCSNpp

    model = {
        "nf": 64, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "attn_resolutions": (16,), "dropout": 0.1,
        "resamp_with_conv": True, "conditional": True, "fir": False, "fir_kernel": (1, 3, 3, 1), "skip_rescale": True,
        "resblock_type": "biggan", "progressive": "none", "progressive_input": "none", "progressive_combine": "sum",
        "embedding_type": "positional", "init_scale": 0.0, "fourier_scale": 16, "nonlinearity": "swish",
        "normalization": "GroupNorm", "scale_by_sigma": False, "sigma_min": 0.01, "sigma_max": 50.0, "num_scales": 1000,
    }  # fmt: skip
    config = {
        "model": model,
        "data": {"image_size": 32, "num_channels": 3, "centered": True},
        "training": {"continuous": True},
    }
    return NCSNpp(ConfigDict(config)), lambda x, label: ((x, label), {})


def hackable_diffusion() -> tuple[nn.Module, Callable]:
    """The U-Net of google/hackable_diffusion, with a sinusoidal embedding of the noise level."""
    from hackable_diffusion import hd
    from hackable_diffusion.lib.architecture import arch_typing, sequence_embedders, unet

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, label, train):
            angle = label[:, None] * jnp.exp(-jnp.log(1e4) * jnp.arange(32) / 31)[None]
            embedding = nn.Dense(256)(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1))
            embedding = nn.Dense(256)(nn.silu(embedding))
            network = unet.Unet(
                base_channels=64,
                channels_multiplier=(1, 2, 2),
                num_residual_blocks=(2, 2, 2),
                downsample_fn=hd.architecture.AvgPoolDownsample(),
                upsample_fn=hd.architecture.ImageResizeUpsample(resize_method="nearest"),
                dropout_rate=(0.1, 0.1, 0.1),
                bottleneck_dropout_rate=0.1,
                self_attention_bool=(False, True, False),
                cross_attention_bool=(False, False, False),
                attention_normalize_qk=False,
                attention_use_rope=False,
                attention_rope_positions_fn=sequence_embedders.SquareRoPEPositions(),
                attention_num_heads=1,
                attention_head_dim=-1,
                normalization_type=arch_typing.NormalizationType.GROUP_NORM,
                normalization_num_groups=16,
                activation="silu",
                skip_connection_fn=hd.architecture.NormalizedAddSkip(),
            )
            return network(x, {"adaptive_norm": embedding}, is_training=train)

    return Network(), lambda x, label: ((x, label), {})


def main() -> None:
    network, inputs = {"score_sde": score_sde_2021, "hackable_diffusion": hackable_diffusion}[sys.argv[1]](
        *sys.argv[2:]
    )
    images = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH_SIZE, *SHAPE)), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.jit(lambda: network.init(keys, images[:1], jnp.ones(1), train=False))()["params"]
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-4))

    def denoise(params, x, sigma, train, key=None):
        """EDM's D(x; σ)."""
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / jnp.sqrt(sigma**2 + 0.25)
        args, _ = inputs(x / jnp.sqrt(sigma**2 + 0.25), 250 * jnp.log(sigma).reshape(-1))
        output = network.apply({"params": params}, *args, train=train, rngs={"dropout": key} if train else None)
        return c_skip * x + c_out * output

    def loss(params, key):
        sigma_key, noise_key, dropout_key = jax.random.split(key, 3)
        sigma = jnp.exp(-1.2 + 1.2 * jax.random.normal(sigma_key, (BATCH_SIZE, 1, 1, 1)))
        x = images + sigma * jax.random.normal(noise_key, images.shape)
        error = denoise(params, x, sigma, True, dropout_key) - images
        return jnp.mean((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error**2)

    def step(state, key):
        params, opt_state, average = state
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: a + 1e-3 * (p - a), average, params)
        return (params, opt_state, average), value

    step, state = jax.jit(step, donate_argnums=0), (params, optimizer.init(params), jax.tree.map(jnp.copy, params))
    forward = jax.jit(lambda params, x: denoise(params, x, jnp.ones((BATCH_SIZE, 1, 1, 1)), False))
    frozen = jax.tree.map(jnp.copy, params)

    def train():
        nonlocal state
        state, value = step(state, jax.random.key(2))
        value.block_until_ready()

    def evaluations():
        for _ in range(2 * HEUN_STEPS - 1):
            forward(frozen, images).block_until_ready()

    facts = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params)), "jax": jax.__version__}
    serve({"train": train, "evaluations": evaluations}, facts)


if __name__ == "__main__":
    main()
