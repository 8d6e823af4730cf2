import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.internal.broadcast import expand_like


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4, 5, 2), (1, 2)])
def test_a_batch_of_coefficients_multiplies_example_by_example(shape):
    x = jnp.asarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    coefficient = jnp.arange(1.0, shape[0] + 1)
    product = expand_like(coefficient, x) * x  # rank promotion raises in the tests
    assert product.shape == shape
    for i in range(shape[0]):
        np.testing.assert_array_equal(product[i], (i + 1) * x[i])


@pytest.mark.parametrize("coefficient", [2.0, jnp.asarray(2.0)])
def test_a_scalar_multiplies_the_whole_batch(coefficient):
    x = jnp.ones((3, 4, 2))
    np.testing.assert_array_equal(expand_like(coefficient, x) * x, 2 * x)


def test_a_number_takes_the_precision_of_what_it_multiplies():
    assert (expand_like(0.1, jnp.ones((2, 2), jnp.bfloat16)) * jnp.ones((2, 2), jnp.bfloat16)).dtype == jnp.bfloat16


def test_inside_jit_and_vmap():
    x, coefficient = jnp.ones((4, 3, 2)), jnp.arange(4.0)
    expected = expand_like(coefficient, x) * x
    np.testing.assert_array_equal(jax.jit(lambda c, x: expand_like(c, x) * x)(coefficient, x), expected)
    np.testing.assert_array_equal(jax.vmap(lambda c, x: expand_like(c, x) * x)(coefficient, x), expected)
