"""All distances and scores of feature sets against torch-fidelity, pytorch-fid, clean-fid and prdc."""

import json
import pathlib
import re

import numpy as np
import pytest

from score_sde.metrics import (
    FeatureStatistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    neighbourhoods,
    squared_mmd,
)

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "metrics"
ARRAYS = dict(np.load(GOLDEN / "peers.npz"))
VALUES = json.loads((GOLDEN / "peers.json").read_text(encoding="utf-8"))["values"]
PAIRS = [name for name in VALUES if "|" in name]
SINGULAR = "small_gen|small_real"  # fewer examples than dimensions: the others take the root of a singular matrix


def cases(prefix):
    return [(pair, key) for pair in PAIRS for key in VALUES[pair] if key.startswith(prefix)]


def sets(pair):
    return [ARRAYS[f"feat_{name}"] for name in pair.split("|")]


def test_every_number_of_the_pack_is_tested():
    assert len(PAIRS) == 4 and len(VALUES) == 4 + 4
    tested = [case for prefix in ("fid_", "kid_", "mmd2_", "prdc_k", "prc_torch_fidelity_k") for case in cases(prefix)]
    assert len(tested) == sum(len(VALUES[pair]) for pair in PAIRS) == 4 * 13


@pytest.mark.parametrize(("pair", "key"), cases("fid_"))
def test_frechet_distance(pair, key):
    one, other = map(FeatureStatistics.of, sets(pair))
    rtol = 1e-6 if pair == SINGULAR else 1e-9
    np.testing.assert_allclose(one.frechet_distance(other), VALUES[pair][key], rtol=rtol, atol=2e-13)
    moments = [ARRAYS[f"{kind}_{name}"] for name in pair.split("|") for kind in ("mu", "sigma")]
    np.testing.assert_allclose(frechet_distance(*moments), VALUES[pair][key], rtol=rtol, atol=2e-13)


@pytest.mark.few(3)
@pytest.mark.parametrize(("pair", "key"), cases("kid_torch_fidelity"))
def test_kernel_distance_of_torch_fidelity(pair, key):
    """From the seed alone, and where the pack has its subsets from these."""
    subsets, size, seed = map(int, re.findall(r"subsets(\d+)_size(\d+)_seed(\d+)", key)[0])
    expected = list(VALUES[pair][key].values())
    ours = kernel_distance(*sets(pair), subsets, size, seed)
    np.testing.assert_allclose(ours[:2], expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(ours.standard_error, ours.std / np.sqrt(subsets))
    indices = ARRAYS["kid_idx_" + pair.replace("|", "_")].astype(np.int64)
    if indices.shape == (subsets, 2, size):
        assert kernel_distance(*sets(pair), indices=indices) == ours


@pytest.mark.parametrize(("pair", "key"), cases("kid_clean_fid"))
def test_kernel_distance_of_clean_fid(pair, key):
    """One subset as large as the smaller set; it draws its second set's rows first."""
    generated, real = sets(pair)
    size, seed = min(len(generated), len(real)), int(key.rpartition("seed")[2])
    np.testing.assert_allclose(kernel_distance(real, generated, 1, size, seed).mean, VALUES[pair][key], rtol=1e-10)


@pytest.mark.parametrize(("pair", "key"), cases("mmd2_"))
def test_squared_mmd(pair, key):
    number = min(map(len, sets(pair)))
    np.testing.assert_allclose(squared_mmd(*(x[:number] for x in sets(pair))), VALUES[pair][key], rtol=1e-12)


@pytest.mark.parametrize(("pair", "key"), cases("prdc_k"))
def test_neighbourhoods_of_prdc(pair, key):
    generated, real = sets(pair)
    ours = neighbourhoods(real, generated, int(key[-1]))
    np.testing.assert_allclose(ours, list(VALUES[pair][key].values()), rtol=1e-12)


@pytest.mark.parametrize(("pair", "key"), cases("prc_torch_fidelity_k"))
def test_neighbourhoods_of_torch_fidelity(pair, key):
    generated, real = sets(pair)
    precision, recall, *_ = neighbourhoods(real, generated, int(key[-1]))
    ours = [precision, recall, 2 * precision * recall / (precision + recall)]
    np.testing.assert_allclose(ours, list(VALUES[pair][key].values()), rtol=1e-7)  # theirs are float32


@pytest.mark.parametrize("splits", [1, 10])
@pytest.mark.parametrize("shuffle", [0, 1])
def test_inception_score(splits, shuffle):
    expected = VALUES[f"isc_splits{splits}_shuffle{shuffle}_seed2020"]
    ours = inception_score(ARRAYS["logits"], splits, 2020 if shuffle else None)
    np.testing.assert_allclose(ours, list(expected.values()), rtol=1e-10, atol=1e-12)
    if shuffle:
        by_hand = inception_score(ARRAYS["logits"][ARRAYS["isc_perm_seed2020"]], splits)
        np.testing.assert_allclose(by_hand, ours, rtol=1e-13)
