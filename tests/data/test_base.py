import numpy as np
import pytest

from score_sde.data import DataSpec, DigitsSource
from score_sde.data.base import as_condition, as_labels


@pytest.mark.parametrize(("levels", "dtype"), [(2, np.uint8), (17, np.uint8), (256, np.uint8), (65536, np.uint16)])
def test_scale_is_symmetric_evenly_spaced_and_inverted_by_quantize(levels, dtype):
    spec = DataSpec(shape=(levels,), levels=levels)
    k = np.arange(levels).astype(dtype)
    x = spec.scale(k)
    assert x.dtype == np.float32
    assert (x[0], x[-1]) == (-1, 1)
    np.testing.assert_allclose(np.diff(x.astype(np.float64)), spec.bin_width, rtol=0, atol=1.2e-7)
    np.testing.assert_allclose(x, -x[::-1], rtol=0, atol=1e-7)
    np.testing.assert_array_equal(spec.quantize(x), k)
    assert spec.quantize(x).dtype == dtype


def test_quantize_rounds_and_clips():
    spec = DataSpec(shape=(1,), levels=17)
    levels = np.array([-3.0, -0.4, 0.4, 0.6, 7.49, 7.51, 16.4, 90.0])
    x = (levels * spec.bin_width - 1).astype(np.float32)
    np.testing.assert_array_equal(spec.quantize(x), [0, 0, 0, 1, 7, 8, 16, 16])


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_an_image_in_8_bits_has_the_grey_values_of_the_data(levels):
    """For 256 levels it is the nearest level; for fewer, samples have no values that the data do not have."""
    spec = DataSpec(shape=(1,), levels=levels)
    data = spec.image_u8(spec.scale(np.arange(levels)))
    assert data[0] == 0 and data[-1] == 255 and len(set(data.tolist())) == levels and data.dtype == np.uint8
    noisy = np.random.default_rng(0).uniform(-1.5, 1.5, 1000).astype(np.float32)
    assert set(spec.image_u8(noisy).tolist()) <= set(data.tolist())
    np.testing.assert_array_equal(spec.image_u8(spec.scale(np.arange(levels)) + 0.2 * spec.bin_width), data)


@pytest.mark.parametrize("levels", [None, 65536])
def test_an_image_of_other_data_has_256_levels(levels):
    x = np.array([-7.0, -1.0, 0.0, 0.4 / 127.5, 1.0, 7.0], np.float32)
    np.testing.assert_array_equal(DataSpec(shape=(1,), levels=levels).image_u8(x), [0, 0, 128, 128, 255, 255])


def test_quantize_refuses_what_is_not_finite():
    for round_ in (DataSpec(shape=(1,), levels=17).quantize, DataSpec(shape=(1,)).image_u8):
        with pytest.raises(ValueError, match="quantize needs finite values, got 2 of 3 that are not"):
            round_(np.array([np.nan, np.inf, 0.0], np.float32))


def test_quantize_refuses_continuous_data():
    with pytest.raises(ValueError, match="quantize needs quantized data, got a continuous source"):
        DataSpec(shape=(2,)).quantize(np.zeros((1, 2), np.float32))


def test_continuous_data_are_not_scaled():
    x = np.array([[-30.0, 0.25]])
    spec = DataSpec(shape=(2,))
    np.testing.assert_array_equal(spec.scale(x), x)
    assert spec.bin_width is None


def test_dimension_counts_the_numbers_of_an_example():
    assert DataSpec(shape=(4, 6, 3)).dimension == 72


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_an_empty_shape_is_refused(shape):
    with pytest.raises(ValueError, match="DataSpec needs a shape of positive sizes, got"):
        DataSpec(shape=shape)


@pytest.mark.parametrize("levels", [1, 65537])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(ValueError, match=f"needs 2 <= levels <= 65536.*got {levels}"):
        DataSpec(shape=(1,), levels=levels)


@pytest.mark.parametrize("index", [-1, 297])
def test_an_index_outside_the_source_is_refused(index):
    with pytest.raises(IndexError, match=f"DigitsSource needs 0 <= index < 297, got {index}"):
        DigitsSource("test")[index]


def test_conditions_become_float32_or_int32():
    assert as_condition(np.zeros(3, np.float64), "a").dtype == np.float32
    assert as_condition(np.ones(3, bool), "a").dtype == np.int32
    with pytest.raises(ValueError, match="Condition 'a' needs numbers, got dtype <U1"):
        as_condition(np.array(["x"]), "a")


def test_labels_must_be_class_numbers():
    assert as_labels(np.array([2, 0], np.uint8), "y").dtype == np.int32
    with pytest.raises(ValueError, match="Labels 'y' need class numbers >= 0, got -1; this split may be unlabelled"):
        as_labels(np.array([3, -1]), "y")
    with pytest.raises(ValueError, match=r"Labels 'y' need class numbers, got 2147483648; number the classes from 0"):
        as_labels(np.array([2**31]), "y")


@pytest.mark.parametrize(
    ("values", "fix"),
    [
        (np.zeros((2, 3), int), "one-hot or real-valued labels go under conditions"),
        (np.array([0.5, 1]), "one-hot or real-valued labels go under conditions"),
        (np.array([0.0, 1]), r"save them as y.astype\(int\)\.$"),
        (np.array([True, False]), r"save them as y.astype\(int\)\.$"),
        (np.array([[0], [1]]), r"save them as y\[:, 0\]\.$"),
        (np.array([[0.0], [1]]), r"save them as y\[:, 0\].astype\(int\)\.$"),
    ],
)
def test_labels_of_another_form_are_refused_with_the_fix(values, fix):
    with pytest.raises(
        ValueError, match=rf"Labels 'y' need one integer per example, got {values.dtype} of shape .*; {fix}"
    ):
        as_labels(values, "y")


def test_integers_that_32_bits_do_not_hold_are_refused():
    """They would come out as other numbers."""
    for value in (2**31, -(2**31) - 1):
        with pytest.raises(
            ValueError, match=f"Condition 'a' needs integers of 32 bits, got {value} to {value}; number"
        ):
            as_condition(np.array([value]), "a")
    assert as_condition(np.array([-(2**31), 2**31 - 1]), "a").tolist() == [-(2**31), 2**31 - 1]
