"""Every SDE × solver × grid on Gaussian data, where a solver's mean and variance are known without drawing (`affine`)."""

import jax
import numpy as np
import pytest

from score_sde import solvers
from tests.conformance import GRIDS, SDES, SOLVERS
from tests.covering import covering
from tests.solvers import affine
from tests.solvers.chosen import chosen

DATA = np.array([0.7, 0.6])  # mean and standard deviation

# Left to other tests: DenoiseLast ends elsewhere, Langevin's step size is not affine, ProbabilityFlow has no order.
ORDER = dict.fromkeys(SOLVERS, 1) | {"heun": 2, "edm_heun": 2, "edm_heun_churn": 2, "edm_heun_midpoint": 2}
for _name in ("denoise_last", "predictor_corrector_norm", "probability_flow"):
    del ORDER[_name]
# In the tables log α is linear between knots, which a method that uses its derivative notices.
KINKED = ("ddpm", "iddpm")
SLOPES = {name: order == 2 or name == "euler" for name, order in ORDER.items()}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.few(6)
@pytest.mark.parametrize(("name", "sde_name"), covering(ORDER, SDES, times=3))
def test_mean_and_variance_converge_to_the_exact_ones(name, sde_name):
    """Within a cap at 400 steps, and on the way there at the order of the method, on every grid."""
    order = ORDER[name]
    for kind, grid in GRIDS.items():
        coarse, fine = (affine.error(SOLVERS[name], sde_name, DATA, grid(SDES[sde_name], n)) for n in (120, 240))
        # On EDM, steps uniform in t = σ from 80 to 0.08 are as long as the data is wide.
        rough = (sde_name, kind) == ("edm", "uniform")
        assert fine < (0.8 if rough else 0.2) / (15 if order == 2 else 1), (kind, fine)
        if not (rough or (sde_name in KINKED and SLOPES[name]) or fine < 1e-9):
            assert coarse / fine > (0.75 * 2**order if name != "predictor_corrector" else 1.4), (kind, coarse, fine)


def test_the_chosen_sde_is_the_sde():
    for name in ("sub_vp", "edm", "iddpm"):
        times = GRIDS["edm_rho"](SDES[name], 50).times(SDES[name])
        direct, through = (affine.solve(solvers.Ancestral(), sde, DATA, times) for sde in (SDES[name], chosen(name)))
        np.testing.assert_allclose(through, direct, rtol=1e-9)


def test_a_corrector_removes_error_of_its_predictor():
    grid = GRIDS["log_snr_uniform"](SDES["vp"], 50)
    corrected = solvers.PredictorCorrector(solvers.ReverseDiffusion(), solvers.AnnealedLangevin(snr=0.3))
    alone = affine.error(solvers.ReverseDiffusion(), "vp", DATA, grid)
    assert affine.error(corrected, "vp", DATA, grid) < 0.6 * alone


def test_steps_of_1_over_n_do_not_converge():
    """Euler–Maruyama of the 2021 code goes 1/N at each of linspace(1, ε, N): not to its own next time.

    With its ε = 1e-3 the difference is small; at ε = 0.1 its limit is off by a tenth, while ours has the order of the rule.
    """
    errors = {"ours": [], "theirs": []}
    for steps in (100, 400):
        grid = solvers.grids.Uniform(steps, end=0.1)
        errors["ours"].append(affine.error(solvers.EulerMaruyama(), "vp", DATA, grid))
        times = np.linspace(1.0, 0.1, steps)
        ends = times - 1 / steps
        mean, variance = affine.solve(solvers.EulerMaruyama(), chosen("vp"), DATA, np.append(times, 0.1), ends)
        alpha, sigma = (float(v) for v in SDES["vp"].marginal(0.1))
        exact = np.hypot(alpha * DATA[1], sigma)
        errors["theirs"].append(np.hypot((mean - alpha * DATA[0]) / exact, np.sqrt(variance) / exact - 1))
    assert errors["ours"][1] < 0.3 * errors["ours"][0]
    assert errors["theirs"][1] > 0.8 * errors["theirs"][0]
