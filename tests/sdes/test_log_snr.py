"""The SDEs that are given by numbers or by a function, and a schedule that is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from tests.sdes.peers import zero_terminal


def monotone(params, t):
    """λ(t) = 9 − e^a t − e^b t³."""
    return 9.0 - jnp.exp(params["a"]) * t - jnp.exp(params["b"]) * t**3


PARAMS = {"a": jnp.asarray(2.0), "b": jnp.asarray(1.5)}


def loss(sde):
    """Uses g, a transition and the inverse."""
    t = jnp.linspace(0.1, 0.9, 5)
    kernel = sde.transition(0.5 * t, t)
    return sum(jnp.sum(part**2) for part in (sde.diffusion(t), kernel.std, kernel.scale, sde.time_of_log_snr(0.5 * t)))


def slope_of(function, name, step):
    """A central difference with respect to one parameter."""
    low, high = (function(PARAMS | {name: PARAMS[name] + change}) for change in (-step, step))
    return (high - low) / (2 * step)


@pytest.mark.slow
def test_gradients_flow_into_a_learned_schedule():
    """Both ways of writing it: a gradient with respect to the SDE, and an SDE built from parameters inside the loss."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PARAMS)
        sde = sdes.LogSNR(jax.tree_util.Partial(monotone, params))
        of_sde = jax.jit(jax.grad(loss))(sde)
        inside = jax.jit(jax.grad(lambda p: loss(sdes.LogSNR(jax.tree_util.Partial(monotone, p)))))(params)
        closed_over = jax.jit(jax.grad(lambda p: loss(sdes.LogSNR(lambda t: monotone(p, t)))))(params)
        (leaves,) = of_sde.function.args
        for name in params:
            expected = slope_of(lambda p: loss(sdes.LogSNR(jax.tree_util.Partial(monotone, p))), name, 1e-5)
            assert abs(expected) > 1e-3
            for gradient in (leaves, inside, closed_over):
                assert gradient[name] == pytest.approx(float(expected), rel=1e-6)


def test_new_parameters_of_a_schedule_compile_nothing_again():
    traces = []

    @jax.jit
    def value(sde):
        traces.append(None)
        return loss(sde)

    first = value(sdes.LogSNR(jax.tree_util.Partial(monotone, PARAMS)))
    second = value(sdes.LogSNR(jax.tree_util.Partial(monotone, {"a": jnp.asarray(1.0), "b": jnp.asarray(1.0)})))
    assert first != second
    assert len(traces) == 1


def test_a_plain_function_can_be_an_argument_of_jit():
    sde = sdes.LogSNR(lambda t: 5.0 - 10.0 * t)
    assert jax.jit(lambda sde, t: sde.log_snr(t))(sde, jnp.asarray(0.25)) == 2.5


def test_log_snr_keeps_alpha_and_sigma_at_both_ends():
    """α² + σ² = 1 to rounding, and 1 − α² keeps its digits at λ = 30, as α² does at −30."""
    sde = sdes.LogSNR(lambda t: 30.0 - 60.0 * t)
    t = jnp.asarray([1e-6, 0.5, 1.0])
    expected = np.exp(-0.5 * np.logaddexp(0, np.array([-30.0, 0.0, 30.0])))
    np.testing.assert_allclose(sde.sigma(t), expected[::-1], rtol=4e-5)
    np.testing.assert_allclose(sde.alpha(t), expected, rtol=4e-5)
    np.testing.assert_allclose(sde.alpha(t) ** 2 + sde.sigma(t) ** 2, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "function", [lambda t: -5.0 + 10.0 * t, lambda t: 0.0 * t, lambda t: jnp.nan * t, lambda t: jnp.abs(t - 0.4)]
)
def test_log_snr_must_fall(function):
    message = r"LogSNR needs a decreasing function of t, got .*, .*, .* at t = 1e-4, 0\.5, 1; .* negate or reverse it"
    with pytest.raises(ValueError, match=message):
        sdes.LogSNR(function)


def test_the_interpolation_is_linear_in_log_alpha_from_one():
    sde = sdes.DiscreteVP(np.array([-0.1, -0.4, -1.0, -2.0]))
    np.testing.assert_allclose(sde.log_alpha(jnp.asarray([0.0, 0.125, 0.25, 0.375, 1.0])), [0, -0.05, -0.1, -0.25, -2])
    np.testing.assert_allclose(sde.drift(jnp.asarray([0.125, 0.375, 1.0])), [-0.4, -1.2, -4.0], rtol=1e-6)


