"""Each operator against its dense matrix, and against other people's code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from PIL import Image

from score_sde.guidance import operators as ops
from score_sde.guidance.operators import OPERATORS, conjugate_gradients
from score_sde.guidance.operators.jpeg import STEPS

RNG = np.random.default_rng(0)
SHAPE = (8, 8, 3)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


# A new linear operator is one more line here.
LINEAR = {
    "mask": ops.Mask(jnp.asarray(RNG.integers(0, 2, (8, 8, 1)), jnp.float32)),
    "grey": ops.Grey((0.299, 0.587, 0.114)),
    "grey_mean": ops.Grey(),
    "grey_negative": ops.Grey((-1.0, 0.0, 0.5)),
    "block_average": ops.BlockAverage(2),
    "bicubic": ops.Bicubic(2),
    "gaussian_blur": ops.GaussianBlur(0.8, 3),
    "circular_blur": ops.CircularBlur(normal(3, 4)),
    "random_projection": ops.RandomProjection(40, seed=3),
    "matrix": ops.Matrix(normal(30, 192)),
    "matrix_tall": ops.Matrix(normal(200, 192)),
    "linear_function": ops.LinearFunction(lambda x: x[:, ::2] - 0.5 * x[:, 1::2]),
}
DECOMPOSED = [name for name, operator in LINEAR.items() if isinstance(operator, ops.Decomposed)]


@jax.jit
def dense_transposed(operator):
    size = int(np.prod(SHAPE))
    return operator(jnp.eye(size, dtype=jnp.float32).reshape(size, *SHAPE)).reshape(size, -1)


def dense(operator):
    return np.asarray(dense_transposed(operator), np.float64).T


def test_every_member_is_in_a_list():
    nonlinear = {"function", "phase_retrieval", "jpeg"}
    assert {*OPERATORS} - nonlinear == {n for n, kind in OPERATORS.items() if issubclass(kind, ops.Linear)}
    assert {type(operator) for operator in LINEAR.values()} == {OPERATORS[n] for n in {*OPERATORS} - nonlinear}


@jax.jit
def adjoint_and_inverse(operator, x, other):
    y = operator(x)
    inverse = operator.pseudo_inverse(y, SHAPE)
    damped = operator.damped_inverse(other, SHAPE, jnp.asarray([1.0, 2.0, 1.0]), jnp.asarray([1.0, 0.5, 1.0]))
    return y, operator.adjoint(other, SHAPE), inverse, operator(inverse), damped


@pytest.mark.few(6)
@pytest.mark.parametrize("name", LINEAR)
def test_adjoint_and_pseudo_inverse(name):
    """Against the matrix, one image among others."""
    operator, matrix, x = LINEAR[name], dense(LINEAR[name]), normal(3, *SHAPE)
    other = normal(3, *operator.measured_shape(SHAPE))
    y, adjoint, inverse, again, damped = (np.asarray(a)[1].ravel() for a in adjoint_and_inverse(operator, x, other))
    np.testing.assert_allclose(y, matrix @ np.asarray(x)[1].ravel(), atol=5e-5)
    np.testing.assert_allclose(adjoint, matrix.T @ np.asarray(other)[1].ravel(), atol=5e-5)
    np.testing.assert_allclose(again, y, atol=2e-3)
    np.testing.assert_allclose(inverse, np.linalg.pinv(matrix, rcond=1e-5) @ y, atol=2e-3)
    inner = np.linalg.solve(2 * matrix @ matrix.T + 0.5 * np.eye(len(matrix)), np.asarray(other)[1].ravel())
    np.testing.assert_allclose(damped, matrix.T @ inner, atol=2e-4)


@jax.jit
def decomposition(operator, x, other):
    z = operator.to_coordinates(x)
    values = jnp.broadcast_to(operator.singular_values(SHAPE)[None], z.shape).astype(z.dtype)
    left, right = operator.measured_coordinates(operator(x), SHAPE), values * z
    back = operator.from_coordinates(values * operator.measured_coordinates(other, SHAPE), SHAPE)
    return values, z, operator.from_coordinates(z, SHAPE), left, right, back, operator.adjoint(other, SHAPE)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", DECOMPOSED)
def test_singular_value_decomposition(name):
    """V keeps norms and is inverted; Uᵀ A x = Σ Vᵀ x; V Σ Uᵀ = Aᵀ; Σ are the matrix's."""
    operator, x = LINEAR[name], normal(2, *SHAPE)
    other = normal(2, *operator.measured_shape(SHAPE))
    values, z, same, left, right, back, adjoint = decomposition(operator, x, other)
    np.testing.assert_allclose(same, x, atol=2e-5)
    np.testing.assert_allclose(np.sum(np.abs(z) ** 2), np.sum(np.square(x)), rtol=1e-5)
    np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-4)
    np.testing.assert_allclose(back, adjoint, rtol=2e-5, atol=2e-4)
    expected = np.linalg.svd(dense(operator), compute_uv=False)
    found = np.sort(np.real(values[0]).ravel())[::-1]
    np.testing.assert_allclose(found[: len(expected)], expected[: len(found)], rtol=1e-5, atol=5e-5)


