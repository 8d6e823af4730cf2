import numpy as np
import pytest

from score_sde.data import ArraySource, EvalBatches, array_checks

RNG = np.random.default_rng(0)


def everything(source):
    return source.gather(np.arange(len(source)))


@pytest.mark.parametrize("shape", [(4, 6, 1), (4, 6, 2), (6, 4, 3), (12, 2), (9, 1), (5,), (1,)])
@pytest.mark.parametrize("suffix", ["npy", "npz", "compressed npz"])
def test_any_shape_from_any_file(tmp_path, shape, suffix):
    images = RNG.integers(0, 256, (7, *shape)).astype(np.uint8)
    path = tmp_path / f"data.{suffix.split()[-1]}"
    if suffix == "npy":
        np.save(path, images)
    else:
        (np.savez_compressed if "compressed" in suffix else np.savez)(path, other=np.zeros(3), x=images)
    source = ArraySource(path)
    assert (source.spec.shape, source.spec.levels, len(source)) == (shape, 256, 7)
    np.testing.assert_array_equal(source.gather(np.array([6, 0, 6]))["x"], images[[6, 0, 6]])
    (batch,) = EvalBatches(source=source, batch_size=7)
    np.testing.assert_allclose(batch["x"], images / 127.5 - 1, atol=1e-6)


def test_plain_files_are_mapped_and_fortran_order_is_kept(tmp_path):
    images = np.asfortranarray(RNG.integers(0, 256, (5, 4, 3, 2)).astype(np.uint8))
    np.savez(tmp_path / "data.npz", padding=np.zeros(5), x=images)
    np.save(tmp_path / "data.npy", images)
    for name in ("data.npz", "data.npy"):
        source = ArraySource(tmp_path / name)
        np.testing.assert_array_equal(everything(source)["x"], images)
        assert isinstance(source._x, np.memmap)


def write_with_riders(folder, kind):
    arrays = {
        "x": RNG.normal(size=(6, 3)),
        "y": np.array([0, 2, 1, 1, 0, 2]),
        "embedding": RNG.normal(size=(6, 4)),
        "angle": RNG.normal(size=6).astype(np.float32),
        "token": np.arange(12).reshape(6, 2),
    }
    if kind == "npz":
        np.savez(folder / "data.npz", **arrays)
        return folder / "data.npz", arrays
    for name, values in arrays.items():
        np.save(folder / ("data.npy" if name == "x" else f"{name}.npy"), values)
    return folder / "data.npy", arrays


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_labels_and_conditions_ride_along(tmp_path, kind):
    path, arrays = write_with_riders(tmp_path, kind)
    source = ArraySource(path, label_key="y", conditions=("embedding", "angle", "token"))
    assert source.spec.num_classes == 3
    assert source.spec.conditions == {"label": (), "embedding": (4,), "angle": (), "token": (2,)}
    batch = source.gather(np.array([4, 1]))
    np.testing.assert_array_equal(batch["label"], [0, 2])
    for name, dtype in (("embedding", np.float32), ("angle", np.float32), ("token", np.int32)):
        np.testing.assert_array_equal(batch[name], arrays[name][[4, 1]].astype(dtype))
        assert batch[name].dtype == dtype
    assert ArraySource(path, label_key="y", num_classes=10).spec.num_classes == 10


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_data_are_continuous(tmp_path, dtype):
    points = RNG.normal(size=(5, 2)).astype(dtype)
    np.save(tmp_path / "points.npy", points)
    source = ArraySource(tmp_path / "points.npy")
    assert source.spec.levels is None
    np.testing.assert_array_equal(everything(source)["x"], points.astype(np.float32))


def test_a_value_range_is_mapped_to_plus_minus_one(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.0, 5.0], [10.0, 7.5]]))
    source = ArraySource(tmp_path / "x.npy", value_range=(0.0, 10.0))
    np.testing.assert_allclose(everything(source)["x"], [[-1, 0], [1, 0.5]], atol=1e-6)


