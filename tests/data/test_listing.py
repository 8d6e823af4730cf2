"""Which files below a folder are images, and the messages about the other files."""

import os
import socket

import numpy as np
import PIL.features
import PIL.Image
import pytest

from score_sde.data import FolderSource
from score_sde.data.listing import EXTENSIONS, list_images
from tests.data.test_folder import noise, write

MODES = {".pfm": "F", ".xbm": "1", ".msp": "1"}
WRITTEN = [ending for ending in EXTENSIONS if PIL.Image.registered_extensions().get(ending) in PIL.Image.SAVE]


@pytest.mark.parametrize("ending", sorted({*WRITTEN} - set(MODES)))
def test_every_ending_that_pillow_writes_is_read(ending, tmp_path):
    size = 16 if ending in (".ico", ".icns") else 8
    PIL.Image.fromarray(noise(size, size, 3)).save(tmp_path / f"A{ending.upper()}")
    source = FolderSource(tmp_path, convert=True, image_size=8)
    assert len(source) == 1 and source.gather(np.array([0]))["x"].shape == (1, 8, 8, 3)


def test_links_to_class_folders_and_to_files_are_followed(tmp_path):
    for name in ("elsewhere/cats/1.png", "elsewhere/cats/more/2.png", "elsewhere/3.png", "set/dog/1.png"):
        write(tmp_path / name, noise(4, 4, 1))
    (tmp_path / "set/cat").symlink_to(tmp_path / "elsewhere/cats")
    (tmp_path / "set/dog/linked.png").symlink_to("../../elsewhere/3.png")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for folder in ("set", "link"):
        source = FolderSource(tmp_path / folder, labels=True)
        assert source.class_names == ("cat", "dog")
        assert source.files == ["cat/1.png", "cat/more/2.png", "dog/1.png", "dog/linked.png"]


def test_a_link_back_to_a_folder_above_is_not_followed(tmp_path):
    write(tmp_path / "set/a/1.png", noise(4, 4, 1))
    write(tmp_path / "set/b/1.png", noise(4, 4, 1))
    (tmp_path / "set/a/up").symlink_to("..")
    (tmp_path / "set/a/here").symlink_to(".")
    (tmp_path / "set/a/b").symlink_to("../b")
    (tmp_path / "set/b/a").symlink_to("../a")
    (tmp_path / "set/self").symlink_to("self")
    listing = list_images(tmp_path / "set")
    assert listing.files == ("a/1.png", "a/b/1.png", "b/1.png", "b/a/1.png")
    assert listing.passed_over == {"broken link(s)": 1, "link(s) to a folder above": 6}


def test_what_is_no_file_is_passed_over_without_waiting_for_it(tmp_path):
    """A pipe with the name of an image would be waited for until somebody writes into it."""
    write(tmp_path / "a.png", noise(4, 4, 1))
    write(tmp_path / "folder.png/b.png", noise(4, 4, 1))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s.png"))
        source = FolderSource(tmp_path)
        assert source.files == ["a.png", "folder.png/b.png"]
        assert source.gather(np.arange(2))["x"].shape == (2, 4, 4, 1)
    assert "passed over: 1 broken link(s), 3 pipe(s), socket(s) or device(s)" in source.summary()


def test_one_line_says_what_was_read_and_what_was_not(tmp_path):
    for name in ("cat/1.png", "cat/2.JFIF", "dog/1.png", ".thumbnails/1.png", "._cat.png"):
        write(tmp_path / name, noise(4, 4, 3), **({"format": "jpeg"} if name.endswith("JFIF") else {}))
    for name in ("notes.txt", "README", "cat/a.zip", "dog/b.TXT", "cat/text.npy"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "bird").mkdir()
    source = FolderSource(tmp_path, labels=True)
    assert source.summary() == (
        f"3 examples of shape (4, 4, 3), 256 levels, 2 classes; in {tmp_path}; passed over: 5 of other kinds (2 .txt, 1 .npy, "
        "1 .zip, 1 no ending), 2 hidden; 1 without images: 'bird'"
    )
    np.save(tmp_path / "cat/text.npy", np.zeros((3, 2)))
    assert "passed over: 4 of other" in FolderSource(tmp_path, conditions={"text": "cat/text.npy"}).summary()


def test_files_that_this_pillow_cannot_read_are_counted(tmp_path, monkeypatch):
    write(tmp_path / "a.png", noise(4, 4, 1))
    for name in ("b.avif", "c.jp2", "d.qoi"):
        (tmp_path / name).write_bytes(b"whatever")
    monkeypatch.setattr(PIL.features, "check", lambda name: name != "avif")
    monkeypatch.delitem(PIL.Image.registered_extensions(), ".qoi")
    listing = list_images(tmp_path)
    assert listing.files == ("a.png", "c.jp2")
    assert listing.passed_over_in_words() == "2 that the Pillow installed here cannot read (1 .avif, 1 .qoi)"


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.png", noise(4, 4, 1))
    write(tmp_path / "closed/b.png", noise(4, 4, 1))
    scandir = os.scandir

    def guarded(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(
        PermissionError, match=r"FolderSource cannot read the folder .*closed \(Permission denied\); let it"
    ):
        FolderSource(tmp_path)


def test_one_class_and_one_image_are_enough(tmp_path):
    write(tmp_path / "cat/1.png", noise(4, 4, 3))
    source = FolderSource(tmp_path, labels=True)
    assert source.spec.num_classes == 1 and "1 class;" in source.summary()
