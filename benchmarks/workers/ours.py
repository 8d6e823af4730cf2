"""score_sde: a training step and a sampling run of the benchmark's U-Net, as a user gets them; and the matmul peak.

python -m benchmarks.workers.ours [--one_device] [--resample_by=convolution]
"""

import argparse
import sys

from score_sde import parallel

if "--one_device" not in sys.argv:
    parallel.configure_host()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.interleave import serve
from benchmarks.unet import BATCH_SIZE, HEUN_STEPS, SHAPE
from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.parameterizations import EDMPreconditioning
from score_sde.networks import UNet
from score_sde.objectives import DenoisingScoreMatching, EDMWeighting, LogNormal
from score_sde.sdes import EDM
from score_sde.solvers import EDMHeun, sample
from score_sde.solvers.grids import EDMRho
from score_sde.tasks import Denoising
from score_sde.training.optimizers import build_optimizer
from score_sde.training.state import create_state
from score_sde.training.step import make_train_step

MATMUL = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one_device", action="store_true")
    parser.add_argument("--resample_by", choices=["block", "convolution"], default="block")
    options = parser.parse_args()
    mesh, sde = parallel.make_mesh(), EDM()
    network = UNet(
        channels=64,
        channel_multipliers=(1, 2, 2),
        blocks_per_level=2,
        attention_resolutions=(16,),
        resample_by=options.resample_by,
    )
    denoiser = Denoiser(sde, EDMPreconditioning(), network)
    images = np.random.default_rng(0).standard_normal((BATCH_SIZE, *SHAPE)).astype(np.float32)
    batch = {"x": images, "index": np.arange(BATCH_SIZE, dtype=np.int32), "condition": {}}
    params = jax.jit(lambda key: denoiser.init(key, {"x": jnp.zeros((1, *SHAPE))}))(jax.random.key(0))
    optimizer = build_optimizer(learning_rate=1e-4)
    state = parallel.replicate(create_state(params, optimizer, (500.0,)), mesh)
    step = make_train_step(
        jax.random.key(1),
        Denoising(denoiser, DenoisingScoreMatching(sde, EDMWeighting(), LogNormal())),
        optimizer,
        mesh,
        batch_size=BATCH_SIZE,
        rampup_ratio=0.05,
    )
    sampling_params = jax.tree.map(jnp.copy, state.params)
    sharding = parallel.batch_sharding(mesh)
    forward = jax.jit(lambda params, x: denoiser.bind(params)(x, 1.0).x0)
    sharded = jax.device_put(images, sharding)
    square = jnp.ones((MATMUL, MATMUL))
    multiply = jax.jit(jnp.matmul)

    def train():
        nonlocal state
        state, metrics, _ = step(state, parallel.shard_batch(batch, mesh))
        jax.block_until_ready(metrics)

    def evaluations():
        for _ in range(2 * HEUN_STEPS - 1):
            forward(sampling_params, sharded).block_until_ready()

    def solve():
        denoise = denoiser.bind(sampling_params)
        grid = EDMRho(num_steps=HEUN_STEPS)
        sample(
            jax.random.key(0), denoise, EDMHeun(), grid, (BATCH_SIZE, *SHAPE), sharding=sharding
        ).x.block_until_ready()

    cost = jax.jit(lambda p, x: denoiser.bind(p)(x, 1.0).x0).lower(params, images[:1]).compile().cost_analysis()
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "gflop_per_forward": cost["flops"] / 1e9,
        "devices": len(jax.devices()),
        "jax": jax.__version__,
    }
    tasks = {
        "train": train,
        "evaluations": evaluations,
        "solve": solve,
        "matmul": lambda: multiply(square, square).block_until_ready(),
    }
    serve(tasks, facts)


if __name__ == "__main__":
    main()
