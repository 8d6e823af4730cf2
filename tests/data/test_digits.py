import importlib.resources

import numpy as np
import pytest

from score_sde.data import DigitsSource


def test_the_embedded_file_is_the_uci_set():
    digits = DigitsSource("all")
    batch = digits.gather(np.arange(len(digits)))
    assert batch["x"].shape == (1797, 8, 8, 1)
    # The first image and the class counts, as printed by UCI's optdigits.tes and optdigits.names.
    first = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0, 0, 4, 12, 0, 0, 8, 8, 0]
    assert batch["x"][0].ravel()[:32].tolist() == first
    assert np.bincount(batch["label"]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (batch["x"].min(), batch["x"].max()) == (0, 16)


def test_the_split_is_fixed_and_complete():
    train, test, everything = (DigitsSource(split) for split in ("train", "test", "all"))
    assert (len(train), len(test)) == (1500, 297)
    np.testing.assert_array_equal(train[1499]["x"], everything[1499]["x"])
    np.testing.assert_array_equal(test[0]["x"], everything[1500]["x"])
    np.testing.assert_array_equal(test[296]["label"], everything[1796]["label"])


def test_labels_are_optional():
    source = DigitsSource(labels=False)
    assert set(source[0]) == {"x"}
    assert source.spec.num_classes is None
    assert source.spec.conditions == {}


def test_the_spec_describes_17_levels():
    spec = DigitsSource().spec
    assert (spec.shape, spec.levels, spec.bin_width, spec.num_classes) == ((8, 8, 1), 17, 0.125, 10)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="DigitsSource needs a split of train, test, all, got 'val'"):
        DigitsSource("val")


def test_the_licence_lies_beside_the_data():
    folder = importlib.resources.files("score_sde.data")
    text = folder.joinpath("LICENSE-digits.txt").read_text(encoding="utf-8")
    assert "Creative Commons Attribution 4.0" in text
    assert "Alpaydin" in text
    assert len(folder.joinpath("digits.npz").read_bytes()) < 60_000
