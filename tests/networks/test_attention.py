"""Attention of several heads against sums by hand, the choice of cuDNN's kernel, and rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.networks import attention
from score_sde.networks.attention import Attention, AttentionBlock, attend
from score_sde.networks.layers import GroupNorm, TokenNorm
from score_sde.networks.positions import rope, rotate
from tests.networks.build import normal

MASK = jnp.array([[True, False, True, True, False], [True, True, True, True, True]])


def by_hand(q, k, v, mask):
    """One example, head and query at a time, in float64."""
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b, i, h in np.ndindex(q.shape[:-1]):
        logits = np.asarray(k[b, mask[b], h], np.float64) @ np.asarray(q[b, i, h], np.float64) / np.sqrt(q.shape[-1])
        weights = np.exp(logits) / np.exp(logits).sum()
        out[b, i, h] = weights @ np.asarray(v[b, mask[b], h], np.float64)
    return out


@pytest.mark.parametrize("kind", attention.ATTENTION)
def test_each_head_and_mask(kind):
    q, k, v = normal(0, (2, 3, 2, 4)), normal(1, (2, 5, 2, 4)), normal(2, (2, 5, 2, 6))
    np.testing.assert_allclose(attend(q, k, v, MASK, kind), by_hand(q, k, v, np.asarray(MASK)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        attend(q, k, v, None, kind), by_hand(q, k, v, np.ones((2, 5), bool)), rtol=1e-5, atol=1e-6
    )


def test_a_row_without_keys_is_finite():
    q = k = v = normal(0, (1, 2, 1, 4))
    y = attend(q, k, v, jnp.zeros((1, 2), bool))
    np.testing.assert_allclose(y, jnp.broadcast_to(v.mean(axis=1, keepdims=True), y.shape), rtol=1e-6)


def test_fused_asks_for_cudnn_by_name_where_it_fits(monkeypatch):
    """JAX's own default is never cuDNN. Everywhere else "fused" is "plain"."""
    asked, original = [], jax.nn.dot_product_attention

    def recorded(*args, implementation=None, **options):
        asked.append(implementation)
        with jax.numpy_dtype_promotion("standard"):
            return original(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    monkeypatch.setattr(attention, "_is_cuda", lambda: True)

    def run(shape, dtype=jnp.bfloat16, mask=None, kind="fused"):
        x = normal(0, shape).astype(dtype)
        asked.clear()
        y = attend(x, x, x, mask, kind)
        np.testing.assert_allclose(
            y.astype(jnp.float32), attend(x, x, x, mask).astype(jnp.float32), rtol=0.02, atol=0.02
        )
        return asked

    even = jnp.array([[True, True, False, True]])
    assert run((1, 4, 2, 8)) == run((1, 4, 2, 8), mask=even) == ["cudnn"]
    assert run((1, 4, 2, 8), jnp.float32) == run((1, 4, 2, 8), kind="plain") == []
    fits = attention._fits_cudnn
    for shape, mask, expected in (
        ((1, 3, 1, 128), None, True),
        ((1, 4, 2, 12), None, False),
        ((1, 4, 1, 136), None, False),
        ((1, 3, 1, 8), even[:, :3], False),
    ):
        assert fits(*3 * [jnp.zeros(shape, jnp.bfloat16)], mask) is expected
    monkeypatch.undo()
    assert not attention._is_cuda()


def test_plain_has_jacobian_vector_products():
    x, dx = normal(0, (1, 4, 2, 8)), normal(1, (1, 4, 2, 8))
    _, tangent = jax.jvp(lambda x: attend(x, x, x), (x,), (dx,))
    numeric = (attend(*3 * [x + 1e-2 * dx]) - attend(*3 * [x - 1e-2 * dx])) / 2e-2
    np.testing.assert_allclose(tangent, numeric, atol=5e-3)
    half, half_dx = x.astype(jnp.bfloat16), dx.astype(jnp.bfloat16)
    _, rounded = jax.jvp(lambda x: attend(x, x, x), (half,), (half_dx,))
    np.testing.assert_allclose(rounded.astype(jnp.float32), tangent, atol=0.02 * float(jnp.abs(tangent).max()))


def test_layer_for_tokens():
    """Cross-attention with normalized queries and keys is the product of its parts."""
    x, context = normal(0, (2, 3, 8)), normal(1, (2, 5, 6))
    layer = Attention(2, qk_norm="rms")
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x, context, MASK)["params"]
    params = jax.tree.map(lambda like: normal(like.size, like.shape), shapes)

    def project(name, y):
        return (y @ params[name]["kernel"] + params[name]["bias"][None, None]).reshape(*y.shape[:-1], 2, 4)

    def rms(name, y):
        root = jnp.sqrt(jnp.square(y).mean(axis=-1, keepdims=True) + 1e-6)
        return y / root * params[name]["scale"][None, None, None]

    q, k, v = (
        rms("query_norm", project("query", x)),
        rms("key_norm", project("key", context)),
        project("value", context),
    )
    h = by_hand(q, k, v, np.asarray(MASK)).reshape(2, 3, 8)
    expected = h @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    np.testing.assert_allclose(layer.apply({"params": params}, x, context, MASK), expected, rtol=1e-4, atol=1e-4)


