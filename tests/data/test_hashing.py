import numpy as np
import pytest

from score_sde.data.hashing import fold, normals, permutation, seed_key, uniforms, uniforms_f32


def test_fold_is_the_published_splitmix64_sequence():
    # The first outputs for seed 1234567, as listed by Rosetta Code, "Pseudo-random numbers/Splitmix64".
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    np.testing.assert_array_equal(fold(np.array([1234567], np.uint64), np.arange(5)), np.array(published, np.uint64))


def test_fold_broadcasts_keys_against_counters_without_warnings():
    keys = fold(seed_key(3), np.arange(4))
    table = fold(keys[:, None], np.arange(6))
    assert table.shape == (4, 6)
    assert table[2, 5] == fold(keys[2:3], 5)[0]
    assert len(np.unique(table)) == 24


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match=r"needs 0 <= seed < 2\*\*64, got"):
        seed_key(seed)


@pytest.mark.parametrize("draw", [uniforms, uniforms_f32])
def test_uniforms_are_uniform_and_uncorrelated(draw):
    u = np.asarray(draw(fold(seed_key(0), np.arange(4000)), 5), np.float64)
    assert u.shape == (4000, 5)
    assert 0 <= u.min() < u.max() < 1
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    chi_squared = np.sum((counts - u.size / 50) ** 2) / (u.size / 50)
    assert abs(chi_squared - 49) < 5 * np.sqrt(2 * 49)
    correlations = np.corrcoef(u, rowvar=False)[~np.eye(5, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(len(u))
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 5 / np.sqrt(len(u))


def test_normals_have_the_normal_moments():
    z = normals(fold(seed_key(1), np.arange(20000)), 3)
    assert z.shape == (20000, 3)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(np.mean(z**2) - 1) < 5 * np.sqrt(2 / z.size)
    assert abs(np.mean(z**4) - 3) < 5 * np.sqrt(96 / z.size)
    assert np.abs(np.cov(z, rowvar=False)[~np.eye(3, dtype=bool)]).max() < 5 / np.sqrt(len(z))


def test_permutation_is_one_and_changes_with_seed_and_epoch():
    orders = [permutation(1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert np.sum(first == second) < 10  # one agreement is expected by chance


def test_permutation_puts_every_example_everywhere():
    places = np.array([np.argsort(permutation(8, 0, epoch)) for epoch in range(4000)])
    counts = np.stack([np.bincount(column, minlength=8) for column in places.T])
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)
