"""Classifier-free guidance against its formula, another library, and counted network evaluations."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance import ClassifierFree, Threshold, guide
from score_sde.internal.pytree import pytree, static
from score_sde.sdes import EDM, VP
from score_sde.solvers import DDIM, sample
from score_sde.solvers.grids import Given, LogSNRUniform
from tests.guidance.by_class import ByClass

RNG = np.random.default_rng(0)
MEANS = jnp.asarray(RNG.normal(0, 1, (4, 2)), jnp.float32)
CLASSES = jnp.array([0, 1, 2, 0])


def model(label, sde=None) -> ByClass:
    weights = jnp.array([0.1, 0.2, 0.3, 0.4])
    return ByClass(sde or VP(), weights, MEANS, jnp.full((4, 2), 0.3), CLASSES, {"label": jnp.asarray(label)})


def points(number) -> jax.Array:
    return jnp.asarray(RNG.normal(0, 1, (number, 2)), jnp.float32)


@pytest.mark.few(2)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_it_is_its_formula(scale):
    """Both members of the pair; scale 0 is the unconditional model, and scale 1 the conditional one to the last bit."""
    label, x, t = np.array([0, 1, 2, 1]), points(4), jnp.float32(0.4)
    guided = ClassifierFree(scale).wrap(model(label), {})(x, t)
    conditional, unconditional = model(label)(x, t), model(np.full(4, 3))(x, t)
    for value, c, u in zip(guided, conditional, unconditional, strict=True):
        np.testing.assert_allclose(value, u + scale * (c - u), rtol=2e-6, atol=2e-6)
        assert scale != 1.0 or np.array_equal(value, c)
    alpha, sigma = VP().alpha(t), VP().sigma(t)
    np.testing.assert_allclose(alpha * guided.x0 + sigma * guided.eps, x, rtol=1e-5, atol=1e-5)


def test_another_library():
    """azula's CFGDenoiser, whose weight is scale − 1. At x_t = α x0 + σ ε the estimate is that of x_t/α at σ/α."""
    file = np.load(pathlib.Path(__file__).parents[1] / "golden" / "guidance" / "azula_cfg.npz")
    cases = json.loads(str(file["__meta__"]))["cases"]
    cases = {name: case for name, case in cases.items() if name.startswith("point/")}
    mixture = [jnp.asarray(file[f"m2_mix_{name}"], jnp.float32) for name in ("w", "mu", "sd")]
    for name, case in cases.items():
        alpha, sigma = float(file[f"{name}/alpha"]), float(file[f"{name}/sigma"])
        x = jnp.asarray(file[f"{name}/x"] / alpha, jnp.float32)
        condition = {"label": jnp.full(len(x), case["positive"])}
        denoise = ByClass(EDM(), *mixture, jnp.asarray(file["m2/classes"]), condition)
        guided = ClassifierFree(case["guidance"] + 1).wrap(denoise, {})
        found = guided(x, jnp.float32(sigma / alpha)).x0
        scale = np.abs(file[f"{name}/mean"]).max()
        np.testing.assert_allclose(found, file[f"{name}/mean"], atol=2e-5 * scale, err_msg=name)


class Seen(list):
    """Numbers of rows; hashable, as a static field of a pytree must be."""

    __hash__ = object.__hash__


@pytree
class Rows(Denoise):
    """Notes how many rows a denoiser really computes, at run time, whenever it is called."""

    inner: ByClass
    seen: Seen = static()

    @property
    def sde(self):
        return self.inner.sde

    @property
    def condition(self):
        return self.inner.condition

    def with_condition(self, condition):
        return Rows(self.inner.with_condition(condition), self.seen)

    def null_condition(self):
        return self.inner.null_condition()

    def __call__(self, x, t):
        jax.debug.callback(lambda: self.seen.append(x.shape[0]))
        return self.inner(x, t)


def test_outside_of_the_interval_the_second_branch_is_not_computed():
    """Also under jit: rows are counted as they are computed. The number of evaluations says the same."""
    sde, seen = VP(), Seen()
    times = np.asarray(sde.time_of_log_snr(jnp.array([-6.0, -3.0, 0.0, 3.0, 6.0])), np.float32)
    guided = ClassifierFree(2.0, log_snr_min=-4.0, log_snr_max=1.0).wrap(Rows(model([0, 1, 2]), seen), {})
    samples = sample(jax.random.key(0), guided, DDIM(), Given(times), (3, 2))
    jax.effects_barrier()
    assert seen == [3, 6, 6, 3]
    assert samples.nfe.tolist() == [1 + 2 + 2 + 1] * 3


def test_each_image_may_have_its_own_time():
    """Inside for the first image, outside for the second: each is what it would be alone."""
    t = VP().time_of_log_snr(jnp.array([0.0, 6.0]))
    x, label = points(2), np.array([0, 2])
    rule = ClassifierFree(3.0, log_snr_max=1.0)
    together = rule.wrap(model(label), {})(x, t)
    for i in range(2):
        alone = rule.wrap(model(label[i : i + 1]), {})(x[i : i + 1], t[i])
        np.testing.assert_allclose(together.x0[i], alone.x0[0], rtol=1e-6, atol=1e-6)
    assert rule.wrap(model(label), {}).evaluations(t).tolist() == [2, 1]


def test_one_compilation_for_every_scale_and_interval():
    """The settings are traced, as everything else of a solve is."""
    compiled = []

    @jax.jit
    def estimate(guided, x):
        compiled.append(1)
        return guided(x, jnp.float32(0.3)).x0

    for scale, low in ((1.0, -2.0), (2.0, -2.0), (4.0, 0.5)):
        estimate(ClassifierFree(scale, log_snr_min=low).wrap(model([0, 1]), {}), points(2))
    assert len(compiled) == 1


def test_an_image_does_not_depend_on_its_neighbours():
    grid, key = LogSNRUniform(6), jax.random.key(3)

    def draw(label):
        return sample(key, guide(model(label), (ClassifierFree(2.0),)), DDIM(eta=0.5), grid, (len(label), 2)).x

    np.testing.assert_allclose(draw([2, 0, 1])[0], draw([2])[0], rtol=1e-5, atol=1e-6)


def test_rules_are_applied_inside_out():
    def bounded(rules):
        return jnp.abs(guide(model([0, 1, 2]), rules)(5 * points(3), jnp.float32(0.9)).x0).max()

    threshold = Threshold(0.5)
    assert bounded((ClassifierFree(8.0),)) > 0.5
    assert bounded((ClassifierFree(8.0), threshold)) <= 0.5
    with pytest.raises(ValueError, match="whose condition can be replaced, got ChangedEstimate; put it first"):
        guide(model([0]), (threshold, ClassifierFree(2.0)))


def test_mistakes():
    with pytest.raises(ValueError, match=r"needs log_snr_min <= log_snr_max, got log_snr_min=2.0, log_snr_max=1.0"):
        ClassifierFree(2.0, log_snr_min=2.0, log_snr_max=1.0)
    without = ByClass(VP(), jnp.ones(1), MEANS[:1], jnp.ones((1, 2)), jnp.zeros(1, jnp.int32), None)
    with pytest.raises(ValueError, match="needs a model with a condition, got one without; train it on labels"):
        ClassifierFree(2.0).wrap(without, {})
