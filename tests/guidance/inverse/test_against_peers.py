"""Every method against other people's code, with the noise that they drew, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.guidance import guide
from score_sde.guidance import inverse as inv
from score_sde.guidance import operators as ops
from score_sde.guidance.inverse.daps import _levels
from score_sde.internal.pytree import pytree
from score_sde.sdes import EDM, SDE
from score_sde.sdes.base import Time
from score_sde.solvers import DDIM, Ancestral
from tests.guidance.inverse.golden import Azula, Table, close, load, mixture, problem, states, step


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def at_sigma(sigma):
    return EDM(sigma_max=100.0), jnp.asarray(sigma)


def estimate(rule, arrays, mix, x, alpha, sigma, y):
    """x̂0 of the rule at x_t = α x0 + σ ε: that of x_t/α at σ/α."""
    sde, t = at_sigma(sigma / alpha)
    denoise = guide(mixture(arrays, mix).denoise(sde), (rule,), {"y": y})
    return jax.jit(lambda d, x, t: d(x, t).x0)(denoise, jnp.asarray(x / alpha), t)


def rule_of(case, operator, noise_std):
    """Ours for a case of azula's point estimates."""
    if case["cls"] == "MMPSDenoiser":
        return inv.MMPS(operator, noise_std, max_steps=case["iterations"], tolerance=1e-14)
    if case["cls"] == "TMPDenoiser":
        return inv.TMPD(operator, noise_std)
    return inv.DiffPIR(operator, noise_std, weight=case["lmbda"])


@pytest.mark.slow
def test_azulas_estimates():
    """MMPS and TMPD also after few iterations; DiffPIR where its solver has converged. GMRES: only converged."""
    arrays, cases = load("azula_point")
    seen = set()
    for name, case in cases.items():
        operator, noise_std, y = problem(arrays, case["problem"])
        point = name.rsplit("/", 1)[0]
        rank = operator.matrix.shape[0]
        converged = case.get("iterations", rank) >= rank
        if not converged and (case["cls"] == "DiffPIRDenoiser" or case["solver"] == "gmres"):
            continue
        x, alpha, sigma = (arrays[f"{point}/{part}"] for part in ("x_t", "alpha", "sigma"))
        mix = case["problem"].split("/")[0]
        found = estimate(rule_of(case, operator, noise_std), arrays, mix, x, alpha, sigma, y)
        close(found, arrays[f"{name}/mean"], 1e-6 if case["cls"] == "TMPDenoiser" else 1e-7, name)
        seen.add(case["cls"])
    assert len(seen) == 3


def test_azulas_solves():
    """DPS (one image: azula's norm is over the batch), ΠGDM and RePaint."""
    arrays, cases = load("azula_traj")
    for name, case in cases.items():
        if case["cls"] == "TDSSampler" or (case["cls"] == "DPSSampler" and "batch" not in case):
            continue
        sde = Azula(case["schedule"])
        operator, noise_std, y = problem(arrays, case["problem"], slice(0, case.get("batch")))
        times, noise = arrays[f"{name}/t"], arrays[f"{name}/noise"]
        expected = arrays[f"{name}/states"]
        model, draws = mixture(arrays, case["problem"].split("/")[0]).denoise(sde), noise[:, None]
        if case["cls"] == "DPSSampler":
            solver = inv.DPS(DDIM(1.0), case["zeta"])
            denoise = guide(model, (inv.Measured(operator, noise_std),), {"y": y})
        elif case["cls"] == "PGDMSampler":
            solver = DDIM(case["eta"] ** 0.5)  # its η is the square of ours
            denoise = guide(model, (inv.PiGDM(operator, as_published=True),), {"y": y})
        else:
            continue
        found = states(solver, denoise, expected[0], times, draws)
        close(found, expected[1:], 1e-9, name)


