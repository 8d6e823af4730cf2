"""A network with a parameterization and an SDE, bound to parameters and a condition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.denoising.denoiser import Denoiser, Uncertainty
from score_sde.denoising.parameterizations import EDMPreconditioning, Epsilon, LogSigmaLabel, TimeLabel

TRACES = []


class Affine(nn.Module):
    """w x + noise label + the embedded label of the condition, with dropout: a network with the call of ours."""

    dropout: float = 0.0
    num_classes: int = 4

    @nn.compact
    def __call__(self, x, noise_label, condition=None, train=False):
        TRACES.append(x.shape)
        y = self.param("w", nn.initializers.constant(2.0), x.shape[-1:])[None] * x + noise_label[:, None]
        if condition:
            y = y + nn.Embed(self.num_classes, x.shape[-1])(condition["label"])
        return nn.Dropout(self.dropout, deterministic=not train)(y)


LABELS = {"label": jnp.asarray([0, 1, 1])}
X, T = jnp.asarray([[1.0, -2.0], [0.5, 3.0], [4.0, 0.0]]), jnp.asarray([0.1, 0.5, 0.9])


def make(network=None, **kwargs):
    """(denoiser, parameters): F = w c_in x + c_noise, read as ε, on VP."""
    denoiser = Denoiser(sdes.VP(), Epsilon(TimeLabel(scale=1.0)), network or Affine(), **kwargs)
    return denoiser, denoiser.init(jax.random.key(0), {"x": X}, LABELS)


def test_the_network_sees_scaled_inputs_and_its_output_is_decoded():
    denoiser, params = make()
    estimate = denoiser.bind(params)(X, T)
    eps = 2 * X + T[:, None]
    np.testing.assert_allclose(estimate.eps, eps, rtol=1e-5)
    alpha, sigma = denoiser.sde.alpha(T)[:, None], denoiser.sde.sigma(T)[:, None]
    np.testing.assert_allclose(estimate.x0, (X - sigma * eps) / alpha, rtol=1e-4)

    edm = Denoiser(sdes.EDM(), EDMPreconditioning(LogSigmaLabel(), 0.5), Affine())
    c_in = 1 / np.sqrt(0.25 + np.asarray(T) ** 2)[:, None]
    output = 2 * c_in * X + 0.25 * np.log(T)[:, None]
    skip, out = 0.25 * c_in**2, 0.5 * np.asarray(T)[:, None] * c_in
    np.testing.assert_allclose(edm.bind(params)(X, T).x0, skip * X + out * output, rtol=1e-5)


def test_a_scalar_time_is_the_time_of_every_example():
    denoise = make()[0].bind(make()[1])
    one, many = denoise(X, 0.3), denoise(X, jnp.full(3, 0.3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, many)
    jax.tree.map(np.testing.assert_array_equal, denoise(X, jnp.asarray(0.3)), one)


def test_init_needs_only_shapes_and_depends_on_the_key():
    denoiser, params = make()
    same = denoiser.init(jax.random.key(0), {"x": jnp.full_like(X, jnp.nan)}, LABELS)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    shapes = jax.eval_shape(lambda key: denoiser.init(key, {"x": X}, LABELS), jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    other = denoiser.init(jax.random.key(1), {"x": X}, LABELS)["network"]["Embed_0"]["embedding"]
    assert not np.array_equal(other, params["network"]["Embed_0"]["embedding"])


def test_the_condition_reaches_the_network_example_by_example():
    denoiser, params = make()
    plain, conditional = denoiser.bind(params)(X, T), denoiser.bind(params, LABELS)(X, T)
    shift = params["network"]["Embed_0"]["embedding"][LABELS["label"]]
    np.testing.assert_allclose(conditional.eps - plain.eps, shift, atol=1e-6)
    np.testing.assert_array_equal(denoiser.bind(params, {})(X, T).eps, plain.eps)


def test_dropout_is_on_only_in_training_and_follows_its_key():
    denoiser, params = make(Affine(dropout=0.5))
    key = jax.random.key(7)
    quiet = denoiser.bind(params, dropout_key=key)(X, T).eps
    np.testing.assert_array_equal(quiet, denoiser.bind(params)(X, T).eps)
    noisy = denoiser.bind(params, train=True, dropout_key=key)(X, T).eps
    assert not np.array_equal(noisy, quiet)
    dropped = np.asarray(noisy) == 0
    np.testing.assert_allclose(np.asarray(noisy)[~dropped], 2 * np.asarray(quiet)[~dropped], rtol=1e-6)
    np.testing.assert_array_equal(denoiser.bind(params, train=True, dropout_key=key)(X, T).eps, noisy)
    draws = [denoiser.bind(params, train=True, dropout_key=jax.random.key(i))(X, T).eps for i in range(4)]
    assert any(not np.array_equal(draw, noisy) for draw in draws)


def test_new_parameters_conditions_and_fields_compile_nothing_again():
    denoiser, params = make()
    apply = jax.jit(lambda denoise, x, t: denoise(x, t))
    TRACES.clear()
    variants = [
        denoiser.bind(params, LABELS),
        denoiser.bind(jax.tree.map(lambda leaf: 2 * leaf, params), {"label": jnp.asarray([3, 2, 1])}),
        Denoiser(sdes.VP(beta_max=9.0), Epsilon(TimeLabel(scale=3.0)), Affine()).bind(params, LABELS),
    ]
    outputs = [apply(denoise, X, T).eps for denoise in variants]
    assert len(TRACES) == 1
    assert not np.array_equal(outputs[0], outputs[1])
    apply(denoiser.bind(params, LABELS, train=True), X, T)
    apply(denoiser.bind(params), X, T)
    assert len(TRACES) == 3  # another program: training, and no condition


def test_gradients_reach_the_parameters():
    denoiser, params = make()
    gradient = jax.grad(lambda p: jnp.sum(denoiser.bind(p, LABELS)(X, T).eps))(params)
    np.testing.assert_allclose(gradient["network"]["w"], jnp.sum(X, axis=0), rtol=1e-6)
    np.testing.assert_allclose(gradient["network"]["Embed_0"]["embedding"][:, 0], [1, 2, 0, 0])


def test_the_learned_log_variance_starts_at_zero_and_is_a_function_of_the_noise_level():
    denoiser, params = make(uncertainty=Uncertainty())
    assert set(params) == {"network", "uncertainty"}
    np.testing.assert_array_equal(denoiser.bind(params).log_variance(T), 0.0)
    kernel = jax.random.normal(jax.random.key(0), params["uncertainty"]["Dense_0"]["kernel"].shape)
    params = params | {"uncertainty": {"Dense_0": {"kernel": kernel, "bias": jnp.asarray([0.5])}}}
    # At one noise level σ/α it is the same number, whatever the SDE and the network's label.
    level = jnp.asarray([0.02, 1.0, 7.0])
    expected = 0.5 + np.sum(
        [
            kernel[k, 0] * np.cos(np.pi / 2 * np.log(level) / 4 * 2**k)
            + kernel[5 + k, 0] * np.sin(np.pi / 2 * np.log(level) / 4 * 2**k)
            for k in range(5)
        ],
        axis=0,
    )
    for sde in (sdes.VP(), sdes.EDM(), sdes.Flow()):
        other = Denoiser(sde, Epsilon(), Affine(), Uncertainty())
        u = other.bind(params).log_variance(sde.time_of_log_snr(-2 * jnp.log(level)))
        np.testing.assert_allclose(u, expected, rtol=1e-4, atol=1e-5)
    assert np.all(
        np.isfinite(Denoiser(sdes.Flow(), Epsilon(), Affine(), Uncertainty()).bind(params).log_variance(T * 0))
    )


def test_a_learned_weighting_needs_the_module():
    denoiser, params = make()
    with pytest.raises(ValueError, match=r"A learned weighting needs Denoiser\(uncertainty=Uncertainty\(\)\), got"):
        denoiser.bind(params).log_variance(T)
