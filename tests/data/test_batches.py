import math

import jax
import numpy as np
import pytest

from score_sde.data import ArraySource, DataSpec, DensitySource, DigitsSource, EvalBatches, Source, TrainBatches
from tests.data.numbered import Numbered


class Marked(Source):
    """Grey 5×6 images whose pixel at (row, column) has the level 10·row + column, so that each place is known."""

    def __init__(self, length):
        self._length = length
        self.spec = DataSpec(shape=(5, 6, 1), levels=256)

    def __len__(self):
        return self._length

    def gather(self, indices):
        image = (10 * np.arange(5)[:, None] + np.arange(6)).astype(np.uint8)[..., None]
        return {"x": np.repeat(image[None], len(indices), axis=0)}


def levels(batch):
    return DataSpec(shape=(1,), levels=256).quantize(batch["x"])


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


AUGMENTED = {"random_flip": True, "crop": (7, 6), "dequantize": True}


def test_a_batch_is_a_function_of_seed_and_step_alone():
    first = TrainBatches(source=DigitsSource(), batch_size=64, seed=3, **AUGMENTED)
    second = TrainBatches(source=DigitsSource(), batch_size=64, seed=3, **AUGMENTED)
    for step in (0, 1):
        first[step]  # what was read before changes nothing
    steps = [90, 2, 24, 23]
    backwards = [second[step] for step in reversed(steps)][::-1]
    for step, batch in zip(steps, backwards, strict=True):
        assert_same(first[step], batch)
    for number, batch in enumerate(first.iterate(22, 26, depth=3, num_threads=2)):
        assert_same(batch, second[22 + number])


def test_seeds_and_steps_give_other_batches():
    batches = TrainBatches(source=Marked(4), batch_size=4, seed=0, random_flip=True, crop=(2, 2), dequantize=True)
    other = TrainBatches(source=Marked(4), batch_size=4, seed=1, random_flip=True, crop=(2, 2), dequantize=True)
    assert not np.array_equal(batches[0]["x"], other[0]["x"])
    assert not np.array_equal(batches[0]["x"], batches[1]["x"])


@pytest.mark.parametrize(("length", "batch_size"), [(10, 3), (7, 7), (3, 10), (1, 4)])
def test_every_epoch_holds_every_example_once_in_a_new_order(length, batch_size):
    batches = TrainBatches(source=Numbered(length), batch_size=batch_size, seed=0)
    steps = 6 * length
    stream = np.concatenate([batches[step]["index"] for step in range(steps)])
    epochs = stream.reshape(-1, length)
    assert len(epochs) == 6 * batch_size
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(length), epochs.shape))
    if length == 10:
        assert len(np.unique(epochs, axis=0)) == len(epochs)


def test_index_label_and_x_stay_together():
    batch = TrainBatches(source=Numbered(100, (4, 4, 2)), batch_size=32, seed=1, random_flip=True, crop=(3, 2))[5]
    np.testing.assert_array_equal(batch["x"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["condition"]["label"], batch["index"] % 7)
    types = jax.tree.map(lambda value: value.dtype.name, batch)
    assert types == {"x": "float32", "index": "int32", "condition": {"label": "int32"}, "observation": {}}


@pytest.mark.parametrize("process_count", [2, 3, 6])
def test_processes_share_the_batch_of_one_process(process_count):
    settings = {"source": DigitsSource(), "batch_size": 12, "seed": 5, **AUGMENTED}
    whole = TrainBatches(**settings)[130]  # straddles two epochs
    parts = [TrainBatches(**settings, process_index=i, process_count=process_count)[130] for i in range(process_count)]
    assert_same(whole, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))


def test_a_flip_mirrors_columns_of_half_of_the_images():
    """Within 5 standard errors of so many that a share of 0.48 is seen."""
    number = 40_000
    batches = TrainBatches(source=Marked(number), batch_size=number, seed=0, random_flip=True)
    images = levels(batches[0])[..., 0]
    original = levels(TrainBatches(source=Marked(1), batch_size=1, seed=0)[0])[0, ..., 0]
    flipped = (images == original[:, ::-1]).all(axis=(1, 2))
    np.testing.assert_array_equal(~flipped, (images == original).all(axis=(1, 2)))
    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / np.sqrt(number) < 0.013
    again = (levels(batches[1])[..., 0] == original[:, ::-1]).all(axis=(1, 2))
    assert abs(np.mean(flipped == again) - 0.5) < 5 * 0.5 / np.sqrt(number)