def test_dps_is_of_each_image():
    """azula's batch gives each image a weaker correction; ours gives each what it gets alone, which is what DPS says."""
    arrays, _ = load("azula_traj")
    operator, noise_std, y = problem(arrays, "m2/rand")
    name = "traj/m2/rand/vp_dps_z1.0"
    peer, times, noise = (arrays[f"{name}/{part}"] for part in ("states", "t", "noise"))
    model = mixture(arrays, "m2").denoise(Azula())

    def solve(rows):
        denoise = guide(model, (inv.Measured(operator, noise_std),), {"y": y[rows]})
        return states(inv.DPS(DDIM(1.0), 1.0), denoise, peer[0][rows], times, noise[:, None, rows])

    together, alone = solve(slice(None)), solve(slice(0, 1))
    close(together[:, :1], alone, 1e-12)
    assert np.abs(peer[1:, :1] - alone).max() > 0.05  # the peer's first image, among three others


def test_authors_dps():
    """Steps of the authors' code; and what it calls mcg drops x_t where the paper keeps it, so that it is not ours."""
    arrays, cases = load("dps")
    sde = Table(jnp.asarray(arrays["sched/ddpm_linear/alphas_cumprod"]))
    model = mixture(arrays, "m2").denoise(sde)
    operator, noise_std, y = problem(arrays, "m2/rand", slice(0, 1))
    denoise = guide(model, (inv.Measured(operator, noise_std),), {"y": y})
    times = np.arange(len(sde.squares), -1.0, -1.0)
    steps = 0
    for name, case in cases.items():
        if case["method"] != "ps" or case["problem"] != "m2/rand":
            continue
        solver = inv.DPS(Ancestral(v=1.0), case["scale"])
        if name.startswith("loop"):
            noise = arrays[f"{name}/noise"][:, None] * (times[1:] > 0).reshape(-1, 1, 1, 1)
            found = states(solver, denoise, arrays[f"{name}/x_start"], times, noise)
            close(found[:-1], arrays[f"{name}/states"][1:], 1e-9, name)
            close(found[-1], arrays[f"{name}/final"], 1e-9, name)
        else:
            ends = np.asarray([case["t"] + 1.0, case["t"]])
            noise = arrays[f"{name}/noise"][None, None] * (case["t"] > 0)
            found = states(solver, denoise, arrays[f"{name}/x_prev"], ends, noise)
            close(found[0], arrays[f"{name}/out"], 1e-9, name)
        steps += 1
    assert steps == 7


def score_change(rule, arrays, mix, x, sigma, y):
    """What the rule adds to the score, and the exact ∇ log p(y | x_t) where it is known."""
    sde, t = at_sigma(sigma)
    model = mixture(arrays, mix).denoise(sde)
    guided = guide(model, (rule,), {"y": y})
    return jax.jit(lambda m, g, x, t: (m(x, t).eps - g(x, t).eps) / t)(model, guided, jnp.asarray(x), t)


@pytest.mark.slow
def test_deepinvs_scores():
    """ΠGDM and MMPS in full; deepinv's conjugate gradients stall near 1e-3 for a small σ_y. On one Gaussian MMPS is exact."""
    arrays, cases = load("deepinv")
    for name, case in cases.items():
        method = case.get("method", "")
        if method not in ("pigdm_cg50", "mmps_cg50"):
            continue
        operator, noise_std, y = problem(arrays, case["problem"])
        mix, point = case["problem"].split("/")[0], name.rsplit("/", 1)[0]
        rule = inv.PiGDM(operator, noise_std) if method == "pigdm_cg50" else inv.MMPS(operator, noise_std, 50, 1e-12)
        found = score_change(rule, arrays, mix, arrays[f"{point}/x_t"], case["sigma"], y)
        close(found, -arrays[name], 1e-3, name)
        if mix == "g16" and method == "mmps_cg50":
            close(found, -arrays[f"{point}/own_exact"], 1e-9, name)


def image_problem(arrays, name, noise_std):
    """(the model's SDE, the denoiser of flattened images with the measurement)."""
    beta = np.linspace(1e-4, 0.02, 1000)
    sde = Table(jnp.asarray(np.cumprod(1 - beta)))
    operator = ops.Matrix(jnp.asarray(arrays[f"op/{name}/A"]))
    return mixture(arrays, "m64").denoise(sde), operator, jnp.asarray(arrays[f"op/{name}/y_s{noise_std}"])


