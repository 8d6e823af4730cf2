"""One reduction over an example, with weights for point sets and padded sequences."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import score_sde
from score_sde import objectives
from score_sde.denoising.estimate import Estimate
from score_sde.internal.per_example import dimension, norm, per_example, root_mean_square
from score_sde.sdes import VP

PACKAGE = pathlib.Path(score_sde.__file__).parent
X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 2)), jnp.float32)
SIZES = (4, 2, 3)  # points of each example; the others are padding
MASK = jnp.arange(4)[None] < jnp.asarray(SIZES)[:, None]
PADDED = jnp.where(MASK[..., None], X, jnp.nan)


@pytest.mark.parametrize(
    ("reduced", "expected"),
    [
        (per_example, np.sum),
        (lambda x, w=None: per_example(x, w, "mean"), np.mean),
        (norm, np.linalg.norm),
        (root_mean_square, lambda x: np.sqrt(np.mean(x**2))),
        (dimension, np.size),
    ],
    ids=["sum", "mean", "norm", "root_mean_square", "dimension"],
)
def test_a_padded_example_is_the_same_as_the_example_alone(reduced, expected):
    of_each = [expected(np.asarray(x[:size], np.float64)) for x, size in zip(X, SIZES, strict=True)]
    np.testing.assert_allclose(reduced(PADDED, MASK), of_each, rtol=1e-6)
    np.testing.assert_allclose(reduced(X), [expected(np.asarray(x, np.float64)) for x in X], rtol=1e-6)


def test_weights_are_numbers_too_and_no_weight_gives_zero():
    weight = jnp.asarray([2.0, 0.5, 0.0])
    np.testing.assert_allclose(per_example(X, weight), weight * per_example(X), rtol=1e-6)
    np.testing.assert_allclose(
        per_example(X, weight, "mean"), jnp.sign(weight) * per_example(X, reduce="mean"), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(3, 2), (4, 2), (3, 4, 2, 1), ()])
def test_a_weight_of_another_shape_is_an_error(shape):
    """[b, d] would be broadcast along the points without a word."""
    with pytest.raises(
        ValueError, match=r"per_example needs a weight for the first axes of values \(3, 4, 2\), got the"
    ):
        per_example(X, jnp.ones(shape))


def test_an_unknown_reduction_is_an_error():
    with pytest.raises(ValueError, match='per_example needs reduce "sum" or "mean", got \'max\''):
        per_example(X, reduce="max")


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["denoising", "sliced"])
def test_the_loss_of_a_padded_set_is_the_loss_of_the_set(name):
    """And padding has no gradient, whatever the model says there."""
    objective = objectives.OBJECTIVES[name](VP())

    def estimate(scale, x):
        return Estimate(0.3 * x, scale * jnp.tanh(x))

    def losses(scale, batch, draws):
        return objective.losses(lambda x, t: estimate(scale, x), batch, draws)[0]

    draws = objective.draw(jax.random.key(0), {"x": X})
    one = jnp.float32(1)
    whole = losses(one, {"x": jnp.where(MASK[..., None], X, 1e3), "weight": MASK}, draws)
    for i, size in enumerate(SIZES):
        cut = {k: v[i : i + 1] if v.ndim == 1 else v[i : i + 1, ..., :size, :] for k, v in draws.items()}
        np.testing.assert_allclose(whole[i], losses(one, {"x": X[i : i + 1, :size]}, cut)[0], rtol=1e-5)


def test_the_prior_density_of_a_padded_set_is_the_density_of_the_set():
    sde = VP()
    alone = [float(sde.prior_log_prob(X[i : i + 1, :size])[0]) for i, size in enumerate(SIZES)]
    np.testing.assert_allclose(sde.prior_log_prob(PADDED, MASK), alone, rtol=1e-6)


MATHEMATICS = ("sdes", "denoising", "objectives", "solvers", "guidance", "likelihood", "editing", "tasks")
SUMS = {"sum", "mean", "norm", "nansum", "nanmean", "average"}


def own_reductions(text):
    """Line numbers of sums over all axes of an example but the batch's, in the forms that the code once had."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SUMS):
            continue
        axis = next((ast.unparse(k.value) for k in node.keywords if k.arg == "axis"), "")
        flattened = any("reshape" in ast.unparse(value) and ", -1)" in ast.unparse(value) for value in node.args)
        if "range(" in axis or axis in ("(1, 2, 3)", "axes") or (axis in ("1", "-1", "(1,)") and flattened):
            found.append(node.lineno)
    return found


def test_the_mathematics_has_no_reduction_of_its_own():
    """A sum beside `per_example` would add up padding."""
    for form in (
        "jnp.mean(e, axis=tuple(range(1, x.ndim)))",
        "jnp.sum(x.reshape(x.shape[0], -1) ** 2, axis=1)",
        "jnp.linalg.norm(x.reshape(len(x), -1), axis=-1)",
    ):
        assert own_reductions(form) == [1], form
    files = [path for folder in MATHEMATICS for path in (PACKAGE / folder).rglob("*.py")]
    assert len(files) > 60
    found = {str(path.relative_to(PACKAGE)): own_reductions(path.read_text(encoding="utf-8")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}
