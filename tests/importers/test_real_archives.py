"""PyTorch's files as real programs write them, made by hand: all of them are read, with every number."""

import collections
import pickle

import numpy as np
import pytest

from score_sde.importers import read_torch_archive
from tests.damaged.files import ORDERED, archive, named, pickled, storage, tensor, text, whole, zip_of

SIX = np.arange(6, dtype=np.float32)
KINDS = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip


def read(value: bytes, **options):
    return read_torch_archive(archive(value, **options))


def ordered(values: dict[str, bytes], attributes: bytes = b"") -> bytes:
    """An OrderedDict, as a state dict is, with attributes such as _metadata."""
    items = b"(" + b"".join(text(name) + value for name, value in values.items()) + b"u"
    return ORDERED + b")R" + items + (attributes + b"b" if attributes else b"")


def test_a_state_dict_with_its_metadata():
    """state_dict() is an OrderedDict with an attribute _metadata, which pickle sets by BUILD."""
    metadata = named({"_metadata": ordered({"": named({"version": whole(1)}), "0": named({"version": whole(2)})})})
    found = read(ordered({"0.weight": tensor((2, 3), (3, 1)), "0.bias": tensor((2,), (1,), 4)}, metadata))
    assert list(found) == ["0.weight", "0.bias"]
    assert np.array_equal(found["0.weight"], SIX.reshape(2, 3)) and np.array_equal(found["0.bias"], [4, 5])
    found["0.bias"][:] = 0  # of its own, and may be written to
    assert found["0.weight"][1, 1] == 4


def test_a_checkpoint_of_a_training_that_ran_on_several_devices():
    """The network's names begin with module., and the optimizer's state is by number; settings are passed over."""
    state = named(
        {"state": b"}" + whole(0) + named({"step": tensor((), (), 3), "exp_avg": tensor((2,), (1,), 2)}) + b"s"}
    )
    groups = (
        b"]("
        + named(
            {"lr": b"G?PbM\xd2\xf1\xa9\xfc", "betas": whole(9) + b"\x85", "params": b"](" + whole(0) + whole(1) + b"e"}
        )
        + b"e"
    )
    value = named({
        "epoch": whole(3), "best": b"N", "done": b"\x88", "args": named({"lr": text("1e-3"), "seed": whole(2**70)}),
        "model": ordered({"module.a": tensor((6,), (1,))}),
        "optimizer": state, "groups": groups, "names": b"\x8f(" + text("a") + text("b") + b"\x90",
    })  # fmt: skip
    found = read(value)
    assert list(found) == ["model.module.a", "optimizer.state.0.step", "optimizer.state.0.exp_avg"]
    assert found["optimizer.state.0.step"] == 3 and np.array_equal(found["optimizer.state.0.exp_avg"], [2, 3])


@pytest.mark.parametrize("names", [2, 4, 16])
def test_tied_weights(names):
    """Of one storage that is nearly all of the file, as an embedding under several names."""
    values = np.random.default_rng(0).normal(size=(400, 5)).astype("<f4")
    place = storage("0", values.size)
    found = read(
        named({f"tied{i}": tensor((400, 5), (5, 1), of=place) for i in range(names)}), storages={"0": values.tobytes()}
    )
    assert len(found) == names and all(np.array_equal(array, values) for array in found.values())
    assert len({id(array) for array in found.values()}) == 1


def test_views_of_one_buffer():
    """Parameters in one flat storage, and the storage as a whole, transposed and sliced."""
    views = {
        "a": tensor((2, 2), (2, 1)),
        "b": tensor((2,), (1,), 4),
        "flat": tensor((6,), (1,)),
        "t": tensor((3, 2), (1, 3)),
    }
    found = read(named(views | {"even": tensor((3,), (2,))}), storages={"0": SIX.tobytes()})
    assert np.array_equal(found["a"], [[0, 1], [2, 3]]) and np.array_equal(found["b"], [4, 5])
    assert np.array_equal(found["flat"], SIX) and np.array_equal(found["t"], SIX.reshape(2, 3).T)
    assert np.array_equal(found["even"], [0, 2, 4]) and all(array.flags.c_contiguous for array in found.values())


