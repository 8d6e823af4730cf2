"""Reading safetensors: a file that another writer made, every kind of number, and damaged files."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.importers import read_safetensors

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "metrics" / "dinov2.npz"


def file_of(header: object, numbers: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def test_a_file_of_the_formats_own_package(tmp_path):
    data = np.load(GOLDEN)["safetensors"].tobytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    assert len(tensors) == 7 + 3 * 18 and {value.dtype for value in tensors.values()} == {np.dtype("<f2")}
    assert tensors["embeddings.patch_embeddings.projection.weight"].shape == (32, 3, 14, 14)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("BF16", jnp.bfloat16), ("I64", "<i8"), ("U8", "u1")],
)
def test_kinds(kind, dtype, tmp_path):
    one, two = np.array([[1, 2, 3], [4, 5, 96]], dtype), np.array(7, dtype)
    header = {
        "__metadata__": {"format": "pt"},
        "two": {"dtype": kind, "shape": [], "data_offsets": [one.nbytes, one.nbytes + two.nbytes]},
        "one": {"dtype": kind, "shape": [2, 3], "data_offsets": [0, one.nbytes]},
        "none": {"dtype": kind, "shape": [0, 4], "data_offsets": [0, 0]},
    }
    (tmp_path / "x").write_bytes(file_of(header, one.tobytes() + two.tobytes()))
    tensors = read_safetensors(tmp_path / "x")
    assert np.array_equal(tensors["one"], one) and tensors["one"].dtype == one.dtype
    assert tensors["two"] == 7 and tensors["none"].shape == (0, 4)


GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"x cannot be read as safetensors \(it does not begin as a safetensors file\); get it again\."),
        (b"PK\x03\x04 a zip file", "does not begin as"),
        (b"\x80\x02}q\x00." * 9, "does not begin as"),
        (file_of(GOOD, bytes(8))[:20], "does not begin as"),
        (file_of(GOOD, bytes(7)), r"it has 7 bytes of numbers, and should have 8 by its header\); get it again"),
        (file_of(GOOD, bytes(9)), "it has 9 bytes"),
        ((9).to_bytes(8, "little") + b'{"a": 1,}', "x cannot be read .*its header is not whole JSON"),
        (file_of({"a": 1}), "tensor 'a' needs a dtype, a shape and two data_offsets"),
        (file_of({"a": {"dtype": "F32", "shape": [2]}}), "tensor 'a' needs a dtype"),
        (file_of({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "kind 'F4' is not one of"),
        (file_of({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)), r"\[3\] of float32 cannot lie at 0"),
        (file_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}), "cannot lie at -8 to 0"),
    ],
)  # fmt: skip
def test_files_that_are_refused(data, message, tmp_path):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_safetensors(tmp_path / "x")