def test_constructors_agree_and_keep_float64():
    betas = np.array([1e-7, 0.1, 0.3])
    from_betas = sdes.DiscreteVP.from_betas(betas)
    from_products = sdes.DiscreteVP.from_alphas_cumprod(np.cumprod(1 - betas))
    np.testing.assert_allclose(from_betas.log_alphas, from_products.log_alphas, rtol=1e-8)
    assert from_betas.log_alphas.dtype == np.float64
    np.testing.assert_allclose(from_betas.log_alphas[0], -5e-8 * (1 + 5e-8), rtol=1e-13)
    ddpm = sdes.DiscreteVP.ddpm(4, beta_first=0.1, beta_last=0.4)
    np.testing.assert_allclose(np.exp(2 * ddpm.log_alphas), np.cumprod([0.9, 0.8, 0.7, 0.6]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.array([0.9, 0.95, 0.5]), r"got α = 0\.97\d* at level 2 of 3 after α = 0\.94"),
        (np.array([1.0, 0.5]), r"got α = 1 at level 1 of 2 after α = 1;"),
        (np.array([0.9, 0.9]), r"at level 2 of 2"),
        (np.array([0.9, 0.0, 0.0]), r"got α = 0 at level 2 of 3"),
        (np.array([0.9, -0.1]), r"got α = nan at level 2 of 2"),
        (np.array([0.9, np.nan]), r"got α = nan at level 2 of 2"),
        (np.linspace(1e-4, 0.02, 10), r"got α = 0\.04\d* at level 2 of 10.*β to from_betas, in the order from data"),
        (np.array([]), r"got the shape \(0,\)"),
    ],
)
def test_a_wrong_table_is_refused_with_its_first_wrong_level(table, message):
    with pytest.raises(ValueError, match=r"DiscreteVP needs a table \[n\] of α that decreases strictly .*" + message):
        sdes.DiscreteVP.from_alphas_cumprod(table)


def test_betas_outside_of_zero_and_one_are_refused():
    for betas in ([0.1, -0.1], [0.1, 1.5], [0.0, 0.1]):
        with pytest.raises(ValueError, match="DiscreteVP needs a table"):
            sdes.DiscreteVP.from_betas(np.array(betas))


def test_zero_terminal_snr():
    table = zero_terminal(np.linspace(1e-3, 0.2, 20))
    sde = sdes.DiscreteVP.from_alphas_cumprod(table)
    t = jnp.arange(1, 21) / 20
    np.testing.assert_allclose(sde.alpha(t) ** 2, table, rtol=2e-5, atol=1e-12)
    assert sde.alpha(1.0) == 0
    assert sde.sigma(1.0) == 1
    assert sde.log_snr(1.0) == -jnp.inf
    _, rate = sde.alpha_and_derivative(jnp.asarray([0.96, 1.0]))
    np.testing.assert_allclose(rate, -20 * np.sqrt(table[-2]), rtol=1e-5)
    assert np.all(np.isfinite(sde.sigma_and_derivative(jnp.asarray([0.96, 1.0]))))
    gradient = jax.jit(jax.grad(lambda sde: jnp.sum(sde.alpha(t[:-1]) + sde.sigma(t[:-1]))))(sde)
    assert np.all(np.isfinite(gradient.log_alphas[:-1]))


def test_a_table_of_log_snr_is_interpolated():
    """A straight line in three values is the line, its slope included; a bent table keeps its values."""
    line, table = sdes.LogSNR(lambda t: 10.0 - 20.0 * t), sdes.LogSNR.from_table([10.0, 0.0, -10.0])
    t = jnp.linspace(0.01, 0.99, 7)
    np.testing.assert_allclose(table.log_snr(t), line.log_snr(t), rtol=1e-6)
    np.testing.assert_allclose(table.diffusion(t), line.diffusion(t), rtol=1e-5)
    np.testing.assert_allclose(sdes.LogSNR.from_table([9.0, 4.0, -2.0]).log_snr(jnp.array([0.0, 0.5, 1.0])), [9, 4, -2])
    for wrong in ([1.0], [1.0, 2.0], [np.inf, 0.0]):
        with pytest.raises(ValueError, match="at least two finite, decreasing values, got"):
            sdes.LogSNR.from_table(wrong)
