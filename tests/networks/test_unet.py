import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.networks import NCSNpp, UNet
from score_sde.networks.attention import AttentionBlock
from score_sde.networks.blocks import ResamplingConvolution
from score_sde.networks.layers import Dropout, GroupNorm, num_groups
from tests.networks.build import TINY, apply, inputs, normal, params_for, share_beyond_bfloat16, tiny

VARIANTS = {
    "ddpmpp": {},
    "ddpm": {"resample_by": "convolution"},
    "ddpm_fir": {"resample_by": "convolution", "resample_taps": (1, 3, 3, 1)},
    "fir": {"resample_taps": (1, 3, 3, 1)},
    "input_skip": {"progressive_input": "skip", "noise_embedding": "fourier"},
    "output_skip": {"progressive_output": "skip", "resample_taps": (1, 3, 3, 1)},
    "output_residual": {"progressive_output": "residual", "progressive_input": "residual", "skip_rescale": False},
}

# One level of 4 × 4 pixels, where only a block's inside matters.
SMALL, FLAT = (2, 4, 4, 3), {"channel_multipliers": (1,)}


def num_params(net, x, noise_label):
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, noise_label)["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.smoke
def test_benchmark_size():
    net = UNet(channels=64, channel_multipliers=(1, 2, 2), blocks_per_level=2, attention_resolutions=(16,))
    assert num_params(net, jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)) == 6_989_891


@pytest.mark.few(2)
@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_an_example_sees_all_of_itself_and_nothing_of_its_neighbours(fields):
    net, (x, t) = tiny(**fields), inputs()
    params = params_for(net, x, t)
    y = apply(net, params, x, t)
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(apply(net, params, x[order], t[order]), y[order], atol=2e-5)
    # The noise level matters, and so does every pixel at a distance (attention).
    assert jnp.abs(apply(net, params, x, t + 3) - y).max() > 1e-3
    assert jnp.abs((apply(net, params, x.at[:, 0, 0].add(2.0), t) - y)[:, 7, 7]).min() > 1e-6


def test_resampling_by_convolution_is_its_definition():
    x, weights = normal(1, (2, 4, 6, 3)), normal(2, (3, 3, 3, 3))
    params = {"conv": {"kernel": weights, "bias": jnp.arange(3.0)}}
    down = ResamplingConvolution("down").apply({"params": params}, x)
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # y[i, j] = Σ W[m, n] x[2i + m, 2j + n], as in DDPM
    patches = np.stack([padded[:, m : m + 3 : 2, n : n + 5 : 2] for m in range(3) for n in range(3)], axis=-2)
    np.testing.assert_allclose(down, np.tensordot(patches, weights.reshape(9, 3, 3), 2) + np.arange(3.0), atol=1e-5)
    halved = ResamplingConvolution("down", (2, 2)).apply({"params": params}, x)
    np.testing.assert_array_equal(halved, down)  # taps are scaled to sum to one
    filtered = ResamplingConvolution("down", (1, 3, 3, 1)).apply({"params": params}, x)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))  # as `conv_downsample_2d`
    blurred = sum(
        np.outer((1, 3, 3, 1), (1, 3, 3, 1))[i, j] / 64 * padded[:, i : i + 5, j : j + 7]
        for i in range(4)
        for j in range(4)
    )
    patches = np.stack([blurred[:, m : m + 3 : 2, n : n + 5 : 2] for m in range(3) for n in range(3)], axis=-2)
    np.testing.assert_allclose(filtered, np.tensordot(patches, weights.reshape(9, 3, 3), 2) + np.arange(3.0), atol=1e-5)
    up = ResamplingConvolution("up").apply({"params": params}, x)
    padded = np.pad(np.repeat(np.repeat(x, 2, axis=1), 2, axis=2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.stack([padded[:, m : m + 8, n : n + 12] for m in range(3) for n in range(3)], axis=-2)
    np.testing.assert_allclose(up, np.tensordot(patches, weights.reshape(9, 3, 3), 2) + np.arange(3.0), atol=1e-4)


def without(params, name):
    return {**params, name: jax.tree.map(jnp.zeros_like, params[name])}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"progressive_input": "skip"}, "encoder_0_input"),
        ({"progressive_input": "residual"}, "encoder_0_input"),
        ({"progressive_output": "skip"}, "decoder_1_output"),
        ({"progressive_output": "residual"}, "decoder_0_output"),
    ],
)
def test_progressive_paths_only_add(fields, name):
    """A path whose weights are zero leaves the plain network, and with its weights it does not."""
    net, plain, (x, t) = tiny(**fields, skip_rescale=False), tiny(skip_rescale=False), inputs((2, 8, 8, 3))
    params = params_for(net, x, t)
    # With a progressive output "skip", the top level's term is what the plain network calls its output.
    top = {"output": "decoder_0_output", "output_norm": "decoder_0_output_norm"}
    plain_params = {key: params[key if key in params else top[key]] for key in params_for(plain, x, t)}
    y, expected = apply(net, params, x, t), apply(plain, plain_params, x, t)
    np.testing.assert_allclose(apply(net, without(params, name), x, t), expected, atol=1e-5)
    assert jnp.abs(y - expected).max() > 1e-2


@pytest.mark.few(1)
@pytest.mark.parametrize("shape", [(2, 4, 8, 1), (2, 8, 2)])
def test_any_rank_shape_and_number_of_channels(shape):
    net, (x, t) = tiny(attention_resolutions=(shape[1] // 2,), resample_taps=(1, 3, 3, 1)), inputs(shape)
    y = apply(net, params_for(net, x, t), x, t)
    assert y.shape == shape
    # Each axis is treated as every other: its far end matters to the near one.
    for axis in range(1, len(shape) - 1):
        far = jnp.zeros(shape).at[(slice(None), *(0 if i != axis else -1 for i in range(1, len(shape) - 1)))].set(1.0)
        assert jnp.abs((apply(net, params_for(net, x, t), x + far, t) - y).reshape(2, -1)[:, 0]).min() > 1e-6


@pytest.mark.parametrize("shape", [(2, 8, 4, 5), (2, 4, 4, 4, 1)])
def test_shapes_alone(shape):
    net, (x, t) = tiny(attention_resolutions=(), out_channels=6), inputs(shape)
    y = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, t)[0])
    assert (y.shape, y.dtype) == ((*shape[:-1], 6), jnp.float32)


def test_starts_near_zero():
    net, (x, t) = tiny(**FLAT), inputs(SMALL)
    start = jax.jit(net.init)(jax.random.key(0), x, t)["params"]
    assert 0 < jnp.abs(apply(net, start, x, t)).max() < 1e-3


def test_bfloat16_computes_in_bfloat16_and_returns_float32():
    x, t = inputs(SMALL)
    exact, net = tiny(**FLAT), tiny(**FLAT, dtype="bfloat16")
    params = params_for(net, x, t)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    expected, y = apply(exact, params, x, t), apply(net, params, x, t)
    assert y.dtype == jnp.float32 and share_beyond_bfloat16(y) > 0.9
    error = float(jnp.sqrt(jnp.mean(jnp.square(y - expected)) / jnp.mean(jnp.square(expected))))
    assert 1e-4 < error < 0.05  # bfloat16 has 8 bits: rounding errors of 2^-9 a layer, not of float32


def test_attention_in_bfloat16_has_its_logits_in_float32():
    """Logits of 256 ± 6: bfloat16 would round them to even numbers, and the weights by a factor of up to e^½."""
    x, eye, zeros = 0.1 * normal(3, (1, 32, 16)).astype(jnp.bfloat16), jnp.eye(16), jnp.zeros((16, 16))
    params = {
        "norm": {"scale": jnp.full(16, 0.1), "bias": jnp.zeros(16)},  # h = 0.1 n, with n of mean 0 and variance 1
        "qkv": {  # q = 16, k = 1 + h, v = 10 h
            "kernel": jnp.concatenate([zeros, eye, 10 * eye], axis=1),
            "bias": jnp.repeat(jnp.asarray([16.0, 1.0, 0.0]), 16),
        },
        "out": {"kernel": eye, "bias": jnp.zeros(16)},
    }

    def attended(dtype):
        y = AttentionBlock(False, dtype, 1).apply({"params": params}, x.astype(dtype))
        return y.astype(jnp.float32) - x.astype(jnp.float32)

    exact, y = attended("float32"), attended("bfloat16")
    error = float(jnp.sqrt(jnp.mean(jnp.square(y - exact)) / jnp.mean(jnp.square(exact))))
    assert 1e-4 < error < 0.016  # 0.039 with rounded logits


def test_dropout_acts_in_training_only():
    x, t = inputs(SMALL)
    net = tiny(**FLAT, dropout=0.5)
    params = params_for(net, x, t)
    np.testing.assert_array_equal(apply(net, params, x, t), apply(tiny(**FLAT), params, x, t))
    draws = [apply(net, params, x, t, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert jnp.abs(draws[0] - draws[2]).max() > 1e-3


@pytest.mark.few(2)
@pytest.mark.parametrize(("rate", "channels"), [(0.1, 64), (0.5, 7), (0.001, 64), (1e-9, 4)])
def test_dropout_leaves_the_mean_and_independent_places(rate, channels):
    """The share within 5 standard errors, in every channel alike; what is left is scaled to the mean; pairs are independent."""
    x, layer = 1 + jnp.abs(normal(5, (400, 50, channels))), Dropout(rate)
    y, again, other = (layer.apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1))
    np.testing.assert_array_equal(y, again)
    p, number = round(rate * 2**16) / 2**16, 20000
    dropped = np.asarray(y == 0).reshape(number, channels)
    assert np.all(np.abs(dropped.mean(0) - p) <= 5 * np.sqrt(p * (1 - p) / number))
    np.testing.assert_allclose(
        np.where(dropped, 0, y.reshape(number, channels) * (1 - p)),
        np.where(dropped, 0, x.reshape(number, channels)),
        rtol=1e-6,
    )
    for one, two in ((dropped[:, 0], dropped[:, 1]), (dropped[:, 1], dropped[:, 2]), (dropped[:-1, 0], dropped[1:, 0])):
        assert abs(np.mean(one & two) - p**2) <= 5 * p / np.sqrt(number)
    assert (p == 0) == bool(np.array_equal(y, other))
    np.testing.assert_array_equal(layer.apply({}, x, deterministic=True), x)


@pytest.mark.parametrize("number", [None, 6])
def test_group_norm_is_its_definition(number):
    x = 3.0 + 2.0 * normal(2, (2, 5, 3, 12))
    params = {"scale": normal(3, (12,)), "bias": normal(4, (12,))}
    y = GroupNorm(jax.nn.swish, groups=number).apply({"params": params}, x)
    groups = np.asarray(x, np.float64).reshape(2, 15, number or num_groups(12), -1)
    normal_groups = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-6)
    expected = normal_groups.reshape(x.shape) * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(y, expected / (1 + np.exp(-expected)), atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (96, 24), (144, 24), (8, 2), (6, 1), (3, 1), (20, 5)])
def test_num_groups(channels, groups):
    assert num_groups(channels) == groups


def test_lists_from_a_config_make_a_hashable_network():
    assert hash(tiny(channel_multipliers=[1, 2])) == hash(tiny(channel_multipliers=(1, 2)))
    assert NCSNpp(**TINY).resample_taps == (1, 3, 3, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"noise_embedding": "fourrier"},
            "noise_embedding to be one of sinusoidal, sinusoidal_open, fourier, got 'fourrier'",
        ),
        ({"progressive_input": "sum"}, "progressive_input to be one of none, skip, residual"),
        ({"progressive_output": "sum"}, "progressive_output to be one of none, skip, residual"),
        ({"resample_by": "conv"}, "resample_by to be one of block, convolution, filter, got 'conv'"),
        ({"dtype": "float16"}, "dtype to be one of float32, bfloat16"),
        ({"channels": 0}, "channels >= 1 in whole numbers, got 0"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers >= 1"),
        ({"channel_multipliers": ()}, "at least one level"),
        ({"blocks_per_level": 0}, "blocks_per_level >= 1"),
        ({"resample_taps": (1,)}, "resample_taps of length 2 or more"),
        ({"dropout": 1.0}, "0 <= dropout < 1, got 1.0"),
        ({"fourier_scale": 0.0}, "fourier_scale > 0"),
        ({"out_channels": 0}, "out_channels >= 1"),
        ({"num_classes": -1}, "num_classes >= 0"),
        ({"norm_groups": 0}, "norm_groups >= 1"),
        ({"norm_groups": 3}, r"norm_groups that divides the features of every level, \[8, 16\], got 3; None chooses"),
    ],
)
def test_impossible_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((1, 7, 8, 3), {}, r"sides divisible by 2, got \(7, 8\); pad or resize"),
        ((1, 8, 9), {"channel_multipliers": (1, 2, 2, 2, 2)}, r"divisible by 16, got \(8,\)"),
        ((1, 8), {}, "use MLP for points"),
        ((1, 8, 8, 3), {"attention_resolutions": (16,)}, r"among the heights \[8, 4\] of its levels, got \(16,\)"),
    ],
)
def test_impossible_inputs(shape, fields, message):
    net = tiny(**fields)
    with pytest.raises(ValueError, match=message):
        net.init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))
