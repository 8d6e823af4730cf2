"""The published check of an FID: CIFAR-10's own images, network and halves, against another implementation's numbers.

The figures of all 10,000 test images need their features: `experiments.reference --split=eval --keep_features`, whose file
$SCORE_SDE_CIFAR10_TEST names (docs/evaluation.md).
"""

import json
import os
import pathlib

import numpy as np
import pytest

from configs.cifar10 import small
from score_sde.evaluation.references import load_reference
from score_sde.experiment import Experiment
from score_sde.importers import inception_path
from score_sde.metrics import FeatureStatistics
from score_sde.metrics.features import get_extractor

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "metrics"
FIGURES = json.loads((GOLDEN / "cifar10_test.json").read_text())
KEPT = pathlib.Path(os.environ.get("SCORE_SDE_CIFAR10_TEST", ""))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def order():
    """The place in TFDS's test split of each image of the original order."""
    tfds = pytest.importorskip("tensorflow_datasets")
    try:
        builder = tfds.builder("cifar10")
        records = builder.as_data_source(split="test", decoders={"image": tfds.decode.SkipDecoding()})
    except (FileNotFoundError, OSError, NotImplementedError, ValueError) as error:
        pytest.skip(f"needs CIFAR-10 as TFDS prepares it ({error})")
    numbers = [int(records[i]["id"].decode().removeprefix("test_")) for i in range(len(records))]
    return np.argsort(numbers)


@pytest.mark.skipif(not inception_path().is_file(), reason="no weights; score-sde import_inception")
def test_the_first_images_and_their_features(order):
    """Through the data source, its scaling to [−1, 1] and back, and the extractor of the entry points."""
    golden, experiment = np.load(GOLDEN / "inception.npz"), Experiment(small.get_config())
    images = experiment.eval_source.gather(order[: len(golden["images_u8"])])["x"]
    np.testing.assert_array_equal(images, golden["images_u8"])
    pool = get_extractor("inception", experiment.mesh)(images)["pool"]
    np.testing.assert_allclose(pool, golden["features"], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def features(order):
    if not KEPT.is_file():
        pytest.skip("needs the features of the test images in the file $SCORE_SDE_CIFAR10_TEST")
    reference = load_reference(KEPT)
    if reference.features is None or reference.num_examples != len(order):
        pytest.skip(f"{KEPT} does not hold the features of all test images")
    return reference.features[order]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("fid_first5000_vs_last5000", slice(5000), slice(5000, None)),
        ("fid_even_vs_odd", slice(0, None, 2), slice(1, None, 2)),
    ],
)
def test_distance_between_halves(features, name, one, other):
    distance = FeatureStatistics.of(features[one]).frechet_distance(FeatureStatistics.of(features[other]))
    np.testing.assert_allclose(distance, FIGURES[name], rtol=1e-4)


def test_moments_of_all_test_images(features):
    whole = FeatureStatistics.of(features)
    np.testing.assert_allclose(whole.mean.mean(), FIGURES["mean_of_mu"], rtol=1e-5)
    np.testing.assert_allclose(np.trace(whole.cov), FIGURES["trace_sigma"], rtol=1e-5)
    np.testing.assert_allclose(whole.mean[:8], FIGURES["mu_first8"], rtol=1e-4)
    np.testing.assert_allclose(np.diag(whole.cov)[:8], FIGURES["sigma_diag_first8"], rtol=1e-4)
