"""Methods for inverse problems by their names in `sampling.guidance`: what is built, what is drawn, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from score_sde.catalogues import CATALOGUES
from score_sde.config import apply_overrides
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.experiment import Experiment
from score_sde.guidance import guide
from score_sde.guidance import inverse as inv
from score_sde.guidance import operators as ops
from score_sde.sdes import VP
from score_sde.solvers import DDIM, Restart, grids, sample
from tests.solvers.test_sample import compilations

SMALL = "'operator': {'name': 'block_average', 'factor': 2}, 'noise_std': 0.1"


def experiment(*written):
    config = quickstart.get_config()
    config.network.update({"channels": 8, "channel_multipliers": (1,), "attention_resolutions": ()})
    config.mesh.num_devices = 1
    written = (*written, "sampling.grid.num_steps=3", "sampling.label=3")
    apply_overrides(config, [tuple(each.split("=", 1)) for each in written], CATALOGUES)
    return Experiment(config)


@pytest.mark.parametrize("name", inv.METHODS)
def test_a_name_alone_is_a_method(name):
    """The same as the library's with an operator; the solver is the config's where the method has none."""
    made = experiment(f"sampling.guidance={name}")
    operator = ops.BlockAverage(2)
    bound = made.restoration.measuring(operator, 0.0 if name == "ddnm" else 0.1)
    if name in inv.POSTERIORS:
        assert bound.rule() == inv.POSTERIORS[name](operator, bound.noise_std)
    else:
        assert bound.rule() == inv.Measured(operator, 0.1)
    own = {"repaint": Restart(inv.Replacement()), "ddnm": inv.Renoise(), "diffpir": inv.Renoise(0.3**0.5)}
    plain, _ = made.plain_how()
    expected = own.get(name) or (inv.RESTORERS[name]() if name in inv.RESTORERS else plain)
    assert made.solver == expected and isinstance(made.grid, grids.Jumps) == (name == "repaint")


def test_fields_operator_and_noise_stand_in_the_section():
    written = f"{{'name': 'dps', 'scale': 0.5, 'solver': {{'name': 'ddim', 'eta': 0.3}}, {SMALL}}}"
    made = experiment(f"sampling.guidance=['classifier_free', {written}]", "sampling.guidance.1.scale=0.7")
    assert made.solver == inv.DPS(DDIM(0.3), 0.7)
    assert made.restoration.rule() == inv.Measured(ops.BlockAverage(2), 0.1)
    assert [type(rule).__name__ for rule in made.guidance] == ["ClassifierFree", "Restoration"]


PRIOR = GaussianMixture(jnp.ones(1), jnp.zeros((1, 8, 8, 1)), jnp.full((1, 8, 8, 1), 0.7))


class Exact:
    """In place of a network: the exact model of `PRIOR`."""

    def bind(self, params, condition):
        return PRIOR.denoise(VP())


def drawn(scale, noise_std=0.1):
    operator = "{'name': 'block_average', 'factor': 2}"
    section = f"{{'name': 'dps', 'scale': {scale}, 'operator': {operator}, 'noise_std': {noise_std}}}"
    made = experiment(f"sampling.guidance={section}")
    generator = made.generator._replace(denoiser=Exact(), place=lambda params: params)
    return made, generator(jax.random.key(0), {}, 4).x


def test_held_out_images_are_measured_and_drawn():
    """The samples are those that the library draws from the same y; another scale or noise compiles nothing."""
    made, x = drawn(0.5)
    y = made.sampling_condition.observation(0, 4)["y"]
    held_out = made.eval_batches(1)
    threes = np.flatnonzero(held_out.at(np.arange(60))["condition"]["label"] == 3)[:4]
    clean = ops.BlockAverage(2)(jnp.asarray(held_out.at(threes)["x"]))
    assert y.shape == (4, 4, 4, 1) and 0.05 < float(jnp.std(y - clean)) < 0.15
    np.testing.assert_array_equal(made.sampling_condition.observation(2, 2)["y"], y[2:])
    denoise = guide(PRIOR.denoise(VP()), (inv.Measured(ops.BlockAverage(2), 0.1),), {"y": y})
    expected = sample(jax.random.key(0), denoise, inv.DPS(scale=0.5), made.grid, (4, 8, 8, 1)).x
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)
    with compilations() as seen:
        _, other = drawn(0.7, 0.2)
    assert not seen and not np.allclose(other, x)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("dps", "dps needs an operator, as in .*; or use score-sde restore, whose flags give it"),
        (f"{{'name': 'tds', {SMALL}}}", "tds draws all images of one measurement together; use score-sde restore"),
        (
            f"[{{'name': 'dps', {SMALL}}}, 'classifier_free']",
            "needs to be the last rule, got sampling.guidance=.*put it last",
        ),
        ("{'name': 'dps', 'scal': 1.0}", "unknown field 'scal'.*Did you mean 'scale'"),
        ("{'name': 'ddmr'}", "Did you mean 'ddrm'"),
        ("{'name': 'mmps', 'max_steps': 0}", "MMPS needs max_steps >= 1"),
        ("{'name': 'pigdm', 'operator': {'name': 'jpeg'}}", "pigdm needs a linear operator, got Jpeg; use dps"),
        ("{'name': 'pigdm', 'operator': {'name': 'blocks'}}", "operator.name needs one of .*got 'blocks'"),
        ("{'name': 'ddnm', 'noise_std': 0.1}", "DDNM needs noise_std = 0, got noise_std=0.1"),
    ],
)
def test_mistakes_before_any_work(section, message):
    with pytest.raises(ValueError, match=message):
        _ = experiment(f"sampling.guidance={section}").generator
