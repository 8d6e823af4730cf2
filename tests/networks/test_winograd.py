"""The fast convolution against jax.lax's: values, derivatives of both modes and orders, batching, and when it applies."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from score_sde.networks.kernels.winograd import conv_general_dilated, transforms

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def fast(x, kernel):
    return conv_general_dilated(x, kernel, (1, 1), "SAME", **LAYOUT)


def direct(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", **LAYOUT)


def uses_fast(x, kernel, stride=1, padding="SAME", **options):
    """Six products in place of one."""

    def call(x, k):
        return conv_general_dilated(x, k, (stride, stride), padding, **LAYOUT, **options)

    text = jax.jit(call).lower(x, kernel).as_text()
    return text.count("stablehlo.convolution") + text.count("stablehlo.dot_general") == 6


@pytest.fixture(scope="module", params=[12, 8], ids=["three tiles", "two tiles"])
def arrays(request):
    """A batch that is not square, its kernel, and two tangents."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, dx = (jax.random.normal(key, (3, 5, request.param, 64)) for key in keys[:2])
    kernel, dk = (jax.random.normal(key, (3, 3, 64, 80)) / 24 for key in keys[2:])
    return x, kernel, dx, dk


def assert_close(a, b, tolerance=1e-5):
    """To rounding, in standard deviations of what is compared."""
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        right = np.asarray(right)
        assert left.shape == right.shape and right.std() > 0
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * right.std())


def test_the_transforms_are_the_convolution_in_exact_arithmetic():
    output, weight, data = transforms()
    x, taps = np.random.default_rng(0).standard_normal((2, 6))
    expected = [x[j : j + 3] @ taps[:3] for j in range(4)]
    np.testing.assert_allclose(output @ ((weight @ taps[:3]) * (data @ x)), expected, atol=1e-13)


def test_values(arrays):
    x, kernel, _, _ = arrays
    assert uses_fast(x, kernel)
    assert_close(jax.jit(fast)(x, kernel), direct(x, kernel))
    assert_close(fast(x, kernel), direct(x, kernel))


@pytest.mark.few(1)
def test_derivatives(arrays):
    x, kernel, dx, dk = arrays

    def derivatives(conv):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel)))

        gradient = jax.grad(loss, (0, 1))

        def forward_over_reverse(x, kernel):
            return jax.jvp(gradient, (x, kernel), (dx, dk))[1]

        def summed(function):
            return lambda x, kernel: sum(jnp.sum(jnp.sin(leaf)) for leaf in function(x, kernel))

        return {
            "reverse": gradient(x, kernel),
            "forward": jax.jvp(conv, (x, kernel), (dx, dk))[1],
            "forward over reverse": forward_over_reverse(x, kernel),
            "reverse over reverse": jax.grad(summed(gradient), (0, 1))(x, kernel),
            "reverse over forward over reverse": jax.grad(summed(forward_over_reverse), (0, 1))(x, kernel),
        }

    assert_close(jax.jit(derivatives, static_argnums=0)(fast), jax.jit(derivatives, static_argnums=0)(direct), 1e-4)


@pytest.mark.few(1)
def test_batching(arrays):
    x, kernel, dx, dk = arrays
    xs, kernels = jnp.stack([x, dx]), jnp.stack([kernel, dk])
    for axes, args in {(0, None): (xs, kernel), (None, 0): (x, kernels), (0, 0): (xs, kernels)}.items():
        assert_close(jax.vmap(fast, axes)(*args), jax.vmap(direct, axes)(*args))
    last = jnp.moveaxis(xs, 0, -1)
    assert_close(jax.vmap(fast, (-1, None))(last, kernel), jax.vmap(direct, (-1, None))(last, kernel))

    def kernel_gradients(conv):
        return jax.vmap(jax.grad(lambda k, x: jnp.sum(jnp.sin(conv(x, k)))), (None, 0))(kernel, xs)

    assert_close(kernel_gradients(fast), kernel_gradients(direct))


@pytest.mark.few(2)
@pytest.mark.parametrize("channels", [(3, 8), (32, 40), (64, 3), (3, 64), (16, 64)])
def test_the_gradients_of_small_layers(channels):
    """Also next to a border on both sides at once."""
    keys = jax.random.split(jax.random.key(1), 2)
    for space in ((5, 12), (1, 2), (8, 8)):
        x, kernel = jax.random.normal(keys[0], (3, *space, channels[0])), jax.random.normal(keys[1], (3, 3, *channels))

        def gradients(conv, x, kernel):
            return jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel))), (0, 1)))(x, kernel)

        assert_close(gradients(fast, x, kernel), gradients(direct, x, kernel))


def test_every_convolution_of_a_gradient_is_in_the_form_that_loops_need_too():
    """[b, h, w, c] by [h, w, c, o] to [b, h, w, o]: XLA changes others to it, but not in loops."""
    x, kernel = jnp.zeros((2, 8, 8, 8)), jnp.zeros((3, 3, 8, 8))
    text = jax.jit(jax.grad(lambda x, k: jnp.sum(fast(fast(x, k), k) ** 2), (0, 1))).lower(x, kernel).as_text()
    found = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(found) == 6 and all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line for line in found)


def test_where_it_does_not_apply(arrays):
    x, kernel, _, _ = arrays
    assert not uses_fast(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert not uses_fast(x[:, :, :-2], kernel)
    assert not uses_fast(x[:, :, :4], kernel)
    assert not uses_fast(x[..., :32], kernel[:, :, :32])
    assert not uses_fast(x, kernel[:1, :1])
    assert not uses_fast(x, kernel, stride=2)
    assert not uses_fast(x, kernel, padding="VALID")
    assert uses_fast(x, kernel, padding=((1, 1), (1, 1)))
    assert not uses_fast(x, kernel, rhs_dilation=(2, 2))
    assert not uses_fast(x, kernel, precision="highest")
    with jax.default_matmul_precision("highest"):
        assert not uses_fast(x, kernel)


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from score_sde import parallel
from tests.networks.test_winograd import fast

x, kernel = jax.random.normal(jax.random.key(0), (8, 5, 8, 64)), jax.random.normal(jax.random.key(1), (3, 3, 64, 64)) / 24
gradient = jax.jit(jax.grad(lambda k, x: jnp.mean(jnp.sin(fast(x, k)))))
found = []
for number in (1, 4):
    mesh = parallel.make_mesh(number)
    args = parallel.replicate(kernel, mesh), jax.device_put(x, parallel.batch_sharding(mesh))
    program = gradient.lower(*args).compile()
    assert not any(name in program.as_text() for name in ("all-gather", "all-to-all", "collective-permute"))
    found.append(np.asarray(program(*args)))
np.testing.assert_allclose(*found, rtol=0, atol=1e-5 * found[0].std())
"""


def test_a_sharded_batch_stays_where_it_is():
    run = subprocess.run([sys.executable, "-c", ON_FOUR_DEVICES], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