def test_authors_ddnm():
    """DDNM with Renoise, and DDNM+. Its time travel noises x̂0 instead of x_t, unlike its paper: that is not compared."""
    arrays, cases = load("ddrm_ddnm")
    compared = set()
    for name, case in cases.items():
        if not name.startswith("ddnm/") or case["travel_repeat"] > 1 or (case["op"], case["kind"]) == ("sr", "ddnm+"):
            continue
        model, operator, y = image_problem(arrays, case["op"], case["sigma_y"])
        levels = arrays[f"{name}/times"] * case["skip"] + 1.0
        levels[-1] = 0
        plain = case["kind"] == "ddnm"
        rule = inv.DDNM(operator) if plain else inv.Measured(operator, case["sigma_y"])
        solver = inv.Renoise(case["eta"]) if plain else inv.DDNMPlus(case["eta"])
        denoise = guide(model, (rule,), {"y": y})
        start, noise = arrays[f"{name}/x_T"].reshape(2, 64), arrays[f"{name}/noise"][:, None]
        found = states(solver, denoise, start, levels, noise)
        close(found[-1], arrays[f"{name}/final"].reshape(2, 64), 1e-8, name)
        compared.add((case["op"], case["kind"]))
    assert compared == {("general_rand", "ddnm"), ("sr", "ddnm"), ("inpaint", "ddnm"), ("inpaint", "ddnm+")}


@pytree
class TwoLevels(SDE):
    """α and σ that are the same at all times."""

    one_alpha: float
    one_sigma: float

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return jnp.full_like(jnp.asarray(t), jnp.log(self.one_alpha))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.full_like(jnp.asarray(t), self.one_sigma)


def ddnm_plus_step(case, operator, x0, eps, z, y):
    """x_s at α_s = a and σ_s = sigma_t from given x̂0, ε̂ and noise."""
    model = FunctionDenoiser(TwoLevels(case["a"], case["sigma_t"]), jax.tree_util.Partial(given, x0, eps))
    denoise = guide(model, (inv.Measured(operator, case["sigma_y"]),), {"y": y})
    return states(inv.DDNMPlus(case["eta"]), denoise, np.zeros((2, 64)), np.array([1.0, 0.5]), [[z]])[0]


def given(x0, eps, x, t):
    return Estimate(x0, eps)


def test_authors_ddnm_plus_coefficients():
    """Their Λ, with which x̂0 goes to y where it is seen, and Λ_noise.

    For super-resolution their Λ_noise mixes coordinates: V D Vᵀ with two orders of them. Only Λ is compared.
    """
    arrays, cases = load("ddrm_ddnm")
    for name, case in cases.items():
        if not name.startswith("lambda/"):
            continue
        operator = ops.Matrix(jnp.asarray(arrays[f"op/{case['op']}/A"]))
        vec, eps, expected = (jnp.asarray(arrays[f"{name}/{part}"]) for part in ("vec", "eps", "Lambda"))
        nothing, y = jnp.zeros_like(vec), jnp.zeros((2, len(operator.matrix)))
        if case["op"] == "inpaint":
            drawn = ddnm_plus_step(case, operator, nothing, eps, vec, y)
            close(drawn, arrays[f"{name}/Lambda_noise"], 1e-9, name)
        seen, expected = (operator.pseudo_inverse(operator(each), (64,)) for each in (vec, expected))
        mean = ddnm_plus_step(case, operator, seen, nothing, nothing, y)
        close(seen - mean / case["a"], expected, 1e-8, name)


