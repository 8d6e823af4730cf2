"""A table of names fits both sides or is refused, and each change of a tensor is the published layout's."""

import numpy as np
import pytest

from score_sde.importing import Entry, convert, mapping

TABLE = [*mapping.linear("dense", "map"), Entry("qkv/kernel", ("q", "k"), mapping.joined)]
SHAPES = {"dense/kernel": (2, 3), "dense/bias": (3,), "qkv/kernel": (2, 4)}


def tensors(**changes):
    arrays = {"map.weight": np.ones((3, 2)), "map.bias": np.ones(3), "q": np.zeros((2, 2)), "k": np.ones((2, 2))}
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def test_every_tensor_arrives():
    tree = convert(TABLE, tensors(filter=np.ones(4)), SHAPES, unused=("filt.*",))
    np.testing.assert_array_equal(tree["qkv"]["kernel"], [[0, 0, 1, 1]] * 2)
    assert tree["dense"]["kernel"].shape == (2, 3) and set(tree) == {"dense", "qkv"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"q": None}, r"This file does not fit this network; missing: q\."),
        ({"more": np.ones(1)}, r"left over: more\. Choose the fields"),
        ({"map.weight": np.ones((4, 2))}, r"of another shape: map\.weight \[4, 2\] for dense/kernel \[2, 3\]"),
        ({"k": np.ones((3, 2))}, r"of another shape: q \[2, 2\], k \[3, 2\] for qkv/kernel \[2, 4\]"),
    ],
)
def test_what_does_not_fit_is_named(changes, told):
    with pytest.raises(ValueError, match=told):
        convert(TABLE, tensors(**changes), SHAPES, what="This file")


@pytest.mark.parametrize(
    ("table", "shapes", "told"),
    [
        (TABLE, {**SHAPES, "norm/scale": (2,)}, "without a source: norm/scale"),
        (TABLE, {"dense/kernel": (2, 3), "dense/bias": (3,)}, "not of the network: qkv/kernel"),
        ([*TABLE, TABLE[0]], SHAPES, r"used more than once: map\.weight; set more than once: dense/kernel"),
    ],
)
def test_a_table_that_does_not_fit_is_named(table, shapes, told):
    with pytest.raises(ValueError, match=told):
        convert(table, tensors(), shapes)


def test_an_optional_entry_falls_away_where_ours_has_no_such_parameter():
    table = [*TABLE, *mapping.linear("skip", "shortcut", bias=False, optional=True)]
    assert "skip" not in convert(table, tensors(), SHAPES)
    with pytest.raises(ValueError, match=r"missing: shortcut\.weight"):
        convert(table, tensors(), {**SHAPES, "skip/kernel": (1, 1)})
    with pytest.raises(ValueError, match=r"left over: shortcut\.weight"):
        convert(table, tensors(**{"shortcut.weight": np.ones((1, 1))}), SHAPES)


def test_layouts():
    weight = np.arange(2 * 3 * 5 * 5).reshape(2, 3, 5, 5)
    assert mapping.kernel(weight)[4, 1, 2, 0] == weight[0, 2, 4, 1]
    np.testing.assert_array_equal(mapping.kernel(weight[:, :, :1, :1]), weight[:, :, 0, 0].T)
    np.testing.assert_array_equal(mapping.kernel(weight[:, :, 0, 0]), weight[:, :, 0, 0].T)
    # Two heads of two features: q, k, v of a feature side by side, or q, k, v of a head one after another.
    ours = ["q00", "q01", "q10", "q11", "k00", "k01", "k10", "k11", "v00", "v01", "v10", "v11"]
    by_feature = np.array([f"{part}{head}{i}" for head in "01" for i in "01" for part in "qkv"])
    by_head = np.array([f"{part}{head}{i}" for head in "01" for part in "qkv" for i in "01"])
    assert mapping.interleaved(by_feature).tolist() == ours
    assert mapping.by_heads(2, None)(by_head).tolist() == ours and mapping.by_heads(1, 2)(by_head).tolist() == ours
    assert mapping.flipped(np.array(["cos", "cos", "sin", "sin"])).tolist() == ["sin", "sin", "cos", "cos"]
    np.testing.assert_array_equal(mapping.with_null_row(np.eye(2)), [[1, 0], [0, 1], [0, 0]])
