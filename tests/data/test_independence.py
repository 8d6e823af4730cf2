"""The random numbers of a training batch: of one row for different purposes, and of different rows."""

import numpy as np

from score_sde.data import DataSpec, Source, TrainBatches
from tests.independence import assert_all_independent, assert_independent

NUMBER = 4000


class Places(Source):
    """Images 6×6 of 256 levels whose pixel (row, column) has the level 10·row + column, so that each place is known."""

    spec = DataSpec(shape=(6, 6, 1), levels=256)

    def __len__(self):
        return NUMBER

    def gather(self, indices):
        image = (10 * np.arange(6)[:, None] + np.arange(6)).astype(np.uint8)[..., None]
        return {"x": np.repeat(image[None], len(indices), axis=0)}


def drawn(epoch, seed=0):
    """What was drawn for each example in an epoch, in the order of the rows: flip, top, left, dequantization; and its index."""
    batches = TrainBatches(
        source=Places(), batch_size=NUMBER, seed=seed, random_flip=True, crop=(4, 3), dequantize=True
    )
    batch = batches[epoch]
    levels = batches.spec.quantize(batch["x"])[..., 0].astype(int)
    u = (batch["x"][..., 0] - (levels * 2 / 255 - 1)) / batches.spec.bin_width
    flip = levels[:, 0, 0] > levels[:, 0, -1]
    top, left = np.divmod(levels[:, 0].min(axis=1), 10)
    return {"flip": flip, "top": top, "left": left, "dequantization": u, "index": batch["index"]}


def test_flip_crop_and_dequantization_of_a_row_are_independent():
    first = drawn(0)
    assert len(np.unique(first["top"])) == 3 and len(np.unique(first["left"])) == 4
    assert_independent(**first)  # also of which example it is
    assert_all_independent(first["dequantization"])


def test_rows_epochs_and_seeds_draw_anew():
    """Row by row, and example by example: what an example met in one epoch says nothing of the next."""
    first, second, other = drawn(0), drawn(1), drawn(0, seed=1)
    by_index = [{name: value[np.argsort(one["index"])] for name, value in one.items()} for one in (first, second)]
    neighbours = [{name: value[part] for name, value in first.items()} for part in (slice(0, -1), slice(1, None))]
    for a, b in ((first, second), (first, other), by_index, neighbours):
        for name in ("flip", "top", "left", "dequantization"):
            assert_independent(a=a[name], b=b[name])


def test_the_order_of_an_epoch_says_nothing_of_the_next():
    places = [np.argsort(drawn(epoch)["index"]) for epoch in range(3)]
    assert_independent(first=places[0], second=places[1], third=places[2], index=np.arange(NUMBER))
