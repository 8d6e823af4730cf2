"""Files of PyTorch and zip files, made by hand: as other programs write them, and as no program should."""

import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

# A tensor in a pickle: "." marks where its place follows. MARK, "storage", kind, key, "cpu", number, TUPLE, BINPERSID.
REBUILD, ORDERED = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"


def text(value: str) -> bytes:
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    """LONG1 of any whole number."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def several(*values: int) -> bytes:
    """A tuple of whole numbers."""
    return b"(" + b"".join(map(whole, values)) + b"t"


def storage(key: str = "0", number: int = 6, kind: str = "FloatStorage") -> bytes:
    """A reference to a storage, by the pickle's persistent id."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + whole(number) + b"tQ"


def tensor(size, stride, offset: int = 0, of: bytes | None = None, rebuild: bytes = REBUILD) -> bytes:
    """What pickles a tensor of the storage `of`, as _rebuild_tensor_v2 takes it."""
    place = storage() if of is None else of
    return rebuild + b"(" + place + whole(offset) + several(*size) + several(*stride) + b"\x89" + ORDERED + b")RtR"


def named(values: Mapping[str, bytes]) -> bytes:
    """A dict of what the given bytes pickle."""
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def pickled(value: bytes) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + value + b"."


def archive(value: bytes, storages: Mapping[str, bytes] | None = None, **members: bytes) -> bytes:
    """The bytes of a file as torch.save writes it; by default it has one storage of six float32."""
    storages = {"0": np.arange(6, dtype="<f4").tobytes()} if storages is None else storages
    found = {"archive/data.pkl": pickled(value)} | {f"archive/data/{key}": data for key, data in storages.items()}
    return zip_of(found | {f"archive/{name}": data for name, data in members.items()})


def zip_of(members: Mapping[str, bytes], as_pytorch: bool = False, wide: bool = False, **changes) -> bytes:
    """A zip file of stored members.

    Args:
      as_pytorch: sizes behind the data, padding in the headers, and 64 bits at the end, as PyTorch's writer has them.
      wide: sizes and places in 64 bits.
      changes: of fields of every entry of the directory: flags, method, stored, size, offset, name; or `number` of the end.
    """
    out, directory = b"", b""
    for name, data in members.items():
        crc, title = zlib.crc32(data), name.encode()
        flags, told = (0x808, (0, 0, 0)) if as_pytorch else (0, (crc, len(data), len(data)))
        extra = b"FB\x05\x00ZZZZZ" if as_pytorch else b""
        header = (
            struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, flags, 0, 0, 0, *told, len(title), len(extra)) + title + extra
        )
        after = struct.pack("<4s3I", b"PK\x07\x08", crc, len(data), len(data)) if as_pytorch else b""
        entry = {"flags": flags, "method": 0, "stored": len(data), "size": len(data), "offset": len(out), "name": title}
        entry |= {field: value for field, value in changes.items() if field in entry}
        more = struct.pack("<2H2HQQQ", 9, 0, 1, 24, entry["size"], entry["stored"], entry["offset"]) if wide else b""
        entry |= dict.fromkeys(("stored", "size", "offset"), 2**32 - 1) if wide else {}
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, entry["flags"], entry["method"], 0, 0, crc, entry["stored"],
            entry["size"], len(entry["name"]), len(more), 0, 0, 0, 0, entry["offset"],
        ) + entry["name"] + more  # fmt: skip
        out += header + data + after
    number, start = changes.get("number", len(members)), len(out)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, number & 0xFFFF, number & 0xFFFF, len(directory), start, 0)
    if as_pytorch:
        fields = (0, 0, number, number, len(directory), start)
        end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, *fields)
        end = end64 + struct.pack("<4sIQI", b"PK\x06\x07", 0, start + len(directory), 1) + end
    return out + directory + end


def deflated(members: Mapping[str, bytes]) -> bytes:
    """A zip file of compressed members, by Python's own writer."""
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def npy(header: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    """A file of numpy with any header."""
    header = header.encode("latin-1") if isinstance(header, str) else header
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + data


def header(shape: str = "(2,)", descr: str = "'<f4'", order: str = "False") -> str:
    """The header of numpy, with any parts."""
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    """A file of safetensors with any header."""
    return len(header).to_bytes(8, "little") + header + data