def test_conjugate_gradients_of_each_image_alone():
    """The iterates, not only the solution, do not depend on the neighbours; and the solution is right."""
    factor = normal(4, 6, 6)
    matrices = factor @ factor.mT + 0.5 * jnp.eye(6)[None]
    b = normal(4, 6) * jnp.asarray([[1.0], [100.0], [1.0], [1.0]])

    @functools.partial(jax.jit, static_argnames="steps")
    def solve(matrices, b, steps):
        return conjugate_gradients(lambda v: jnp.einsum("bij,bj->bi", matrices, v), b, steps)

    for steps in (2, 30):
        together = solve(matrices, b, steps)
        np.testing.assert_allclose(together[0], solve(matrices[:1], b[:1], steps)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.einsum("bij,bj->bi", matrices, together), b, rtol=1e-3, atol=1e-3)


def test_conjugate_gradients_stop_before_a_direction_that_is_no_minimum():
    """As with the Jacobian of a trained network: one eigenvalue near 0 or below, where the exact solution is 10⁴ long."""
    matrices = jnp.stack([jnp.diag(jnp.asarray([2.0, 1.0, bad])) for bad in (1e-4, -1e-4, 3.0)])
    b = jnp.ones((3, 3))

    def solve(least):
        return conjugate_gradients(lambda v: jnp.einsum("bij,bj->bi", matrices, v), b, 10, 1e-6, least)

    assert jnp.abs(solve(0.0)[0]).max() > 5e3  # a legal matrix, whatever its condition
    stopped = solve(0.1)
    assert jnp.abs(stopped[:2]).max() < 10
    np.testing.assert_allclose(stopped[2], [0.5, 1.0, 1 / 3], rtol=1e-5)


def test_gaussian_blur_is_scipys():
    image = np.asarray(normal(12, 9, 1))
    expected = scipy.ndimage.gaussian_filter(image[..., 0].astype(np.float64), 1.3, mode="reflect", radius=5)
    np.testing.assert_allclose(ops.GaussianBlur(1.3, 5)(jnp.asarray(image)[None])[0, ..., 0], expected, atol=1e-6)


