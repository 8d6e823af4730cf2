"""More networks of other people, by their outputs alone, and what they wrap around them; gradients are in test_golden.py.

In tests/golden/net: edm_ncsnpp, with EDM's three preconditioners around it, and edm_blocks, of NVlabs/edm;
ssp_ddpm, ssp_ddpmpp, ssp_ncsnpp (data in [0, 1]) and ssp_ncsnpp_outputskip, of yang-song/score_sde_pytorch, with the
scores of its get_score_fn; score_sde_jax_ddpmpp and score_sde_jax_ncsnpp_score, of yang-song/score_sde.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.parameterizations import EDMPreconditioning, Epsilon, LogSigmaLabel, ScaledScore
from score_sde.importing.edm import edm as edm_table
from score_sde.importing.mapping import kernel
from score_sde.importing.score_sde import score_sde_flax, score_sde_torch
from score_sde.networks import NCSNpp, UNet, resample
from score_sde.networks.attention import AttentionBlock
from score_sde.networks.blocks import ResidualBlock, before_doubling
from score_sde.networks.embeddings import FourierFeatures, sinusoidal
from score_sde.networks.layers import conv
from score_sde.sdes import EDM, VE, VP
from tests.networks.published import NHWC, float32, imported, load
from tests.networks.test_golden import SIZE

SMALL = {**SIZE, "channels": 8}
FIR = (1, 3, 3, 1)
# name -> (our network, who maps its weights)
NETS = {
    "ssp_ddpm": (UNet(**SIZE, resample_by="convolution", skip_rescale=False, norm_groups=32), score_sde_torch),
    "ssp_ddpmpp": (UNet(**SIZE), score_sde_torch),
    "ssp_ncsnpp": (NCSNpp(**SMALL), score_sde_torch),
    "ssp_ncsnpp_outputskip": (
        NCSNpp(**SIZE, progressive_input="skip", progressive_output="skip"),
        score_sde_torch,
    ),
    "score_sde_jax_ddpmpp": (UNet(**SMALL), score_sde_flax),
}


@functools.cache
def params_of(name):
    net, table = NETS[name]
    pack, meta = load(name)
    weights = float32(pack, "params/")
    if table is score_sde_torch:  # these packs are without the prefix of every name
        weights = {f"all_modules.{name}": value for name, value in float32(pack, "sd/").items()}
    return net, imported(table(net, 16), weights, net, 16), pack, meta


def nhwc(x):
    """As ours; the arrays of the JAX peer are so already."""
    return jnp.asarray(x if x.shape[-1] == 3 else x.transpose(NHWC), jnp.float32)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NETS)
def test_networks_of_2021(name):
    """Theirs with Fourier features are given σ, take its logarithm, and divide the output by it."""
    net, params, pack, meta = params_of(name)
    x, time = nhwc(pack["in/x"]), jnp.asarray(pack["in/time_cond"], jnp.float32)
    x = x if meta["config"]["data"]["centered"] else 2 * x - 1
    of_sigma = net.noise_embedding == "fourier"
    output = net.apply({"params": params}, x, jnp.log(time) if of_sigma else time)
    output = output / (time if of_sigma else jnp.ones(2))[:, None, None, None]
    expected = nhwc(pack["out_f64"] if "out_f64" in pack else pack["out_f32"])
    # The small packs have no float64: there the float32 of both sides is off, by about 1e-6 of the largest output.
    tolerance = meta.get("max_abs_f32_vs_f64", 4e-6 * float(jnp.abs(expected).max()))
    np.testing.assert_allclose(output, expected, rtol=0, atol=5 * tolerance)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "sde", "parameterization", "tolerance"),
    [
        ("ssp_ddpmpp", VP(), Epsilon(), 2e-5),
        ("ssp_ncsnpp_outputskip", VE(), ScaledScore(), 1e-4),
    ],
)
def test_get_score_fn(name, sde, parameterization, tolerance):
    """Theirs tells VP's network 999 t and divides its output by −σ, and VE's log σ; ours is a denoiser of the SDE."""
    net, params, pack, _ = params_of(name)
    denoise = Denoiser(sde, parameterization, net).bind({"network": params})
    t = jnp.asarray(pack["score_t"], jnp.float32)
    score = -denoise(nhwc(pack["in/x"]), t).eps / sde.sigma(t)[:, None, None, None]
    expected = nhwc(pack["score_f32"])
    np.testing.assert_allclose(score, expected, rtol=0, atol=tolerance * float(jnp.abs(expected).max()))


def test_get_score_fn_in_jax():
    (pack, _), (scores, _) = load("score_sde_jax_ncsnpp"), load("score_sde_jax_ncsnpp_score")
    net, sde, t = NCSNpp(**SIZE), VE(), jnp.asarray(scores["score_t"])
    weights = float32(pack, "params/")
    params = imported(score_sde_flax(net, 16), weights, net, 16)
    denoise = Denoiser(sde, ScaledScore(), net).bind({"network": params})
    score = -denoise(jnp.asarray(pack["in/x"]), t).eps / sde.sigma(t)[:, None, None, None]
    # The pack's attention has logits of 1e5: see test_golden.py.
    np.testing.assert_allclose(score, scores["score_f32"], rtol=0, atol=1e-3 * np.abs(scores["score_f32"]).max())


EDM_NETS = {"edm_ddpmpp": UNet, "edm_ncsnpp": NCSNpp}


@functools.cache
def edm(name):
    """(network, parameters, conditions, pack, meta) of a network of EDM and what the peer computed around it."""
    pack, meta = load(name)
    if name == "edm_ddpmpp":
        pack |= load("edm_ddpmpp_denoised")[0]
    net = EDM_NETS[name](**SIZE, num_classes=5, embedding_dim=9)
    label = jnp.argmax(pack["in/class_labels"], axis=1).astype(jnp.int32)
    condition = {"label": label, "embedding": jnp.asarray(pack["in/augment_labels"])}
    return net, imported(edm_table(net, 16), float32(pack, "sd/"), net, 16), condition, pack, meta


def test_ncsnpp_of_edm():
    net, params, condition, pack, meta = edm("edm_ncsnpp")
    output = net.apply({"params": params}, nhwc(pack["in/x"]), jnp.asarray(pack["in/noise_labels"]), condition)
    tolerance = 5 * meta["max_abs_f32_vs_f64"]
    np.testing.assert_allclose(output, nhwc(pack["out_f64"]), rtol=0, atol=tolerance)


# VP's label of 600 is known to 1e-4 in float32, and its output is multiplied by σ/α, 8.5 at most. Not of NCSN++, whose
# Fourier features turn such a label by 1e5 radians.
PRECONDITIONED = [
    ("edm_ddpmpp", "edm_D_x_f32", EDM(), EDMPreconditioning(), 2e-5),
    ("edm_ddpmpp", "edm_D_x_nolabels_f32", EDM(), EDMPreconditioning(), 2e-5),
    ("edm_ddpmpp", "VPPrecond_D_x_f32", VP(), Epsilon(), 1e-3),
    ("edm_ddpmpp", "VEPrecond_D_x_f32", EDM(), ScaledScore(LogSigmaLabel(scale=1.0, gain=0.5)), 2e-5),
    ("edm_ncsnpp", "edm_D_x_f32", EDM(), EDMPreconditioning(), 2e-5),
    ("edm_ncsnpp", "VEPrecond_D_x_f32", EDM(), ScaledScore(LogSigmaLabel(scale=1.0, gain=0.5)), 1e-4),
]


@pytest.mark.few(3)
@pytest.mark.parametrize(("name", "output", "sde", "parameterization", "tolerance"), PRECONDITIONED)
def test_preconditioners_of_edm_around_a_network(name, output, sde, parameterization, tolerance):
    """Theirs takes x/α, which has the noise level σ/α; without labels it feeds zeros, our null class."""
    net, params, condition, pack, _ = edm(name)
    if "nolabels" in output:
        condition = {"label": jnp.full(2, 5, jnp.int32), "embedding": jnp.zeros((2, 9))}
    t = sde.time_of_log_snr(-2 * jnp.log(jnp.asarray(pack["in/sigma"], jnp.float32)))
    x = sde.alpha(t)[:, None, None, None] * nhwc(pack["in/x"])
    x0 = Denoiser(sde, parameterization, net).bind({"network": params}, condition)(x, t).x0
    np.testing.assert_allclose(x0, nhwc(pack[output]), rtol=0, atol=tolerance)


@functools.cache
def blocks():
    pack, meta = load("edm_blocks")
    return pack, meta["cases"]


def of_case(name):
    """(x, embedding or None, expected, weights) of a case of edm_blocks, with the features last."""
    pack, _ = blocks()
    x, expected = (jnp.asarray(pack[f"{name}/{part}"].transpose(NHWC), jnp.float32) for part in ("x", "out_f64"))
    return x, pack.get(f"{name}/emb"), expected, float32(pack, f"{name}/sd/")


def linear(weights, name):
    return {"kernel": kernel(weights[f"{name}.weight"]), "bias": weights[f"{name}.bias"]}


def norm(weights, name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


@pytest.mark.parametrize("name", ["blk_song_up_fir", "blk_song_down_fir", "blk_song_attn"])
def test_blocks_of_edm(name):
    """Theirs has its attention inside, and is given the embedding before its swish is taken."""
    x, emb, expected, weights = of_case(name)
    _, cases = blocks()
    direction = next((way for way in ("up", "down") if cases[name].get(way)), "none")
    params = {f"norm_{i}": norm(weights, f"norm{i}") for i in (0, 1)}
    params |= {f"conv_{i}": linear(weights, f"conv{i}") for i in (0, 1)}
    params |= {"embedding": linear(weights, "affine"), "skip": linear(weights, "skip")}
    y = ResidualBlock(expected.shape[-1], direction, FIR).apply({"params": params}, x, jnp.asarray(emb))
    if cases[name].get("attention"):
        qkv = linear(weights, "qkv")
        qkv = {end: jnp.concatenate([value[..., i::3] for i in range(3)], axis=-1) for end, value in qkv.items()}
        attention = {"norm": norm(weights, "norm2"), "qkv": qkv, "out": linear(weights, "proj")}
        y = AttentionBlock().apply({"params": attention}, y)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)


CONVOLUTIONS = {
    "conv_up_fir": (lambda x: resample.upsample(x, FIR), 1),
    "conv_down_fir": (lambda x: resample.downsample(x, FIR), 1),
    "conv_down_fir_fused": (lambda x: resample.blur(x, FIR, 3), 2),
    "conv_up_fir_fused": (lambda x: before_doubling(x, FIR), 1),
    "conv_up_box": (lambda x: resample.upsample(x, (1, 1)), 1),
    "conv_down_box": (lambda x: resample.downsample(x, (1, 1)), 1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_resampling_convolutions_of_edm(name):
    x, _, expected, weights = of_case(name)
    change, stride = CONVOLUTIONS[name]
    params = {"kernel": kernel(weights["weight"]), "bias": weights["bias"]}
    if params["kernel"].ndim == 2:
        y = change(x) @ params["kernel"] + weights["bias"][None, None, None]
    else:
        changed = change(x)
        changed, padding = changed if isinstance(changed, tuple) else (changed, None)
        layer = conv(expected.shape[-1], 2, "float32", None, stride=stride, padding=padding)
        y = layer.apply({"params": params}, changed)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "function"), [("down", resample.downsample), ("up", resample.upsample)])
def test_resampling_of_edm(name, function):
    x, _, expected, _ = of_case(f"resample_{name}_k0")
    np.testing.assert_allclose(function(x, FIR), expected, rtol=0, atol=1e-6)


def test_embeddings_of_edm():
    """Theirs have the cosines first."""
    pack, _ = blocks()
    label = jnp.asarray(pack["emb_in"])
    ours = {
        "pos_endpoint": sinusoidal(label, 16),
        "fourier": FourierFeatures(16).apply({"params": {"frequencies": jnp.asarray(pack["fourier/freqs"])}}, label),
    }
    for name, features in ours.items():
        theirs = np.roll(pack[f"{name}/out_f32"], 8, axis=1)
        np.testing.assert_allclose(features, theirs, rtol=0, atol=1e-4)
