"""Reading PyTorch's files: archives as PyTorch writes them, made here without it, and hostile ones."""

import collections
import io
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from score_sde.importers import read_torch_archive


class Storage:
    """What a pickle of PyTorch refers to by a persistent id."""

    def __init__(self, key, values):
        self.key, self.values = key, values


def archive(make, monkeypatch):
    """The bytes of a zip whose pickle is make(tensor), where tensor(values, size, stride, offset) is a tensor."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*args):
        raise AssertionError("the file's code ran")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    storages = []

    class Tensor:
        def __init__(self, values, size, stride, offset=0):
            storages.append(Storage(str(len(storages)), np.asarray(values, "<f4")))
            self.args = storages[-1], offset, size, stride, False, collections.OrderedDict()

        def __reduce__(self):
            return _rebuild_tensor_v2, self.args

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Storage):
                return "storage", torch.FloatStorage, thing.key, "cpu", len(thing.values)
            return None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(make(Tensor))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", stream.getvalue())
        for storage in storages:
            file.writestr(f"archive/data/{storage.key}", storage.values.tobytes())
    return out.getvalue()


def test_tensors_with_strides_and_offsets(monkeypatch, tmp_path):
    data = archive(
        lambda tensor: collections.OrderedDict(
            weight=tensor(np.arange(6), (3, 2), (1, 3)),
            inner={"bias": tensor(np.arange(6), (2,), (1,), 4), "list": [tensor([7], (), ()), "text", 3]},
        ),
        monkeypatch,
    )
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        tensors = read_torch_archive(source)
        assert list(tensors) == ["weight", "inner.bias", "inner.list.0"]
        np.testing.assert_array_equal(tensors["weight"], [[0, 3], [1, 4], [2, 5]])
        np.testing.assert_array_equal(tensors["inner.bias"], [4, 5])
        assert tensors["inner.list.0"] == 7


def test_a_tensor_beyond_its_storage_is_refused(monkeypatch):
    for size, stride, offset in (((7,), (1,), 0), ((2,), (1,), 5), ((2, 4), (1, 2), 0)):
        data = archive(lambda tensor, args=(size, stride, offset): tensor(np.arange(6), *args), monkeypatch)
        with pytest.raises(
            ValueError,
            match=r"The file cannot be read .*a tensor of shape .* beyond its storage of 6 numbers\); get it",
        ):
            read_torch_archive(data)


class Hostile:
    def __reduce__(self):
        return print, ("the file's code ran",)


def test_no_code_of_the_file_runs(monkeypatch, capsys):
    with pytest.raises(ValueError, match="its pickle asks for __builtin__.print, which is not data"):
        read_torch_archive(archive(lambda tensor: Hostile(), monkeypatch))
    assert capsys.readouterr().out == ""


def test_other_files_are_refused(tmp_path):
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"old.pth cannot be read as tensors of PyTorch \(it is not a zip file"):
        read_torch_archive(tmp_path / "old.pth")


OLD = (pathlib.Path(__file__).parent.parent / "golden" / "metrics" / "torch_old.pth").read_bytes()


def test_a_state_dict_in_the_form_before_pytorch_1_6():
    """As PyTorch 2.13 wrote it with _use_new_zipfile_serialization=False; two of the tensors share a storage."""
    tensors = read_torch_archive(OLD)
    expected = {
        "lin0.model.1.weight": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1),
        "a.weight": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "a.half": np.full(3, 2.5, np.float16),
        "step": np.array(7, np.int64),
        "view": np.array([3, 4, 5], np.float32),
        "same": np.array([0, 2, 4, 6, 8], np.float32),
    }
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype and np.array_equal(tensors[name], value)


@pytest.mark.parametrize("length", [15, 40, len(OLD) // 2, len(OLD) - 9, len(OLD) - 1])
def test_an_old_file_that_was_cut(length):
    with pytest.raises(
        ValueError, match=r"The file cannot be read as tensors of PyTorch \(.*\); get it again, and give"
    ):
        read_torch_archive(OLD[:length])


def test_an_old_file_whose_pickle_is_a_program(tmp_path):
    class Program:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "ran",)

    magic = OLD[:15]
    with pytest.raises(ValueError, match="which is not data"):
        read_torch_archive(magic + pickle.dumps(1001) + pickle.dumps({}) + pickle.dumps(Program()))
    assert not (tmp_path / "ran").exists()
