"""Autoguidance: what a weak model changes, what is traced and counted, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising import FunctionDenoiser
from score_sde.guidance import Autoguidance, Threshold, guide
from score_sde.sdes import VE, VP
from score_sde.solvers import DDIM, sample
from score_sde.solvers.grids import LogSNRUniform
from tests.guidance.test_classifier_free import Rows, Seen, model, points
from tests.solvers.test_sample import compilations

LABELS = np.array([0, 1, 2, 1])
T = jnp.float32(0.4)
KEY = jax.random.key(2)


def weak(widening=1.5, labels=LABELS):
    good = model(labels)
    return dataclasses.replace(good, stds=widening * good.stds)


def test_it_is_its_formula_under_the_condition_of_the_model():
    """The weak model gets the labels of the model; scale 1 is the model to the last bit, scale 0 the weak one."""
    x = points(4)
    good, bad = model(LABELS)(x, T), weak()(x, T)
    for scale in (0.0, 1.0, 2.5):
        found = Autoguidance(scale, weak=weak(labels=np.zeros(1, int))).wrap(model(LABELS), {})(x, T)
        for value, g, b in zip(found, good, bad, strict=True):
            np.testing.assert_allclose(value, b + scale * (g - b), rtol=2e-6, atol=2e-6)
            assert scale != 1.0 or np.array_equal(value, g)


def test_outside_of_the_interval_the_weak_model_is_not_called():
    seen = Seen()
    rule = Autoguidance(2.0, log_snr_min=-2.0, log_snr_max=2.0, weak=Rows(weak(), seen))
    guided = rule.wrap(Rows(model(LABELS), seen), {})
    times = VP().time_of_log_snr(jnp.array([-3.0, 0.0, 3.0]))
    for t in times:
        jax.jit(lambda guided, t: guided(points(4), t).x0)(guided, t)
    jax.effects_barrier()
    assert len(seen) == 4
    assert guided.evaluations(times).tolist() == [1, 2, 1]


def test_two_alike_networks_are_traced_once_and_other_parameters_compile_nothing():
    traced = []

    def function(shift, x, t):
        traced.append(1)
        return model(LABELS)(x + shift, t)

    def denoiser(shift):
        return FunctionDenoiser(VP(), jax.tree_util.Partial(function, jnp.float32(shift)))

    def draw(good, bad):
        guided = Autoguidance(2.0, weak=denoiser(bad)).wrap(denoiser(good), {})
        return sample(KEY, guided, DDIM(), LogSNRUniform(3), (4, 2)).x

    first = draw(0.0, 0.3)
    assert len(traced) == 1
    with compilations() as seen:
        second = draw(0.1, -0.2)
    assert not seen and len(traced) == 1
    assert np.abs(first - second).max() > 1e-3


def test_mistakes():
    with pytest.raises(ValueError, match="needs a weak model, got None; in a config set workdir"):
        Autoguidance(2.0).wrap(model(LABELS), {})
    with pytest.raises(ValueError, match="needs a weak model of the same SDE, VP, got VE"):
        Autoguidance(2.0, weak=model(LABELS, VE())).wrap(model(LABELS), {})
    with pytest.raises(ValueError, match="got ChangedEstimate; put it first"):
        guide(model(LABELS), (Threshold(), Autoguidance(2.0, weak=weak())))
