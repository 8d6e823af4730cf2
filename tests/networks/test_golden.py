"""The architecture against numbers from other people's code, with their weights under our names.

tests/golden/net/edm_ddpmpp.npz: NVlabs/edm's SongUNet as DDPM++, class labels and an embedding among its inputs.
tests/golden/net/score_sde_jax_ncsnpp.npz: yang-song/score_sde's NCSN++ (FIR, Fourier features, residual input).
tests/golden/net/ssp_resample.npz: the resampling and the sinusoidal embedding of yang-song/score_sde_pytorch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.importing.edm import edm as edm_table
from score_sde.importing.score_sde import score_sde_flax
from score_sde.networks import NCSNpp, UNet, resample
from score_sde.networks.embeddings import sinusoidal
from score_sde.networks.layers import conv
from tests.networks.published import NHWC, float32, imported, load, norms

SIZE = {"channels": 32, "channel_multipliers": (1, 2), "blocks_per_level": 1, "attention_resolutions": (8,)}


@functools.cache
def edm():
    """(output, gradient in x, gradients in EDM's weights), and the pack."""
    pack, meta = load("edm_ddpmpp")
    net = UNet(**SIZE, num_classes=5, embedding_dim=9)
    label = jnp.argmax(pack["in/class_labels"], axis=1).astype(jnp.int32)
    condition = {"label": label, "embedding": jnp.asarray(pack["in/augment_labels"])}

    def scalar(weights, x):
        output = net.apply(
            {"params": imported(edm_table(net, 16), weights, net, 16)},
            x,
            jnp.asarray(pack["in/noise_labels"]),
            condition,
        )
        return jnp.sum(output * pack["probe"].transpose(NHWC)), output

    grad = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))
    (weights_grad, x_grad), output = grad(float32(pack, "sd/"), jnp.asarray(pack["in/x"].transpose(NHWC)))
    return output, x_grad, weights_grad, pack, meta


@functools.cache
def score_sde():
    """(output, gradient in x, gradients in score_sde's weights), and the pack."""
    pack, meta = load("score_sde_jax_ncsnpp")
    net, sigma = NCSNpp(**SIZE), pack["in/time_cond"]

    def scalar(weights, x):
        output = net.apply({"params": imported(score_sde_flax(net, 16), weights, net, 16)}, x, jnp.log(sigma))
        output /= sigma[:, None, None, None]  # the peer's network divides by σ itself
        return jnp.sum(output * pack["probe"]), output

    grad = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))
    (weights_grad, x_grad), output = grad(float32(pack, "params/"), jnp.asarray(pack["in/x"]))
    return output, x_grad, weights_grad, pack, meta


def test_ddpmpp_with_conditions_agrees_with_edm():
    output, x_grad, weights_grad, pack, meta = edm()
    tolerance = 5 * meta["max_abs_f32_vs_f64"]
    np.testing.assert_allclose(output, pack["out_f64"].transpose(NHWC), rtol=0, atol=tolerance)
    np.testing.assert_allclose(x_grad, pack["grad_x_f32"].transpose(NHWC), rtol=0, atol=4 * tolerance)
    np.testing.assert_allclose(norms(weights_grad, meta["grad_names"]), pack["grad_norms"], rtol=1e-5, atol=1e-5)


def test_ncsnpp_agrees_with_score_sde():
    """The pack's random attention weights give logits of 1e5, so its float32 is off by 2.2e-4 (float64, once) itself.

    The gradient is off by 0.2 % for the same reason.
    """
    output, x_grad, weights_grad, pack, meta = score_sde()
    np.testing.assert_allclose(output, pack["out_f32"], rtol=0, atol=5 * 2.2e-4)
    np.testing.assert_allclose(x_grad, pack["grad_x_f32"], rtol=0, atol=0.01 * np.abs(pack["grad_x_f32"]).max())
    names = [name for name in meta["grad_names"] if not name.startswith("GaussianFourier")]
    expected = dict(zip(meta["grad_names"], pack["grad_norms"], strict=True))
    # Logits of 1e5 make the softmax one-hot, and the gradients of its queries zero but for rounding.
    np.testing.assert_allclose(norms(weights_grad, names), [expected[name] for name in names], rtol=0.01, atol=3e-2)
    assert not np.any(weights_grad["GaussianFourierProjection_0/W"])


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("function", "taps", "expected"),
    [
        (resample.upsample, (1, 1), "naive_upsample_2d"),
        (resample.downsample, (1, 1), "naive_downsample_2d"),
        (resample.upsample, (1, 3, 3, 1), "upsample_2d"),
        (resample.downsample, (1, 3, 3, 1), "downsample_2d"),
    ],
)
def test_resampling_agrees_with_score_sde_pytorch(function, taps, expected):
    pack, _ = load("ssp_resample")
    y = function(jnp.asarray(pack["x"].transpose(NHWC)), taps)
    np.testing.assert_allclose(y, pack[expected].transpose(NHWC), rtol=0, atol=1e-6)


def test_blurred_strided_convolution_agrees_with_score_sde_pytorch():
    pack, _ = load("ssp_resample")
    layer = conv(4, 2, "float32", None, stride=2)
    params = {"kernel": jnp.asarray(pack["w"].transpose(2, 3, 1, 0)), "bias": jnp.zeros(4)}
    y = layer.apply({"params": params}, resample.blur(jnp.asarray(pack["x"].transpose(NHWC)), (1, 3, 3, 1), 3))
    np.testing.assert_allclose(y, pack["conv_downsample_2d"].transpose(NHWC), rtol=0, atol=1e-5)


def test_sinusoidal_agrees_with_score_sde_pytorch():
    pack, _ = load("ssp_resample")
    np.testing.assert_allclose(sinusoidal(jnp.asarray(pack["t"]), 16), pack["timestep_embedding_16"], rtol=0, atol=1e-4)