def test_boolean_and_wide_integers_have_their_levels(tmp_path):
    np.save(tmp_path / "bits.npy", np.array([[True, False]]))
    bits = ArraySource(tmp_path / "bits.npy")
    assert bits.spec.levels == 2
    np.testing.assert_array_equal(bits.spec.scale(everything(bits)["x"]), [[1, -1]])
    np.save(tmp_path / "deep.npy", np.array([[0, 4095]], np.uint16))
    deep = ArraySource(tmp_path / "deep.npy", levels=4096)
    np.testing.assert_array_equal(deep.spec.scale(everything(deep)["x"]), [[-1, 1]])
    np.save(tmp_path / "digits.npy", np.array([[0, 16]], np.int64))
    digits = ArraySource(tmp_path / "digits.npy", levels=17)
    assert everything(digits)["x"].dtype == np.uint8
    np.testing.assert_array_equal(digits.spec.scale(everything(digits)["x"]), [[-1, 1]])


@pytest.mark.parametrize("values", [np.array([[3], [17]], np.uint8), np.array([[3], [-1]])])
def test_a_value_beyond_the_levels_is_named(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    source = ArraySource(tmp_path / "x.npy", levels=17)
    source.gather(np.array([0]))
    bad = values[1, 0]
    with pytest.raises(ValueError, match=f"needs levels 0 to 16, got {bad} to {bad} in row 1 of .*x.npy; set levels"):
        everything(source)


def test_values_that_are_not_finite_or_out_of_range_are_named(tmp_path):
    for bad in (np.nan, np.inf, 1e39):  # the last is infinite in float32
        np.save(tmp_path / "x.npy", np.array([[0.5], [1.5], [bad]]))
        with pytest.raises(ValueError, match=r"ArraySource needs finite values, got others in row 2 of .*x.npy"):
            everything(ArraySource(tmp_path / "x.npy"))
    with pytest.raises(ValueError, match=r"needs values in value_range=\(0.0, 1.0\), got others in row 1"):
        everything(ArraySource(tmp_path / "x.npy", value_range=(0.0, 1.0)))


INSIDE = [(5, slice(None), 0, 0), (-1, -1, -1, -1)]  # places that the first rows do not show


@pytest.mark.parametrize("place", INSIDE)
@pytest.mark.parametrize(
    ("most", "one", "message"),
    [
        (
            0.5,
            1.0,
            r"of about \[-1, 1\], got values from 0 to 1 in .*x.npy; set value_range=\(0.0, 1.0\) to map them there",
        ),
        (0.5, 255.0, r"got values from 0 to 255 in .*, like 8-bit levels; set value_range=\(0.0, 255.0\)"),
        (2.0, 65535.0, r"got values from 0 to 65535 in .*, like 16-bit levels; set value_range=\(0.0, 65535.0\)"),
    ],
)
def test_the_scale_of_floating_images_is_told_from_the_whole_array(most, one, message, place, tmp_path, monkeypatch):
    """One negative value at the end makes them signed, and one of 255 anywhere tells what they are."""
    monkeypatch.setattr(array_checks, "PART", 4 * 8 * 8 * 8)
    x = np.zeros((100, 8, 8, 1), np.float32)
    x[::2] = most
    x[place] = one
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=message):
        ArraySource(tmp_path / "x.npy")
    mapped = everything(ArraySource(tmp_path / "x.npy", value_range=(0.0, max(one, most))))["x"]
    assert mapped.min() == -1 and mapped.max() == 1
    x[-1, 3, 3] = -0.5
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(everything(ArraySource(tmp_path / "x.npy"))["x"], x)


def test_a_nan_hides_no_scale(tmp_path):
    x = RNG.uniform(size=(3, 4, 4, 1)).astype(np.float32)
    x[0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"got values from 0.* to 0.* in .*; set value_range=\(0.0, 1.0\)"):
        ArraySource(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.full((3, 4, 4, 1), np.nan))
    with pytest.raises(ValueError, match="needs finite values, got others in row 0"):
        everything(ArraySource(tmp_path / "x.npy"))


