"""Steps of guidance, and the bare evaluations that they are compared with: python -m benchmarks.workers.guidance."""

from score_sde import parallel

if __name__ == "__main__":
    parallel.configure_host()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.guidance import BATCH_SIZE, SHAPE, STEPS
from benchmarks.interleave import serve
from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.parameterizations import Epsilon
from score_sde.guidance import ClassifierFree, PerturbedAttention, guide
from score_sde.guidance.inverse import DPS, Measured
from score_sde.guidance.operators import Mask
from score_sde.networks import UNet
from score_sde.sdes import VP
from score_sde.solvers import DDIM, Solver, sample
from score_sde.solvers.grids import LogSNRUniform


def main() -> None:
    network = UNet(64, (1, 2, 2), 2, (16,), num_classes=10)
    denoiser, sharding = Denoiser(VP(), Epsilon(), network), parallel.batch_sharding(parallel.make_mesh())
    rng = np.random.default_rng(0)
    label = jax.device_put(np.arange(BATCH_SIZE, dtype=np.int32) % 10, sharding)
    params = jax.jit(lambda key: denoiser.init(key, {"x": jnp.zeros((1, *SHAPE))}, {"label": label[:1]}))
    model = denoiser.bind(params(jax.random.key(0)), {"label": label})
    x = jax.device_put(rng.standard_normal((BATCH_SIZE, *SHAPE)).astype(np.float32), sharding)
    twice = jax.device_put(np.concatenate([x, x]), sharding)
    both = model.with_condition({"label": jax.device_put(np.concatenate([label, label]), sharding)})
    mask = jnp.asarray(rng.integers(0, 2, (*SHAPE[:2], 1)), jnp.float32)
    evaluate = jax.jit(lambda model, x: model(x, 0.5))

    @jax.jit
    def forward_and_backward(model, x):
        return jax.value_and_grad(lambda x: jnp.sum(model(x, 0.5).x0 ** 2))(x)

    def repeated(times, function, *args):
        def task():
            for _ in range(times):
                jax.block_until_ready(function(*args))

        return task

    def solve(denoise, solver: Solver):
        def task():
            grid = LogSNRUniform(STEPS)
            sample(jax.random.key(0), denoise, solver, grid, x.shape, sharding=sharding).x.block_until_ready()

        return task

    # The first interval is everywhere, and the second nowhere.
    inside, outside = (ClassifierFree(2.0, log_snr_min=low) for low in (-1000.0, 1000.0))
    perturbed = PerturbedAttention(2.0, log_snr_min=-1000.0, layers=("middle_attention",))
    measured = guide(model, (Measured(Mask(mask)),), {"y": mask[None] * x})
    tasks = {
        "one_evaluation": repeated(STEPS, evaluate, model, x),
        "two_evaluations": repeated(2 * STEPS, evaluate, model, x),
        "three_evaluations": repeated(3 * STEPS, evaluate, model, x),
        "twice_the_batch": repeated(STEPS, evaluate, both, twice),
        "forward_and_backward": repeated(STEPS, forward_and_backward, model, x),
        "guided": solve(guide(model, (inside,)), DDIM()),
        "outside": solve(guide(model, (outside,)), DDIM()),
        "perturbed": solve(guide(model, (inside, perturbed)), DDIM()),
        "dps": solve(measured, DPS(DDIM())),
    }
    serve(tasks, {"devices": len(jax.devices()), "jax": jax.__version__})


if __name__ == "__main__":
    main()
