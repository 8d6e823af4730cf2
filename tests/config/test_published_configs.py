"""configs/cifar10: the facts of the published runs whose numbers their docstrings state, read from what each config builds.

From yang-song/score_sde at 0acb9e0 (configs/, losses.py, sampling.py, run_lib.py) and NVlabs/edm at 008a4e5 (train.py,
training/, generate.py). What still differs stands in the configs' docstrings.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.experiment import Experiment
from score_sde.sdes import EDM, VE, VP, SubVP
from score_sde.solvers import sample
from score_sde.tools.plan import Blank
from score_sde.training.averages import ema_decay

RUNS = [
    (name, variant)
    for name in ("ddpmpp_vp", "ddpmpp_sub_vp", "ncsnpp_ve", "edm_ddpmpp")
    for variant in ("", "cond" if name == "edm_ddpmpp" else "deep")
]
OF_2021 = [run for run in RUNS if run[0] != "edm_ddpmpp"]
GREY = 127.5  # levels of 8 bits in one unit of x


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def experiment(name, variant):
    """With data of the right shape, which need not be here."""
    config = importlib.import_module(f"score_sde.configs.cifar10.{name}").get_config(variant)
    assert config.data.train.get("label_key") == ("label" if variant == "cond" else None)
    built = Experiment(config)
    vars(built)["train_source"] = Blank((32, 32, 3), 10 if variant == "cond" else None)
    return built


@pytest.mark.few(3)
@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_the_last_step_leaves_no_noise(name, variant):
    """On a point mass, on which the 2021 runs without it kept 1.3 grey levels; and as many evaluations as published."""
    run = experiment(name, variant)
    point = GaussianMixture(jnp.ones(1), jnp.full((1, 4), 0.3), jnp.zeros((1, 4)))
    samples = sample(jax.random.key(0), point.denoise(run.sde), run.solver, run.grid, (16, 4))
    assert float(jnp.abs(samples.x - 0.3).max()) * GREY < 0.01
    expected = {"ncsnpp_ve": 2000, "edm_ddpmpp": 35}.get(name, 1000)
    np.testing.assert_array_equal(samples.nfe, expected)


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_times_at_which_the_network_is_asked(name, variant):
    run = experiment(name, variant)
    end = 1e-5 if name == "ncsnpp_ve" else 1e-3  # sampling_eps of run_lib.py
    steps = np.arange(18)
    karras = (80 ** (1 / 7) + steps / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    expected = karras if name == "edm_ddpmpp" else np.linspace(1, end, 1000)
    np.testing.assert_allclose(run.grid.times(run.sde), [*expected, 0.0], rtol=1e-5, atol=1e-9)


def test_processes():
    assert experiment("ddpmpp_vp", "").sde == VP(0.1, 20.0)
    assert experiment("ddpmpp_sub_vp", "").sde == SubVP(0.1, 20.0)
    assert experiment("edm_ddpmpp", "").sde == EDM(80.0)
    # In [0, 1], theirs has σ from 0.01 to 50; σ/α has no other end.
    assert experiment("ncsnpp_ve", "").sde == VE(2 * 0.01, 2 * 50.0)


def test_ncsnpp_in_minus_one_to_one_is_the_published_one_in_zero_to_one():
    """x = 2y − 1: the same inputs of the network, the same label, and a score of x that is half of the score of y."""
    run, rng = experiment("ncsnpp_ve", ""), np.random.default_rng(0)
    t = jnp.asarray(rng.uniform(1e-5, 1, 5), jnp.float32)
    y, eps, output = (jnp.asarray(rng.uniform(size=(5, 3)), jnp.float32) for _ in range(3))
    sigma_y = (0.01 * 5000.0**t)[:, None]
    x = run.sde.alpha(t)[:, None] * (2 * y - 1) + run.sde.sigma(t)[:, None] * eps
    c_in, label = run.parameterization.inputs(run.sde, t)
    np.testing.assert_allclose(c_in[:, None] * x, 2 * (y + sigma_y * eps) - 1, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(label, jnp.log(sigma_y)[:, 0], atol=1e-5)
    score_x = -run.parameterization.decode(output, x, t, run.sde).eps / run.sde.sigma(t)[:, None]
    np.testing.assert_allclose(2 * score_x, output / sigma_y, rtol=1e-5)


@pytest.mark.few(3)
@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_losses(name, variant):
    """Of a denoiser whose ε̂ is off by 0.1, per image of 3072 numbers: the published loss, NCSN++'s up to its half."""
    run = experiment(name, variant)
    batch = {"x": jnp.zeros((64, 32, 32, 3))}
    draws = run.objective.draw(jax.random.key(0), batch)
    alpha, sigma = (value[:, None, None, None] for value in run.sde.marginal(draws["t"]))

    def off(x, t):
        eps = draws["eps"] + 0.1
        return Estimate((x - sigma * eps) / alpha, eps)

    losses, _ = run.objective.losses(FunctionDenoiser(run.sde, off), batch, draws)
    ratio = np.asarray(sigma / alpha).ravel()
    published = {
        "ncsnpp_ve": 2 * (0.5 * 3072 * 0.01),
        "edm_ddpmpp": 3072 * (ratio**2 + 0.25) / (ratio * 0.5) ** 2 * (ratio * 0.1) ** 2,
    }.get(name, 0.01)
    np.testing.assert_allclose(losses, np.broadcast_to(published, 64), rtol=2e-3)