def test_bicubic_is_pillows():
    image = np.asarray(normal(16, 12, 1))
    expected = np.asarray(Image.fromarray(image[..., 0]).resize((3, 4), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(ops.Bicubic(4)(jnp.asarray(image)[None])[0, ..., 0], expected, atol=1e-5)


def test_circular_blur_is_scipys():
    image, kernel = np.asarray(normal(8, 6, 1)), np.asarray(normal(3, 4))
    expected = scipy.ndimage.convolve(image[..., 0], kernel, mode="wrap")
    np.testing.assert_allclose(
        ops.CircularBlur(jnp.asarray(kernel))(jnp.asarray(image)[None])[0, ..., 0], expected, atol=1e-5
    )


def test_block_average_and_random_projection():
    x = normal(1, 4, 6, 2)
    np.testing.assert_allclose(ops.BlockAverage(2)(x)[0, 1, 2], np.mean(x[0, 2:4, 4:6], axis=(0, 1)), atol=1e-6)
    rows = dense(ops.RandomProjection(40, seed=3))
    np.testing.assert_allclose(rows @ rows.T, np.eye(40), atol=1e-5)
    assert np.mean(np.abs(rows) > 1e-4) > 0.95  # each row mixes all pixels
    assert not np.allclose(rows, dense(ops.RandomProjection(40, seed=4)))


def test_phase_retrieval():
    x = normal(1, 6, 4, 1)
    padded = np.zeros((12, 8))
    padded[3:9, 2:6] = x[0, ..., 0]
    y = ops.PhaseRetrieval()(x)
    np.testing.assert_allclose(y[0, ..., 0], np.abs(np.fft.fft2(padded, norm="ortho")), atol=1e-5)
    np.testing.assert_allclose(ops.PhaseRetrieval()(x[:, ::-1, ::-1]), y, atol=1e-5)
    zero_derivative = jax.grad(lambda x: jnp.sum(ops.PhaseRetrieval()(x)))(jnp.zeros((1, 4, 4, 1)))
    assert np.all(np.isfinite(zero_derivative))


def test_jpeg():
    """By scipy's transform and the standard's table: at quality 50 the steps are the table. The derivative is the identity."""
    levels = RNG.uniform(0, 255, (8, 8))
    expected = scipy.fft.idctn(np.rint(scipy.fft.dctn(levels - 127.5, norm="ortho") / STEPS) * STEPS, norm="ortho")
    image = jnp.asarray(levels / 127.5 - 1, jnp.float32)[None, ..., None]
    np.testing.assert_allclose(ops.Jpeg(50.0)(image)[0, ..., 0] * 127.5, expected, atol=1e-3)
    steps = ops.Jpeg(25.0)._steps(jnp.float32)[0, 0, :, 0, :, 0] * 127.5
    np.testing.assert_allclose(steps, np.minimum(2 * STEPS, 255))
    slope = jax.jit(lambda x: jax.jvp(ops.Jpeg(10.0), (x,), (x,))[1])(image)
    np.testing.assert_allclose(slope, image, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: ops.Mask(jnp.asarray([[0.5]])), None, r"Mask needs values 0 and 1, got values from 0.5 to 0.5"),
        (lambda: ops.Mask(jnp.ones((4, 4, 1))), (8, 8, 3), r"shape of one image, \(8, 8, 3\) .* got \(4, 4, 1\)"),
        (lambda: ops.Grey((0.0, 0.0)), None, "Grey needs weights that are not all 0"),
        (lambda: ops.Grey(), (8, 8, 1), "Grey needs images with 3 channels"),
        (lambda: ops.BlockAverage(3), (8, 8, 3), "BlockAverage needs images .* multiples of 3"),
        (lambda: ops.BlockAverage(0), None, "BlockAverage needs factor >= 1"),
        (lambda: ops.Bicubic(0), None, "Bicubic needs factor >= 1"),
        (lambda: ops.Bicubic(3), (9, 8, 3), "sides are multiples of 3, got 8 pixels"),
        (lambda: ops.GaussianBlur(0.0), None, "GaussianBlur needs std > 0"),
        (lambda: ops.GaussianBlur(), (8,), r"GaussianBlur needs images \[h, w, c\]"),
        (lambda: ops.CircularBlur(jnp.ones((9, 1))), (8, 8, 3), "not smaller than its kernel"),
        (lambda: ops.RandomProjection(0), None, "RandomProjection needs number >= 1"),
        (lambda: ops.RandomProjection(193), (8, 8, 3), "RandomProjection needs number <= 192"),
        (lambda: ops.Matrix(jnp.ones((2, 3))), (4,), "needs images of 3 numbers"),
        (lambda: ops.PhaseRetrieval(0.5), None, "PhaseRetrieval needs oversampling >= 1"),
        (lambda: ops.PhaseRetrieval(), (8, 8), r"PhaseRetrieval needs images \[h, w, c\]"),
        (lambda: ops.Jpeg(0.0), None, "Jpeg needs 1 <= quality <= 100"),
        (lambda: ops.Jpeg(), (12, 8, 1), "Jpeg needs images .* multiples of 8"),
    ],
)
def test_mistakes(make, shape, message):
    with pytest.raises(ValueError, match=message):
        make().measured_shape(shape)
