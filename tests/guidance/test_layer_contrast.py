"""Guidance by changed layers, against networks that are changed by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.guidance import APG, ClassifierFree, PerturbedAttention, SkipLayer, Threshold, guide
from score_sde.guidance.beside import Ask, beside
from score_sde.internal.layers import Change
from score_sde.networks import UNet
from score_sde.sdes import VP
from score_sde.solvers import DDIM, sample
from score_sde.solvers.grids import Given
from tests.guidance.layered import counting, model, points
from tests.guidance.test_classifier_free import Seen
from tests.solvers.test_sample import compilations

T = jnp.float32(0.4)
KINDS = {
    "perturbed_attention": (PerturbedAttention(3.0, layers=("attention",)), {"identity": True}),
    "skip_layer": (SkipLayer(2.5, layers="block"), {"skip": True}),
}
KIND = pytest.mark.parametrize("name", KINDS)


@jax.jit
def answer(guided, x):
    return guided(x, T)


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def plus(estimate, *terms):
    """estimate + Σ weight · (estimate a − estimate b)."""
    moved = [sum(w * (a[i] - b[i]) for w, a, b in terms) + estimate[i] for i in range(2)]
    return type(estimate)(*moved)


@KIND
@pytest.mark.parametrize("condition", [True, False])
def test_it_moves_away_from_the_changed_network(name, condition):
    rule, by_hand = KINDS[name]
    x, plain = points(), model(condition)
    changed = model(condition, **by_hand)
    guided = guide(plain, (rule,))
    assert np.abs(answer(plain, x).x0 - answer(changed, x).x0).max() > 0.1
    close(answer(guided, x), plus(answer(plain, x), (rule.scale - 1, answer(plain, x), answer(changed, x))))
    assert int(guided.evaluations(T)) == 2
    np.testing.assert_allclose(
        guide(plain, (dataclasses.replace(rule, scale=1.0),))(x, T).x0, answer(plain, x).x0, rtol=1e-6
    )


def test_it_combines_with_classifier_free_guidance_and_with_each_other():
    """All rules share the plain answer, in one batched call; an interval of each leaves out its own rows."""
    x, plain = points(), model()
    null = plain.with_condition(plain.null_condition())
    (first, by_first), (second, by_second) = KINDS.values()
    log_snr = float(VP().log_snr(T))
    terms = {
        "free": (0.5, answer(plain, x), answer(null, x)),
        "first": (2.0, answer(plain, x), answer(model(**by_first), x)),
        "second": (1.5, answer(plain, x), answer(model(**by_second), x)),
    }
    rules = {"free": ClassifierFree(1.5), "first": first, "second": second}
    for outside in ((), ("free",), ("first",), ("second", "free"), tuple(rules)):
        limited = {
            name: dataclasses.replace(rule, log_snr_min=log_snr + (1 if name in outside else -1))
            for name, rule in rules.items()
        }
        guided = guide(plain, tuple(limited.values()))
        close(answer(guided, x), plus(answer(plain, x), *(terms[name] for name in rules if name not in outside)))
        assert int(guided.evaluations(T)) == 4 - len(outside)


def test_each_row_is_computed_once():
    """Counted as the network runs, also under jit: 3 rows for an image inside of both intervals, 1 outside."""
    seen = Seen()
    sde = VP()
    times = np.asarray(sde.time_of_log_snr(jnp.array([-6.0, -3.0, 0.0, 3.0, 6.0])), np.float32)
    rules = (ClassifierFree(2.0, log_snr_min=-4.0), PerturbedAttention(2.0, log_snr_max=-1.0, layers=("attention",)))
    samples = sample(jax.random.key(0), guide(counting(seen), rules), DDIM(), Given(times), (2, 6, 1))
    jax.effects_barrier()
    assert seen == [4, 6, 4, 4]
    assert samples.nfe.tolist() == [9, 9] and np.isfinite(samples.x).all()


def test_another_scale_compiles_nothing():
    def draw(scale):
        rule = PerturbedAttention(scale, log_snr_min=-scale, layers=("attention",))
        return sample(jax.random.key(0), guide(model(), (rule,)), DDIM(), Given((0.9, 0.5, 0.2)), (2, 6, 1)).x

    before = draw(2.0)
    with compilations() as seen:
        after = draw(4.0)
    assert not seen and np.abs(before - after).max() > 1e-3


def test_layers_of_the_u_net():
    """By their names in the tree of the parameters, also where blocks are recomputed; a skipped layer gives its input."""
    network = UNet(8, (1,), 1, (4,), remat="blocks")
    x, label = jnp.ones((2, 4, 4, 1)), jnp.zeros(2)
    params = jax.eval_shape(network.init, jax.random.key(0), x, label)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)
    plain = dataclasses.replace(model(False), params={"network": params})
    plain = dataclasses.replace(plain, denoiser=dataclasses.replace(plain.denoiser, network=network))
    changes = (Change("identity_map", ("middle_attention",)), Change("skip", ("middle_attention", "middle_block_0")))
    answers = jax.jit(lambda x: beside(plain, x, T, Ask(changes)))(x)
    values = [each.x0 for each in (answers.plain, *answers.changed)]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in ((values[0], values[1]), (values[0], values[2]), values[1:]))
    close(answers.plain, answer(plain, x))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (PerturbedAttention(2.0), "needs the names of layers with attention, got none.*has attention, block."),
        (
            PerturbedAttention(2.0, layers=("middle",)),
            "names of layers with attention, got 'middle', which is none.*has attention, block.",
        ),
        (PerturbedAttention(2.0, layers=("cross",)), "'cross/map' is not attention from an array to itself"),
        (
            SkipLayer(2.0, layers=("blok", "block")),
            "layers to skip, got 'blok', which is none.*has attention, cross, block.",
        ),
        (SkipLayer(2.0, layers=("input",)), "'input' is not a layer whose output is like its input"),
    ],
)
def test_a_name_that_is_no_such_layer(rule, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        jax.eval_shape(guide(model(), (rule,)), points(), T)


def test_mistakes():
    rule = SkipLayer(2.0, layers=("block",))
    with pytest.raises(
        ValueError, match=r"SkipLayer needs a denoiser whose layers it can change, got FunctionDenoiser"
    ):
        guide(FunctionDenoiser(VP(), lambda x, t: None), (rule,))
    with pytest.raises(
        ValueError, match=r"got ChangedEstimate; put it first in the list of guidance, or directly after"
    ):
        guide(model(), (Threshold(1.0), rule))
    assert guide(model(), (APG(2.0), rule, Threshold(1.0))).evaluations(T) == 3
