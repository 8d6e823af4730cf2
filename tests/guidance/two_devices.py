"""Guided samples on one device and on two, in one process: python -m tests.guidance.two_devices FILE."""

import sys

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import dataclasses

import numpy as np

from score_sde import parallel
from score_sde.guidance import ClassifierFree, PerturbedAttention, guide
from score_sde.solvers import DDIM, sample
from score_sde.solvers.grids import LogSNRUniform
from tests.conformance import CONTRASTS
from tests.guidance import layered
from tests.guidance.test_classifier_free import Rows, Seen, model

LABELS = [0, 1, 2, 0]
LIMITS = {"log_snr_min": -3.0, "log_snr_max": 3.0}
LAYERS = PerturbedAttention(2.0, **LIMITS, layers=("attention",))
LIMITED = {  # rules with an interval, which changes what is computed
    **{name: (dataclasses.replace(CONTRASTS[name], **LIMITS),) for name in ("classifier_free", "apg_momentum")},
    "perturbed_attention": (ClassifierFree(2.0), LAYERS),
}


def draw(name, num_devices, seen):
    """Images and their evaluations; `seen` gets the number of rows of each call of the denoiser that really ran."""
    sharding = parallel.batch_sharding(parallel.make_mesh(num_devices))
    if name == "perturbed_attention":
        plain, shape = layered.counting(seen, len(LABELS)), (len(LABELS), layered.POSITIONS, 1)
        plain = plain.with_condition({name: jax.device_put(v, sharding) for name, v in plain.condition.items()})
    else:
        plain, shape = Rows(model(jax.device_put(np.asarray(LABELS), sharding)), seen), (len(LABELS), 2)
    guided = guide(plain, LIMITED[name])
    found = sample(jax.random.key(0), guided, DDIM(eta=0.5), LogSNRUniform(6), shape, sharding=sharding)
    jax.effects_barrier()
    return found.x, found.nfe


def measured():
    for name in LIMITED:
        for number in (1, 2):
            seen = Seen()
            x, nfe = draw(name, number, seen)
            yield f"{name}/{number}/x", np.asarray(x)
            yield f"{name}/{number}/nfe", np.asarray(nfe)
            yield f"{name}/{number}/rows", np.asarray(seen)


if __name__ == "__main__":
    np.savez(sys.argv[1], **dict(measured()))
