"""Adaptive solves: accuracy, counts, independence of neighbours, closures, errors."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.solvers.adaptive_ode import Adaptive, Control
from score_sde.solvers.embedded_pairs import PAIRS

Y = jnp.asarray([[1.0, 0.5], [-2.0, 3.0], [0.2, 0.1]])
ZERO, ONE = jnp.asarray(0.0), jnp.asarray(1.0)


def decay(t, y):
    """dy/dt = −3 cos(5t) y, so y(1) = y(0) exp(−0.6 sin 5)."""
    return -3 * jnp.cos(5 * t)[:, None] * y


FACTOR = np.exp(-0.6 * np.sin(5.0))


def solve(adaptive, field=decay, y=Y, t0=ZERO, t1=ONE):
    return jax.jit(lambda y: adaptive.solve(field, y, t0, t1))(y)


@pytest.mark.few(2)
@pytest.mark.parametrize("method", PAIRS)
def test_each_method_is_right_and_counts_every_evaluation(method):
    calls = []

    def counted(t, y):
        jax.debug.callback(lambda: calls.append(1))
        return decay(t, y)

    solution = solve(Adaptive(1e-4, 1e-4, method), counted, Y[:1])
    jax.effects_barrier()
    np.testing.assert_allclose(solution.y, FACTOR * Y[:1], rtol=2e-3)
    assert int(solution.nfe[0]) == len(calls)


def test_backwards_in_time_and_to_a_tolerance():
    for tolerance, allowed in ((1e-3, 3e-2), (1e-6, 3e-5)):
        solution = solve(Adaptive(tolerance, tolerance), y=FACTOR * Y, t0=ONE, t1=ZERO)
        np.testing.assert_allclose(solution.y, Y, atol=allowed)


def test_float64_at_a_fine_tolerance():
    with jax.enable_x64(True):
        y = jnp.asarray(np.asarray(Y, np.float64))
        solution = solve(Adaptive(1e-11, 1e-11), y=y, t0=jnp.asarray(0.0), t1=jnp.asarray(1.0))
        np.testing.assert_allclose(solution.y, FACTOR * np.asarray(y), rtol=1e-9)
        assert solution.y.dtype == jnp.float64
        assert solution.nfe.dtype == jnp.int32


def test_a_state_of_several_arrays_of_any_shape():
    """Two coupled leaves, [b, 2, 1] and [b]: x' = x, l' = −Σx."""

    def field(t, state):
        x, total = state
        return x, -jnp.sum(x, axis=(1, 2)) + 0 * total

    x = Y[:, :, None]
    y, nfe, _ = solve(Adaptive(1e-6, 1e-6), field, (x, jnp.zeros(3)))
    np.testing.assert_allclose(y[0], np.e * x, rtol=1e-5)
    np.testing.assert_allclose(y[1], -(np.e - 1) * np.sum(x, axis=(1, 2)), rtol=1e-4)
    assert nfe.shape == (3,)


def test_an_image_has_steps_of_its_own():
    """A stiffer neighbour changes neither result nor count; it does take more steps itself."""

    def field(rates):
        return lambda t, y: -rates[:, None] * (y - jnp.cos(t)[:, None])

    adaptive = Adaptive(1e-5, 1e-5)
    calm = solve(adaptive, field(jnp.asarray([1.0, 1.0, 1.0])))
    stiff = solve(adaptive, field(jnp.asarray([1.0, 300.0, 1.0])))
    np.testing.assert_array_equal(calm.y[jnp.asarray([0, 2])], stiff.y[jnp.asarray([0, 2])])
    np.testing.assert_array_equal(calm.nfe[jnp.asarray([0, 2])], stiff.nfe[jnp.asarray([0, 2])])
    assert stiff.nfe[1] > 3 * calm.nfe[1]


def test_the_field_sees_the_whole_batch_once():
    shapes = set()

    def field(t, y):
        shapes.add((t.shape, y.shape))
        return decay(t, y)

    solve(Adaptive(), field)
    assert shapes == {((3,), (3, 2))}


def test_a_field_may_close_over_what_is_traced():
    """Parameters, conditions with a batch axis, integers and keys; the same inside vmap and grad-free jit."""

    @jax.jit
    def run(params, label, key, y):
        def field(t, y):
            shift = jax.random.normal(key, y.shape) * 0
            return -params["rate"][label][:, None] * y + shift

        return Adaptive(1e-5, 1e-5).solve(field, y, ZERO, ONE).y

    rate = jnp.asarray([0.5, 1.0, 2.0])
    label = jnp.asarray([2, 0, 1])
    args = label, jax.random.key(0), Y
    expected = np.exp(-np.asarray(rate)[np.asarray(label)])[:, None] * Y
    np.testing.assert_allclose(run({"rate": rate}, *args), expected, rtol=1e-4)
    several = jax.vmap(lambda scale: run({"rate": scale * rate}, *args))(jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(several[0], expected, rtol=1e-3)
    np.testing.assert_allclose(several[1], expected**2 / Y, rtol=1e-3)


def test_other_tolerances_and_times_compile_nothing():
    run = jax.jit(lambda adaptive, t1: adaptive.solve(decay, Y, ZERO, t1))
    run(Adaptive(), ONE)
    run(Adaptive(1e-3, 1e-6), 0.5 * ONE)
    assert run._cache_size() == 1


def test_a_first_step_next_to_a_singular_time():
    """√t from t = 1e-5: the first step is chosen near it, not 0.01 and then refused ten times."""

    def root(t, y):
        return 0.5 / jnp.sqrt(t)[:, None] * jnp.ones_like(y)

    solution = solve(Adaptive(), root, jnp.full((1, 1), np.sqrt(1e-5)), jnp.asarray(1e-5))
    np.testing.assert_allclose(solution.y, 1.0, atol=1e-4)
    assert solution.nfe[0] < 100
    backwards = solve(Adaptive(), root, jnp.ones((1, 1)), ONE, jnp.asarray(1e-5))
    np.testing.assert_allclose(backwards.y, np.sqrt(1e-5), atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_of_their_order(name):
    """b Aʲ cᵏ = k!/(j + k + 1)! up to the order, and 0 for the error's weights up to the companion's, one less."""
    pair = PAIRS[name]
    number = len(pair.error)
    a = np.zeros((number, number))
    for row, weights in enumerate(pair.rows, 1):
        a[row, : len(weights)] = weights
    c, b, error = a.sum(axis=1), a[-1], np.array(pair.error)
    for j, k in itertools.product(range(pair.order), repeat=2):
        chain = np.linalg.matrix_power(a, j) @ c**k
        if j + k + 1 <= pair.order:
            assert b @ chain == pytest.approx(math.factorial(k) / math.factorial(j + k + 1), abs=1e-12), (j, k)
        if j + k + 1 < pair.order:
            assert error @ chain == pytest.approx(0, abs=1e-12), (j, k)
    assert abs(error @ c ** (pair.order - 1)) > 1e-5


def test_a_solve_that_does_not_end_is_an_error():
    message = (
        r"Adaptive did not reach the end for 1 of 3 images within max_steps=40 steps of dopri5 at rtol=1e-05, atol=1e-06; "
        "raise the tolerances or max_steps, stop further from a time where the field is singular, or look for a NaN"
    )

    def field(t, y):
        return -jnp.asarray([1.0, 3000.0, 1.0])[:, None] * y

    adaptive = Adaptive(1e-5, 1e-6, max_steps=40)
    solution = solve(adaptive, field)
    np.testing.assert_array_equal(solution.failed, [False, True, False])
    np.testing.assert_array_equal(np.isnan(solution.y), [[False] * 2, [True] * 2, [False] * 2])
    with pytest.raises(RuntimeError, match=message):
        adaptive.raise_if(solution.failed)
    adaptive.raise_if(solution.failed & False)


@pytest.mark.parametrize("late", [False, True])
def test_a_nan_is_an_error(late):
    def field(t, y):
        return jnp.where((t > 0.5)[:, None] if late else True, jnp.nan, -y)

    adaptive = Adaptive(max_steps=60)
    with pytest.raises(RuntimeError, match=r"3 of 3 images within max_steps=60.*look for a NaN"):
        adaptive.raise_if(solve(adaptive, field).failed)


def test_bad_fields():
    with pytest.raises(ValueError, match="Adaptive needs rtol >= 0 and atol > 0, got rtol=-1.0, atol=1e-05"):
        Adaptive(rtol=-1.0)
    with pytest.raises(ValueError, match="Adaptive needs rtol >= 0 and atol > 0"):
        Adaptive(atol=0.0)
    with pytest.raises(
        ValueError, match="Adaptive needs a method among bosh3, dopri5, dopri8, heun, tsit5, got 'rk45'"
    ):
        Adaptive(method="rk45")
    with pytest.raises(ValueError, match="Adaptive needs max_steps >= 1, got 0"):
        Adaptive(max_steps=0)


def test_the_error_of_a_step_by_hand():
    """The root mean square over all numbers of an image of difference/(atol + rtol max(|old|, |new|))."""
    old = jnp.asarray([[0.0, -4.0], [3.0, 1.0]]), jnp.zeros((2, 1))
    new = jnp.asarray([[1.0, 2.0], [0.0, 9.0]]), jnp.asarray([[0.0], [-2.0]])
    difference = jnp.asarray([[3.0, -8.0], [7.0, 0.0]]), jnp.asarray([[1.0], [-5.0]])
    first = [3 / (1 + 1), 8 / (1 + 4), 1 / 1]
    second = [7 / (1 + 3), 0, 5 / (1 + 2)]
    expected = [np.sqrt(np.mean(np.square(row))) for row in (first, second)]
    np.testing.assert_allclose(Control(1.0, 1.0, (None, None)).error(old, new, difference), expected, rtol=1e-6)
