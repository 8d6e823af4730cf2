"""The distances and scores of feature sets against torch-fidelity, pytorch-fid, clean-fid and prdc."""

import json
import pathlib

import numpy as np
import pytest

from score_sde.metrics import FeatureStatistics, inception_score, kernel_distance, neighbourhoods, squared_mmd

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "metrics"
ARRAYS = dict(np.load(GOLDEN / "peers.npz"))
VALUES = json.loads((GOLDEN / "peers.json").read_text())["values"]
PAIRS = [("gen", "real"), ("small_gen", "small_real")]


def pair(generated, real):
    return ARRAYS[f"feat_{generated}"], ARRAYS[f"feat_{real}"], VALUES[f"{generated}|{real}"]


@pytest.mark.parametrize("names", PAIRS)
def test_frechet_distance(names):
    generated, real, expected = pair(*names)
    ours = FeatureStatistics.of(generated).frechet_distance(FeatureStatistics.of(real))
    for peer in ("torch_fidelity", "pytorch_fid", "clean_fid"):
        np.testing.assert_allclose(ours, expected[f"fid_{peer}"], rtol=1e-6)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("names", PAIRS)
def test_neighbourhoods(names, k):
    generated, real, expected = pair(*names)
    np.testing.assert_allclose(neighbourhoods(real, generated, k), list(expected[f"prdc_k{k}"].values()), rtol=1e-12)


def test_kernel_distance():
    generated, real, expected = pair("gen", "real")
    number = min(len(generated), len(real))
    np.testing.assert_allclose(
        squared_mmd(generated[:number], real[:number]), expected["mmd2_unbiased_poly3_full_equal_n"], rtol=1e-12
    )
    ours = kernel_distance(generated, real, indices=ARRAYS["kid_idx_gen_real"].astype(int))
    theirs = expected["kid_torch_fidelity_subsets20_size100_seed2020"]
    np.testing.assert_allclose(
        ours[:2], [theirs[f"kernel_inception_distance_{part}"] for part in ("mean", "std")], rtol=1e-10
    )
    np.testing.assert_allclose(ours.standard_error, ours.std / np.sqrt(20))


@pytest.mark.parametrize("splits", [1, 10])
@pytest.mark.parametrize("shuffle", [0, 1])
def test_inception_score(splits, shuffle):
    expected = VALUES[f"isc_splits{splits}_shuffle{shuffle}_seed2020"]
    ours = inception_score(ARRAYS["logits"], splits, 2020 if shuffle else None)
    np.testing.assert_allclose(ours, list(expected.values()), rtol=1e-10, atol=1e-12)
