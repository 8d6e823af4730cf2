import numpy as np
import pytest

from score_sde.data import DigitsSource, Subset, hold_out
from tests.data.numbered import Numbered


def test_a_subset_renumbers_and_keeps_everything_aligned():
    digits = DigitsSource("all")
    subset = Subset(digits, np.array([5, 1700, 3]))
    assert len(subset) == 3
    assert subset.spec == digits.spec
    batch = subset.gather(np.array([1, 0]))
    np.testing.assert_array_equal(batch["x"], digits.gather(np.array([1700, 5]))["x"])
    np.testing.assert_array_equal(batch["label"], digits.gather(np.array([1700, 5]))["label"])


@pytest.mark.parametrize("indices", [[0, 1797], [-1, 3]])
def test_a_subset_refuses_indices_outside(indices):
    with pytest.raises(IndexError, match="Subset needs 0 <= index < 1797, got"):
        Subset(DigitsSource("all"), np.array(indices))


def test_hold_out_divides_without_overlap_or_loss():
    source = Numbered(101)
    parts = hold_out(source, 0.1, seed=4)
    train, test = (part.gather(np.arange(len(part)))["x"][:, 0] for part in (parts.train, parts.test))
    assert (len(train), len(test)) == (90, 11)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(101))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(test) > 0)
    again = hold_out(source, 0.1, seed=4).test
    np.testing.assert_array_equal(again.gather(np.arange(11))["x"][:, 0], test)
    other = hold_out(source, 0.1, seed=5).test
    assert not np.array_equal(other.gather(np.arange(11))["x"][:, 0], test)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5])
def test_hold_out_refuses_an_empty_part(fraction):
    with pytest.raises(ValueError, match="hold_out needs a fraction that leaves both parts examples, got"):
        hold_out(DigitsSource("test"), fraction)
