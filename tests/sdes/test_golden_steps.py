"""Steps of the discretized processes of yang-song/score_sde, forwards and in reverse, and DDPM's posterior of diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.denoising.dynamics import score
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.solvers import Ancestral, ReverseDiffusion
from score_sde.solvers.grids import TimestepSpacing
from tests.sdes.peers import load, relative
from tests.sdes.test_golden import OF_2021, close, wide
from tests.solvers import replay


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def as_tables(name, number, peer):
    """Our (SDE, s, t) of their step at each time of the pack: DDPM's table, VE's levels; sub-VP's is Euler's, not exact."""
    i = np.floor(peer["t"].astype(np.float64) * (number - 1))
    if name == "vp":
        betas = peer.get(f"vp_N{number}_discrete_betas", np.linspace(0.1 / number, 20 / number, number))
        return sdes.DiscreteVP.from_betas(betas), jnp.asarray(i / number), jnp.asarray((i + 1) / number)
    return sdes.VE(), jnp.asarray((i - 1) / (number - 1)), jnp.asarray(i / (number - 1))


@pytest.mark.parametrize("number", [100, 1000])
@pytest.mark.parametrize("name", ["vp", "ve"])
def test_reverse_steps_are_those_of_reverse_diffusion(x64, name, number):
    """x − rev_f + rev_G z is our step with the score given; of VE's first level, which comes from data, it is another."""
    peer = load("score_sde")
    sde, s, t = as_tables(name, number, peer)
    keep = np.flatnonzero(np.asarray(s) >= 0)
    x, given, s, t = (jnp.asarray(a)[keep] for a in (peer["x"], peer["score"], s, t))

    def one(x, given, s, t):
        function = jax.tree_util.Partial(lambda sde, given, x, t: Estimate(x, -sde.sigma(t) * given), sde, given[None])
        denoise = FunctionDenoiser(sde, function)
        draws = (jnp.full_like(x[None], z) for z in (0.0, 1.0))
        ours = [replay.step(ReverseDiffusion(), denoise, x[None], t, s, (), [z])[0][0] for z in draws]
        return ours[0], ours[1] - ours[0]

    mean, noise = jax.vmap(one)(x, given, s, t)
    close(x - mean, peer[f"{name}_N{number}_rev_f_pf0"][keep], rtol=1e-9, atol=1e-10)
    close(noise, np.broadcast_to(wide(peer[f"{name}_N{number}_rev_G_pf0"])[keep], noise.shape), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("number", [100, 1000])
@pytest.mark.parametrize("name", OF_2021)
def test_reverse_of_the_discretized_process(x64, name, number):
    """rev_f = f − G² s, of the flow f − ½ G² s without noise; f and G are the transition's, of sub-VP Euler's."""
    peer = load("score_sde")
    sde = OF_2021[name]
    t = jnp.asarray(peer["t"])
    if name == "subvp":
        f, std = wide(sde.drift(t)) * peer["x"] / number, sde.diffusion(t) / np.sqrt(number)
    else:
        table, s, end = as_tables(name, number, peer)
        kernel = table.transition(s, end)
        f, std = (wide(kernel.scale) - 1) * peer["x"], jnp.where(s < 0, sde.sigma(0.0), kernel.std)
    size = np.abs(f) + np.abs(wide(std) ** 2 * peer["score"])
    for flow, share in ((0, 1.0), (1, 0.5)):
        reverse = f - share * wide(std) ** 2 * peer["score"]
        assert np.all(np.abs(reverse - peer[f"{name}_N{number}_rev_f_pf{flow}"]) <= 1e-9 * size)
        close((1 - flow) * std, peer[f"{name}_N{number}_rev_G_pf{flow}"], rtol=1e-10)


@pytest.mark.parametrize("name", OF_2021)
def test_diffusion_of_the_reverse_sde(x64, name):
    peer = load("score_sde")
    close(OF_2021[name].diffusion(jnp.asarray(peer["t"])), peer[f"{name}_rev_diffusion_pf0"], rtol=1e-10)
    assert peer[f"{name}_rev_diffusion_pf1"] == 0
    eps = -wide(OF_2021[name].sigma(jnp.asarray(peer["t"]))) * peer["score"]
    estimate = Estimate(jnp.zeros_like(eps), jnp.asarray(eps))
    close(score(OF_2021[name], estimate, jnp.asarray(peer["t"])), peer["score"])


@pytest.mark.parametrize("name", OF_2021)
def test_discretized_process_of_score_sde_in_jax(x64, name):
    """Float32 of theirs, N = 1000: β_i to 2e-5, σ_i² − σ_{i−1}² to 5e-5; sub-VP's g cancels below t = 0.2."""
    peer = {key: np.asarray(a, np.float64) for key, a in load("score_sde_jax").items() if key != "__meta__"}
    t, f, std = jnp.asarray(peer["t"]), peer[f"{name}_discretize_0"], peer[f"{name}_discretize_1"]
    if name == "subvp":
        sde, late = OF_2021[name], peer["t"] > 0.2
        close(wide(sde.drift(t)) * peer["x"] / 1000, f, rtol=1e-6, atol=1e-8)
        assert relative(np.asarray(sde.diffusion(t))[late] / np.sqrt(1000), std[late]) < 1e-6
        return
    table, s, end = as_tables(name, 1000, peer)
    kernel = table.transition(s, end)
    close((wide(kernel.scale) - 1) * peer["x"], f, rtol=0, atol=2e-6)
    assert relative(np.where(s < 0, 0.01, kernel.std), std) < 1e-4


def test_posterior_variance_of_diffusers(x64):
    """Of 50 of DDPM's 1000 timesteps, "leading": fixed_small is `Ancestral`'s, fixed_large the transition's.

    Their float32 1 − ᾱ makes 2e-4; where s = 0 they put 1e-20 for the small one.
    """
    peer, sde, grid = load("diffusers"), sdes.DiscreteVP.ddpm(), TimestepSpacing(50, "leading")
    np.testing.assert_array_equal(grid.timesteps(), peer["ddpm50_timesteps"])
    times = jnp.asarray(grid.times(sde))
    t, s = times[:-1], times[1:]

    zero, one, denoise = jnp.zeros((1, 1)), jnp.ones((1, 1)), FunctionDenoiser(sde, lambda x, t: Estimate(x, x))

    def std(v):
        return jax.vmap(lambda t, s: replay.step(Ancestral(v), denoise, zero, t, s, (), [one])[0][0, 0])(t, s)

    small, large = std(0.0) ** 2, std(1.0) ** 2
    assert relative(np.asarray(small)[:-1], peer["ddpm50_variance_fixed_small"][:-1]) < 3e-4
    assert small[-1] == 0 and peer["ddpm50_variance_fixed_small"][-1] < 2e-20
    kernel = np.asarray(sde.transition(s, t).std) ** 2
    assert relative(kernel, peer["ddpm50_variance_fixed_large"]) < 3e-4
    np.testing.assert_allclose(large, kernel, rtol=1e-12)
    # "fixed_small_log" is a standard deviation, "fixed_large_log" a logarithm.
    np.testing.assert_allclose(np.sqrt(small[:-1]), peer["ddpm50_variance_fixed_small_log"][:-1], rtol=2e-4)
    np.testing.assert_allclose(np.log(large), peer["ddpm50_variance_fixed_large_log"], atol=3e-4)
