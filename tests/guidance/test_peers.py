"""Guidance against diffusers' guiders, on recorded predictions: `tests/golden/guidance/diffusers_guiders.npz`.

diffusers has 1 + w where `use_original_formulation` is set. Its APG is then the paper's; otherwise it is
uncond + w · update, where the paper has cond + (w − 1) · update, so that its numbers are brought to the paper's form here.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.memory import remembering
from score_sde.guidance import (
    APG,
    Autoguidance,
    CFGZeroStar,
    ClassifierFree,
    FrequencyDecoupled,
    MagnitudeAware,
    PerturbedAttention,
    SkipLayer,
    Tangential,
    guide,
)
from score_sde.internal.layers import Change
from tests.guidance.answers import Answers

FILE = np.load(pathlib.Path(__file__).parents[1] / "golden" / "guidance" / "diffusers_guiders.npz")
CASES = json.loads(str(FILE["__meta__"]))["cases"]


def answers(case, predicts, channels_last=False) -> Answers:
    """The rows of the table are the predictions of a network: with a condition, without, and changed in two ways."""
    names = [f"in/{case['shape']}/pred_{name}" for name in ("cond", "uncond", "skip", "modality")]
    inputs = [FILE[name] for name in names if name in FILE]
    inputs = [np.moveaxis(values, 2, -1) for values in inputs] if channels_last else inputs
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


def check(name, rule, predicts, expected=None, start=0, stop=None, channels_last=False):
    """Both the predictions and the number of evaluations."""
    case, golden = CASES[name], FILE[f"{name}/num_conditions"]
    model = answers(case, predicts, channels_last)
    x = jnp.asarray(np.random.default_rng(1).normal(size=model.table.shape[2:]), jnp.float32)
    found, evaluations = predictions(guide(model, rule if isinstance(rule, tuple) else (rule,)), model, x)
    expected = FILE[f"{name}/pred"] if expected is None else expected
    expected = np.moveaxis(expected, 2, -1) if channels_last else expected
    np.testing.assert_allclose(
        found[start:stop], expected[start:stop], atol=2e-5 * np.abs(expected[start:]).max(), err_msg=name
    )
    return evaluations, golden


def of_kind(kind):
    return [name for name in CASES if name.startswith(f"{kind}/")]


def limits_of(name, more_than=1):
    """The interval of the steps with more than this number of evaluations."""
    guided = FILE[f"{name}/num_conditions"] > more_than
    return {} if not np.any(guided) else interval(answers(CASES[name], "flow").times()[: len(guided)], guided)


def settings(name, predicts="flow"):
    case, limits = CASES[name], limits_of(name)
    rescale = case.get("guidance_rescale")
    return {"scale": scale_of(case), "rescale": rescale, "rescale_of": predicts, **limits}


def test_classifier_free():
    """Scales, both formulations, rescaling and intervals, which count evaluations too."""
    for name in of_kind("cfg"):
        if name == "cfg/disabled" or scale_of(CASES[name]) == 1:
            continue
        evaluations, golden = check(name, ClassifierFree(**settings(name)), "flow")
        assert evaluations.tolist() == golden.tolist(), name


def papers_apg(name, scale):
    """The peer's numbers in the paper's form."""
    conditional, null = (FILE[f"in/{CASES[name]['shape']}/pred_{which}"] for which in ("cond", "uncond"))
    guided = (FILE[f"{name}/num_conditions"] > 1).reshape(-1, 1, 1, 1, 1)
    expected = FILE[f"{name}/pred"]
    return np.where(guided, conditional + (scale - 1) / scale * (expected - null), expected)


@pytest.mark.few(7)
@pytest.mark.parametrize("name", [name for name in of_kind("apg") if "guidance_rescale" not in CASES[name]])
def test_apg(name):
    """`test_apg_rescaled` has the case with `guidance_rescale`."""
    case, scale = CASES[name], scale_of(CASES[name])
    axes = case.get("adaptive_projected_guidance_norm_dim")
    axes = None if axes is None else tuple(axis - 1 for axis in ([axes] if isinstance(axes, int) else axes))
    momentum = case["adaptive_projected_guidance_momentum"]
    threshold = case["adaptive_projected_guidance_rescale"] or None  # where 0 is none
    given = settings(name) | {"rescale": None}
    rule = APG(**given, eta=case["eta"], momentum=momentum, norm_threshold=threshold, axes=axes)
    expected = FILE[f"{name}/pred"] if case.get("use_original_formulation") else papers_apg(name, scale)
    evaluations, golden = check(name, rule, "x0", expected)
    assert evaluations.tolist() == golden.tolist()


def test_apg_rescaled():
    """The peer's own form cannot be taken back after its rescaling: both forms in numpy, and the peer has its own."""
    case, momentum, axes = CASES["apg/rescale"], 0.0, (1, 2, 3)
    found = {False: [], True: []}
    for given, null in zip(*(FILE[f"in/{case['shape']}/pred_{which}"] for which in ("cond", "uncond")), strict=True):
        momentum = given - null + case["adaptive_projected_guidance_momentum"] * momentum
        size = np.sqrt(np.sum(momentum**2, axis=axes, keepdims=True))
        change = momentum * np.minimum(1, case["adaptive_projected_guidance_rescale"] / size)
        along = np.sum(change * given, axes, keepdims=True) / np.sum(given**2, axes, keepdims=True) * given
        change = change + (case["eta"] - 1) * along
        for of_paper, values in found.items():
            scale = case["guidance_scale"]
            guided = given + (scale - 1) * change if of_paper else null + scale * change
            ratio = np.std(given, axes, keepdims=True) / np.std(guided, axes, keepdims=True)
            values.append(guided * (1 + case["guidance_rescale"] * (ratio - 1)))
    np.testing.assert_allclose(FILE["apg/rescale/pred"], np.stack(found[False]), atol=1e-10)
    rule = APG(
        case["guidance_scale"],
        rescale=case["guidance_rescale"],
        rescale_of="x0",
        eta=case["eta"],
        momentum=case["adaptive_projected_guidance_momentum"],
        norm_threshold=case["adaptive_projected_guidance_rescale"],
    )
    check("apg/rescale", rule, "x0", np.stack(found[True]))


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


