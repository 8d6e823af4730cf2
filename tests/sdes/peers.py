"""Numbers from other people's code (tests/golden/process), and the SDEs that these tests run over, with their times."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sdes
from score_sde.denoising.dynamics import reverse_drift, score, velocity
from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
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
# α(t_max) = 0, so f and g are infinite there
LOSES_SIGNAL = ("cosine", "cosine_offset", "flow", "decay", "ddpm_zero_snr")


def times(name, number=24):
    """2 · `number` float32 times from 1e-5 to t_max, dense at the early end; to 0.9999 t_max where f is infinite at it.

    The same number for every SDE: another shape would compile every operation again.
    """
    t_max = float(ALL[name].t_max) * (0.9999 if name in LOSES_SIGNAL else 1)
    return np.sort(np.append(np.geomspace(1e-5, t_max, number), np.linspace(0.011, 0.987, number) * t_max)).astype(
        np.float32
    )


DRAWS = np.random.default_rng(0).standard_normal((2, 48, 3))  # (x0, ε) at each of the times
METHODS = ("alpha", "sigma", "drift", "diffusion", "log_snr")


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
def evaluate(sde, t, draws):
    """Everything that the tests ask of every SDE at times t, with `draws` (x0, ε), as one program."""
    values = {method: getattr(sde, method)(t) for method in METHODS}
    ones, zeros = jnp.ones_like(t), jnp.zeros_like(t)
    values["growth"] = jax.jvp(lambda t: sde.sigma(t) ** 2, (t,), (ones,))[1]
    values["log_snr_rate"] = jax.jvp(sde.log_snr, (t,), (ones,))[1]
    values["time"] = sde.time_of_log_snr(values["log_snr"])
    s, u = 0.7 * t, t + 0.4 * (sde.t_max - t)
    kernels = {"from_zero": (zeros, t), "to_end": (t, sde.t_max * ones), "st": (s, t), "tu": (t, u), "su": (s, u)}
    values |= {pair: sde.transition(*ends) for pair, ends in kernels.items()}
    values |= {"marginal": sde.marginal(t), "zero": sde.marginal(zeros), "end": sde.marginal(sde.t_max * ones)}
    estimate = Estimate(*draws)
    x = (
        expand_like(values["alpha"], estimate.x0) * estimate.x0
        + expand_like(values["sigma"], estimate.eps) * estimate.eps
    )
    values |= {"x": x, "velocity": velocity(sde, estimate, t), "reverse_drift": reverse_drift(sde, estimate, x, t)}
    return values | {"score": score(sde, estimate, t)}


@functools.cache
def facts(name, wide=True):
    """(times, what `evaluate` gives at them), in float64 or float32, as float64 arrays."""
    t = times(name)
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        values = evaluate(ALL[name], jnp.asarray(t, dtype), jnp.asarray(DRAWS, dtype))
    return t.astype(np.float64), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), values)


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
