"""Guided scores of a Gaussian mixture against closed forms, and against other libraries: `tests/golden/guidance`.

At x_t = α x0 + σ ε the estimate is the one of EDM at x_t/α and noise level σ/α, and the score is 1/α times EDM's.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.guidance import Autoguidance, ClassifierFree, ClassifierGuidance
from score_sde.sdes import EDM
from score_sde.solvers import EDMHeun, sample
from score_sde.solvers.grids import EDMRho
from tests.conformance import SDES
from tests.guidance.by_class import ByClass, ExactClassifier
from tests.guidance.test_classifier_free import model, points

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "guidance"


def opened(name):
    file = np.load(GOLDEN / f"{name}.npz")
    return file, json.loads(str(file["__meta__"]))["cases"]


def mixture(file, name, label, bad=False) -> ByClass:
    """Under EDM; the label after the last is all classes."""
    prefix = f"{name}_bad_mix" if bad else f"{name}_mix"
    arrays = [jnp.asarray(file[f"{prefix}_{part}"], jnp.float32) for part in ("w", "mu", "sd")]
    return ByClass(EDM(), *arrays, jnp.asarray(file[f"{name}/classes"]), {"label": jnp.asarray(label)})


def close(found, expected, tolerance, name):
    np.testing.assert_allclose(found, expected, atol=tolerance * (1 + np.abs(expected).max()), err_msg=name)


def pair(rule, denoise, observation, x, t):
    """A call under a rule, as one program."""
    guided = denoise if rule is None else rule.wrap(denoise, observation)
    return jax.jit(lambda guided, x, t: guided(x, t))(guided, x, t)


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["m2", "m64"])
def test_scores_of_classes(kind):
    """The w-guided field of classifier-free guidance, and ∇ log p(class | x_t) as classifier guidance has it.

    All points and noise levels of a class are one batch.
    """
    file, cases = opened("exact")
    names = [name for name in cases if name.startswith(f"point/{kind}/")]
    x = jnp.concatenate([jnp.asarray(file[f"{name}/x"] / cases[name]["alpha"], jnp.float32) for name in names])
    number = len(x) // len(names)
    sigma = np.repeat([cases[name]["sigma"] for name in names], number)
    t = jnp.asarray(np.repeat([cases[name]["sigma"] / cases[name]["alpha"] for name in names], number), jnp.float32)
    for label in range(len(file[f"{kind}/class_prior"])):

        def golden(key, label=label):
            return [file[f"{name}/{key}"][label] for name in names]

        def compare(found, key, tolerance, golden=golden):
            for name, score, expected in zip(names, np.split(np.asarray(found), len(names)), golden(key), strict=True):
                close(score, expected, tolerance, f"{name} {key}")

        denoise = mixture(file, kind, np.full(len(x), label))
        for scale in (0.5, 2.0, 4.0):
            eps = pair(ClassifierFree(scale), denoise, {}, x, t).eps
            compare(-eps / sigma[:, None], f"cfg_score_w{scale}", 1e-4)
        null = denoise.with_condition(denoise.null_condition())
        rule = ClassifierGuidance(1.0, classifier=ExactClassifier(denoise, len(file[f"{kind}/class_prior"])))
        observation = {"label": jnp.full(len(x), label)}
        gradient = pair(None, null, {}, x, t).eps - pair(rule, null, observation, x, t).eps
        compare(gradient / sigma[:, None], "class_grad", 2e-4)


@pytest.mark.parametrize("kind", ["m2", "m64"])
def test_classifier_guidance_as_another_library_has_it(kind):
    """guided-diffusion's condition_score, at two scales. Its condition_mean is a rule of one sampler, and another thing."""
    file, cases = opened("guided_diffusion")
    for scale in (1.0, 4.0):
        steps = {n: case for n, case in cases.items() if n.startswith(f"step/{kind}/")}
        names = [n for n, case in steps.items() if case["classifier_scale"] == scale]
        assert len(names) >= 8
        number = len(file[f"{names[0]}/x"])
        alpha_bar = np.repeat([cases[name]["alpha_bar"] for name in names], number)
        alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        x = jnp.asarray(np.concatenate([file[f"{name}/x"] for name in names]) / alpha[:, None], jnp.float32)
        label = jnp.asarray(np.concatenate([file[f"{name}/y"] for name in names]))
        num_classes = int(file[f"{kind}/classes"].max()) + 1
        null = mixture(file, kind, np.full(len(x), num_classes))
        rule = ClassifierGuidance(scale, classifier=ExactClassifier(null, num_classes))
        found = pair(rule, null, {"label": label}, x, jnp.asarray(sigma / alpha, jnp.float32)).x0
        for i, name in enumerate(names):
            # x̂0 is a difference of numbers σ/α times as large, up to 20,000.
            tolerance = 1e-4 + 2e-6 * sigma[i * number] / alpha[i * number]
            rows = found[i * number : (i + 1) * number]
            close(rows, file[f"{name}/condition_score_pred_xstart"], tolerance, name)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SDES)
def test_an_exact_classifier_makes_the_conditional_model(name):
    """For every SDE, both members of the pair; scale 0 is the unconditional model."""
    sde, label, x = SDES[name], np.array([0, 1, 2, 1]), points(4)
    t = sde.time_of_log_snr(jnp.float32(0.7))
    null = model(np.full(4, 3), sde)
    classifier = ExactClassifier(null, 3)
    expected, unconditional = model(label, sde)(x, t), null(x, t)
    guided = ClassifierGuidance(1.0, classifier=classifier, label=jnp.asarray(label)).wrap(null, {})(x, t)
    nothing = ClassifierGuidance(0.0, classifier=classifier, label=jnp.asarray(label)).wrap(null, {})(x, t)
    for found, value, none, before in zip(guided, expected, nothing, unconditional, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=2e-5)
        np.testing.assert_array_equal(none, before)


def pair_of(file, case, kind):
    """(the guided denoiser of a case, its rule)."""
    labels, scale = file[f"{kind}/labels"], float(case["guidance"])
    everything = np.full(len(labels), int(file[f"{kind}/classes"].max()) + 1)
    label = everything if case["pair"] == "uncond" else labels
    good = mixture(file, kind, label)
    if case["pair"] == "cfg":
        return ClassifierFree(scale).wrap(good, {})
    return Autoguidance(scale, weak=mixture(file, kind, everything, bad=True)).wrap(good, {})


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", ["m2", "m64"])
@pytest.mark.parametrize("pair", ["cfg", "autog", "uncond"])
def test_guided_trajectories_of_edm2(kind, pair):
    """Heun's method from σ = 80 to 0, with classifier-free guidance and with a weak model, at four scales."""
    file, cases = opened("edm2")
    tried = [name for name in cases if name.startswith(f"{kind}/{pair}_") and "S_churn" not in cases[name]]
    assert len(tried) >= 4
    for name in tried:
        case = cases[name]
        x = jnp.asarray(80.0 * file[f"{kind}/z0"], jnp.float32)
        grid = EDMRho(case["num_steps"], 80.0, 0.002, float(case["rho"]), to_zero=True)
        found = sample(jax.random.key(0), pair_of(file, case, kind), EDMHeun(), grid, x.shape, x_start=x).x
        # A scale of 3 in 64 dimensions makes float32's rounding ten times as large.
        close(found, file[f"{name}/final"], 2e-3 if (kind, case["guidance"]) == ("m64", 3.0) else 2e-4, name)
