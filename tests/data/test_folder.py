import io
import json
import os

import numpy as np
import PIL.Image
import pytest

from score_sde.data import EvalBatches, FolderSource, TrainBatches
from score_sde.data.decoding import ImageDecoder

RNG = np.random.default_rng(0)


def write(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(pixels, np.uint8)
    image = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)


def noise(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def everything(source):
    return source.gather(np.arange(len(source)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_images_of_any_channel_count_are_read_exactly(tmp_path, channels, cache_bytes):
    images = {name: noise(5, 7, channels) for name in ("b/2.png", "a/10.png", "a/9.png", "0.png")}
    for name, pixels in images.items():
        if channels in (2, 4):
            pixels[..., -1] |= 1  # where a pixel is wholly transparent, its colour is not kept
        write(tmp_path / name, pixels)
    source = FolderSource(tmp_path, channels=channels if channels in (2, 4) else None, cache_bytes=cache_bytes)
    assert source.files == ["0.png", "a/10.png", "a/9.png", "b/2.png"]
    assert (source.spec.shape, source.spec.levels, source.spec.conditions) == ((5, 7, channels), 256, {})
    expected = np.stack([images[name] for name in source.files])
    for _ in range(2):
        np.testing.assert_array_equal(source.gather(np.array([2, 0, 3]))["x"], expected[[2, 0, 3]])
    (batch,) = EvalBatches(source=source, batch_size=4)
    np.testing.assert_allclose(batch["x"], expected / 127.5 - 1, atol=1e-6)


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    for name in ("a.png", "._a.png", ".cache/b.png", "sub/C.JPG"):
        write(tmp_path / name, noise(4, 4, 3))
    (tmp_path / "notes.txt").write_text("no image")
    assert FolderSource(tmp_path).files == ["a.png", "sub/C.JPG"]


def test_subfolders_become_labels(tmp_path):
    for name in ("dog/1.png", "cat/x/2.png", "cat/1.png", "ant/5.png"):
        write(tmp_path / name, noise(4, 4, 1))
    source = FolderSource(tmp_path, labels=True)
    assert source.class_names == ("ant", "cat", "dog")
    assert source.spec.num_classes == 3
    assert everything(source)["label"].tolist() == [0, 1, 1, 2]
    batch = TrainBatches(source=source, batch_size=4, seed=0)[0]
    np.testing.assert_array_equal(batch["condition"]["label"], np.array([0, 1, 1, 2])[batch["index"]])


def test_class_names_number_the_subfolders_and_may_be_more(tmp_path):
    for name in ("dog/1.png", "cat/1.png"):
        write(tmp_path / name, noise(4, 4, 1))
    source = FolderSource(tmp_path, labels=True, class_names=("dog", "bird", "cat"))
    assert source.spec.class_names == ("dog", "bird", "cat") and source.labels().tolist() == [2, 0]
    with pytest.raises(
        ValueError, match=r"The folder .* has the class 'cat', which is not among the 1 known classes: 'dog'"
    ):
        FolderSource(tmp_path, labels=True, class_names=("dog",))
    with pytest.raises(ValueError, match="class_names needs labels=True, got labels=False"):
        FolderSource(tmp_path, class_names=("dog",))


def test_labels_need_subfolders(tmp_path):
    write(tmp_path / "dog/1.png", noise(4, 4, 1))
    write(tmp_path / "stray.png", noise(4, 4, 1))
    with pytest.raises(ValueError, match=r"labels=True needs every image in a subfolder of .*, got stray.png; move"):
        FolderSource(tmp_path, labels=True)


def test_condition_arrays_ride_along(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", noise(4, 4, 1))
    embedding = RNG.normal(size=(3, 5))
    np.save(tmp_path / "embedding.npy", embedding)
    np.save(tmp_path / "short.npy", embedding[:2])
    source = FolderSource(tmp_path, conditions={"embedding": "embedding.npy"})
    assert source.spec.conditions == {"embedding": (5,)}
    np.testing.assert_array_equal(source.gather(np.array([2, 0]))["embedding"], embedding[[2, 0]].astype(np.float32))
    for file in ("no.npy", "0.png"):
        with pytest.raises(
            FileNotFoundError, match=f"Condition 'c' needs an .npy file with a row .*, got no such .*{file}"
        ):
            FolderSource(tmp_path, conditions={"c": file})
    with pytest.raises(ValueError, match=r"Condition 'c' needs one row for each of 3 images, got shape \(2, 5\)"):
        FolderSource(tmp_path, conditions={"c": "short.npy"})


def test_no_folder_and_no_images_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"FolderSource needs a folder of images, got .*absent, which is not"):
        FolderSource(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("no image")
    message = r"FolderSource needs images \(.png, .* below .*, got none; passed over: 1 of other kinds \(1 .txt\)"
    with pytest.raises(FileNotFoundError, match=message):
        FolderSource(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    write(tmp_path / "a.png", noise(16, 16, 3))
    write(tmp_path / "b.png", noise(16, 16, 3))
    good = (tmp_path / "b.png").read_bytes()
    for broken in (b"this is not an image", b"", good[: len(good) // 2], good[:60] + b"\0" * 30 + good[90:]):
        (tmp_path / "b.png").write_bytes(broken)
        source = FolderSource(tmp_path)
        source.gather(np.array([0]))
        with pytest.raises(
            ValueError, match=r"Image .*b.png cannot be read \(.*\); repair or remove it, or set data.on_err"
        ):
            source.gather(np.array([0, 1]))


def test_an_error_reaches_the_training_loop(tmp_path):
    write(tmp_path / "a.png", noise(4, 4, 3))
    (tmp_path / "b.png").write_bytes(b"broken")
    batches = TrainBatches(source=FolderSource(tmp_path), batch_size=2, seed=0)
    with pytest.raises(ValueError, match=r"b.png cannot be read"):
        next(batches.iterate())


def test_images_of_other_sizes_need_image_size(tmp_path):
    write(tmp_path / "a.png", noise(4, 6, 3))
    write(tmp_path / "b.png", noise(4, 8, 3))
    with pytest.raises(
        ValueError,
        match=r"one size, got \(4, 8, 3\) in .*b.png and \(4, 6, 3\) in .*a.png; set image_size.*on_error=skip",
    ):
        everything(FolderSource(tmp_path))
    assert everything(FolderSource(tmp_path, image_size=4))["x"].shape == (2, 4, 4, 3)
    assert FolderSource(tmp_path, image_size=(3, 2)).spec.shape == (3, 2, 3)
    with pytest.raises(ValueError, match="image_size needs positive sizes, got"):
        FolderSource(tmp_path, image_size=0)
    with pytest.raises(ValueError, match=r"image_size needs \(height, width\) or one whole number .*, got \(64,\)"):
        FolderSource(tmp_path, image_size=(64,))
    with pytest.raises(ValueError, match=r"FolderSource needs a path, got ''; set --config.data.train.path"):
        FolderSource("", image_size=4)


def test_a_wrong_channel_count_is_refused_or_converted(tmp_path):
    write(tmp_path / "a.png", noise(4, 4, 3))
    write(tmp_path / "b.png", noise(4, 4, 1))
    message = r"b.png needs 3 channels of 8 bits, got 1; set convert=True to convert such images, or channels to what"
    with pytest.raises(ValueError, match=message):
        everything(FolderSource(tmp_path))
    with pytest.raises(ValueError, match=r"a.png needs 1 channels of 8 bits, got 3"):
        everything(FolderSource(tmp_path, channels=1))
    with pytest.raises(ValueError, match=r"a.png needs 2 channels of 8 bits, got 3"):
        FolderSource(tmp_path, channels=2)
    with pytest.raises(ValueError, match="Images have 1, 2, 3 or 4 channels, got channels=5"):
        FolderSource(tmp_path, channels=5)
    x = everything(FolderSource(tmp_path, convert=True))["x"]
    assert x.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(x[1, ..., 0], x[1, ..., 2])
    assert FolderSource(tmp_path, channels=1, convert=True).spec.shape == (4, 4, 1)


def decode_image(file, name, **options):
    return ImageDecoder(**options)(file, name)


def encoded(image, kind="png", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    out.seek(0)
    return out


def test_palettes_and_bitmaps_become_their_colours():
    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 210, 220])
    palette.putpixel((1, 0), 1)
    assert decode_image(encoded(palette), "p").tolist() == [[[10, 20, 30], [200, 210, 220]]]
    bitmap = PIL.Image.fromarray(np.array([[True, False]]))
    assert decode_image(encoded(bitmap), "b").tolist() == [[[255], [0]]]


def transparent(kind, hidden):
    """Two pixels: one wholly transparent with a hidden colour, and one that is seen, alike in all kinds."""
    if kind == "palette":
        image = PIL.Image.new("P", (2, 1))
        image.putpalette([hidden, hidden, hidden, 200, 200, 200])
        image.putpixel((1, 0), 1)
        return encoded(image, transparency=0)
    if kind in ("RGB", "L"):
        image = PIL.Image.new(kind, (2, 1), hidden if kind == "L" else (hidden,) * 3)
        image.putpixel((1, 0), 200 if kind == "L" else (200,) * 3)
        return encoded(image, transparency=hidden if kind == "L" else (hidden,) * 3)
    pixels = [[[hidden, 0], [200, 255]]] if kind == "LA" else [[[hidden] * 3 + [0], [200] * 3 + [255]]]
    return encoded(PIL.Image.fromarray(np.array(pixels, np.uint8)), "webp" if kind == "webp" else "png")


@pytest.mark.parametrize("background", [255, 90, (10, 20, 30)])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "RGB", "L"])
def test_hidden_colours_make_no_difference(kind, background):
    """Transparent pixels are laid over one colour, whatever says that they are transparent."""
    colour = [background] * 3 if isinstance(background, int) else list(background)
    grey = kind in ("LA", "L") and isinstance(background, int)
    expected = [[colour[:1] if grey else colour, [200] * (1 if grey else 3)]]
    for hidden in (0, 77, 255):
        assert decode_image(transparent(kind, hidden), "t", background=background).tolist() == expected
        with_alpha = decode_image(transparent(kind, hidden), "t", background=background, channels=4, convert=True)
        if kind not in ("LA", "L"):
            assert with_alpha.tolist() == [[[*colour, 0], [200, 200, 200, 255]]]
    one = decode_image(transparent(kind, 77), "t", background=90, channels=1, convert=True)
    assert one.tolist() == [[[90], [200]]]


def test_half_transparent_pixels_are_mixed_before_resizing():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = 51  # a fifth of black, over white
    image = encoded(PIL.Image.fromarray(pixels))
    assert set(np.unique(decode_image(image, "h"))) == {204}
    pixels[:, 4:, 3] = 0
    pixels[:, 4:, :3] = (255, 0, 0)
    small = decode_image(encoded(PIL.Image.fromarray(pixels)), "h", image_size=(2, 2))
    assert (small[..., 0] == small[..., 1]).all()  # no red at the edge


@pytest.mark.parametrize("background", [(1, 2), 256, -1, (0, 0, 256), True])
def test_a_background_is_a_colour(background):
    with pytest.raises(ValueError, match=r"background needs one level from 0 to 255, or three \(RGB\), got"):
        ImageDecoder(background=background)


def test_transparent_and_opaque_files_may_be_mixed(tmp_path):
    write(tmp_path / "a.png", noise(4, 4, 3))
    write(tmp_path / "b.png", noise(4, 4, 4))
    assert everything(FolderSource(tmp_path))["x"].shape == (2, 4, 4, 3)


def test_16_bit_images_are_refused_even_when_converting():
    """And the advice is nothing that is set already."""
    deep = PIL.Image.fromarray(np.array([[0, 40_000]], np.uint16))
    for options in ({}, {"convert": True}, {"convert": True, "channels": 3}):
        with pytest.raises(
            ValueError, match=r"Image d needs .* of 8 bits, got mode I;16, more than 8 bits a pixel; save"
        ):
            decode_image(encoded(deep), "d", **options)
    with pytest.raises(
        ValueError, match=r"Image f needs .* got mode F, more than 8 bits a pixel; save it with 8 bits, or"
    ):
        decode_image(encoded(PIL.Image.new("F", (2, 2)), "tiff"), "f", convert=True)


def test_colours_that_cannot_be_converted_are_named():
    lab = PIL.Image.new("LAB", (2, 2))
    for options in ({}, {"convert": True}, {"channels": 3, "convert": True}):
        with pytest.raises(ValueError, match=r"Image l.tif needs .*, got mode LAB; save it as RGB or grey"):
            decode_image(encoded(lab, "tiff"), "l.tif", **options)
    cmyk = PIL.Image.new("CMYK", (2, 2))
    assert decode_image(encoded(cmyk, "jpeg"), "c", convert=True).shape == (2, 2, 3)
    with pytest.raises(ValueError, match=r"Image c.jpg needs .*, got mode CMYK; set convert=True to convert such"):
        decode_image(encoded(cmyk, "jpeg"), "c.jpg")


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_picture_is_taken(kind):
    first, second = (PIL.Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 0, 250)))
    lossless = {"lossless": True} if kind == "webp" else {}
    file = encoded(first, kind, save_all=True, append_images=[second], **lossless)
    assert decode_image(file, "a").reshape(-1, 3).tolist() == [[250, 0, 0]] * 16


def test_orientation_in_the_file_is_obeyed():
    pixels = noise(3, 5, 3)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it upright
    turned = decode_image(encoded(PIL.Image.fromarray(pixels), exif=exif), "e")
    np.testing.assert_array_equal(turned, np.rot90(pixels, k=-1))


def test_resizing_takes_the_central_window_and_averages():
    pixels = np.zeros((8, 16, 1), np.uint8)
    pixels[:, 4:8] = 100
    pixels[:, 8:12] = 200
    pixels[:, :4] = pixels[:, 12:] = 255  # cut off
    expected = np.array([[100, 200], [100, 200]])
    for lying, wanted in ((pixels[..., 0], expected), (pixels[..., 0].T, expected.T)):
        small = decode_image(encoded(PIL.Image.fromarray(lying)), "s", image_size=(2, 2))[..., 0].astype(int)
        assert np.abs(small - wanted).max() < 12  # the filter reaches over the edge between the halves
    checks = PIL.Image.fromarray((255 * (np.indices((64, 64)).sum(axis=0) % 2)).astype(np.uint8))
    grey = decode_image(encoded(checks), "g", image_size=(16, 16)).astype(int)[2:-2, 2:-2]
    assert np.abs(grey - 127.5).max() < 2  # a filter that does not average would alias
    same = decode_image(encoded(checks), "g", image_size=(64, 64))
    np.testing.assert_array_equal(same[..., 0], np.asarray(checks))


def test_resizing_is_by_lanczos_of_three_lobes_over_the_source_pixels():
    """Along a row: out[i] = Σ_j w_j p[j]/Σ_j w_j with w_j = sinc(d) sinc(d/3), d = (j + ½)/2 − (i + ½), |d| < 3."""
    row = RNG.integers(80, 176, 40)  # no output leaves 0 to 255
    distance = (np.arange(40) + 0.5) / 2 - (np.arange(20)[:, None] + 0.5)
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    expected = weights @ row / weights.sum(axis=1)
    for pixels in (np.tile(row, (4, 1)), np.tile(row[:, None], (1, 4))):
        image = encoded(PIL.Image.fromarray(pixels.astype(np.uint8)))
        small = decode_image(image, "s", image_size=tuple(size // 2 for size in pixels.shape))[..., 0]
        along = small[0] if small.shape[1] == 20 else small[:, 0]
        assert np.abs(along - expected).max() < 1.5


def test_names_that_are_no_text_can_be_printed(tmp_path):
    """File systems take any bytes; a message or a class name with them would fail where it is printed."""
    folder = os.fsencode(tmp_path) + b"/class\xff"
    os.mkdir(folder)
    for name in (b"a\xfe.png", b"b.png"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(encoded(PIL.Image.fromarray(noise(4, 4, 3))).getvalue())
    source = FolderSource(tmp_path, labels=True)
    assert source.class_names == ("class\\xff",) and everything(source)["x"].shape == (2, 4, 4, 3)
    json.dumps(source.facts()).encode()
    (tmp_path / source.files[0]).write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read") as error:
        everything(FolderSource(tmp_path, labels=True))
    str(error.value).encode()