def test_noise_levels_of_the_losses():
    for name, variant in OF_2021:
        t = experiment(name, variant).objective.draw(jax.random.key(1), {"x": jnp.zeros((20_000, 1))})["t"]
        assert t.min() >= 1e-5 and t.max() <= 1 and abs(t.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 20_000)
    log_sigma = jnp.log(
        experiment("edm_ddpmpp", "").objective.draw(jax.random.key(1), {"x": jnp.zeros((20_000, 1))})["t"]
    )
    assert abs(log_sigma.mean() + 1.2) < 5 * 1.2 / np.sqrt(20_000) and abs(log_sigma.std() - 1.2) < 0.04


@pytest.mark.few(3)
@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_updates(name, variant):
    """Adam with a warm-up; the norm of a gradient is clipped at 1, NCSN++'s at 2 for twice the loss, EDM's not at all."""
    run = experiment(name, variant)
    params = {"kernel": jnp.ones((2, 2))}
    gradient = {"kernel": jnp.full((2, 2), 50.0)}  # norm 100
    state = run.optimizer.init(params)
    updates, state = run.optimizer.update(gradient, state, params)
    (first,) = (s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s))
    clipped = {"edm_ddpmpp": 100.0, "ncsnpp_ve": 2.0}.get(name, 1.0)
    np.testing.assert_allclose(optax.tree.norm(first.mu), 0.1 * clipped, rtol=1e-5)  # β₁ = 0.9
    np.testing.assert_allclose(optax.tree.norm(first.nu), 0.001 * 2 * (clipped / 2) ** 2, rtol=1e-4)  # β₂ = 0.999
    rate, warmup = (1e-3, 10e6 / 512) if name == "edm_ddpmpp" else (2e-4, 5000)
    np.testing.assert_allclose(updates["kernel"], -rate / warmup, rtol=1e-4)
    np.testing.assert_allclose(run.optimizer.schedule(jnp.asarray(10**6)), rate)


def _is_adam(state):
    return isinstance(state, optax.ScaleByAdamState)


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_lengths_averages_and_networks(name, variant):
    run = experiment(name, variant)
    (half_life,), ratio = run.config.ema.half_lives_kimg, run.config.ema.rampup_ratio
    batch = run.config.training.batch_size
    decays = [ema_decay(jnp.asarray(step), batch, half_life, ratio) for step in (1, 1000, 10**6)]
    if name == "edm_ddpmpp":
        expected = [0.5 ** (512 / min(500_000, 0.05 * 512 * step)) for step in (1, 1000, 10**6)]
    else:
        expected = [0.999 if name == "ncsnpp_ve" else 0.9999] * 3
    np.testing.assert_allclose(1 - np.array(decays), 1 - np.array(expected), rtol=1e-3)
    images = {"": 1_300_000 * 128, "deep": 950_000 * 128}[variant] if name != "edm_ddpmpp" else 200e6
    assert run.config.training.num_steps * batch == images
    network = run.denoiser.network
    assert network.channels == 128 and network.skip_rescale and network.resample_by == "block"
    assert network.channel_multipliers == ((2, 2, 2) if name == "edm_ddpmpp" else (1, 2, 2, 2))
    assert network.blocks_per_level == (8 if variant == "deep" else 4) and network.attention_resolutions == (16,)
    assert network.dropout == (0.13 if name == "edm_ddpmpp" else 0.1)
    fir = (1, 3, 3, 1) if name == "ncsnpp_ve" else (1, 1)
    assert network.resample_taps == fir and network.fourier_scale == 16
    wanted = ("residual", "fourier") if name == "ncsnpp_ve" else ("none", "sinusoidal")
    assert (network.progressive_input, network.noise_embedding) == wanted and network.progressive_output == "none"
    assert network.num_classes == (10 if variant == "cond" else 0)
    assert run.config.data.augment.random_flip and not run.config.data.augment.dequantize


@pytest.mark.parametrize(("name", "variant"), OF_2021)
def test_likelihoods_of_2021(name, variant):
    """RK45's tolerances, the time from which it solves, five dequantizations of the test set."""
    section = experiment(name, variant).config.likelihood
    assert (section.t_min, section.rtol, section.atol, section.num_repeats) == (1e-5, 1e-5, 1e-5, 5)
    assert section.divergence.to_dict() == {"name": "hutchinson", "num_probes": 1, "kind": "rademacher"}


def test_labels_told_to_the_networks():
    t = jnp.array([0.1, 0.7])
    for name in ("ddpmpp_vp", "ddpmpp_sub_vp"):
        run = experiment(name, "")
        np.testing.assert_allclose(run.parameterization.inputs(run.sde, t)[1], 999 * t, rtol=1e-6)
    run = experiment("edm_ddpmpp", "")
    np.testing.assert_allclose(run.parameterization.inputs(run.sde, t)[1], np.log(t) / 4, rtol=1e-5)