@pytest.mark.parametrize("name", of_kind("slg") + of_kind("pag"))
def test_layers_beside_classifier_free_guidance(name):
    """One rule after the other. The peer never guides by layers at its first step; here that is an interval.

    The peer adds its scale times the difference to guidance by a condition, but without it the scale counts from 1.
    """
    case, scale = CASES[name], scale_of(CASES[name])
    before = () if scale == 1 else (ClassifierFree(scale),)
    kind, given = (PerturbedAttention, "perturbed") if name.startswith("pag") else (SkipLayer, "skip_layer")
    limits = limits_of(name, more_than=1 + len(before))
    rule = kind(len(before) + case[f"{given}_guidance_scale"], **limits, layers=("2",))
    evaluations, golden = check(name, (*before, rule), "flow")
    assert evaluations.tolist() == golden.tolist()


@pytest.mark.parametrize("name", of_kind("ltx2"))
def test_two_rules_of_layers_beside_classifier_free_guidance(name):
    """LTX-2's sum of three differences, rescaled as a whole: a third table stands for its other modality."""
    case = CASES[name]
    limits = limits_of(name)
    rules = [
        ClassifierFree(case["guidance_scale"], **limits),
        SkipLayer(1 + case["stg_scale"], **limits, layers=("2",)),
    ]
    rules += [PerturbedAttention(case["modality_scale"], **limits, layers=("3",))] * (case["modality_scale"] != 1)
    if "guidance_rescale" in case:
        rules[-1] = dataclasses.replace(rules[-1], rescale=case["guidance_rescale"], rescale_of="flow")
    evaluations, golden = check(name, tuple(rules), "flow")
    assert evaluations.tolist() == golden.tolist()


@pytest.mark.parametrize("name", of_kind("autog"))
def test_autoguidance(name):
    case = CASES[name]
    model = answers(case, "flow")
    weak = model.with_changes([Change("skip", ("1",))])  # it answers with the peer's weak prediction
    rule = Autoguidance(scale_of(case), rescale=case["guidance_rescale"], rescale_of="flow", weak=weak)
    evaluations, golden = check(name, rule, "flow")
    assert evaluations.tolist() == golden.tolist()


