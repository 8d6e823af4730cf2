"""Guided samples on one device and on two, in one process: python -m tests.guidance.two_devices FILE."""

import sys

import jax

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)

import dataclasses

import numpy as np

from score_sde import parallel
from score_sde.solvers import DDIM, sample
from score_sde.solvers.grids import LogSNRUniform
from tests.conformance import CONTRASTS
from tests.guidance.test_classifier_free import model

LABELS = [0, 1, 2, 0]
LIMITED = ("classifier_free", "apg_momentum")


def draw(rule, num_devices):
    """Images and their evaluations."""
    sharding = parallel.batch_sharding(parallel.make_mesh(num_devices))
    labels = jax.device_put(np.asarray(LABELS), sharding)
    guided = rule.wrap(model(labels), {})
    found = sample(jax.random.key(0), guided, DDIM(eta=0.5), LogSNRUniform(6), (len(LABELS), 2), sharding=sharding)
    return found.x, found.nfe


def measured():
    """Every rule, with an interval where it changes what is computed."""
    for name in LIMITED:
        rule = dataclasses.replace(CONTRASTS[name], log_snr_min=-3.0, log_snr_max=3.0)
        for number in (1, 2):
            x, nfe = draw(rule, number)
            yield f"{name}/{number}/x", np.asarray(x)
            yield f"{name}/{number}/nfe", np.asarray(nfe)


if __name__ == "__main__":
    np.savez(sys.argv[1], **dict(measured()))
