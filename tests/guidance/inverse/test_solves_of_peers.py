"""More methods against other people's code, step by step with the noise that they drew, in double precision.

Where a peer is wrong, the test has the fault, the peer's numbers and the exact value.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.guidance import EnergyGuidance, guide
from score_sde.guidance import inverse as inv
from score_sde.guidance import operators as ops
from score_sde.guidance.inverse import tds
from score_sde.internal.pytree import pytree
from score_sde.sdes import EDM, SDE, VP
from score_sde.sdes.base import Time
from score_sde.solvers import DDIM, Ancestral, Euler, EulerMaruyama, Heun, Restart, grids, sample
from tests.guidance.inverse.golden import Azula, Table, close, load, mixture, problem, states
from tests.guidance.inverse.test_against_peers import estimate, image_problem, score_change
from tests.solvers.draws import replace_noise


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def measured(model, operator, noise_std, y):
    return guide(model, (inv.Measured(operator, noise_std),), {"y": y})


def values(sde, times):
    """(α, σ) at the times."""
    return np.asarray(sde.alpha(jnp.asarray(times))), np.asarray(sde.sigma(jnp.asarray(times)))


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def solve_with_ancestors(denoise, x, times, noise, ancestors):
    """(the particles after each step, their log weights), with the given draws and ancestors."""
    draws, chosen, found = iter(noise), iter(ancestors), []
    carry = jnp.zeros(x.shape[:2])
    with pytest.MonkeyPatch.context() as patch:
        replace_noise(patch, lambda key, x: next(draws).reshape(x.shape))
        patch.setattr(tds, "resampled", lambda keys, weights, *how: (next(chosen)[None], jnp.zeros_like(weights)))
        # The last step of this grid does not end at σ = 0, so its own resampling is not run.
        patch.setattr(jax.lax, "cond", lambda is_last, last, other, *args: other(*args))
        for t, s in itertools.pairwise(times):
            x, carry, _ = inv.TDS().step(jax.random.key(0), denoise, x, t, s, carry)
            found.append(x[0])
    return jnp.stack(found), carry[0]


def test_azulas_tds():
    """Proposals and weights of the twisted particles, with the ancestors that azula drew."""
    arrays, cases = load("azula_traj")
    names = [name for name, case in cases.items() if case["cls"] == "TDSSampler" and case["schedule"] != "ve"]
    for name in names:
        case = cases[name]
        operator, noise_std, y = problem(arrays, case["problem"], slice(0, 1))
        times, noise, there, ancestors = (
            jnp.asarray(arrays[f"{name}/{part}"]) for part in ("t", "noise", "states", "idx")
        )
        model = mixture(arrays, case["problem"].split("/")[0]).denoise(Azula(case["schedule"]))
        denoise = measured(model, operator, noise_std, y)
        found = solve_with_ancestors(denoise, there[:1], times, noise, ancestors.astype(jnp.int32))
        close(found[0], np.asarray(there[1:]), 1e-10, name)
        close(found[1], arrays[f"{name}/log_w"], 1e-10, name)
    assert names


def test_azulas_repaint():
    """The unseen part of `Restart(Replacement(DDIM))`, with a jump after each step.

    azula puts α y + σ z in after a step and then adds the jump's noise. Replacement puts y in before the next step, where
    the sum of both noises is the same noise.
    """
    arrays, cases = load("azula_traj")
    compared = 0
    for name, case in cases.items():
        if case["cls"] != "RePaintSampler" or case["schedule"] == "ve":
            continue
        sde, repeats = Azula(case["schedule"]), case["iterations"]
        operator, _, y = problem(arrays, case["problem"])
        times, there = arrays[f"{name}/t"], arrays[f"{name}/states"]
        noise = arrays[f"{name}/noise"].reshape(len(times) - 1, repeats, 3, *there.shape[1:])
        matrix = np.asarray(operator.matrix)
        image, is_seen = np.asarray(y) @ matrix, matrix.any(axis=0)
        alpha, sigma = values(sde, times)
        known = (there[0] - alpha[0] * image) / sigma[0]  # the noise of the seen part of x_t
        path, draws, unused = [times[0]], [], np.zeros_like(there[0])
        for k in range(len(times) - 1):
            scale = alpha[k] / alpha[k + 1]
            rest = np.sqrt(sigma[k] ** 2 - (scale * sigma[k + 1]) ** 2)
            for i, (moved, replaced, added) in enumerate(noise[k]):
                # Both branches of Restart take draws: the jump's one, then the three of a step.
                path.append(times[k + 1])
                draws.append([unused, known, moved, unused])
                if i < repeats - 1:
                    path.append(times[k])
                    draws.append([added, unused, unused, unused])
                    known = (scale * sigma[k + 1] * replaced + rest * added) / sigma[k]
                else:
                    known = replaced
        model = mixture(arrays, case["problem"].split("/")[0]).denoise(sde)
        solver = Restart(inv.Replacement(DDIM(case["eta"] ** 0.5)))  # its η is the square of ours
        found = states(solver, measured(model, operator, 0.0, y), there[0], path, draws)
        ends = found[2 * repeats - 2 :: 2 * repeats - 1]
        close(ends[..., ~is_seen], there[1:][..., ~is_seen], 1e-10, name)
        compared += 1
    assert compared


def test_azulas_jfps():
    """Also after few conjugate gradient steps."""
    arrays, cases = load("azula_point")
    compared = 0
    for name, case in cases.items():
        if case["cls"] != "JFPSDenoiser":
            continue
        operator, noise_std, y = problem(arrays, case["problem"])
        if case["iterations"] < len(operator.matrix) and case["solver"] == "gmres":
            continue
        mix, point = case["problem"].split("/")[0], name.rsplit("/", 1)[0]
        x, alpha, sigma = (arrays[f"{point}/{part}"] for part in ("x_t", "alpha", "sigma"))
        data_std = jnp.sqrt(jnp.asarray(arrays[f"prob/{mix}/cov_x_diag"]))
        rule = inv.JFPS(operator, noise_std, data_std, case["iterations"], tolerance=1e-14)
        close(estimate(rule, arrays, mix, x, alpha, sigma, y), arrays[f"{name}/mean"], 1e-8, name)
        compared += 1
    assert compared


RULES = {
    "MMPSDenoiser": lambda operator, std, case, arrays: inv.MMPS(operator, std, case["iterations"], 1e-14),
    "TMPDenoiser": lambda operator, std, case, arrays: inv.TMPD(operator, std),
    "DiffPIRDenoiser": lambda operator, std, case, arrays: inv.DiffPIR(operator, std, weight=case["lmbda"]),
    "JFPSDenoiser": lambda operator, std, case, arrays: inv.JFPS(
        operator,
        std,
        jnp.sqrt(jnp.asarray(arrays[f"prob/{case['problem'].split('/')[0]}/cov_x_diag"])),
        case["iterations"],
        1e-14,
    ),
}


@pytest.mark.slow
def test_azulas_guided_solves():
    """Rules and solvers know nothing of each other: DDIM and the ancestral sampler over each rule."""
    arrays, cases = load("azula_traj")
    compared = set()
    for name, case in cases.items():
        if case["cls"] not in RULES or case["schedule"] == "ve":
            continue
        operator, noise_std, y = problem(arrays, case["problem"])
        if case.get("solver") == "gmres" and case["iterations"] < len(operator.matrix):
            continue
        rule = RULES[case["cls"]](operator, noise_std, case, arrays)
        model = mixture(arrays, case["problem"].split("/")[0]).denoise(Azula(case["schedule"]))
        solver = Ancestral() if case["sampler"] == "DDPM" else DDIM(case["eta"] ** 0.5)
        there, noise = arrays[f"{name}/states"], arrays[f"{name}/noise"][:, None]
        found = states(solver, guide(model, (rule,), {"y": y}), there[0], arrays[f"{name}/t"], noise)
        close(found, there[1:], 1e-6 if case["cls"] == "TMPDenoiser" else 1e-8, name)
        compared.add(case["cls"])
    assert compared == {*RULES}


def super_resolution_basis(matrix):
    """(Σ, V) in the order of the peer's coordinates: first the mean of each block, then the rest of each block in turn."""
    number = len(matrix)
    size = round(np.sqrt(64 / number))
    _, value, block = np.linalg.svd(np.full((1, size**2), 1 / size**2))
    basis = np.zeros((64, 64))
    for patch in range(number):
        row, column = divmod(patch, 8 // size)
        pixels = [(row * size + i) * 8 + column * size + j for i in range(size) for j in range(size)]
        places = [patch, *(number + patch * (size**2 - 1) + np.arange(size**2 - 1))]
        basis[np.ix_(pixels, places)] = block.T
    return np.repeat(value, number), basis


def test_authors_ddrm_of_super_resolution():
    """All of a solve, in the peer's coordinates, which are known for means over blocks."""
    arrays, cases = load("ddrm_ddnm")
    compared = 0
    for name, case in cases.items():
        if not name.startswith("ddrm/") or case["op"] != "sr":
            continue
        model, operator, y = image_problem(arrays, case["op"], case["sigma_y"])
        singular, basis = super_resolution_basis(np.asarray(operator.matrix))
        there, number = arrays[f"{name}/xs"].reshape(-1, 2, 64), len(singular)
        levels = np.asarray([*(i + 1.0 for i in case["seq"][::-1]), 0.0])
        alpha, sigma = values(model.sde, levels)
        draws = []
        for k in range(len(levels) - 1):
            z, after, before = (arrays[f"{name}/noise/{3 * k + i}"].copy() for i in range(3))
            is_after = singular * sigma[k + 1] / alpha[k + 1] < case["sigma_y"]
            z[:, :number] = after if is_after.all() else before
            draws.append([np.zeros_like(z), z @ basis.T])  # the first is for a start that is not conditioned yet
        solver = inv.DDRM(case["etaC"], case["etaB"], case["etaA"])
        denoise = measured(model, operator, case["sigma_y"], y)
        found = states(solver, denoise, there[0], levels, draws, jnp.zeros((), bool))
        close(found, there[1:], 1e-10, name)
        compared += 1
    assert compared


def test_authors_ddrm_of_a_random_matrix():
    """The measured part of each step, from the peer's state before it.

    The peer's basis of the rest is not known, nor the signs of the measured one: the start shows the signs.
    """
    arrays, cases = load("ddrm_ddnm")
    compared = 0
    for name, case in cases.items():
        if not name.startswith("ddrm/") or case["op"] != "general_rand":
            continue
        model, operator, y = image_problem(arrays, case["op"], case["sigma_y"])
        left, singular, right = np.linalg.svd(np.asarray(operator.matrix), full_matrices=False)
        number, there = len(singular), arrays[f"{name}/xs"].reshape(-1, 2, 64)
        levels = np.asarray([*(i + 1.0 for i in case["seq"][::-1]), 0.0])
        alpha, sigma = values(model.sde, levels)
        level, std = sigma / alpha, case["sigma_y"] / singular
        drawn = arrays[f"{name}/x_T"].reshape(2, 64)[:, :number] * np.sqrt(level[0] ** 2 - std**2)
        conditioned = level[0] * there[0] @ right.T - np.asarray(y) @ left / singular
        signs = np.sign(np.sum(conditioned * drawn, axis=0))
        close(conditioned, signs * drawn, 1e-10, name)
        solver = inv.DDRM(case["etaC"], case["etaB"], case["etaA"])
        denoise = measured(model, operator, case["sigma_y"], y)
        for k in range(len(levels) - 1):
            _, after, z = (arrays[f"{name}/noise/{3 * k + i}"].copy() for i in range(3))
            z[:, std > level[k + 1]] = after
            given = [[np.zeros((2, 64)), (signs * z) @ right]]
            found = states(solver, denoise, there[k], levels[k : k + 2], given, jnp.zeros((), bool))
            close(found[0] @ right.T, there[k + 1] @ right.T, 1e-10, name)
        compared += 1
    assert compared


@pytree
class SquareRoot(SDE):
    """InverseBench's "ve": σ = √t."""

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return jnp.zeros_like(jnp.asarray(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.sqrt(jnp.asarray(t))


SCHEDULES = {"edm": EDM(sigma_max=100.0), "vp": VP(), "ve": SquareRoot()}


def image_run(arrays, name, case):
    """(the SDE, the operator, σ_y, y, the times, the peer's states after each step, its draws after the first)."""
    sde = SCHEDULES[case["sched"]]
    operator, noise_std, y = problem(arrays, "/".join(name.split("/")[1:3]), slice(0, 1))
    times = arrays[f"sched/{case['sched']}/time_steps"]
    inputs = np.concatenate([arrays[f"{name}/net_x"], arrays[f"{name}/final"].reshape(1, 1, 64)])
    alpha, _ = values(sde, times)
    inputs[:-1] *= alpha[:-1, None, None]  # the network's inputs are x_t/α
    number = sum(key.startswith(f"{name}/noise/") for key in arrays)
    return sde, operator, noise_std, y, times, inputs, [arrays[f"{name}/noise/{k}"] for k in range(1, number)]


def test_inversebenchs_dps_and_lgd():
    """On the SDE and on its probability flow, of all three schedules. LGD's loss is divided by the root of a sum there."""
    arrays, cases = load("inversebench")
    compared = set()
    for name, case in cases.items():
        if case["algo"] not in ("DPS", "LGD"):
            continue
        sde, operator, noise_std, y, times, there, noise = image_run(arrays, name, case)
        inner = EulerMaruyama() if case.get("sde", True) else Euler()
        if case["algo"] == "DPS":
            solver = inv.DPS(inner, case["guidance_scale"])
            draws = [[z] for z in noise] if noise else [[there[0]]] * (len(times) - 1)
        else:
            number = case["num_samples"]
            solver = inv.LGD(inner, case["guidance_scale"] / np.sqrt(number), number)
            draws = list(zip(noise[::2], noise[1::2], strict=True))
        denoise = measured(mixture(arrays, "m64").denoise(sde), operator, noise_std, y)
        close(states(solver, denoise, there[0], times, draws), there[1:], 1e-8, name)
        compared.add((case["algo"], case["sched"], case.get("sde", True)))
    assert compared >= {("DPS", "edm", True), ("DPS", "vp", False), ("DPS", "ve", True), ("LGD", "edm", True)}


def test_inversebenchs_first_order_diffpir():
    """Its VP divides ρ by α² once more than the paper, so the weight there is ours over α²."""
    arrays, cases = load("inversebench")
    compared = set()
    for name, case in cases.items():
        if case["algo"] != "DiffPIR":
            continue
        sde, operator, _, y, times, there, noise = image_run(arrays, name, case)
        alpha, _ = values(sde, times)
        there[-1] *= alpha[-1]  # the peer does not scale its last state
        model, solver = mixture(arrays, "m64").denoise(sde), inv.Renoise(case["xi"] ** 0.5)
        for k in range(len(times) - 1):
            rule = inv.DiffPIR(operator, case["sigma_n"], case["lamb"] / float(alpha[k]) ** 2, first_order=True)
            denoise = guide(model, (rule,), {"y": y})
            close(states(solver, denoise, there[k], times[k : k + 2], [[noise[k]]])[0], there[k + 1], 1e-9, name)
        compared.add(case["sched"])
    assert compared == {"edm", "vp"}


def scaled_twice(density, x, t):
    """ε̂ as InverseBench's RED-diff has it: its network, which expects x_t/α, gets x_t."""
    alpha, sigma = VP().alpha(t), VP().sigma(t)
    model = density.denoise(SCHEDULES["edm"])
    x0 = model(x, sigma / alpha).x0
    return Estimate(x0, (x - x0) * alpha / sigma)


def test_inversebenchs_red_diff():
    """The same with their fault in the model; the exact ε̂ at their own x_t is another."""
    arrays, cases = load("inversebench")
    density, sde, compared = mixture(arrays, "m64"), VP(), set()
    for name, case in cases.items():
        if case["algo"] != "REDDiff":
            continue
        operator, noise_std, y = problem(arrays, "/".join(name.split("/")[1:3]), slice(0, 1))
        times = arrays["sched/reddiff/time_steps"]
        faulty = FunctionDenoiser(sde, jax.tree_util.Partial(scaled_twice, density))
        denoise = measured(faulty, operator, noise_std, y)
        power = {"constant": 0.0, "linear": 1.0}[case["lambda_scheduling_type"]]
        solver = inv.REDDiff(case["base_lambda"], case["base_lr"], power)
        start = jnp.zeros((1, 64))
        carry = solver.init(start, len(times) - 1)[0], jnp.zeros((), bool)
        noise = [arrays[f"{name}/noise/{k}"] for k in range(len(times) - 1)]
        found = states(solver, denoise, start, times, [[z] for z in noise], carry)
        close(found[-1], arrays[f"{name}/final"].reshape(1, 64), 1e-8, name)
        x, t = jnp.asarray(arrays[f"{name}/net_x"][2]), jnp.asarray(times[2])
        exact, theirs = density.denoise(sde)(x, t).eps, faulty(x, t).eps
        by_score = density.denoise(SCHEDULES["edm"])(x / sde.alpha(t), sde.sigma(t) / sde.alpha(t)).eps
        close(exact, by_score, 1e-10)
        assert np.abs(theirs - exact).max() > 0.02
        compared.add(power)
    assert compared == {0.0, 1.0}


def test_authors_mcg():
    """Their projection puts −x_t into the measured part and drops the rest of x_t; the paper's puts y_t in and keeps the rest.

    The exact posterior of the measured part is narrow around y.
    """
    arrays, cases = load("dps")
    sde = Table(jnp.asarray(arrays["sched/ddpm_linear/alphas_cumprod"]))
    exact, _ = load("exact")
    compared = 0
    for name, case in cases.items():
        if case["method"] != "mcg":
            continue
        operator, noise_std, y = problem(arrays, case["problem"], slice(0, 1))
        matrix = np.asarray(operator.matrix)
        denoise = measured(mixture(arrays, case["problem"].split("/")[0]).denoise(sde), operator, noise_std, y)
        there = np.concatenate([arrays[f"{name}/states"], arrays[f"{name}/final"][None]])
        solver = inv.DPS(Ancestral(v=1.0), case["scale"])
        number = len(there) - 1
        for k in range(number):
            z = arrays[f"{name}/noise"][k] * (k < number - 1)
            moved = states(solver, denoise, there[k], np.asarray([number - k, number - k - 1.0]), [[z]])[0]
            alpha, sigma = values(sde, float(number - k))
            image = alpha * np.asarray(y) @ matrix + sigma * arrays[f"{name}/noise_y"][k]  # y_t
            close(there[k + 1], image - image @ matrix.T @ matrix - moved @ matrix.T @ matrix, 1e-9, name)
        paper = moved - moved @ matrix.T @ matrix + np.asarray(y) @ matrix
        truth = exact[f"post/{case['problem']}/post_mean"][:1] @ matrix.T
        assert np.abs(paper @ matrix.T - truth).max() < 4 * noise_std
        assert np.abs(there[-1] @ matrix.T - truth).max() > 10 * noise_std
        compared += 1
    assert compared


def test_deepinvs_ddrm():
    """It divides every noise by √2. So the last noise that is not removed has half the variance that the method says."""
    arrays, cases = load("deepinv")
    compared = 0
    for name, case in cases.items():
        if not name.startswith("sampler/ddrm"):
            continue
        mask = jnp.asarray(arrays[f"{name}/mask"].reshape(64))
        operator, y = ops.Mask(mask), jnp.asarray(arrays[f"{name}/y"].reshape(2, 64))
        sde, draws = EDM(sigma_max=100.0), arrays[f"{name}/draws"].reshape(-1, 2, 64)
        levels, inputs = np.asarray(case["sigmas"]), arrays[f"{name}/net_in"].reshape(-1, 2, 64)
        denoise = measured(mixture(arrays, "m64").denoise(sde), operator, case["sigma_y"], operator(y))
        solver, unused = inv.DDRM(case["eta"], case["etab"]), np.zeros((2, 64))

        def solve(factor, solver=solver, denoise=denoise, inputs=inputs, levels=levels, draws=draws, unused=unused):
            given = [[unused, factor * z] for z in draws[1:]]
            return states(solver, denoise, inputs[0], levels, given, jnp.zeros((), bool))

        close(solve(1 / np.sqrt(2))[:-1], inputs[1:-1], 1e-6, name)
        assert np.abs(solve(1.0)[:-1] - inputs[1:-1]).max() > 0.05
        compared += 1
    assert compared


def test_deepinvs_likelihood_scores_as_energies():
    """ALD's at x_t and annealed DPS's through x̂0: ‖y − A x‖²/(2 (σ_y² + σ²)); and DPS's norm. Any of them is an energy."""
    arrays, cases = load("deepinv")
    compared = set()
    for name, case in cases.items():
        method = case.get("method", "")
        if method not in ("ald", "dps_annealed", "dps_norm") or method in compared:
            continue
        operator, noise_std, y = problem(arrays, case["problem"])

        def energy(x, t, operator=operator, noise_std=noise_std, y=y, method=method):
            square = jnp.sum((y - operator(x)) ** 2, axis=1)
            return jnp.sqrt(square) if method == "dps_norm" else square / (2 * (noise_std**2 + t**2))

        mix, point = case["problem"].split("/")[0], name.rsplit("/", 1)[0]
        rule = EnergyGuidance(energy=energy, of="x_t" if method == "ald" else "x0_through")
        found = score_change(rule, arrays, mix, arrays[f"{point}/x_t"], case["sigma"], y)
        close(found, -arrays[name], 1e-6, name)
        compared.add(method)
    assert len(compared) == 3


@pytest.mark.slow
def test_exact_guidance_and_its_flow():
    """MMPS of one Gaussian: E[x0 | x_t, y], ∇ log p(y | x_t), and the whole probability flow to the posterior."""
    arrays, cases = load("exact")
    sde, compared = EDM(sigma_max=100.0), 0
    for name, case in cases.items():
        kind, mix, kind_of_operator, *_ = name.split("/")
        if (mix, kind_of_operator) != ("g16", "rand"):
            continue
        operator, noise_std, y = problem(arrays, f"{mix}/{kind_of_operator}")
        rule = inv.MMPS(operator, noise_std, max_steps=16, tolerance=1e-14)
        if kind == "xt":
            found = estimate(rule, arrays, mix, arrays[f"{name}/x_t"], case["alpha"], case["sigma"], y)
            close(found, arrays[f"{name}/denoise_y"], 1e-8, name)
        else:
            denoise = guide(mixture(arrays, mix).denoise(sde), (rule,), {"y": y})
            start, end = arrays[f"{name}/x_from"], arrays[f"{name}/x_to"]
            grid = grids.EDMRho(400, case["sigma_from"], case["sigma_to"], to_zero=False)
            close(sample(jax.random.key(0), denoise, Heun(), grid, start.shape, x_start=start).x, end, 1e-4, name)
        compared += 1
    assert compared
