"""The learned density is compared with the right density: with labels, with that of the component of the label."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import density2d
from experiments.results import run_density
from score_sde import plots
from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.evaluation.density import numbers
from score_sde.internal.broadcast import expand_like
from score_sde.trained import load
from tests.evaluation.evaluated import save

WEIGHTS = (0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Three Gaussians of unequal weights, with the component as label."""
    config = density2d.get_config("gaussian_mixture")
    for data in (config.data.train, config.data.eval):
        data.update({"labels": True, "means": ((-1.5, 0.0), (0.0, 1.5), (1.5, 0.0)), "std": 0.3, "num_examples": 240})
        data.mode_weights = WEIGHTS
    config.network.update({"width": 16, "depth": 1})
    config.training.update({"batch_size": 32, "eval_batch_size": 64})
    config.likelihood.update({"rtol": 1e-4, "atol": 1e-4})
    config.sampling.grid.num_steps = 30
    folder = tmp_path_factory.mktemp("labels")
    save(config, folder)
    return folder


def exact(sde, mean, x, t):
    """E[x0 | x] of N(mean, 0.3²), and the ε̂ that belongs to it."""
    alpha, sigma = (expand_like(v, x) for v in (sde.alpha(t), sde.sigma(t)))
    x0 = (mean * sigma**2 + 0.09 * alpha * x) / (0.09 * alpha**2 + sigma**2)
    return Estimate(x0, (x - alpha * x0) / sigma)


@pytest.mark.few(1)
@pytest.mark.parametrize("label", [None, 1])
def test_an_exact_model_of_each_component_is_exact(workdir, monkeypatch, label, capsys):
    """KL 0, and samples as probable as held-out points; the picture has one density twice, as often as labels are drawn."""
    drawn = []

    def bind(self, params, condition=None, weight=None):
        means = jnp.asarray([[-1.5, 0.0], [0.0, 1.5], [1.5, 0.0]], jnp.float32)[condition["label"]]
        return FunctionDenoiser(self.sde, jax.tree_util.Partial(functools.partial(exact, self.sde), means))

    monkeypatch.setattr(Denoiser, "bind", bind)
    monkeypatch.setattr(plots, "density_plot", lambda samples, path, **panels: drawn.append((samples, panels)))
    overrides = [f"sampling.label={label}", "mesh.num_devices=1"]
    result = run_density(load(workdir, overrides=overrides), num_samples=600, resolution=12)
    assert abs(result["kl"]) < 2e-3 and result["held_out_exact"] == pytest.approx(-0.43, abs=0.3)
    assert abs(result["samples_exact"] - result["held_out_exact"]) < 0.3 and result["samples_outside_support"] == 0
    assert "the density of the component that the label names" in capsys.readouterr().out
    ((samples, panels),) = drawn
    np.testing.assert_allclose(panels["learned_density"], panels["true_density"], rtol=0.05, atol=1e-4)
    assert panels["true_density"].max() > (1.5 if label else 0.45) and len(samples) == 600


def test_the_numbers_by_hand():
    """Differences of 1, 3, 1 and 3: their mean is 2 and its error √1/√4. Samples outside of the support are in no mean."""
    exact = np.array([-1.0, 0.0, -2.0, 1.0])
    found = numbers(exact - np.array([1.0, 3.0, 1.0, 3.0]), exact, np.array([-1.0, -np.inf, -4.0, -np.inf, -np.inf]))
    assert found == {
        "held_out_learned": -2.5,
        "held_out_exact": -0.5,
        "kl": 2.0,
        "kl_standard_error": 0.5,
        "samples_exact": -2.5,
        "samples_outside_support": pytest.approx(0.6),
    }