@pytest.mark.parametrize("name", of_kind("apg_mix"))
def test_apg_after_classifier_free_guidance(name):
    """diffusers' mix: classifier-free guidance until a step, and APG after it. The momentum starts at the first step."""
    case, original = CASES[name], CASES[name].get("use_original_formulation")
    start = case["adaptive_projected_guidance_start_step"] + 1
    rescale = {"rescale": case.get("guidance_rescale"), "rescale_of": "x0"}
    scale = case["adaptive_projected_guidance_scale"] + (1 if original else 0)
    momentum = case["adaptive_projected_guidance_momentum"]
    threshold = case["adaptive_projected_guidance_rescale"]
    apg = APG(scale, eta=case["eta"], momentum=momentum, norm_threshold=threshold, **rescale)
    mixed = FILE[f"{name}/pred"]
    check(name, apg, "x0", mixed if original else papers_apg(name, scale), start=start)
    check(name, ClassifierFree(scale_of(case), **rescale), "x0", mixed, stop=start)


@pytest.mark.parametrize("name", of_kind("tcfg"))
def test_tangential(name):
    check(name, Tangential(**settings(name, "eps")), "eps")


@pytest.mark.parametrize("name", of_kind("mambo"))
def test_magnitude_aware(name):
    check(name, MagnitudeAware(**settings(name), alpha=CASES[name]["alpha"]), "flow")


def blurred(images):
    """kornia's filter of pyramids, over the last two axes."""
    for axis in (-2, -1):
        side = images.shape[axis]
        padded = np.pad(images, [(2, 2) if i == images.ndim + axis else (0, 0) for i in range(images.ndim)], "reflect")
        taps = zip((1, 4, 6, 4, 1), range(5), strict=True)
        images = sum(tap / 16 * np.take(padded, np.arange(side) + i, axis) for tap, i in taps)
    return images


def doubled(images):
    """Bilinear interpolation of torch, then the filter."""
    for axis in (-2, -1):
        side = images.shape[axis]
        place = np.maximum(np.arange(2 * side) / 2 - 0.25, 0)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if i == images.ndim + axis else 1 for i in range(images.ndim)])
        high = np.minimum(low + 1, side - 1)
        images = (1 - share) * np.take(images, low, axis) + share * np.take(images, high, axis)
    return blurred(images)


def banded(case, scales, parallel, of_paper):
    """Two bands with weights for the parallel part of the difference, in numpy.

    The peer has uncond + w · (weighted difference), as its APG. The paper has cond + (w − 1) · (weighted difference).
    """
    bands = []
    for which in ("cond", "uncond"):
        images = FILE[f"in/{case['shape']}/pred_{which}"]
        fine = blurred(images)
        coarse = fine.reshape(*fine.shape[:-2], 4, 2, 4, 2).mean(axis=(-3, -1))
        bands.append((images - doubled(coarse), coarse))
    found = []
    for given, null, scale, weight in zip(*bands, scales, parallel, strict=True):
        difference, axes = given - null, (2, 3, 4)
        share = np.sum(difference * given, axes, keepdims=True) / np.sum(given**2, axes, keepdims=True)
        weighted = difference + (weight - 1) * share * given
        found.append(given + (scale - 1) * weighted if of_paper else null + scale * weighted)
    return found[0] + doubled(found[1])


@pytest.mark.parametrize("name", of_kind("fdg"))
def test_frequency_decoupled(name):
    """The peer has images [c, h, w]."""
    case = CASES[name]
    scales = np.asarray(case["guidance_scales"]) + (1 if case.get("use_original_formulation") else 0)
    weights = (scales - 1) / (scales[0] - 1)
    rescale, levels = case.get("guidance_rescale"), None
    if case.get("guidance_rescale_space") == "freq":
        rescale, levels = None, rescale
    rule = FrequencyDecoupled(
        float(scales[0]),
        rescale=rescale,
        rescale_of="x0",
        weights=tuple(weights.tolist()),
        parallel=case.get("parallel_weights"),
        rescale_levels=levels,
    )
    expected = None
    if rule.parallel:
        peer, expected = (banded(case, scales, rule.parallel, of_paper) for of_paper in (False, True))
        np.testing.assert_allclose(FILE[f"{name}/pred"], peer, atol=1e-10)
    check(name, rule, "x0", expected, channels_last=True)