def test_images_in_0_to_1_can_be_taken_as_they_are(tmp_path):
    x = RNG.uniform(size=(3, 4, 4, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_allclose(everything(ArraySource(tmp_path / "x.npy", value_range=(-1.0, 1.0)))["x"], x, atol=1e-7)


def test_a_value_range_that_the_images_do_not_fill_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", RNG.uniform(size=(3, 4, 4, 1)))
    with pytest.raises(
        ValueError, match=r"value_range=\(0.0, 255.0\) needs images that fill it, got values from 0.* to 0"
    ):
        ArraySource(tmp_path / "x.npy", value_range=(0.0, 255.0))


def test_dark_8_bit_images_are_told_from_the_whole_array(tmp_path, monkeypatch):
    monkeypatch.setattr(array_checks, "PART", 64)
    x = RNG.integers(0, 17, (20, 8, 8, 1)).astype(np.uint8)
    x[0, 0, 0] = 16
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(
        ValueError, match=r"takes uint8 images as 256 levels, got only 0 to 16 in .*; set levels=17 to map"
    ):
        ArraySource(tmp_path / "x.npy")
    assert ArraySource(tmp_path / "x.npy", levels=17).spec.levels == 17
    assert ArraySource(tmp_path / "x.npy", levels=256).spec.levels == 256
    x[-1, -1, -1] = 40
    np.save(tmp_path / "x.npy", x)
    assert ArraySource(tmp_path / "x.npy").spec.levels == 256


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 255]]), r"got int64 with values from 0 to 255 in .*; set levels=256 \(256 for 8-bit images\)"),
        (np.array([[7, 4095]], np.uint16), r"got uint16 with values from 7 to 4095 in .*; set levels=4096\."),
        (
            np.array([[-1, 3]], np.int8),
            "got int8 with values from -1 to 3 in .*; shift them to 0 and above, then set levels",
        ),
    ],
)
def test_integers_without_levels_are_refused_with_their_range(values, message, tmp_path):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=message):
        ArraySource(tmp_path / "x.npy")


@pytest.mark.parametrize("shape", [(5, 3, 16, 24), (5, 1, 28, 28), (5, 4, 4, 512), (5, 2, 1000)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_on_axis_1_are_recognized(shape, dtype, tmp_path):
    x = RNG.normal(size=shape).astype(np.float32) if dtype == np.float32 else RNG.integers(0, 256, shape).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    message = (
        rf"channels on the last axis, got .* of shape .*x.npy, .*set channels_first=True .*or channels={shape[-1]} if"
    )
    with pytest.raises(ValueError, match=message):
        ArraySource(tmp_path / "x.npy")
    source = ArraySource(tmp_path / "x.npy", channels_first=True)
    assert source.spec.shape == (*shape[2:], shape[1])
    np.testing.assert_array_equal(source.gather(np.array([4, 1]))["x"], np.moveaxis(x, 1, -1)[[4, 1]])
    assert source.digest() == ArraySource(tmp_path / "x.npy", channels_first=True).digest()
    assert ArraySource(tmp_path / "x.npy", channels=shape[-1]).spec.shape == shape[1:]


def test_floating_squares_may_be_grey_images(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(3, 28, 28)))
    with pytest.raises(
        ValueError, match=r"shape \(3, 28, 28\) .* which may be grey images; add their channel axis .*28 for"
    ):
        ArraySource(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", RNG.normal(size=(3, 500, 12)))
    assert ArraySource(tmp_path / "x.npy").spec.shape == (500, 12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_conditions_that_are_not_finite_are_named(bad, tmp_path):
    text = np.zeros((3, 4))
    text[2, 1] = bad
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 2)), text=text)
    source = ArraySource(tmp_path / "d.npz", conditions={"embedding": "text"})
    source.gather(np.array([1, 0]))
    with pytest.raises(
        ValueError, match="Condition 'embedding' needs finite values, got others in row 2 of .*d.npz; repair"
    ):
        everything(source)


def test_a_wrong_channel_count_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(
        ValueError, match=r"needs 3 channels on the last axis, got uint8 of shape \(2, 3, 8, 8\).*channels_fi"
    ):
        ArraySource(tmp_path / "x.npy", channels=3)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.zeros(5), {}, r"needs an array \[n, ...\] with n >= 1 and another axis, got \(5,\)"),
        (np.zeros((0, 3)), {}, r"needs an array .* got \(0, 3\)"),
        (
            np.zeros((2, 3), np.int64),
            {},
            r"needs the number of levels of an integer array .* got int64 with values from 0 to",
        ),
        (np.array([["a"]]), {"levels": 3}, "needs numbers .uint8, bool, floating, or integers with levels., got <U1"),
        (np.zeros((2, 3), complex), {}, "needs numbers .*, got complex128 in"),
        (np.zeros((2, 3)), {"levels": 256}, "A floating array needs levels=None and low < high, got levels=256"),
        (np.zeros((2, 3)), {"value_range": (1.0, 1.0)}, "A floating array needs levels=None and low < high"),
        (
            np.zeros((2, 8, 8), np.uint8),
            {},
            r"shape \(2, 8, 8\) .* grey images; add .*x\[..., None\].*, or set channels=8",
        ),
        (
            np.full((2, 4, 4, 1), 90.0),
            {},
            r"images of about \[-1, 1\], got values from 90 to 90 in .*, like 8-bit levels; set value_range=",
        ),
        (np.zeros((2, 3), np.uint8), {"value_range": (0.0, 1.0)}, "Quantized data map .* by their levels, got value_r"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, values, options, message):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=message):
        ArraySource(tmp_path / "x.npy", **options)