def test_random_crops_reach_every_place_equally():
    batches = TrainBatches(source=Marked(2400), batch_size=2400, seed=0, crop=(3, 5))
    assert batches.spec.shape == (3, 5, 1)
    windows = levels(batches[0])[..., 0].astype(int)
    top, left = np.divmod(windows[:, 0, 0], 10)
    expected = 10 * (top[:, None, None] + np.arange(3)[:, None]) + left[:, None, None] + np.arange(5)
    np.testing.assert_array_equal(windows, expected)
    counts = np.histogram2d(top, left, bins=(range(4), range(3)))[0]
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)


def test_evaluation_takes_the_central_window():
    batches = EvalBatches(source=Marked(3), batch_size=2, crop=(3, 2))
    assert batches.spec.shape == (3, 2, 1)
    np.testing.assert_array_equal(levels(batches[0])[1, ..., 0], [[12, 13], [22, 23], [32, 33]])
    odd = EvalBatches(
        source=Marked(3), batch_size=2, crop=(2, 3)
    )  # 3 and 3 are left over: the middle is between pixels
    np.testing.assert_array_equal(levels(odd[0])[1, ..., 0], [[11, 12, 13], [21, 22, 23]])


def test_signals_can_be_cropped_and_flipped(tmp_path):
    signal = np.arange(10, dtype=np.float32)[None, :, None].repeat(2, axis=2)
    np.save(tmp_path / "signal.npy", signal)
    source = ArraySource(tmp_path / "signal.npy")
    crops = TrainBatches(source=source, batch_size=50, seed=0, crop=(4,), random_flip=True)[0]["x"][..., 0]
    steps = np.diff(crops, axis=1)
    assert set(np.unique(steps)) == {-1.0, 1.0}
    assert crops.shape == (50, 4)


def test_dequantization_is_uniform_within_the_bin_and_new_at_every_step():
    source = DigitsSource()
    plain = TrainBatches(source=source, batch_size=256, seed=0)
    noisy = TrainBatches(source=source, batch_size=256, seed=0, dequantize=True)
    u = [(noisy[step]["x"] - plain[step]["x"]) / source.spec.bin_width for step in (0, 1)]
    assert -0.5 <= u[0].min() < -0.499
    assert 0.499 < u[0].max() <= 0.5
    assert abs(u[0].mean()) < 5 * np.sqrt(1 / 12 / u[0].size)
    assert abs(u[0].var() - 1 / 12) < 5 * np.sqrt(1 / 180 / u[0].size)
    assert abs(np.corrcoef(u[0].ravel(), u[1].ravel())[0, 1]) < 5 / np.sqrt(u[0].size)
    np.testing.assert_array_equal(source.spec.quantize(noisy[0]["x"]), source.spec.quantize(plain[0]["x"]))


def test_quantized_data_are_scaled_and_continuous_data_are_not():
    x = TrainBatches(source=DigitsSource(), batch_size=100, seed=0)[0]["x"]
    assert (x.min(), x.max()) == (-1, 1)
    source = DensitySource("rings")
    batch = TrainBatches(source=source, batch_size=5, seed=0)[0]
    np.testing.assert_array_equal(batch["x"], source.gather(batch["index"])["x"])


