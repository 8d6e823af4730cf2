"""Plain arrays are read as numpy reads them, from numpy's files and from those of other writers. Others raise errors."""

import io

import numpy as np
import pytest

from score_sde.internal.guarded import Npz, listed, open_file, read_npy, read_npy_header, reading, shortened
from tests.damaged.files import npy, zip_of

ARRAYS = {
    "rows": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(24, dtype=">i4").reshape(2, 3, 4)),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3), np.uint8),
    "empty within": np.zeros((2, 0, 3), np.float64, order="F"),
    "bits": np.array([True, False]),
    "text": np.array("σ = 80"),
    "complex": np.array([1 + 2j]),
    "half": np.ones(5, np.float16),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_every_kind(name, save, tmp_path):
    array = ARRAYS[name]
    np.save(tmp_path / "a.npy", array)
    save(tmp_path / "a.npz", first=np.zeros(3), **{name: array})
    npz = Npz(tmp_path / "a.npz", "write it again")
    assert npz.names == ["first", name]
    found = [read_npy(tmp_path / "a.npy", "write it again", mapped=mapped) for mapped in (False, True)]
    found += [npz.read()[name], npz.read([name])[name], npz.map([name])[name]]
    for copy in found:
        assert copy.dtype == array.dtype and copy.shape == array.shape and np.array_equal(copy, array)
        assert copy.flags.f_contiguous == array.flags.f_contiguous
    assert found[0].flags.writeable and found[2].flags.writeable
    header = read_npy_header(tmp_path / "a.npy", "write it again")
    assert (header.dtype, header.shape) == (array.dtype, array.shape)
    assert (tmp_path / "a.npy").stat().st_size == header.start + array.nbytes


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
        '{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}',
        "{'shape':(2,3),'descr':'<f4','fortran_order':False}   \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n",
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_other_writers(text, version, tmp_path):
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "a.npy").write_bytes(npy(text, values.tobytes(), version))
    assert np.array_equal(read_npy(tmp_path / "a.npy", "write it again"), values.reshape(2, 3))
    (tmp_path / "a.npz").write_bytes(zip_of({"x.npy": npy(text, values.tobytes(), version), "readme.txt": b"a"}))
    assert list(Npz(tmp_path / "a.npz", "write it again").read()) == ["x"]


def test_what_is_behind_an_array_does_not_matter(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.save(file, np.arange(3))
        np.save(file, np.arange(4))
    assert np.array_equal(read_npy(tmp_path / "a.npy", "write it again"), [0, 1, 2])


def test_compressed_arrays_are_limited_by_the_bytes_of_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr("score_sde.internal.guarded.SMALL", 30_000)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros(10**6))
    with pytest.raises(
        ValueError, match=r"a.npz cannot be .* \(member 'x.npy' has 8,000,\d+ bytes when unpacked, more than"
    ):
        Npz(path, "write it again with np.savez").read()
    np.savez_compressed(path, **{f"x{i}": np.zeros(300) for i in range(20)})  # each is small enough, and all are not
    monkeypatch.setattr("score_sde.internal.guarded.MOST_EXPANSION", 2)
    npz = Npz(path, "write it again with np.savez")
    assert len(npz.read(["x0", "x1"])) == 2
    with pytest.raises(ValueError, match="bytes when unpacked, more than"):
        npz.read()
    monkeypatch.setattr("score_sde.internal.guarded.MOST_EXPANSION", 250)
    assert len(npz.read()) == 20


def test_a_flipped_bit_and_a_missing_array_are_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(100.0), y=np.zeros(2))
    data = bytearray(path.read_bytes())
    data[data.index(np.float64(77.0).tobytes())] ^= 1
    path.write_bytes(data)
    npz = Npz(path, "write it again")
    assert list(npz.read(["y"])) == ["y"]
    with pytest.raises(
        ValueError, match=r"a.npz cannot be read as plain arrays \(the bytes of member 'x.npy' were changed"
    ):
        npz.read()
    with pytest.raises(ValueError, match=r"\(it has no array z, but x, y\); write it again\."):
        npz.read(["z"])


def test_what_a_reader_raises_becomes_one_sentence(tmp_path):
    def told(error: BaseException) -> str:
        with pytest.raises((ValueError, OSError)) as raised, reading("a.npz", "arrays", "write it again"):
            raise error
        return str(raised.value)

    assert told(ValueError("too short.")) == "a.npz cannot be read as arrays (too short); write it again."
    assert told(KeyError("x")) == "a.npz cannot be read as arrays (KeyError: 'x'); write it again."
    assert "(AssertionError);" in told(AssertionError()) and "nested too deeply" in told(RecursionError("maximum"))
    assert "more memory than there is" in told(MemoryError()) and len(told(ValueError("long " * 999))) < 300
    assert told(ValueError("two\nlines")) == "a.npz cannot be read as arrays (two·lines); write it again."
    assert (
        told(OSError(5, "Input/output error")) == "a.npz cannot be read ([Errno 5] Input/output error); write it again."
    )
    with pytest.raises(KeyboardInterrupt), reading("a.npz", "arrays", "write it again"):
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError, match=r"none.npz"):
        Npz(tmp_path / "none.npz", "write it again")
    with pytest.raises(ValueError, match="it is a folder, a pipe or a device, not a file"):
        open_file(tmp_path)


def test_names_from_files_are_short_in_messages():
    assert shortened("a\nb\x00\ud800") == "a·b··" and len(shortened("a" * 99)) == 80
    assert listed({"c", "b" * 200, "a", "d"}) == ["a", "b" * 79 + "…", "c"]


def test_only_what_was_asked_for_is_read_of_a_compressed_file(tmp_path):
    out = io.BytesIO()
    np.savez_compressed(out, x=np.arange(3), y=np.arange(4))
    (tmp_path / "a.npz").write_bytes(out.getvalue())
    assert list(Npz(tmp_path / "a.npz", "write it again").map(["y"])) == ["y"]
