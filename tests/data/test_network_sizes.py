"""The kinds of a network's conditions, read from the shapes of the data."""

import pytest

from score_sde.data import DataSpec, with_sizes
from score_sde.data.network_sizes import kinds_of

ALL = ("num_classes", "embedding_dim", "conditions")
SHAPES = {
    "label": (),
    "embedding": (6,),
    "clip": (5,),
    "text": (7, 3),
    "text_mask": (7,),
    "words": (2, 3),
    "words_length": (),
    "low": (8, 8, 1),
    "edges": (8, 8),
}
KINDS = {"clip": "vector", "text": "tokens", "words": "tokens", "low": "image", "edges": "image"}


def spec(shape=(8, 8, 3), **fields):
    return DataSpec(shape=shape, num_classes=4, **{"conditions": SHAPES, **fields})


def test_the_shape_says_the_kind():
    assert kinds_of(spec()) == KINDS
    filled = with_sizes({"name": "unet"}, ALL, spec())
    assert filled == {"name": "unet", "num_classes": 4, "embedding_dim": 6, "conditions": KINDS}


def test_beside_a_signal_the_spec_says_whether_an_array_lies_over_it():
    beside = {"conditions": {"low": (8, 2)}}
    assert kinds_of(spec((8, 1), **beside)) == {"low": "image"}
    assert kinds_of(spec((8, 1), spatial=(), **beside)) == {"low": "tokens"}


def test_without_further_conditions_the_section_is_as_in_earlier_versions():
    """Else an earlier run would differ from its own config."""
    filled = with_sizes({"name": "unet", "conditions": None}, ALL, spec(conditions={"label": ()}))
    assert filled == {"name": "unet", "conditions": None, "num_classes": 4, "embedding_dim": 0}


def test_conditions_that_the_data_do_not_have():
    with pytest.raises(
        ValueError, match=r"conditions=\{'clip': 'vector'\}, but the data have the further conditions \{'clip'"
    ):
        with_sizes({"conditions": {"clip": "vector"}}, ALL, spec())
    with pytest.raises(
        ValueError, match=r"'own' takes the conditions \['label', 'embedding'\], and the data give \['clip',"
    ):
        with_sizes({"name": "own"}, ALL[:2], spec())
    with pytest.raises(ValueError, match=r"'odd' needs the shape of a vector \(d,\), of tokens .*, got \(2, 2, 2, 2\)"):
        kinds_of(spec(conditions={"odd": (2, 2, 2, 2)}))