def test_authors_ddrm():
    """From its conditioned start; their draws are those of coordinates, which for a mask are pixels."""
    arrays, cases = load("ddrm_ddnm")
    for name, case in cases.items():
        if not name.startswith("ddrm/") or case["op"] not in (
            "inpaint",
            "denoise",
        ):  # test_solves_of_peers has the others
            continue
        model, operator, y = image_problem(arrays, case["op"], case["sigma_y"])
        kept = np.argmax(arrays[f"op/{case['op']}/A"], axis=1)
        missing = np.setdiff1d(np.arange(64), kept)
        states_there = arrays[f"{name}/xs"].reshape(-1, 2, 64)
        levels = np.asarray([*(i + 1.0 for i in case["seq"][::-1]), 0.0])
        draws = []
        for k in range(len(levels) - 1):
            lost, after, before = (arrays[f"{name}/noise/{3 * k + i}"] for i in range(3))
            z = np.zeros((2, 64))
            z[:, missing] = lost[:, len(kept) :]
            z[:, kept] = after if after.shape[1] else before
            draws.append([np.zeros_like(z), z])  # the first is for a start that is not conditioned yet
        solver = inv.DDRM(case["etaC"], case["etaB"], case["etaA"])
        denoise = guide(model, (inv.Measured(operator, case["sigma_y"]),), {"y": y})
        found = states(solver, denoise, states_there[0], levels, draws, jnp.zeros((), bool))
        close(found, states_there[1:], 1e-8, name)


def test_inversebenchs_pigdm():
    """ΠGDM as published. The other methods are in test_solves_of_peers."""
    arrays, cases = load("inversebench")
    compared = 0
    for name, case in cases.items():
        if case["algo"] != "PiGDM":
            continue
        operator, noise_std, y = problem(arrays, "m64/avg", slice(0, 1))
        sigmas, inputs = arrays[f"{name}/net_sigma"], arrays[f"{name}/net_x"]
        noise = [arrays[f"{name}/noise/{k}"] for k in range(1, len(sigmas))]
        rule = inv.PiGDM(operator, noise_std if case["noisy"] else 0.0, as_published=True)
        denoise = guide(mixture(arrays, "m64").denoise(EDM(sigma_max=100.0)), (rule,), {"y": y})
        found = states(inv.Renoise(case["eta"]), denoise, inputs[0], sigmas, [[draw] for draw in noise])
        close(found, inputs[1:], 1e-8, name)
        compared += 1
    assert compared == 2


def test_inversebenchs_daps(monkeypatch):
    """Langevin's steps, their sizes, and the noise after them, from the end of the peer's ODE.

    That end is its state at `ode_end`: the peer's last step goes nowhere, for its table of levels repeats the last.
    """
    arrays, cases = load("inversebench")
    name = "run/m64/avg/daps"
    case = cases[name]
    operator, _, y = problem(arrays, "m64/avg", slice(0, 1))
    lgvd, outer = case["lgvd"], case["annealing"]["num_steps"]
    solver = inv.DAPS(3, 0.05, lgvd["num_steps"], lgvd["lr"], lgvd["lr_min_ratio"])
    denoise = guide(
        mixture(arrays, "m64").denoise(EDM(sigma_max=100.0)), (inv.Measured(operator, lgvd["tau"]),), {"y": y}
    )
    inputs, sigmas = arrays[f"{name}/net_x"], arrays[f"{name}/net_sigma"]
    for k in range(outer - 1):
        end, first = jnp.asarray(inputs[3 * k + 2]), 1 + 4 * k
        monkeypatch.setattr(inv.DAPS, "_denoised", lambda self, denoise, x, t, end=end: (end, 0))
        draws = [jnp.asarray(arrays[f"{name}/noise/{first + i}"]) for i in range(4)]
        carry = jnp.asarray(float(k)), jnp.asarray(float(outer))
        monkeypatch.setattr(jax.lax, "fori_loop", unrolled)
        step.clear_cache()  # what is patched is in the program
        found = states(solver, denoise, inputs[3 * k], sigmas[[3 * k, 3 * k + 3]], [draws], carry)
        close(found[0], inputs[3 * k + 3], 1e-9)


def unrolled(first, last, body, value):
    """The loop as Python's, so that each step takes the next of the recorded draws."""
    for k in range(int(first), 3):
        value = body(k, value)
    return value


def test_levels_of_daps():
    """EDM's levels, from which the peer starts."""
    arrays, _ = load("inversebench")
    sigmas = arrays["run/m64/avg/daps/net_sigma"]
    for k in range(0, 9, 3):
        close(_levels(jnp.asarray(sigmas[k]), jnp.asarray(0.05), 3), sigmas[k : k + 3], 1e-12)