@pytest.mark.parametrize(("length", "batch_size", "process_count"), [(10, 4, 2), (8, 4, 1), (3, 8, 4), (297, 64, 1)])
def test_evaluation_sees_every_example_exactly_once(length, batch_size, process_count):
    evaluations = [
        EvalBatches(source=Numbered(length), batch_size=batch_size, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    seen, total = [], 0.0
    for batches in evaluations:
        assert len(batches) == len(evaluations[0]) == -(-length // batch_size)
        for batch in batches:
            assert {len(values) for values in jax.tree.leaves(batch)} == {batch_size // process_count}
            assert batch["is_real"].dtype == bool
            np.testing.assert_array_equal(batch["x"][:, 0], batch["index"])  # padding too is a valid example
            seen.extend(batch["index"][batch["is_real"]])
            total += float(np.sum(batch["x"][:, 0] * batch["is_real"]))
    np.testing.assert_array_equal(np.sort(seen), np.arange(length))
    assert total == length * (length - 1) / 2


def test_evaluation_keeps_the_order_and_the_labels():
    batches = list(EvalBatches(source=Numbered(5), batch_size=2))
    assert [batch["index"].tolist() for batch in batches] == [[0, 1], [2, 3], [4, 4]]
    assert [batch["is_real"].tolist() for batch in batches] == [[True, True], [True, True], [True, False]]
    assert batches[2]["condition"]["label"].tolist() == [4, 4]


def test_evaluation_never_changes():
    first, second = (list(EvalBatches(source=DigitsSource("test"), batch_size=100)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("kind", [TrainBatches, EvalBatches])
def test_impossible_sizes_are_refused(kind):
    seed = {"seed": 0} if kind is TrainBatches else {}
    name = kind.__name__
    with pytest.raises(ValueError, match=f"{name} needs a source with examples, got an empty one"):
        kind(source=Numbered(0), batch_size=2, **seed)
    with pytest.raises(ValueError, match=f"{name} needs batch_size >= 1, got 0"):
        kind(source=Numbered(3), batch_size=0, **seed)
    with pytest.raises(ValueError, match=f"{name} needs a batch_size that process_count divides, got batch_size=5, pr"):
        kind(source=Numbered(3), batch_size=5, process_count=2, **seed)
    with pytest.raises(ValueError, match=f"{name} needs 0 <= process_index < process_count, got process_index=2"):
        kind(source=Numbered(3), batch_size=4, process_index=2, process_count=2, **seed)


@pytest.mark.parametrize("crop", [(9, 8), (0, 8), (8,), (8, 8, 1)])
@pytest.mark.parametrize("kind", [TrainBatches, EvalBatches])
def test_impossible_crops_are_refused(kind, crop):
    seed = {"seed": 0} if kind is TrainBatches else {}
    with pytest.raises(ValueError, match=r"crop needs one size from 1 to \(8, 8\) for each spatial axis of"):
        kind(source=DigitsSource(), batch_size=2, crop=crop, **seed)


def test_augmentation_that_the_data_forbid_is_refused():
    points = DensitySource("moons")
    with pytest.raises(ValueError, match=r"random_flip needs images, got shape \(2,\); set random_flip=False"):
        TrainBatches(source=points, batch_size=2, seed=0, random_flip=True)
    with pytest.raises(ValueError, match="dequantize needs a quantized source, got continuous data"):
        TrainBatches(source=points, batch_size=2, seed=0, dequantize=True)
    with pytest.raises(ValueError, match="crop needs one size"):
        TrainBatches(source=points, batch_size=2, seed=0, crop=(1,))
    with pytest.raises(ValueError, match="A data seed needs"):
        TrainBatches(source=points, batch_size=2, seed=-1)


def test_numbers_outside_are_refused():
    with pytest.raises(IndexError, match="TrainBatches needs step >= 0, got -1"):
        TrainBatches(source=Numbered(3), batch_size=2, seed=0)[-1]
    with pytest.raises(IndexError, match="EvalBatches needs 0 <= number < 2, got 2"):
        EvalBatches(source=Numbered(3), batch_size=2)[2]


class Overlaid(Source):
    """Images with a mask [h, w], a depth map [h, w, 2], a vector and a tensor of the shape of none."""

    def __init__(self, length, spatial=None, **others):
        self._length = length
        shapes = {"mask": (5, 6), "depth": (5, 6, 2), "vector": (6,), "tokens": (6, 5)} | others
        self.spec = DataSpec(shape=(5, 6, 1), conditions=shapes, spatial=spatial)

    def __len__(self):
        return self._length

    def gather(self, indices):
        place = 10 * np.arange(5)[:, None] + np.arange(6)
        rows = {"x": place[..., None], "mask": place}
        for name, shape in self.spec.conditions.items():
            rows.setdefault(
                name, np.broadcast_to(place[..., None], shape) if name == "depth" else np.arange(math.prod(shape))
            )
        shapes = {"x": (5, 6, 1), **self.spec.conditions}
        return {
            n: np.repeat(r.reshape(1, *shapes[n]), len(indices), axis=0).astype(np.float32) for n, r in rows.items()
        }


@pytest.mark.parametrize("options", [{"random_flip": True}, {"crop": (3, 2)}, {"random_flip": True, "crop": (4, 5)}])
def test_what_lies_over_an_image_is_flipped_and_cropped_with_it(options):
    source = Overlaid(64)
    for batches in (
        TrainBatches(source=source, batch_size=64, seed=0, **options),
        EvalBatches(source=source, batch_size=64, crop=options.get("crop")),
    ):
        batch, shapes = batches[0], batches.spec.conditions
        x, condition = batch["x"][..., 0], batch["condition"]
        np.testing.assert_array_equal(condition["mask"], x)
        for channel in range(2):
            np.testing.assert_array_equal(condition["depth"][..., channel], x)
        assert {name: values.shape[1:] for name, values in condition.items()} == shapes
        for name in ("vector", "tokens"):
            np.testing.assert_array_equal(condition[name], np.repeat(source.gather(np.array([0]))[name], 64, axis=0))
    if "random_flip" in options:
        first = TrainBatches(source=source, batch_size=64, seed=0, **options)[0]["x"]
        assert len(np.unique(np.sign(first[:, 0, 0, 0] - first[:, 0, 1, 0]))) == 2  # some are flipped, some not


def test_what_lies_over_a_signal_moves_with_it(tmp_path):
    signal = np.arange(10, dtype=np.float32)[None, :, None].repeat(4, axis=0)
    np.savez(tmp_path / "s.npz", x=signal, same=np.concatenate([signal, -signal], axis=2), vector=signal[..., 0])
    source = ArraySource(tmp_path / "s.npz", conditions=("same", "vector"))
    assert source.spec.moving() == ("same",)
    batch = TrainBatches(source=source, batch_size=40, seed=0, crop=(4,), random_flip=True)[0]
    np.testing.assert_array_equal(batch["condition"]["same"], np.concatenate([batch["x"], -batch["x"]], axis=2))
    np.testing.assert_array_equal(batch["condition"]["vector"], np.repeat(signal[:1, :, 0], 40, axis=0))
    named = ArraySource(tmp_path / "s.npz", conditions=("same", "vector"), spatial=("vector",))
    batch = TrainBatches(source=named, batch_size=40, seed=0, crop=(4,), random_flip=True)[0]
    np.testing.assert_array_equal(batch["condition"]["vector"], batch["x"][..., 0])
    assert batch["condition"]["same"].shape == (40, 10, 2)


def test_an_image_of_another_size_has_to_be_explained():
    """Flipped alone, x would no longer be the image that its condition shows."""
    for options in ({"random_flip": True}, {"crop": (3, 2)}):
        with pytest.raises(
            ValueError, match=r"'low' of shape \(3, 3, 1\) may be an image beside x of shape .*spatial=\('low'"
        ):
            TrainBatches(source=Overlaid(4, low=(3, 3, 1)), batch_size=2, seed=0, **options)
    TrainBatches(source=Overlaid(4, low=(3, 3, 1)), batch_size=2, seed=0)
    flipped = TrainBatches(source=Overlaid(64, ("low",), low=(3, 3, 1)), batch_size=64, seed=0, random_flip=True)[0]
    is_flipped = flipped["x"][:, 0, 0, 0] > flipped["x"][:, 0, 1, 0]
    np.testing.assert_array_equal(flipped["condition"]["low"][:, 0, 0, 0] == 2, is_flipped)
    assert 0 < is_flipped.sum() < 64
    with pytest.raises(
        ValueError,
        match=r"crop needs conditions and observations of x's size \(5, 6\) .*, got 'low' of shape \(3, 3, 1\)",
    ):
        TrainBatches(source=Overlaid(4, ("low",), low=(3, 3, 1)), batch_size=2, seed=0, crop=(3, 2))
    still = TrainBatches(source=Overlaid(64, (), low=(3, 3, 1)), batch_size=64, seed=0, random_flip=True)[0]
    assert (still["condition"]["low"] == still["condition"]["low"][0]).all()


@pytest.mark.parametrize(("name", "shape"), [("vector", (6,)), ("nothing", "absent")])
def test_what_lies_over_x_has_its_axes(name, shape):
    with pytest.raises(
        ValueError,
        match=rf"spatial needs conditions or observations with the axes \(5, 6\) of x, got '{name}' of shape",
    ):
        Overlaid(4, (name,))