def test_floating_data_other_than_images_may_have_any_unit(tmp_path):
    for values, options in (
        (np.full((2, 9, 1), 90.0), {}),
        (np.full((2, 9, 1), 0.5), {}),
        (np.full((2, 4, 4, 1), -90.0), {}),
        (np.full((2, 4, 4, 1), 90.0), {"value_range": (0.0, 255.0)}),
    ):
        np.save(tmp_path / "x.npy", values)
        assert everything(ArraySource(tmp_path / "x.npy", **options))["x"].shape == values.shape


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_conditions_can_have_another_name_in_the_file(tmp_path, kind):
    path, arrays = write_with_riders(tmp_path, kind)
    source = ArraySource(path, conditions={"embedding": "token", "turn": "angle"})
    assert source.spec.conditions == {"embedding": (2,), "turn": ()}
    np.testing.assert_array_equal(everything(source)["embedding"], arrays["token"])
    np.testing.assert_array_equal(everything(source)["turn"], arrays["angle"])
    with pytest.raises(ValueError, match=r"other than x and label .*got \{'label': 'y'\}"):
        ArraySource(path, conditions={"label": "y"})


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(ValueError, match=r"ArraySource needs a path, got ''; set --config.data.train.path and"):
        ArraySource("")


def test_the_line_at_the_start_names_classes_without_examples(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 2)), y=np.array([1, 2, 4]))
    assert ArraySource(tmp_path / "d.npz", label_key="y").summary() == (
        f"3 examples of shape (2,), continuous, 5 classes; in {tmp_path}/d.npz; 2 without examples: '0', '3'"
    )
    assert ArraySource(tmp_path / "d.npz").summary() == f"3 examples of shape (2,), continuous; in {tmp_path}/d.npz"


def test_riders_must_fit(tmp_path):
    np.savez(
        tmp_path / "d.npz", x=np.zeros((3, 2)), short=np.zeros((2, 4)), y=np.array([0, 1, 5]), words=np.array(["a"] * 3)
    )
    path = tmp_path / "d.npz"
    with pytest.raises(ValueError, match=r"Array 'short' needs one row for each of 3 examples, got shape \(2, 4\)"):
        ArraySource(path, conditions=("short",))
    with pytest.raises(ValueError, match="Condition 'words' needs numbers, got dtype <U1"):
        ArraySource(path, conditions=("words",))
    with pytest.raises(ValueError, match="num_classes=5 needs labels below it, got 5"):
        ArraySource(path, label_key="y", num_classes=5)
    with pytest.raises(ValueError, match="Array 'short' needs one row for each of 3 examples"):
        ArraySource(path, label_key="short")


def test_missing_files_and_arrays_are_named(tmp_path):
    for name in ("no.npy", "no.npz"):
        with pytest.raises(FileNotFoundError, match=f"ArraySource needs .*{name}, which does not exist"):
            ArraySource(tmp_path / name)
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    with pytest.raises(FileNotFoundError, match=r"ArraySource needs .*embedding.npy, which does not exist"):
        ArraySource(tmp_path / "x.npy", conditions=("embedding",))
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 2)), y=np.zeros(2, int))
    with pytest.raises(
        ValueError, match=r"d.npz has no array x; it holds images, y: set key, label_key and .*data.train.key=images"
    ):
        ArraySource(tmp_path / "d.npz")
    with pytest.raises(ValueError, match=r"ArraySource needs an .npy or .npz file, got .*data.h5"):
        ArraySource(tmp_path / "data.h5")


def test_broken_files_and_python_objects_are_refused(tmp_path):
    objects = np.array([[{}]], object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=objects)
    (tmp_path / "b.npy").write_bytes(b"not an array")
    (tmp_path / "b.npz").write_bytes(b"not an archive")
    np.savez(tmp_path / "whole.npz", x=np.zeros((100, 10)))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "t.npz").write_bytes(whole[:4000])
    for name in ("o.npy", "o.npz", "b.npy", "b.npz", "t.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as plain arrays .*; write it again with np.savez"):
            ArraySource(tmp_path / name)
