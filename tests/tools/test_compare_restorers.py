"""compare_restorers: the exact posterior against numbers made elsewhere and against samples, the table and the ranks."""

import csv
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.plots.calibration import rank_histograms
from score_sde.solvers import loop
from score_sde.tools import compare_restorers as comparison
from tests.ground_truth import moment_errors

EXACT = pathlib.Path(__file__).parents[1] / "golden" / "inverse" / "exact.npz"


def test_the_exact_posterior():
    """Of several mixtures, operators and measurements: component by component, and its moments."""
    arrays = dict(np.load(EXACT))
    json.loads(str(arrays["__meta__"]))
    with jax.enable_x64(True):
        for problem in ("m2/rand", "m2/mask", "g16/rand", "g16/mask"):
            mix = problem.split("/")[0]
            prior = GaussianMixture(*(jnp.asarray(arrays[f"{mix}_mix_{part}"]) for part in ("w", "mu", "sd")))
            matrix, noise_std, y = (arrays[f"prob/{problem}/{part}"] for part in ("A", "sigma_y", "y"))
            for row in range(len(y)):
                found = comparison.exact_posterior(prior, matrix, float(noise_std), y[row])
                log_weights = arrays[f"post/{problem}/logw"][row]
                np.testing.assert_allclose(found.weights, np.exp(log_weights) / np.exp(log_weights).sum(), atol=1e-10)
                np.testing.assert_allclose(found.means, arrays[f"post/{problem}/mean"][row], atol=1e-10)
                np.testing.assert_allclose(found.covariances, arrays[f"post/{problem}/cov"], atol=1e-10)
                mean, covariance = found.moments()
                np.testing.assert_allclose(mean, arrays[f"post/{problem}/post_mean"][row], atol=1e-10)
                np.testing.assert_allclose(np.diag(covariance), arrays[f"post/{problem}/post_var"][row], atol=1e-10)
    x = found.sample(np.random.default_rng(0), 20000)
    assert max(moment_errors(x, mean, covariance)) < 5


def test_the_table(tmp_path, capsys):
    """Exact draws have errors of their number alone; a method without its measurement would not."""
    compiled = loop._solve._cache_size()
    rows = comparison.run_restorer_comparison(tmp_path, ("ddrm", "ddnm"), ["mask"], (0.3, 0.6), (5, 7), 128, 8)
    assert loop._solve._cache_size() - compiled <= 2  # one for each method, whatever the prior, noise and steps
    assert "compare 100% step 19/19" in capsys.readouterr().err
    first = [(row.method, row.noise_std, row.nfe) for row in rows if row.prior == "Gaussian"]
    assert first == [
        *(("exact draws", 0.3, 0), ("ddrm", 0.3, 5), ("ddrm", 0.3, 7)),
        *(("exact draws", 0.6, 0), ("ddrm", 0.6, 5), ("ddrm", 0.6, 7)),
        *(("exact draws", 0.0, 0), ("ddnm", 0.0, 5), ("ddnm", 0.0, 7)),
    ]
    assert rows[0].mean < 4 * np.sqrt(1 / 128) and rows[0].covariance < 0.5
    assert 0 < rows[1].mean < 1 and 0 < rows[1].covariance < 1
    table = (tmp_path / "errors.md").read_text(encoding="utf-8").splitlines()
    assert table[0] == "### Gaussian prior, σ_y = 0.3" and table[4].startswith("| `exact draws` | — | 0.")
    assert table[2] == "| method | evaluations | mask: mean | mask: covariance | mask: sliced Wasserstein |"
    with (tmp_path / "errors.csv").open() as file:
        assert float(list(csv.DictReader(file))[1]["mean"]) == rows[1].mean
    assert Image.open(tmp_path / "calibration.png").width > 100


def test_mistakes(tmp_path):
    for how, message in [
        ({"operators": ["blur"]}, "compare_restorers needs operators among .* got 'blur'"),
        ({"methods": ["ddmr"]}, "--method needs one of .* got 'ddmr'. Did you mean 'ddrm'"),
        ({"number": 100, "pairs": 64}, "compare_restorers needs pairs <= number / 2, got pairs=64, number=100"),
    ]:
        with pytest.raises(ValueError, match=message):
            comparison.run_restorer_comparison(tmp_path / "none", **how)
    assert not (tmp_path / "none").exists()


def test_ranks_and_their_picture(tmp_path):
    """Shape and range; the mean rank of an unbiased method is half of the draws."""
    found = comparison.ranks(jax.random.key(0), "ddrm", comparison.OPERATORS["mask"](), 0.3, 8, 64, 7)
    assert found.shape == (64, 16) and found.min() >= 0 and found.max() <= 7
    assert abs(found.mean() - 3.5) < 0.5
    with pytest.raises(ValueError, match="rank_histograms needs the ranks of at least one method"):
        rank_histograms({}, 7, tmp_path / "none.png")
