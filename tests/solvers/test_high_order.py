"""The order of convergence of the deterministic solvers of several stages or steps, on a mixture, in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers.ode.runge_kutta import TABLEAUS
from tests import ground_truth
from tests.solvers.test_order import MIX, PROCESSES, START

KUTTA = dict.fromkeys(("midpoint", "heun", "ralston"), 2) | dict.fromkeys(("kutta3", "heun3", "ssp3"), 3)
KUTTA |= {"rk4": 4, "three_eighths": 4, "dopri5": 5}

# name: (solver, order, number of steps at first)
ONE_STEP = {
    f"runge_kutta_{name}": (solvers.RungeKutta(name), order, 160 if order == 4 else 80) for name, order in KUTTA.items()
}
ONE_STEP |= {"dpm2": (solvers.DPM2(), 2, 80)}
for _kind in ("dpmsolver", "taylor"):
    ONE_STEP |= {
        f"dpm_solver_2_{_kind}": (solvers.DPMSolver(2, solver_type=_kind), 2, 80),
        f"dpm_solver_2_r_{_kind}": (solvers.DPMSolver(2, 0.3, solver_type=_kind), 2, 80),
        f"dpm_solver_3_{_kind}": (solvers.DPMSolver(3, solver_type=_kind), 3, 40),
        f"dpm_solver_pp_2s_{_kind}": (solvers.DPMSolverPP2S(solver_type=_kind), 2, 80),
        f"dpm_solver_pp_3s_{_kind}": (solvers.DPMSolverPP3S(solver_type=_kind), 3, 80),
    }
ONE_STEP |= {"dpm_solver_1": (solvers.DPMSolver(1), 1, 80), "dpm_solver_fast": (solvers.DPMSolverFast(2), 3, 40)}
SEVERAL = {
    f"dpm_solver_multistep_{order}_{kind}": (solvers.DPMSolverMultistep(order, kind), order, 80)
    for order in (2, 3)
    for kind in ("dpmsolver", "taylor")
}
SEVERAL |= {
    "dpm_solver_pp_2m": (solvers.DPMSolverPP2M(), 2, 80),
    "dpm_solver_pp_2m_taylor": (solvers.DPMSolverPP2M("taylor"), 2, 80),
    "dpm_solver_pp_3m": (solvers.DPMSolverPP3M(), 3, 160),
    "lms": (solvers.LMS(), 4, 640),
}
for _order, _steps in ((1, 160), (2, 160), (3, 160), (4, 640)):
    SEVERAL |= {f"deis_{v}_{_order}": (solvers.DEIS(_order, v), _order, _steps) for v in ("t", "rho", "log_rho")}
    SEVERAL |= {
        f"adams_bashforth_{v}_{_order}": (solvers.AdamsBashforth(_order, v, 0.7), _order, _steps) for v in ("flow", "v")
    }
    SEVERAL |= {
        f"exponential_{v}_{_order}": (solvers.ExponentialAdamsBashforth(_order, v, 0.7), _order, _steps)
        for v in ("x0", "v")
    }
ALWAYS_FULL = {"lower_order_below": 0}
UNIPC = {
    f"unipc_{order}_{variant}_{predicts}": (solvers.UniPC(order, variant, predicts, **ALWAYS_FULL), order + 1, 80)
    for order in (1, 2)
    for variant in ("bh1", "bh2")
    for predicts in ("x0", "eps")
}
UNIPC |= {f"unip_{order}": (solvers.UniPC(order, correct=False, **ALWAYS_FULL), order, 160) for order in (1, 2, 3)}
UNIPC |= {"unipc_last": (solvers.UniPC(2, correct_last=True, **ALWAYS_FULL), 3, 80)}

LENGTH = 1280
SEEDED = 3  # states that a multistep method of order 4 is given


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def solve(solver, sde, mixture, times, num_steps, seeds, num_seeds):
    """x at the end, from seeds[0]; after step k < num_seeds the state is replaced by seeds[k]."""
    denoise = jax.tree.unflatten(STRUCTURE, mixture).denoise(sde)

    def body(k, state):
        x, carry, _ = solver.step(jax.random.key(0), denoise, state[0], times[k], times[k + 1], state[1])
        return jnp.where(k + 1 < num_seeds, seeds[jnp.minimum(k + 1, SEEDED)], x), carry

    return jax.lax.fori_loop(0, num_steps, body, (seeds[0], solver.init(seeds[0], num_steps)))[0]


STRUCTURE = jax.tree.structure(GaussianMixture(*map(jnp.asarray, MIX)))


@functools.cache
def setting(process, steps):
    """(times, exact states at the first ones, exact state at the end)."""
    sde, coefficients, end, scale = PROCESSES[process]
    times = solvers.grids.EDMRho(steps, end=end, to_zero=False).times(sde)
    states = [scale * START]
    for t, s in itertools.pairwise(times[: SEEDED + 1]):
        states.append(ground_truth.probability_flow(MIX, states[-1], t, s, coefficients, 1e-13))
    return times, np.stack(states), final(process)


@functools.cache
def final(process):
    sde, coefficients, end, scale = PROCESSES[process]
    return ground_truth.probability_flow(MIX, scale * START, sde.t_max, end, coefficients, 1e-13)


def error(solver, process, steps, seeded):
    times, seeds, exact = setting(process, steps)
    padded = np.pad(times, (0, LENGTH + 1 - len(times)), mode="edge")
    x = solve(solver, PROCESSES[process][0], tuple(MIX), padded, steps, seeds, SEEDED + 1 if seeded else 1)
    return np.abs(np.asarray(x) - exact).max()


def combinations(table):
    """Every other on VP or EDM in turn; with --slow all on both."""
    for i, (name, case) in enumerate(table.items()):
        for j, process in enumerate(PROCESSES):
            marks = () if i % 4 == 2 * j else pytest.mark.slow
            yield pytest.param(*case, process, marks=marks, id=f"{name}-{process}")


def check(solver, order, steps, process, seeded, lower=0.25, upper=0.5):
    coarse, fine = (error(solver, process, n, seeded) for n in (steps, 2 * steps))
    assert order - lower < np.log2(coarse / fine) < order + upper, (coarse, fine)


@pytest.mark.few(5)
@pytest.mark.parametrize(("solver", "order", "steps", "process"), list(combinations(ONE_STEP)))
def test_one_step_methods(solver, order, steps, process):
    check(
        solver, order, steps, process, seeded=False, lower=0.25 if order < 5 else 0.5, upper=0.5 if order < 5 else 1.2
    )


@pytest.mark.few(3)
@pytest.mark.parametrize(("solver", "order", "steps", "process"), list(combinations(SEVERAL)))
def test_multistep_methods_after_an_exact_start(solver, order, steps, process):
    """As books do it: the first states are exact. Started by lower orders the error has a part of order 2, if small."""
    check(solver, order, steps, process, seeded=True)


@pytest.mark.few(2)
@pytest.mark.parametrize(("solver", "order", "steps", "process"), list(combinations(UNIPC)))
def test_unipc_gains_an_order_by_its_corrector(solver, order, steps, process):
    check(solver, order, steps, process, seeded=False)


def test_the_start_of_a_multistep_method_costs_little():
    """The first steps have orders 1 and 2, at the noisy end, where the field is nearly linear."""
    for process in PROCESSES:
        alone, seeded = (error(solvers.DPMSolverPP3M(), process, 160, given) for given in (False, True))
        assert alone < 1.5 * seeded


def test_order_of_the_authors_3m():
    """With half of the second difference, as in the code of DPM-Solver, k-diffusion and diffusers, the order is 2, not 3."""
    for family in (solvers.DPMSolverPP3M(), solvers.DPMSolverMultistep(3)):
        half = type(family)(**(vars(family) | {"curvature": 0.5}))
        errors = {
            name: [error(s, "edm", n, True) for n in (160, 320)] for name, s in (("ours", family), ("code", half))
        }
        rates = {name: np.log2(coarse / fine) for name, (coarse, fine) in errors.items()}
        assert rates["ours"] > 2.8
        assert rates["code"] < 2.3
        assert errors["code"][1] > 4 * errors["ours"][1]


def test_pndm_on_equal_and_on_unequal_steps():
    """The weights are those of equal steps of σ/α: on such a grid they have order 4, on a smooth one 2, else 1."""
    sde, _, end, _ = PROCESSES["edm"]
    exact = final("edm")

    def at(times, solver):
        seeds = np.stack([10.0 * START] * (SEEDED + 1))
        padded = np.pad(times, (0, LENGTH + 1 - len(times)), mode="edge")
        x = solve(solver, sde, tuple(MIX), padded, len(times) - 1, seeds, 1)
        return np.abs(np.asarray(x) - exact).max()

    equal = [at(solvers.grids.Uniform(n, end=end).times(sde), solvers.PNDM()) for n in (640, 1280)]
    smooth = [at(solvers.grids.EDMRho(n, end=end, to_zero=False).times(sde), solvers.IPNDM()) for n in (160, 320)]
    rough = []
    for n in (160, 320):
        steps = np.where(np.arange(n) % 2 == 0, 1.0, 3.0)
        fractions = np.append(0, np.cumsum(steps) / steps.sum())
        rough.append(at((10 ** (1 / 7) * (1 - fractions) + end ** (1 / 7) * fractions) ** 7, solvers.IPNDM()))
    rates = [np.log2(coarse / fine) for coarse, fine in (equal, smooth, rough)]
    assert rates[0] > 3.5, rates
    assert 1.8 < rates[1] < 2.3, rates
    assert rates[2] < 1.5, rates


def test_tableaus():
    """Each named method satisfies the conditions of its order up to 4 (Hairer et al., Sec. II.1, Table 1.1)."""
    for name, (rows, b) in TABLEAUS.items():
        a = np.zeros((len(b), len(b)))
        for j, row in enumerate(rows, 1):
            a[j, :j] = row
        b, c = np.asarray(b), a.sum(axis=1)
        conditions = {1: [(b.sum(), 1)], 2: [(b @ c, 1 / 2)], 3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)]}
        conditions[4] = [
            (b @ c**3, 1 / 4),
            (b @ (c * (a @ c)), 1 / 8),
            (b @ a @ c**2, 1 / 12),
            (b @ a @ a @ c, 1 / 24),
        ]
        for order, pairs in conditions.items():
            met = all(abs(left - right) < 1e-12 for left, right in pairs)
            assert met == (order <= KUTTA[name]), (name, order)
