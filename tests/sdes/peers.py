"""Numbers from other people's code (tests/golden/process), and the SDEs that these tests run over, with their times."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sdes
from tests import conformance

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "process"


def load(name):
    """The arrays of one peer; `__meta__` is the dict that says how they were made."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays["__meta__"] = json.loads(str(arrays["__meta__"]))
    return arrays


def zero_terminal(betas):
    """ᾱ of arXiv 2305.08891, Alg. 1: √ᾱ shifted and scaled so that the last is 0 and the first is kept."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root**2


ALL = {
    **conformance.SDES,
    "vp_constant": sdes.VP(beta_min=8.0, beta_max=8.0),
    "ddpm_zero_snr": sdes.DiscreteVP.from_alphas_cumprod(zero_terminal(np.linspace(1e-3, 0.2, 100))),
}
LOSES_SIGNAL = ("cosine", "cosine_offset", "flow", "ddpm_zero_snr")  # α(t_max) = 0, so f and g are infinite there


def times(name, number=24):
    """2 · `number` float32 times from 1e-5 to t_max, dense at the early end; to 0.9999 t_max where f is infinite at it.

    The same number for every SDE: another shape would compile every operation again.
    """
    t_max = float(ALL[name].t_max) * (0.9999 if name in LOSES_SIGNAL else 1)
    return np.sort(np.append(np.geomspace(1e-5, t_max, number), np.linspace(0.011, 0.987, number) * t_max)).astype(
        np.float32
    )


def both_precisions(function, *arguments):
    """(value in float32, value in float64), as float64 arrays, for the same float32 arguments."""
    values = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            dtype = jnp.float64 if wide else jnp.float32
            values.append(np.asarray(function(*(jnp.asarray(a, dtype) for a in arguments)), np.float64))
    return values


def relative(value, reference):
    """The largest relative difference."""
    return np.max(np.abs(value - reference) / np.abs(reference))
