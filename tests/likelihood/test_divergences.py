"""tr J of fields whose Jacobian is known: exact values, bias, variance, memory in chunks, one evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.likelihood import DIVERGENCES, ExactTrace, GivenProbes, Hutchinson
from score_sde.likelihood.density import image_keys

KEYS = image_keys(jax.random.key(3), jnp.arange(4))
J = jax.random.normal(jax.random.key(0), (6, 6))
X = jax.random.normal(jax.random.key(1), (4, 2, 3, 1))


def field(x):
    """x + J x + x²: the divergence is 6 + tr J + 2 Σ x."""
    flat = x.reshape(x.shape[0], -1)
    return x + (flat @ J.T).reshape(x.shape) + x**2


def truth():
    return 6 + np.trace(J) + 2 * np.asarray(X).reshape(4, -1).sum(axis=1)


def apply(divergence, key=KEYS):
    return divergence(field, X, divergence.draw(key, X))


@pytest.mark.parametrize("chunk_size", [1, 4, 6, 16])
def test_exact_trace_in_chunks(chunk_size):
    value, values = apply(ExactTrace(chunk_size))
    np.testing.assert_allclose(value, field(X), rtol=1e-6)
    assert values.shape == (4, 1)
    np.testing.assert_allclose(values[:, 0], truth(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinson_mean_and_variance(kind):
    number = 20_000
    value, values = apply(Hutchinson(number, kind))
    np.testing.assert_allclose(value, field(X), rtol=1e-6)
    values = np.asarray(values, np.float64)
    assert np.all(np.abs(values.mean(axis=1) - truth()) < 4.5 * values.std(axis=1) / np.sqrt(number))
    for x, row in zip(np.asarray(X).reshape(4, -1), values, strict=True):
        jacobian = np.eye(6) + np.asarray(J) + np.diag(2 * x)
        squares = 0.25 * (jacobian + jacobian.T) ** 2
        expected = 2 * (squares.sum() - (np.trace(squares) if kind == "rademacher" else 0))
        # The fourth moment of a quadratic form is at most 15 times its squared variance here.
        np.testing.assert_allclose(row.var(), expected, rtol=4.5 * np.sqrt(15 / number))


def test_probes_have_unit_covariance_and_their_kind():
    signs = Hutchinson(500, "rademacher").draw(KEYS, X)
    assert signs.shape == (4, 500, 2, 3, 1)
    assert set(np.unique(signs)) == {-1, 1}
    normal = np.asarray(Hutchinson(5000, "gaussian").draw(KEYS, X)).reshape(-1, 6)
    np.testing.assert_allclose(np.cov(normal.T), np.eye(6), atol=4.5 * np.sqrt(2 / len(normal)))


def test_probes_belong_to_the_image_and_differ_between_images():
    together = Hutchinson(3).draw(KEYS, X)
    np.testing.assert_array_equal(Hutchinson(3).draw(KEYS[2:3], X[2:3]), together[2:3])
    assert len({row.tobytes() for row in np.asarray(together)}) == 4


def test_given_probes_repeat_hutchinson():
    hutchinson = Hutchinson(5, "gaussian")
    given = GivenProbes(hutchinson.draw(KEYS, X))
    np.testing.assert_allclose(apply(given)[1], apply(hutchinson)[1], rtol=1e-6)


@pytest.mark.parametrize("divergence", [ExactTrace(2), Hutchinson(3)], ids=["exact", "hutchinson"])
def test_one_evaluation_gives_velocity_and_trace(divergence):
    calls = []

    def counted(x):
        calls.append(x)
        return field(x)

    divergence(counted, X, divergence.draw(KEYS, X))
    assert len(calls) == 1


def test_catalogue_and_errors():
    assert set(DIVERGENCES) == {"exact", "hutchinson"}
    with pytest.raises(ValueError, match="Hutchinson needs a kind among rademacher, gaussian, got 'sphere'"):
        Hutchinson(kind="sphere")
    with pytest.raises(ValueError, match="Hutchinson needs num_probes >= 1, got 0"):
        Hutchinson(num_probes=0)
    with pytest.raises(ValueError, match="ExactTrace needs chunk_size >= 1, got 0"):
        ExactTrace(chunk_size=0)
