"""Whole guided solves of other libraries, with their noise; and the density that the summed score does not sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising import GaussianMixture
from score_sde.guidance import Autoguidance, ClassifierFree, ClassifierGuidance, compose
from score_sde.sdes import EDM, VP
from score_sde.solvers import DDIM, Ancestral, EDMHeun, FeynmanKac
from score_sde.solvers.grids import Uniform
from tests.guidance.by_class import ByClass, ExactClassifier
from tests.guidance.inverse.golden import Azula, Table, close, states
from tests.guidance.test_exact import opened
from tests.guidance.test_product import weighted


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def by_class(file, mix, sde, label, prefix=None):
    arrays = [jnp.asarray(file[f"{prefix or mix}_mix_{part}"]) for part in ("w", "mu", "sd")]
    return ByClass(sde, *arrays, jnp.asarray(file[f"{mix}/classes"]), {"label": jnp.asarray(label)})


@pytest.mark.usefixtures("double_precision")
def test_edm2_with_churn():
    """Both kinds of guidance at several scales. Noise is added between S_min and S_max only, where the peer draws."""
    file, cases = opened("edm2")
    names = [name for name in cases if name.endswith("_churn")]
    for name in names:
        case, mix = cases[name], name.split("/")[0]
        labels, scale = file[f"{mix}/labels"], case["guidance"]
        good = by_class(file, mix, EDM(), labels)
        if case["pair"] == "cfg":
            denoise = ClassifierFree(scale).wrap(good, {})
        else:
            denoise = Autoguidance(scale, weak=by_class(file, mix, EDM(), labels, f"{mix}_bad")).wrap(good, {})
        number, rho = case["num_steps"], case["rho"]
        ends = case["sigma_max"] ** (1 / rho), case["sigma_min"] ** (1 / rho)
        levels = np.append(np.linspace(*ends, number) ** rho, 0.0)
        left = iter(file[f"{name}/noise"])
        is_noisy = (levels[:-1] >= case["S_min"]) & (levels[:-1] <= case["S_max"])
        start = case["sigma_max"] * file[f"{mix}/z0"]
        draws = [[next(left) if noisy else np.zeros_like(start)] for noisy in is_noisy]
        solver = EDMHeun(*(float(case[part]) for part in ("S_churn", "S_min", "S_max", "S_noise")))
        close(states(solver, denoise, start, levels, draws)[-1], file[f"{name}/final"], 1e-8, name)
    assert len(names) >= 2


@pytest.mark.usefixtures("double_precision")
def test_azulas_classifier_free_solves():
    """Its scale is ours minus 1, and its η is the square of ours."""
    file, cases = opened("azula_cfg")
    names = [name for name in cases if name.startswith("traj/") and cases[name]["schedule"] == "vp"]
    for name in names:
        case, mix = cases[name], name.split("/")[1]
        there = file[f"{name}/states"]
        model = by_class(file, mix, Azula(), np.full(there.shape[1], case["positive"]))
        solver = {"DDIMSampler": DDIM(case.get("eta", 0.0) ** 0.5), "DDPMSampler": Ancestral()}[case["sampler"]]
        denoise = ClassifierFree(1 + case["guidance"]).wrap(model, {})
        found = states(solver, denoise, there[0], file[f"{name}/t"], file[f"{name}/noise"][:, None])
        close(found, there[1:], 1e-8, name)
    assert len(names) >= 2


@pytest.mark.usefixtures("double_precision")
def test_classifier_guided_solves_of_guided_diffusion():
    """DDIM with their condition_score, state by state. x̂0 near t = T has few digits there."""
    file, cases = opened("guided_diffusion")
    names = [name for name in cases if name.startswith("loop/") and cases[name]["sampler"] == "ddim"]
    for name in names:
        case, mix = cases[name], name.split("/")[1]
        squares = file[f"sched/{case['schedule']}_{case['respacing']}/alphas_cumprod"]
        there, label = file[f"{name}/samples"], file[f"{name}/y"]
        number = int(file[f"{mix}/classes"].max()) + 1
        null = by_class(file, mix, Table(jnp.asarray(squares)), np.full(len(label), number))
        rule = ClassifierGuidance(case["classifier_scale"], classifier=ExactClassifier(null, number))
        denoise = rule.wrap(null, {"label": jnp.asarray(label)})
        times = np.arange(len(squares), -1.0, -1.0)
        found = states(DDIM(case["eta"]), denoise, file[f"{name}/z0"], times, file[f"{name}/noise"][:, None])
        close(found, there, 1e-8, name)
    assert len(names) >= 2


def product_at_0(file, case):
    """(a grid of x0, the normalized p(x0 | class)^w p(x0)^(1 − w) there)."""
    weights, means, stds = (file[f"m1_mix_{part}"].reshape(-1, 1) for part in ("w", "mu", "sd"))
    x0 = np.linspace(-8, 8, 8001)[None]
    parts = weights / stds * np.exp(-0.5 * ((x0 - means) / stds) ** 2)
    of_class = parts[file["m1/classes"] == case["cls"]].sum(axis=0)
    density = of_class ** case["w"] * parts.sum(axis=0) ** (1 - case["w"])
    return x0[0], density / density.sum()


def test_the_product_is_not_the_summed_score():
    """The field of classifier-free guidance is the summed score; the diffused product is another, as far off as they say."""
    file, cases = opened("exact")
    names = [name for name in cases if name.startswith("product1d/")]
    for name in names:
        case, x = cases[name], file[f"{name}/x"]
        alpha, sigma = case["alpha"], case["sigma"]
        model = by_class(file, "m1", EDM(), np.full(len(x), case["cls"]))
        t = jnp.full(len(x), sigma / alpha, jnp.float32)
        guided = ClassifierFree(case["w"]).wrap(model, {})
        found = -np.asarray(field(guided, jnp.asarray(x[:, None] / alpha, jnp.float32), t).eps)[:, 0] / sigma
        close(found, file[f"{name}/score_cfg"], 2e-5, name)
        x0, density = product_at_0(file, case)
        kernel = density * np.exp(-0.5 * ((x[:, None] - alpha * x0) / sigma) ** 2)
        denoised = kernel @ x0 / kernel.sum(axis=1)
        exact = file[f"{name}/score_product"]
        close(denoised, file[f"{name}/product_denoise"], 1e-8, name)
        close((alpha * denoised - x) / sigma**2, exact, 1e-8, name)
        np.testing.assert_allclose(np.abs(found - exact).max(), case["max_diff"], rtol=0.05, atol=2e-4)
    assert len(names) >= 4


field = jax.jit(lambda denoise, x, t: denoise(x, t))


@pytest.mark.slow
def test_particles_sample_the_product():
    """A mixture under a scale of 4: the weighted particles have the moments of the product, the summed score has not."""
    file, cases = opened("exact")
    case = next(each for name, each in cases.items() if name.startswith("product1d/") and each["w"] == 4.0)
    x0, density = product_at_0(file, case)
    model = by_class(file, "m1", VP(), np.full(32, case["cls"]))
    times = jnp.asarray(Uniform(200, end=1e-3).times(VP()), jnp.float32)
    found = weighted(ClassifierFree(case["w"]).wrap(model, {}), FeynmanKac(1000), times)
    for values, expected in zip(map(np.asarray, found), (density @ x0, density @ x0**2), strict=True):
        error = values.std() / np.sqrt(len(values))
        assert error < 0.03 and abs(values.mean() - expected) < 4 * error + 0.01


def test_gaussians_of_the_pack():
    """Two Gaussians: the summed score is `compose`'s, the product's mean and variance are the closed form."""
    file, cases = opened("exact")
    mean, std, other_mean, other_std = file["gauss/params"]
    parts = [(mean, std), (other_mean, other_std)]
    models = [GaussianMixture(jnp.ones(1), jnp.full((1, 1), m), jnp.full((1, 1), s)).denoise(EDM()) for m, s in parts]
    names = [name for name in cases if name.startswith("gauss/")]
    for name in names:
        case, x = cases[name], file[f"{name}/x"]
        w, level = case["w"], case.get("sigma", None)
        alpha = case.get("alpha", 1.0)
        precision = w / std**2 + (1 - w) / other_std**2
        product_mean = (w * mean / std**2 + (1 - w) * other_mean / other_std**2) / precision
        np.testing.assert_allclose([product_mean, 1 / precision], [case["prod_mean"], case["prod_var"]], rtol=1e-10)
        guided = compose(models, (w, 1 - w))
        found = field(guided, jnp.asarray(x[:, None] / alpha, jnp.float32), jnp.float32(level / alpha)).eps
        close(-np.asarray(found)[:, 0] / level, file[f"{name}/score_cfg"], 2e-5, name)
        exact = -(x - alpha * product_mean) / (alpha**2 / precision + level**2)
        close(exact, file[f"{name}/score_product"], 1e-9, name)
    assert names