def test_norm_of_tokens():
    x = 3 + 2 * normal(0, (2, 3, 16))
    y = TokenNorm(affine=False).apply({}, x)
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-6)
    np.testing.assert_allclose(jnp.square(y).mean(axis=-1), 1, rtol=1e-5)
    z = TokenNorm("rms", epsilon=0.0).apply({"params": {"scale": jnp.full(16, 2.0)}}, x)
    np.testing.assert_allclose(z, 2 * x / jnp.sqrt(jnp.square(x).mean(axis=-1, keepdims=True)), rtol=1e-6)
    shifted = TokenNorm().apply({"params": {"scale": jnp.full(16, 2.0), "bias": jnp.full(16, 5.0)}}, x)
    np.testing.assert_allclose(shifted, 2 * y + 5, rtol=1e-5, atol=1e-5)


def test_rotation_knows_only_distances():
    """q·k depends on the difference of the two places along each axis, and `extra` tokens are not turned."""
    q, k = normal(0, (1, 1, 1, 8)), normal(1, (1, 1, 1, 8))
    turn = rope((4, 4), 8, extra=2)
    at = lambda y: rotate(jnp.broadcast_to(y, (1, 18, 1, 8)), turn)[0, :, 0]  # noqa: E731
    np.testing.assert_array_equal(at(q)[:2], jnp.broadcast_to(q[0, 0], (2, 8)))
    products = np.asarray(at(q)[2:] @ at(k)[2:].T).reshape(4, 4, 4, 4)
    np.testing.assert_allclose(products[1, 2, 3, 0], products[0, 3, 2, 1], rtol=1e-5)  # down 2, left 2
    assert abs(products[1, 2, 3, 0] - products[1, 2, 0, 3]) > 1e-2


def test_heads_of_the_block():
    """Each of two heads attends by its own half of the channels."""
    x, block = normal(0, (2, 4, 8)), AttentionBlock(num_heads=2, skip_rescale=False)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda like: normal(like.size, like.shape), shapes)
    norm = GroupNorm().apply({"params": params["norm"]}, x)
    q, k, v = jnp.split(norm @ params["qkv"]["kernel"] + params["qkv"]["bias"][None, None], 3, axis=-1)
    heads = [
        by_hand(*(y[..., None, half] for y in (q, k, v)), np.ones((2, 4), bool)) for half in (slice(4), slice(4, 8))
    ]
    h = np.concatenate(heads, axis=-1)[:, :, 0]
    expected = np.asarray(x) + h @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [Attention(3), AttentionBlock(num_heads=3), Attention(0)])
def test_heads_that_do_not_divide_the_features(layer):
    with pytest.raises(ValueError, match=r"num_heads that divides its 8 features, got [30]"):
        layer.init(jax.random.key(0), normal(0, (2, 4, 8)))
