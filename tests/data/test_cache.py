import numpy as np

from score_sde.data.cache import ExampleCache


class CountingReader:
    def __init__(self):
        self.read = []

    def __call__(self, indices):
        self.read.extend(indices.tolist())
        return {"x": np.stack([np.full((2, 3), i, np.uint8) for i in indices]), "label": indices.astype(np.int32)}


def test_each_example_is_read_once_and_returned_in_the_order_asked():
    reader = CountingReader()
    cache = ExampleCache(reader, 10, max_bytes=1000)
    for indices in ([4, 1, 4], [1, 2, 9], [9, 4]):
        batch = cache(np.array(indices))
        np.testing.assert_array_equal(batch["label"], indices)
        np.testing.assert_array_equal(batch["x"][:, 1, 2], indices)
    assert sorted(reader.read) == [1, 2, 4, 9]


def test_what_it_returns_is_a_copy():
    cache = ExampleCache(CountingReader(), 10, max_bytes=1000)
    cache(np.array([3]))["x"][:] = 77
    assert cache(np.array([3]))["x"].max() == 3


def test_the_limit_counts_all_arrays_of_all_examples():
    needed = 10 * (6 + 4)
    for max_bytes, kept in ((needed, True), (needed - 1, False), (0, False)):
        reader = CountingReader()
        cache = ExampleCache(reader, 10, max_bytes=max_bytes)
        cache(np.array([5]))
        reader.read.clear()
        np.testing.assert_array_equal(cache(np.array([5, 5]))["label"], [5, 5])
        assert (reader.read == []) is kept