def test_tensors_whose_strides_are_odd():
    """expand() leaves strides of 0, axes of one number may have any stride, and empty tensors any place."""
    views = {
        "expanded": tensor((3, 2), (0, 1), 1),
        "one": tensor((1, 1, 2), (2**40, 0, 3)),
        "scalar": tensor((), (), 5),
    }
    views |= {"empty": tensor((0,), (1,)), "no_rows": tensor((0, 7), (7, 1), 6)}
    found = read(named(views))
    assert np.array_equal(found["expanded"], [[1, 2]] * 3) and np.array_equal(found["one"], [[[0, 3]]])
    assert found["scalar"] == 5 and found["empty"].shape == (0,) and found["no_rows"].shape == (0, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_numbers(kind):
    values = np.array([0, 1, 1, 0], KINDS[kind])
    found = read(tensor((4,), (1,), of=storage("0", 4, kind)), storages={"0": values.tobytes()})
    assert np.array_equal(found[""], values) and found[""].dtype == values.dtype


def test_bfloat16():
    found = read(tensor((2,), (1,), of=storage("0", 2, "BFloat16Storage")), storages={"0": b"\x80\x3f\x40\xc0"})
    assert found[""].dtype.name == "bfloat16" and found[""].astype(np.float32).tolist() == [1.0, -3.0]


def test_parameters():
    """torch.save of an nn.Parameter, alone and with the attributes of a subclass."""
    one = b"ctorch._utils\n_rebuild_parameter\n" + tensor((2,), (1,)) + b"\x88" + ORDERED + b")R\x87R"
    two = b"ctorch._utils\n_rebuild_parameter_with_state\n(" + tensor((1,), (1,)) + b"\x88" + ORDERED + b")R}tR"
    found = read(named({"one": one, "two": two}))
    assert np.array_equal(found["one"], [0, 1]) and np.array_equal(found["two"], [0])


def test_torchscript():
    """Modules are objects whose state is set by BUILD; lists are typed; the code beside them is compressed and passed over."""
    part = (
        b"c__torch__.torch.nn.modules.conv\nConv2d\n)\x81"
        + named({"weight": tensor((2,), (1,)), "training": b"\x89"})
        + b"b"
    )
    lists = {"sizes": b"ctorch.jit._pickle\nbuild_intlist\n](" + whole(3) + whole(4) + b"e\x85R"}
    lists["typed"] = (
        b"ctorch.jit._pickle\nrestore_type_tag\n](" + tensor((1,), (1,), 5) + b"e" + text("List[Tensor]") + b"\x86R"
    )
    module = b"c__torch__\nNet\n)\x81" + named({"conv": part} | lists) + b"b"
    found = read(module, **{"code/__torch__.py": b"class Net(Module):" * 50, "version": b"3\n"})
    assert list(found) == ["conv.weight", "typed.0"] and found["typed.0"] == 5


def test_keys_of_any_short_kind():
    """Names are their text, as Python writes it."""
    keys = {"a": text("a"), "3": whole(3), "-7": whole(-7), str(2**64): whole(2**64), "True": b"\x88", "None": b"N"}
    keys |= {"('a', 1)": text("a") + whole(1) + b"\x86", "b'a'": b"C\x01a", "1.5": b"G?\xf8\x00\x00\x00\x00\x00\x00"}
    found = read(b"}(" + b"".join(key + tensor((1,), (1,), i % 6) for i, key in enumerate(keys.values())) + b"u")
    assert {name: array.tolist() for name, array in found.items()} == {name: [i % 6] for i, name in enumerate(keys)}


def test_the_zip_files_of_pytorchs_own_writer():
    """Sizes behind the data, padding, and 64 bits at the end."""
    members = {
        "archive/data.pkl": pickled(tensor((6,), (1,))),
        "archive/byteorder": b"little",
        "archive/data/0": SIX.tobytes(),
    }
    members |= {"archive/version": b"3\n", "archive/.data/serialization_id": b"1" * 40}
    assert np.array_equal(read_torch_archive(zip_of(members, as_pytorch=True))[""], SIX)


def test_zip_files_with_64_bits_for_every_member():
    """As of members beyond 4 GB: 32 bits say that the sizes and the place stand in the extra field."""
    members = {"a/data.pkl": pickled(tensor((6,), (1,))), "a/data/0": SIX.tobytes()}
    assert np.array_equal(read_torch_archive(zip_of(members, wide=True))[""], SIX)


class Place:
    """Stands for a storage; its pickle is what a newer protocol writes of one."""


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle(protocol, monkeypatch):
    """torch.save(pickle_protocol=…): newer ones have frames, short strings, and names from the stack."""
    import io
    import sys
    import types

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = lambda *args: None
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Tensor:
        def __reduce__(self):
            return utils._rebuild_tensor_v2, (Place(), 1, (2, 2), (2, 1), False, collections.OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", 6) if isinstance(thing, Place) else None

    one, out = Tensor(), io.BytesIO()
    state = collections.OrderedDict(
        a=one, b=[one, 1.5, None, True, "σ", -3, 2**80, {"c"}, (1, 2, 3, 4)] + [b"c"] * (protocol > 2)
    )
    state._metadata = {"version": 1}
    Pickler(out, protocol=protocol).dump(state)
    found = read_torch_archive(zip_of({"a/data.pkl": out.getvalue(), "a/data/0": SIX.tobytes()}))
    assert list(found) == ["a", "b.0"] and np.array_equal(found["b.0"], [[1, 2], [3, 4]])


def old(value: bytes, storages: dict[str, np.ndarray], little=True) -> bytes:
    """A file as torch.save wrote it before PyTorch 1.6."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    machine = pickle.dumps({"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}}, 2)
    head = magic + pickle.dumps(1001, 2) + machine + pickled(value) + pickle.dumps(sorted(storages), 2)
    return head + b"".join(
        len(storages[key]).to_bytes(8, "little") + storages[key].tobytes() for key in sorted(storages)
    )


def old_storage(key: str, number: int, kind: str = "FloatStorage") -> bytes:
    """A reference as old files have it, with an empty place for a view."""
    return storage(key, number, kind)[:-2] + b"NtQ"


def test_an_old_file_with_several_storages(tmp_path):
    storages = {"94": np.arange(3, dtype="<i8"), "17": SIX, "5": np.array([1.5, 2.5], "<f2")}
    unused = old_storage("5", 2, "HalfStorage")  # of no tensor
    value = named({
        "count": tensor((3,), (1,), of=old_storage("94", 3, "LongStorage")),
        "w": tensor((3, 2), (2, 1), of=old_storage("17", 6)),
        "w2": tensor((3, 2), (2, 1), of=old_storage("17", 6)), "unused": unused,
    })  # fmt: skip
    (tmp_path / "a.pth").write_bytes(old(value, storages))
    for source in (tmp_path / "a.pth", old(value, storages)):
        found = read_torch_archive(source)
        assert list(found) == ["count", "w", "w2"] and np.array_equal(found["w"], SIX.reshape(3, 2))
        assert np.array_equal(found["count"], [0, 1, 2]) and np.array_equal(found["w2"], found["w"])


def test_numbers_of_a_machine_with_another_order_of_bytes_are_refused():
    with pytest.raises(ValueError, match="its numbers begin with their highest byte, which is not supported"):
        read(tensor((6,), (1,)), byteorder=b"big")
    with pytest.raises(ValueError, match="its numbers begin with their highest byte"):
        read_torch_archive(old(tensor((6,), (1,), of=old_storage("0", 6)), {"0": SIX}, little=False))
