"""Examples that cannot be used, in batches of training and of evaluation."""

import logging
import threading

import numpy as np
import pytest

from score_sde.data import ArraySource, EvalBatches, FolderSource, Subset, TFDSSource, TrainBatches
from score_sde.data.base import BadExample
from tests.data.numbered import Numbered
from tests.data.test_folder import noise, write
from tests.data.tiny_tfds import image_feature, png, prepare

BAD = (3, 7, 8)


class Damaged(Numbered):
    """Numbered examples, some of which cannot be read; all that were asked for are kept."""

    def __init__(self, length, bad=BAD):
        super().__init__(length)
        self.bad, self.asked = bad, []

    def gather(self, indices):
        self.asked.append(indices.tolist())
        for index in indices.tolist():
            if index in self.bad:
                raise BadExample(index, f"Example {index} is damaged.")
        return super().gather(indices)


def training(source, **options):
    return TrainBatches(source=source, batch_size=6, seed=4, on_error="skip", **options)


def test_a_batch_with_replaced_examples_is_a_function_of_its_number():
    """Whatever was read before, by however many threads and processes."""
    expected = [training(Damaged(20))[step] for step in range(8)]  # each by itself
    one = training(Damaged(20))
    backwards = [one[step] for step in reversed(range(8))][::-1]
    ahead = list(training(Damaged(20)).iterate(0, 8, depth=3, num_threads=3))
    parts = [training(Damaged(20), process_index=i, process_count=2) for i in range(2)]
    joined = [
        {k: np.concatenate([part[step][k] for part in parts]) for k in ("x", "index", "replaced")} for step in range(8)
    ]
    for others in (backwards, ahead, joined):
        for batch, other in zip(expected, others, strict=True):
            for name in ("x", "index", "replaced"):
                np.testing.assert_array_equal(batch[name], other[name])


def test_only_what_cannot_be_used_is_replaced_and_counted():
    whole = TrainBatches(source=Numbered(20), batch_size=6, seed=4)
    batches = training(Damaged(20))
    replaced = 0
    for step in range(20):  # six epochs
        batch, expected = batches[step], whole[step]["index"]
        np.testing.assert_array_equal(batch["replaced"], np.isin(expected, BAD))
        np.testing.assert_array_equal(batch["index"][~batch["replaced"]], expected[~batch["replaced"]])
        assert not np.isin(batch["index"], BAD).any()
        np.testing.assert_array_equal(batch["x"][:, 0], batch["index"])  # the values are those of the index
        np.testing.assert_array_equal(batch["condition"]["label"], batch["index"] % 7)
        replaced += batch["replaced"].sum()
    assert replaced == 6 * len(BAD)


def test_a_bad_example_is_read_and_told_of_once(caplog):
    source = Damaged(20)
    batches = training(source)
    with caplog.at_level(logging.WARNING):
        for step in range(20):
            batches[step]
    messages = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert sorted(messages) == [f"Example {i} is skipped: Example {i} is damaged." for i in BAD]
    assert all(sum(index in asked for asked in source.asked) == 1 for index in BAD)


def test_by_default_a_bad_example_is_an_error():
    batches = TrainBatches(source=Damaged(20), batch_size=6, seed=4)
    with pytest.raises(BadExample, match="is damaged"):
        for step in range(4):
            batches[step]
    assert "replaced" not in TrainBatches(source=Damaged(20, bad=()), batch_size=6, seed=4)[0]


def test_evaluation_passes_over_bad_examples():
    batches = EvalBatches(source=Damaged(10), batch_size=4, on_error="skip")
    rows = list(batches)
    is_real = np.concatenate([batch["is_real"] for batch in rows])
    index = np.concatenate([batch["index"] for batch in rows])
    assert index[is_real].tolist() == [0, 1, 2, 4, 5, 6, 9] and len(index) == 12
    assert not np.isin(index, BAD).any()
    assert batches.bad == {i: f"Example {i} is damaged." for i in BAD}
    with pytest.raises(BadExample):
        list(EvalBatches(source=Damaged(10), batch_size=4))


def test_a_part_of_a_source_names_the_example_by_its_own_number():
    part = Subset(Damaged(10), np.array([9, 8, 0, 1]))
    with pytest.raises(BadExample, match="Example 8 is damaged") as caught:
        part.gather(np.array([2, 1]))
    assert caught.value.index == 1
    (batch,) = EvalBatches(source=part, batch_size=4, on_error="skip")
    assert batch["is_real"].tolist() == [True, False, True, True]


def test_where_nothing_can_be_used_that_is_an_error():
    with pytest.raises(
        ValueError, match="on_error=skip found no example that can be used among 1000 tried; the first that "
    ):
        training(Damaged(5, bad=range(5)))[0]


def test_threads_that_find_the_same_bad_example_agree():
    batches = training(Damaged(20))
    found = []
    threads = [threading.Thread(target=lambda: found.append(batches[1]["index"].tolist())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [training(Damaged(20))[1]["index"].tolist()] * 4


def damaged_folder(folder):
    for i in range(6):
        write(folder / f"{i}.png", noise(4, 4, 3))
    (folder / "0.png").write_bytes(b"broken")
    write(folder / "4.png", noise(5, 4, 3))
    return FolderSource(folder), (0, 4)


def damaged_array(folder):
    x = np.random.default_rng(0).normal(size=(6, 3))
    x[2, 1] = np.nan
    np.savez(folder / "x.npz", x=x, text=np.where(np.arange(6) == 5, np.inf, 0.0)[:, None])
    return ArraySource(folder / "x.npz", conditions={"embedding": "text"}), (2, 5)


def damaged_levels(folder):
    np.save(folder / "x.npy", np.array([[0], [9], [1], [2], [0], [0]], np.uint8))
    return ArraySource(folder / "x.npy", levels=3), (1,)


def damaged_records(folder):
    records = [{"image": png(noise(4, 4, 1))} for _ in range(6)]
    records[0]["image"] = records[5]["image"][:40]
    prepare(folder, {"image": image_feature(4, 4, 1)}, {"train": records})
    return TFDSSource("tiny", data_dir=folder), (0,)


@pytest.mark.few(2)
@pytest.mark.parametrize("make", [damaged_folder, damaged_array, damaged_levels, damaged_records])
def test_every_source_names_the_example_and_both_ways_out(make, tmp_path):
    source, bad = make(tmp_path)
    for index in bad:
        with pytest.raises(BadExample, match=r"set data.on_error=skip to train on the others") as caught:
            source.gather(np.array([3, index]))
        assert caught.value.index == index
    (batch,) = EvalBatches(source=source, batch_size=6, on_error="skip")
    assert np.flatnonzero(~batch["is_real"]).tolist() == list(bad)
