"""The memory of sampling: a whole solve against one evaluation of the network, by XLA's own count of its allocations.

It measures the benchmark's U-Net on 16 images. A solve needs the memory of one evaluation, the
state of its solver, and little else: no trajectory, and no second copy of the network. Nothing is
run.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.unet import BATCH_SIZE, HEUN_STEPS, SHAPE

SOLVERS = ("ddim", "heun", "edm_heun", "euler_maruyama", "dpm_solver_pp_2m", "unipc", "deis", "dpm_solver_pp_2m_sde")


def run(rounds: int) -> dict[str, float]:
    """Prints, for each solver, the bytes of a solve over the bytes of one evaluation and the solver's state.

    `rounds` is not used.
    """
    from score_sde.denoising.denoiser import Denoiser
    from score_sde.denoising.parameterizations import EDMPreconditioning
    from score_sde.networks import UNet
    from score_sde.sdes import EDM
    from score_sde.solvers import SOLVERS as CATALOGUE
    from score_sde.solvers import grids, loop
    from score_sde.solvers.grids import EDMRho

    sde, shape = EDM(), (BATCH_SIZE, *SHAPE)
    network = UNet(channels=64, channel_multipliers=(1, 2, 2), blocks_per_level=2, attention_resolutions=(16,))
    denoiser = Denoiser(sde, EDMPreconditioning(), network)
    params = jax.eval_shape(lambda key: denoiser.init(key, {"x": jnp.zeros((1, *SHAPE))}), jax.random.key(0))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    evaluation = jax.jit(lambda params, x, t: denoiser.bind(params)(x, t)).lower(params, x, jnp.float32(1)).compile()
    one = temporaries(evaluation)
    print(f"one evaluation of {BATCH_SIZE} images: {one / 2**20:.1f} MiB of temporaries and results")
    times = np.pad(
        EDMRho(num_steps=HEUN_STEPS).times(sde), (0, grids.padded_steps(HEUN_STEPS) - HEUN_STEPS), mode="edge"
    )
    ratios = {}
    for name in SOLVERS:
        solver = CATALOGUE[name]()
        state = jax.eval_shape(lambda x, solver=solver: (x, solver.init(x, np.int32(HEUN_STEPS))), x)
        carried = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        rest = times, np.int32(HEUN_STEPS), np.uint32(0), None, np.zeros(0, np.int32), shape, None
        solve = loop._solve.lower(jax.random.key(0), denoiser.bind(params), solver, *rest).compile()
        ratios[name] = temporaries(solve) / (one + carried)
        print(
            f"  {name:22s} {temporaries(solve) / 2**20:8.1f} MiB, solver state {carried / 2**20:5.2f} MiB: {ratios[name]:.3f}"
        )
    return ratios


def temporaries(program: jax.stages.Compiled) -> int:
    """The bytes that the program holds at its peak, without its arguments."""
    memory = program.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes
