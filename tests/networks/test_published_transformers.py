"""DiT, SiT, U-ViT and JiT against numbers from other people's code, with the authors' weights under our names.

tests/golden/net: dit and dit2 (facebookresearch/DiT), sit (willisma/SiT), uvit, uvit_nocls and uvit_t2i
(baofff/U-ViT), jit (LTH14/JiT), diffusers_dit (diffusers 0.42). The packs hold weights, inputs, outputs in float64
(with the frequencies of the noise label in float64 too), and gradients.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import importing
from score_sde.networks import NETWORKS
from tests.networks.published import NHWC, load, norms

PEERS = {
    "dit": functools.partial(importing.dit, num_heads=4),
    "dit2": functools.partial(importing.dit, num_heads=6, has_null=False),
    "sit": functools.partial(importing.dit, num_heads=4),
    "uvit": functools.partial(importing.uvit, num_heads=4),
    "uvit_nocls": functools.partial(importing.uvit, num_heads=6),
    "uvit_t2i": functools.partial(importing.uvit, num_heads=4),
    "jit": functools.partial(importing.jit, num_heads=4, context_start=2),
    "diffusers_dit": functools.partial(importing.diffusers_dit, num_heads=4),
}
LABELS = {"y": "label", "class_labels": "label", "context": "text"}


def weights_of(pack):
    return {key.removeprefix("sd/"): value.astype(np.float32) for key, value in pack.items() if key.startswith("sd/")}


def network_of(name, weights, dtype):
    """(the network with both halves of the output where the peer returns them, whose pack has `num_classes` labels)."""
    fields = dict(PEERS[name](weights).network)
    if fields.get("learn_sigma") and name != "sit":
        fields |= {"learn_sigma": False, "out_channels": 8}
    return NETWORKS[fields.pop("name")](**fields, dtype=dtype)


def inputs_of(pack, dtype):
    x = jnp.asarray(pack["in/x"].transpose(NHWC), dtype)
    (label,) = (pack[key] for key in ("in/t", "in/timesteps", "in/timestep") if key in pack)
    given = {LABELS[key]: pack[f"in/{key}"] for key in LABELS if f"in/{key}" in pack}
    integers = {key: jnp.asarray(value, jnp.int32) for key, value in given.items() if value.dtype == np.int64}
    return x, jnp.asarray(label, dtype), integers, {k: jnp.asarray(v, dtype) for k, v in given.items() if k == "text"}


@functools.cache
def ours(name):
    """(output, gradients in x and text, gradients in the peer's weights) in float64, and the pack."""
    pack, meta = load(name)
    weights = weights_of(pack)
    peer = functools.partial(PEERS[name], **({"keep_positions": True} if name in ("dit", "dit2", "sit") else {}))
    with jax.enable_x64(True):
        net = network_of(name, weights, "float64")
        net = net.clone(positions="learned") if "keep_positions" in peer.keywords else net
        x, t, label, text = inputs_of(pack, jnp.float64)
        fixed = {key: value for key, value in weights.items() if name == "jit" and key == "pos_embed"}
        trained = {key: jnp.asarray(value, jnp.float64) for key, value in weights.items() if key not in fixed}

        def scalar(trained, x, text):
            output = net.apply({"params": peer(trained | fixed).params}, x, t, label | text)
            return jnp.sum(output * pack["probe"].transpose(NHWC).astype(np.float64)), output

        grad = jax.jit(jax.grad(scalar, argnums=(0, 1, 2), has_aux=True))
        (by_weights, by_x, by_text), output = jax.device_get(grad(trained, x, text))
    return output, by_x, by_text, by_weights, pack, meta


# Each takes seconds to compile. These are of families that the others show, and run with --slow.
SLOW = ("dit2", "sit", "uvit", "uvit_nocls")
each_peer = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PEERS]
)


@each_peer
def test_outputs_in_float64(name):
    """Two peers round fixed tables of positions to float32, which ours are not."""
    output, _, _, _, pack, _ = ours(name)
    expected = pack["out_f64_exactfreq"].transpose(NHWC)
    tolerance = 1e-6 if name in ("jit", "diffusers_dit") else 1e-9
    np.testing.assert_allclose(output, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@each_peer
def test_gradients(name):
    """The peer rounds the frequencies of its gradients to float32, which moves the output by a known amount."""
    _, by_x, by_text, by_weights, pack, meta = ours(name)
    rounding = 1e-6 + 20 * meta["max_abs_exactfreq_effect"]
    expected = pack["grad_x_f64"].transpose(NHWC)
    np.testing.assert_allclose(by_x, expected, rtol=0, atol=rounding * np.abs(expected).max())
    if by_text:
        expected = pack["grad_context_f64"]
        np.testing.assert_allclose(by_text["text"], expected, rtol=0, atol=rounding * np.abs(expected).max())
    names = [n for n in meta["grad_names"] if n in by_weights]
    assert set(names) == set(by_weights) and set(meta["grad_names"]) <= {*names, "pos_embed"}
    expected = dict(zip(meta["grad_names"], pack["grad_norms"], strict=True))
    np.testing.assert_allclose(norms(by_weights, names), [expected[n] for n in names], rtol=1e-4 + rounding, atol=1e-4)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["dit", "uvit_t2i", "jit"])
def test_outputs_in_float32(name):
    pack, meta = load(name)
    weights = weights_of(pack)
    net, params = network_of(name, weights, "float32"), PEERS[name](weights).params
    x, t, label, text = inputs_of(pack, jnp.float32)
    output = jax.jit(net.apply)({"params": params}, x, t, label | text)
    tolerance = 5 * meta["max_abs_f32_vs_f64"] + 3 * meta["max_abs_exactfreq_effect"]
    assert tolerance < 1e-4 * np.abs(pack["out_f64"]).max()
    np.testing.assert_allclose(output, pack["out_f64"].transpose(NHWC), rtol=0, atol=tolerance)
