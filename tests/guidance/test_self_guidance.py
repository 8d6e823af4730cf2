"""Self-guidance: energies of objects on maps made by hand, and their gradients through a small network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.guidance import (
    Appearance,
    ClassifierFree,
    Position,
    Reference,
    SelfGuidance,
    Shape,
    Size,
    Threshold,
    Together,
    guide,
)
from score_sde.guidance.object_energies import centroid
from score_sde.internal.layers import Inside, Reading
from score_sde.networks import UNet
from score_sde.sdes import VP
from score_sde.solvers import DDIM, sample
from score_sde.solvers.grids import Given
from tests.guidance.layered import POSITIONS, TOKENS, WIDTH, model, points, tokens

T = jnp.float32(0.4)
SPACE = (16, 12)
OBJECT = {"tokens": (1,), "layers": ("cross",)}
NONE = Inside({}, {})


def inside(*boxes, colors=(0.0,)):
    """Attention to token 1 of two images at half the resolution: 1 within a box (top, bottom, left, right), else 0."""
    maps, features = np.zeros((len(boxes), 1, 8, 6, 3), np.float32), np.zeros((len(boxes), 8, 6, 1), np.float32)
    for i, (top, bottom, left, right) in enumerate(boxes):
        maps[i, 0, top:bottom, left:right, 1] = 1
        features[i, top:bottom, left:right] = colors[i % len(colors)]
    return Inside({"cross": jnp.asarray(maps.reshape(len(boxes), 1, 48, 3))}, {"block": jnp.asarray(features)})


HERE, THERE = (0, 4, 0, 3), (2, 8, 2, 6)  # the upper left quarter, and half of the picture


def test_energies_of_boxes():
    """Their centroids are (¼, ¼) and (⅝, ⅔), and their sizes ¼ and ½."""
    found = inside(HERE, THERE, colors=(2.0, 5.0))
    np.testing.assert_allclose(
        Position(**OBJECT, target=(0.25, 0.75))(found, NONE, SPACE), [0.5, 3 / 8 + 1 / 12], rtol=1e-5
    )
    np.testing.assert_allclose(Size(**OBJECT, target=0.25)(found, NONE, SPACE), [0, 0.25], atol=1e-4)
    at_here = inside(HERE, colors=(4.0,))
    moved = Position(**OBJECT, by=(0.5, 0.0))(found, at_here, SPACE)
    np.testing.assert_allclose(moved, [0.5, 1 / 8 + 5 / 12], rtol=1e-5)
    np.testing.assert_allclose(Size(**OBJECT, times=2.0)(found, at_here, SPACE), [0.25, 0], atol=1e-4)
    in_one_only = (12 + 24 - 2 * 2) / 48  # the boxes have 12 and 24 of the 48 positions, and share 2
    np.testing.assert_allclose(Shape(**OBJECT)(found, at_here, SPACE), [0, in_one_only], atol=1e-4)
    np.testing.assert_allclose(Appearance(**OBJECT, features=("block",))(found, at_here, SPACE), [2, 1], rtol=1e-3)


def test_other_tokens_and_sums():
    found = inside(HERE)
    doubled = Together(energies=(Position(**OBJECT, target=(0.25, 0.75)), Size(**OBJECT, target=0.5)), weights=(2, 4))
    np.testing.assert_allclose(doubled(found, NONE, SPACE), [2 * 0.5 + 4 * 0.25], rtol=1e-4)
    assert doubled.reading == Reading(("cross",)) and not doubled.needs_reference
    # Token 0 is seen nowhere, so the mean of tokens 0 and 1 is half of the attention to token 1: the same centroid.
    both = dataclasses.replace(Position(**OBJECT, target=(0.25, 0.75)), tokens=(0, 1))
    np.testing.assert_allclose(both(found, NONE, SPACE), [0.5], rtol=1e-5)


def read(x, reading):
    return model().read(x, T, reading)[1]


def test_maps_are_the_network_s():
    """The map of the cross-attention, from the parameters by hand; and the output of a layer."""
    x = points()
    found = jax.jit(lambda x: read(x, Reading(("cross",), ("attention",))))(x)
    params = model().params["network"]["cross"]
    h = found.features["attention"]
    q, k = (y @ params[name]["kernel"] + params[name]["bias"][None, None] for y, name in ((h, "q"), (tokens(2), "k")))
    expected = jax.nn.softmax(0.5 * q @ k.transpose(0, 2, 1))
    assert expected.shape == (2, POSITIONS, TOKENS) and h.shape == (2, POSITIONS, WIDTH)
    np.testing.assert_allclose(found.maps["cross"], expected, rtol=1e-4, atol=1e-5)


POSITION = Position(tokens=(1,), layers=("cross",), target=(0.2,))


def reference(seed=5):
    """Another picture with its own condition."""
    rng = np.random.default_rng(seed)
    x0, eps = (jnp.asarray(rng.normal(size=(POSITIONS, 1)), jnp.float32) for _ in range(2))
    return Reference(x0, eps, {"tokens": tokens(1, seed)[0]})


@pytest.mark.parametrize("before", [(), (ClassifierFree(2.0),)], ids=["alone", "after"])
def test_it_shifts_the_pair_by_the_gradient_of_the_energy(before):
    """Compared with differences of the energy. After classifier-free guidance the shift is the same."""
    energy = Together(energies=(POSITION, Appearance(**OBJECT, features=("block",))))
    picture = reference()
    rule = SelfGuidance(0.7, energy=energy, reference=picture)
    sde, x = VP(), points()
    alpha, sigma = sde.alpha(T), sde.sigma(T)

    @jax.jit
    def values(x):
        of_reference = model(number=1).with_condition({"tokens": picture.condition["tokens"][None]})
        seen = of_reference.read((alpha * picture.x0 + sigma * picture.eps)[None], T, energy.reading)[1]
        return energy(read(x, energy.reading), seen, (POSITIONS,))

    direction, step = points()[::-1], 3e-3
    slope = (values(x + step * direction) - values(x - step * direction)) / (2 * step)
    own, guided = guide(model(), before), guide(model(), (*before, rule))
    answer = jax.jit(lambda denoise: denoise(x, T))
    shift = (answer(guided).eps - answer(own).eps) / (0.7 * sigma)
    np.testing.assert_allclose(jnp.sum(shift * direction, axis=(1, 2)), slope, rtol=0.03, atol=2e-4)
    assert np.abs(slope).min() > 1e-3
    assert int(guided.evaluations(T)) == 2 + len(before)
    np.testing.assert_allclose(alpha * answer(guided).x0 + sigma * answer(guided).eps, x, rtol=1e-4, atol=1e-4)


def test_it_moves_an_object():
    """The centroid at the end, in a solve of few steps; an image does not depend on its neighbours."""
    times = Given((0.9, 0.7, 0.5, 0.3))

    def draw(scale, number=2):
        rule = SelfGuidance(scale, energy=POSITION, log_snr_max=20.0)
        guided = guide(model().with_condition({"tokens": tokens(2)[:number]}), (rule,))
        return sample(jax.random.key(0), guided, DDIM(), times, (number, POSITIONS, 1)).x

    def distance(x):
        return np.abs(centroid(jnp.mean(read(x, POSITION.reading).maps["cross"][..., 1:2], axis=-1)) - 0.2)

    plain, moved = draw(0.0), draw(5.0)
    assert (distance(moved) < distance(plain) - 1e-3).all()
    np.testing.assert_allclose(draw(5.0, 1)[0], moved[0], rtol=1e-3, atol=1e-4)


def test_layers_of_the_u_net_are_read():
    """Also where blocks are recomputed in the backward pass."""
    network = UNet(8, (1,), 1, (4,), remat="blocks")
    x, label = jnp.ones((2, 4, 4, 1)), jnp.zeros(2)
    params = jax.eval_shape(network.init, jax.random.key(0), x, label)["params"]
    plain = model(False)
    plain = dataclasses.replace(plain, denoiser=dataclasses.replace(plain.denoiser, network=network))
    reading = Reading(("middle_attention",), ("middle_block_0",))

    def loss(params):
        estimate, found = dataclasses.replace(plain, params={"network": params}).read(x, T, reading)
        return jnp.sum(estimate.x0) + jnp.sum(found.maps["middle_attention"] ** 2), found

    found = jax.eval_shape(jax.grad(loss, has_aux=True), params)[1]
    assert found.maps["middle_attention"].shape == (2, 1, 16, 16)
    assert found.features["middle_block_0"].shape == (2, 4, 4, 8)


def test_the_u_net_with_a_condition_of_tokens():
    """Shapes only, for classifier-free guidance before it: the default layer exists, and column 0 is the null token."""
    network = UNet(8, (1, 1), 1, (), conditions={"text": "tokens"})
    denoiser = dataclasses.replace(model().denoiser, network=network)
    condition, x = {"text": tokens(2)}, jnp.ones((2, 8, 8, 1))
    params = jax.eval_shape(denoiser.init, jax.random.key(0), {"x": x}, condition)

    def answers(params):
        plain = denoiser.bind(params, condition)
        rules = (ClassifierFree(2.0), SelfGuidance(1.0))
        return guide(plain, rules)(x, T), plain.read(x, T, Reading(("middle_cross_attention",)))[1]

    estimate, found = jax.eval_shape(answers, params)
    assert estimate.x0.shape == x.shape
    assert found.maps["middle_cross_attention"].shape == (2, 1, 16, 1 + TOKENS)


def test_mistakes():
    with pytest.raises(
        ValueError, match=r"Shape compares an object with a reference, got reference=None; pass reference"
    ):
        guide(model(), (SelfGuidance(1.0, energy=Shape(**OBJECT)),))
    with pytest.raises(
        ValueError, match=r"SelfGuidance needs a denoiser whose network it can read, got ChangedEstimate"
    ):
        guide(model(), (Threshold(1.0), SelfGuidance(1.0, energy=POSITION)))
    for layers, token, message in (
        (("cros",), 1, "layers with attention, got 'cros', which is none. The network has attention, cross, block"),
        (("cross",), 3, r"The object has the tokens \(3,\), and the attention has 3 tokens; count from 0"),
    ):
        energy = dataclasses.replace(POSITION, layers=layers, tokens=(token,))
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(guide(model(), (SelfGuidance(1.0, energy=energy),)), points(), T)
    with pytest.raises(
        ValueError, match=r"A layer has 6 positions, which is no image of the sides \(4,\) made smaller"
    ):
        POSITION(read(points(), POSITION.reading), NONE, (4,))
    with pytest.raises(
        ValueError, match=r"Position needs the tokens of an object, and layers.*got tokens=\(\), layers=\(\)"
    ):
        Position(tokens=())
    with pytest.raises(ValueError, match=r"Appearance needs features, the names of layers whose outputs it compares"):
        Appearance(**OBJECT)
    with pytest.raises(ValueError, match=r"needs energies and as many weights, got 1 energies, weights=\(1.0, 2.0\)"):
        Together(energies=(POSITION,), weights=(1, 2))
