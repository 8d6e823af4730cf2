"""Guidance against diffusers' guiders, on recorded predictions: `tests/golden/guidance/diffusers_guiders.npz`.

diffusers has 1 + w where `use_original_formulation` is set. Its APG is then the paper's; otherwise it is
uncond + w · update, where the paper has cond + (w − 1) · update, so that its numbers are brought to the paper's form here.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.memory import remembering
from score_sde.guidance import APG, CFGZeroStar, ClassifierFree
from tests.guidance.answers import Answers

FILE = np.load(pathlib.Path(__file__).parents[1] / "golden" / "guidance" / "diffusers_guiders.npz")
CASES = json.loads(str(FILE["__meta__"]))["cases"]


def answers(case, predicts, negative="uncond") -> Answers:
    inputs = [FILE[f"in/{case['shape']}/pred_{name}"] for name in ("cond", negative)]
    number = inputs[0].shape[1]
    condition = {"label": jnp.zeros(number, jnp.int32), "image": jnp.arange(number)}
    return Answers(jnp.stack(inputs), condition, predicts)


def interval(times, guided):
    """log_snr_min and log_snr_max between the times that are guided and the others."""
    log_snr = np.asarray(Answers.sde.fget(None).log_snr(times))
    inside = np.flatnonzero(guided)
    edges = np.concatenate([[-np.inf], (log_snr[1:] + log_snr[:-1]) / 2, [np.inf]])
    low, high = float(edges[inside[0]]), float(edges[inside[-1] + 1])
    return {} if np.all(guided) else {"log_snr_min": low, "log_snr_max": high}


def scale_of(case):
    return case["guidance_scale"] + (1 if case.get("use_original_formulation") else 0)


@jax.jit
def predictions(guided, model, x):
    """What a network would have said, step by step."""
    guided = remembering(guided, x)

    def step(_, t):
        estimate = guided(x, t)
        value = {"flow": estimate.eps - estimate.x0, "x0": estimate.x0, "eps": estimate.eps}[model.predicts]
        return _, (value, guided.evaluations(t))

    return jax.lax.scan(step, 0, model.times())[1]


def check(name, rule, predicts, expected=None, start=0):
    """Both the predictions and the number of evaluations."""
    case, golden = CASES[name], FILE[f"{name}/num_conditions"]
    model = answers(case, predicts)
    x = jnp.asarray(np.random.default_rng(1).normal(size=model.table.shape[2:]), jnp.float32)
    found, evaluations = predictions(rule.wrap(model, {}), model, x)
    expected = FILE[f"{name}/pred"] if expected is None else expected
    np.testing.assert_allclose(
        found[start:], expected[start:], atol=2e-5 * np.abs(expected[start:]).max(), err_msg=name
    )
    return evaluations, golden


def of_kind(kind):
    return [name for name in CASES if name.startswith(f"{kind}/")]


def settings(name, predicts="flow"):
    case = CASES[name]
    guided = FILE[f"{name}/num_conditions"] > 1
    limits = {} if not np.any(guided) else interval(answers(case, "flow").times()[: len(guided)], guided)
    rescale = case.get("guidance_rescale")
    return {"scale": scale_of(case), "rescale": rescale, "rescale_of": predicts, **limits}


def test_classifier_free():
    """Scales, both formulations, rescaling and intervals, which count evaluations too."""
    for name in of_kind("cfg"):
        if name == "cfg/disabled" or scale_of(CASES[name]) == 1:
            continue
        evaluations, golden = check(name, ClassifierFree(**settings(name)), "flow")
        assert evaluations.tolist() == golden.tolist(), name


@pytest.mark.parametrize("name", [name for name in of_kind("apg") if "guidance_rescale" not in CASES[name]])
def test_apg(name):
    """After `guidance_rescale` diffusers' own form cannot be taken back, so that case is left out."""
    case, scale = CASES[name], scale_of(CASES[name])
    axes = case.get("adaptive_projected_guidance_norm_dim")
    axes = None if axes is None else tuple(axis - 1 for axis in ([axes] if isinstance(axes, int) else axes))
    momentum = case["adaptive_projected_guidance_momentum"]
    threshold = case["adaptive_projected_guidance_rescale"] or None  # where 0 is none
    given = settings(name) | {"rescale": None}
    rule = APG(**given, eta=case["eta"], momentum=momentum, norm_threshold=threshold, axes=axes)
    conditional, null = (FILE[f"in/{case['shape']}/pred_{which}"] for which in ("cond", "uncond"))
    expected = FILE[f"{name}/pred"]
    if not case.get("use_original_formulation"):
        guided = (FILE[f"{name}/num_conditions"] > 1).reshape(-1, 1, 1, 1, 1)
        expected = np.where(guided, conditional + (scale - 1) / scale * (expected - null), expected)
    evaluations, golden = check(name, rule, "x0", expected)
    assert evaluations.tolist() == golden.tolist()


@pytest.mark.parametrize("momentum", [None, -0.5, -0.75])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_apg_as_its_paper_has_it(momentum, eta):
    """Algorithm 1 with w = 3 and r = 2.5, written in numpy on the same predictions."""
    expected = FILE[f"own/apg_paper_mom{momentum}_eta{eta}_thr2.5/pred"]
    check("apg/thr2.5_orig1", APG(3.0, eta=eta, momentum=momentum, norm_threshold=2.5), "x0", expected)


def test_cfg_zero_star():
    """Its zero steps are the first of the grid: here those with a log-SNR below a bound."""
    for name in of_kind("zero_star"):
        case = CASES[name]
        zero = case["zero_init_steps"]
        model = answers(case, "flow")
        log_snr = np.asarray(model.sde.log_snr(model.times()))
        below = float((log_snr[zero] + log_snr[zero - 1]) / 2) if zero else None
        rule = CFGZeroStar(**settings(name), zero_below=below)
        # At its zero steps the peer's rescaling divides by a standard deviation of 0.
        check(name, rule, "flow", start=zero if "guidance_rescale" in case else 0)
