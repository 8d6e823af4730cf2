import numpy as np
import pytest

from score_sde.data import DENSITIES, DensitySource
from score_sde.data.densities import Checkerboard, GaussianMixture, Moons, Pinwheel, Rings, SwissRoll
from score_sde.data.hashing import fold, seed_key

NAMES = sorted(DENSITIES)
HALF_WIDTH = 3.5


def grid(cells):
    """Midpoints of cells × cells squares that cover the plane as far as any density reaches, and a square's area."""
    edges = np.linspace(-HALF_WIDTH, HALF_WIDTH, cells + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    points = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    return points, edges, (edges[1] - edges[0]) ** 2


def draw(density, count, seed=0):
    return density.draw(fold(seed_key(seed), np.arange(count)))


@pytest.mark.few(2)
@pytest.mark.parametrize("name", NAMES)
def test_log_prob_integrates_to_one(name):
    points, _, area = grid(140)  # 0.05 wide, as the narrowest noise: the midpoint rule errs by exp(−2π²) for Gaussians
    total = np.exp(DENSITIES[name]().log_prob(points)).sum() * area
    assert abs(total - 1) < 1e-6


@pytest.mark.few(2)
@pytest.mark.parametrize("name", NAMES)
def test_the_points_fill_cells_as_the_density_says(name):
    density = DENSITIES[name]()
    count, fine, coarse = 40_000, 196, 28
    points, edges, area = grid(fine)
    mass = (np.exp(density.log_prob(points)) * area).reshape(coarse, fine // coarse, coarse, fine // coarse)
    expected = count * mass.sum(axis=(1, 3)).ravel()
    samples, _ = draw(density, count)
    observed = np.histogram2d(*samples.T, bins=(edges[:: fine // coarse],) * 2)[0].ravel()
    filled = expected > 5
    assert observed[~filled].sum() < expected[~filled].sum() + 5 * np.sqrt(expected[~filled].sum() + 1)
    chi_squared = np.sum((observed[filled] - expected[filled]) ** 2 / expected[filled])
    degrees = filled.sum() - 1
    assert chi_squared < degrees + 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("name", NAMES)
def test_components_are_labelled_and_normalized(name):
    density = DENSITIES[name]()
    samples, component = draw(density, 6000)
    count = len(density.weights)
    expected = 6000 * density.weights
    assert np.abs(np.bincount(component, minlength=count) - expected).max() < 5 * np.sqrt(expected.max())
    np.testing.assert_allclose(density.weights.sum(), 1, rtol=1e-12)
    log_probs = density.component_log_prob(samples)
    assert log_probs.shape == (6000, count)
    # A point is likelier under its own component than under another on average: Gibbs' inequality.
    own = log_probs[np.arange(6000), component]
    others = np.where(np.isfinite(log_probs), log_probs, -50).mean(axis=1)
    assert own.mean() > others.mean() or count == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_points_have_about_unit_scale(name):
    samples, _ = draw(DENSITIES[name](), 20_000)
    assert np.abs(samples.mean(axis=0)).max() < 0.35
    assert 0.7 < np.sqrt(np.mean(samples**2)) < 1.3


def test_moons_against_a_brute_force_integral():
    moons = Moons(radius=1.0, std=0.2)
    x = np.array([[0.3, 0.9], [-0.5, 0.75], [1.5, -0.2], [0.0, 0.0]])
    theta = (np.arange(20_000) + 0.5) * np.pi / 20_000
    centre = np.stack([np.cos(theta) - 0.5, np.sin(theta) - 0.25], axis=-1)
    expected = np.zeros(4)
    for sign in (1, -1):
        squares = np.sum((x[:, None] - sign * centre) ** 2, axis=-1)
        expected += 0.5 * np.mean(np.exp(-squares / 0.08) / (2 * np.pi * 0.04), axis=1)
    np.testing.assert_allclose(moons.log_prob(x), np.log(expected), rtol=1e-7)


def test_closed_forms_at_single_points():
    np.testing.assert_allclose(Checkerboard().log_prob(np.array([[-1.5, -1.5], [-1.5, -0.5]])), [-np.log(8), -np.inf])
    small = Checkerboard(squares_per_side=3, half_width=0.75)  # five black squares of side 1/2
    np.testing.assert_allclose(small.log_prob(np.array([[0.0, 0.0], [0.6, 0.1]])), [np.log(4 / 5), -np.inf])
    mixture = GaussianMixture(means=((0.0, 0.0, 0.0), (4.0, 0.0, 0.0)), std=0.5, mode_weights=(3.0, 1.0))
    peak = -1.5 * np.log(2 * np.pi * 0.25)
    expected = [np.log(0.75) + peak, np.log(0.25) + peak]
    np.testing.assert_allclose(mixture.log_prob(np.array(mixture.means)), expected, rtol=1e-12)
    ring = Rings(radii=(1.0,), std=0.1).log_prob(np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(ring, -np.log(0.1 * np.sqrt(2 * np.pi)) - np.log(2 * np.pi), rtol=1e-12)
    arm = Pinwheel(num_arms=1, twist=0.0).log_prob(np.array([[1.3, 0.0]]))
    np.testing.assert_allclose(arm, -np.log(2 * np.pi * 0.4 * 0.12), rtol=1e-12)


def test_swiss_roll_winds_outwards():
    samples, _ = draw(SwissRoll(std=1e-3), 2000)
    angle = np.arctan2(samples[:, 1], samples[:, 0])
    turns = (np.hypot(*samples.T) / 2 * 4.5 * np.pi - angle) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Moons(std=0.0), "Moons needs radius > 0 and std > 0, got 1.4, 0.0"),
        (lambda: SwissRoll(radius=-1.0), "SwissRoll needs radius > 0 and std > 0, got -1.0"),
        (lambda: Rings(radii=(1.0, 0.0)), "Rings needs positive radii and std > 0, got"),
        (lambda: Checkerboard(squares_per_side=0), "Checkerboard needs squares_per_side >= 1"),
        (lambda: Pinwheel(num_arms=0), "Pinwheel needs num_arms >= 1 and positive stds"),
        (lambda: GaussianMixture(means=((0.0,), (0.0, 1.0))), "GaussianMixture needs std > 0 and means of one length"),
        (lambda: GaussianMixture(mode_weights=(1.0,)), "GaussianMixture needs a positive weight for each of 8 means"),
    ],
)
def test_impossible_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_source_is_reproducible_by_seed_and_index():
    source = DensitySource("gaussian_mixture", labels=True, seed=2)
    again = DensitySource("gaussian_mixture", labels=True, seed=2, num_examples=10)
    whole = source.gather(np.arange(10))
    np.testing.assert_array_equal(whole["x"], again.gather(np.arange(10))["x"])
    np.testing.assert_array_equal(source.gather(np.array([7, 3]))["x"], whole["x"][[7, 3]])
    assert not np.array_equal(whole["x"], DensitySource("gaussian_mixture", seed=3).gather(np.arange(10))["x"])
    modes = np.array(source.density.means)
    nearest = np.argmin(np.sum((whole["x"][:, None] - modes) ** 2, axis=-1), axis=1)
    np.testing.assert_array_equal(whole["label"], nearest)
    assert (source.spec.num_classes, len(again)) == (8, 10)


def test_a_source_passes_parameters_on():
    assert DensitySource("moons", std=0.3).density == Moons(std=0.3)
    assert DensitySource("gaussian_mixture", means=((1.0,), (2.0,))).spec.shape == (1,)


def test_a_source_refuses_unknown_names_and_lengths():
    with pytest.raises(ValueError, match=r"DensitySource needs a density of moons, checkerboard, .*, got 'moon'"):
        DensitySource("moon")
    with pytest.raises(ValueError, match="DensitySource needs num_examples >= 1, got 0"):
        DensitySource("moons", num_examples=0)
