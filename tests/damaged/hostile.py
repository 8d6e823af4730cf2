"""Files that attack a reader: by memory, by time, by places outside of the file, by code. No reader may accept them.

Each is a function, because some have many bytes. Its value is the file. The first part of the name
selects the reader.
"""

import json
import struct
import zlib
from collections.abc import Callable

import numpy as np

from tests.damaged.files import (
    ORDERED,
    REBUILD,
    archive,
    deflated,
    header,
    named,
    npy,
    pickled,
    safetensors,
    several,
    storage,
    tensor,
    text,
    whole,
    zip_of,
)

MEGABYTE = np.zeros(2**18, "<f4").tobytes()
OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + pickled(whole(1001)) + pickled(named({"little_endian": b"\x88"}))
ONE = tensor((6,), (1,))
FILES: dict[str, Callable[[], bytes]] = {}


def add(kind: str, files: dict[str, Callable[[], bytes]]) -> None:
    FILES.update({f"{kind}: {name}": make for name, make in files.items()})


def pickles(values: dict[str, bytes]) -> None:
    add("pth", {name: (lambda value=value: archive(value)) for name, value in values.items()})


def refers(reference: bytes) -> bytes:
    return tensor((2,), (1,), of=reference + b"Q")


def many(number: int, value: Callable[[int], bytes]) -> bytes:
    return named({f"t{i}": value(i) for i in range(number)})


def nested(levels: int, begin: bytes, end: bytes) -> bytes:
    return begin * levels + ONE + end * levels


def old(value: bytes, keys: bytes, numbers: bytes, machine: bytes | None = None) -> Callable[[], bytes]:
    start = OLD if machine is None else OLD[: OLD.index(b"}")] + machine + b"."
    return lambda: start + pickled(value) + pickled(keys) + numbers


def old_tensor(number: int = 6) -> bytes:
    return tensor((6,), (1,), of=storage("0", number)[:-2] + b"NtQ")


# A tensor that is no storage is used as one: it says that it is long, and has no bytes.
EMPTY = tensor((2**40, 0), (1, 1))
pickles({
    "an empty tensor as a storage": tensor((1000,), (1,), of=EMPTY),
    "an empty tensor as a storage, far away": tensor((1000,), (1,), 2**39, of=EMPTY),
    "a tensor as a storage": tensor((6,), (1,), of=ONE),
    "a parameter as a storage": tensor((6,), (1,), of=b"ctorch._utils\n_rebuild_parameter\n" + ONE + b"\x88\x89\x87R"),
    "a list as a storage": tensor((6,), (1,), of=b"]"),
    "beyond the storage": tensor((7,), (1,)),
    "an offset beyond the storage": tensor((1,), (1,), 6),
    "an offset before the storage": tensor((1,), (1,), -1),
    "a huge offset": tensor((1,), (1,), 2**62),
    "an offset of 2**70": tensor((1,), (1,), 2**70),
    "a negative stride": tensor((2,), (-1,), 5),
    "a stride of 2**62": tensor((2,), (2**62,)),
    "a stride that overflows": tensor((2, 2), (2**62, 2**62)),
    "a negative size": tensor((-1,), (1,)),
    "sizes whose product overflows": tensor((2**32, 2**32), (0, 0)),
    "a size of 2**80": tensor((2**80,), (0,)),
    "an empty tensor of 2**62": tensor((2**62, 0), (0, 1)),
    "more strides than sizes": tensor((2,), (1, 1)),
    "a hundred axes": tensor((1,) * 100, (1,) * 100),
    "a size that is true": REBUILD + b"(" + storage() + whole(0) + b"\x88\x85" + several(1) + b"tR",
    "a size that is a list": REBUILD + b"(" + storage() + whole(0) + b"]" + b"]tR",
    "a size that is a number": REBUILD + b"(" + storage() + whole(0) + b"K\x01K\x01tR",
    "2**30 numbers of one": tensor((2**30,), (0,)),
    "2**20 times 2**20 numbers of one": tensor((2**20, 2**20), (0, 0)),
})  # fmt: skip

add("pth", {
    "1,500 tensors of one megabyte": lambda: archive(
        many(1500, lambda i: tensor((2**18,), (1,), of=storage("0", 2**18))), {"0": MEGABYTE}
    ),
    "1,500 tensors of one megabyte, each from another place": lambda: archive(
        many(1500, lambda i: tensor((2**17,), (1,), i, of=storage("0", 2**18))), {"0": MEGABYTE}
    ),
    "300 windows that overlap": lambda: archive(
        many(300, lambda i: tensor((2**9, 2**9 - i), (2**8, 1), of=storage("0", 2**18))), {"0": MEGABYTE}
    ),
    "a missing storage": lambda: archive(ONE, {}),
    "a storage of half a number": lambda: archive(ONE, {"0": bytes(23)}),
    "an empty storage": lambda: archive(ONE, {"0": b""}),
})  # fmt: skip

# Time and memory.
SHARED = b"]" + ONE + b"aq\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40))
pickles({
    "a value remembered as number 2**27": b"]r" + struct.pack("<I", 2**27),
    "a value remembered as number 10**12": b"]p1000000000000\n",
    "forty lists that each hold the one before twice": SHARED,
    "forty lists without a tensor": b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40)),
    "forty dicts that each hold the one before twice": b"}q\x00X\x01\x00\x00\x00t" + ONE + b"s"
    + b"".join(b"}(K\x00h%cK\x01h%cuq%c" % (i, i, i + 1) for i in range(40)),
    "a list that holds itself": b"]q\x00h\x00a",
    "a list that holds itself and a tensor": b"]q\x00(h\x00" + ONE + b"h\x00e",
    "a dict that holds itself": b"}q\x00X\x01\x00\x00\x00ah\x00s",
    "a module that holds itself": b"c__torch__\nA\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb",
    "a million lists in each other": nested(10**6, b"]", b"a"),
    "300,000 tuples in each other": nested(300_000, b"", b"\x85"),
    "200 dicts in each other": nested(200, b"}X\x01\x00\x00\x00a", b"s"),
    "a million dicts": b"}" * 10**6 + ONE,
    "a million sets": b"\x8f" * 10**6 + ONE,
    "three million instructions": b"N0" * 1_500_000 + ONE,
    "200,000 times a dict of 1,000": b"](" + b"".join(whole(i) + whole(i) + b"\x86" for i in range(1000)) + b"e\x85q\x000("
    + (ORDERED + b"h\x00R") * 30_000 + b"l",
    "200,000 modules with the fields of one dict": named({f"f{i}": b"K\x01" for i in range(1000)}) + b"q\x000("
    + b"c__torch__\nA\n)\x81h\x00b" * 50_000 + b"l",
    "keys that collide": b"}(" + b"".join(whole(i * (2**61 - 1)) + b"N" for i in range(100_000)) + b"u0}]K\x01s",
    "elements of a set that collide": b"\x8f(" + b"".join(whole(i * (2**61 - 1)) for i in range(100_000)) + b"\x900}]K\x01s",
    "tuples that collide": b"}(" + b"".join(whole(i) + whole(2**59 - i) + b"\x86N" for i in range(50_000)) + b"u0}]K\x01s",
    "long texts in a tuple as a key": text("a" * 10**5) + b"q\x00\x850}(" + b"h\x00\x85N" * 10**4 + b"u",
    "a long name again and again": named({"a" * 2**20: named({f"{i}": ONE for i in range(200)})}),
    "text of 2**40 characters": b"\x8d" + struct.pack("<Q", 2**40) + b"a",
    "bytes of 2**62": b"\x8e" + struct.pack("<Q", 2**62) + b"a",
    "a bytearray of 2**40": b"\x96" + struct.pack("<Q", 2**40) + b"a",
    "a number of 2**31 bytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a",
    "a number of -1 bytes": b"\x8b" + struct.pack("<i", -1) + b"a",
    "text of -5 characters": b"T" + struct.pack("<i", -5) + b"a",
    "a frame of 2**60 bytes": b"\x95" + struct.pack("<Q", 2**60) + b"N" + b"Q",
    "a number of 5,000 digits": b"I" + b"9" * 5000 + b"\n0" + b"Q",
    "a million marks": b"(" * 10**6,
})  # fmt: skip

# Code, and the reader itself.
BUILT = b"(N" + named({"__defaults__": several(1, 2), "__code__": b"N"}) + b"tb"
pickles({
    "attributes of the function that makes tensors": REBUILD + BUILT + b"0" + ONE,
    "attributes of a storage": storage() + BUILT,
    "attributes of a tensor": ONE + BUILT,
    "attributes of a list": b"]" + BUILT,
    "attributes of a name": b"ctorch\nFloatStorage\n" + named({"kind": text("x")}) + b"b",
    "an item of a function": REBUILD + b"K\x00K\x01s" + ONE,
    "an item of a tensor": ONE + b"K\x00K\x01s",
    "appending to a tuple": b"K\x00\x85K\x01a",
    "appending to a function": REBUILD + b"K\x01a",
    "adding to a list": b"](K\x01\x90",
    "os.system": b"cos\nsystem\n" + text("true") + b"\x85R",
    "builtins.eval": b"cbuiltins\neval\n" + text("1") + b"\x85R",
    "builtins.getattr": b"cbuiltins\ngetattr\n" + ONE + text("__class__") + b"\x86R",
    "a name from the stack": text("os") + text("system") + b"\x93",
    "a name from the stack that is no text": b"]" + text("system") + b"\x93",
    "a name with dots": b"ctorch\nos.system\n)R",
    "another module that begins with torch": b"ctorchvision.io\n_rebuild_tensor_v2\n)R",
    "torch.load": b"ctorch\nload\n" + text("x") + b"\x85R",
    "a name of 10,000 letters": b"c" + b"a" * 10_000 + b"\nb\n",
    "an instance": b"(ios\nsystem\n",
    "an instance of an allowed name": b"(icollections\nOrderedDict\n",
    "an object": b"(ccollections\nOrderedDict\no",
    "NEWOBJ_EX": b"c__torch__\nA\n)}\x92",
    "NEWOBJ of a function": REBUILD + b")\x81",
    "NEWOBJ of a list": b"])\x81",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "a reference by text": b"P0\n",
    "NEXT_BUFFER": b"\x97",
    "a call of a tensor": ONE + b")R",
    "a call of a storage": storage() + b")R",
    "a call of a kind": b"ctorch\nFloatStorage\n" + whole(10**9) + b"\x85R",
    "a call with a list": REBUILD + b"]R",
    "a call with two arguments": REBUILD + storage() + whole(0) + b"\x86R",
    "a parameter of nothing": b"ctorch._utils\n_rebuild_parameter\n)R",
    "a parameter of text": b"ctorch._utils\n_rebuild_parameter\n" + text("a") + b"\x85R",
    "a type tag of one": b"ctorch.jit._pickle\nrestore_type_tag\n]\x85R",
    "an OrderedDict of a number": ORDERED + whole(3) + b"\x85R",
    "an OrderedDict of numbers": ORDERED + b"]K\x01a\x85R",
    "an OrderedDict of two": ORDERED + b"]]\x86R",
    "a set of a number": b"cbuiltins\nset\n" + whole(3) + b"\x85R",
    "a set of lists": b"cbuiltins\nset\n]]a\x85R",
    "a key that is a list": b"}]K\x01s",
    "a key that is a tensor": b"}" + ONE + b"K\x01s",
    "an odd number of keys and values": b"}(K\x01K\x02K\x03u",
    "one name twice": named({"a": named({"b": ONE}), "a.b": ONE}),
    "a name that no file can hold": b"}X\x03\x00\x00\x00\xed\xa0\x80" + ONE + b"s",
})  # fmt: skip
pickles({f"a reference to {what}": refers(value) for what, value in {
    "nothing": b")", "a number": whole(3), "text": text("storage"), "a list": b"]", "a dict": b"}",
    "a storage without a key": text("storage") + b"ctorch\nFloatStorage\n\x86",
    "a key that is a number": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + whole(0) + text("cpu") + whole(6) + b"t",
    "a kind that is text": b"(" + text("storage") + text("FloatStorage") + text("0") + text("cpu") + whole(6) + b"t",
    "a kind that is a function": b"(" + text("storage") + REBUILD + text("0") + text("cpu") + whole(6) + b"t",
    "a module": b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(6) + b"t",
    "a view": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(6) + several(1, 2, 3) + b"t",
    "a path": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("../../../etc/passwd") + text("cpu") + whole(6) + b"t",
}.items()})  # fmt: skip
pickles({f"a stack: {what}": value for what, value in {
    "nothing to take": b"0", "nothing to return": b"", "a mark to take": b"((00", "no mark": b"t",
    "no mark for a list": b"K\x01e",
    "nothing to double": b"2", "a value that was never made": b"h\x07", "nothing to remember": b"q\x00", "a value below a mark":
    b"K\x01(.", "an unknown instruction": b"\xff", "no end": b"N" * 5 + b"\x8c",
}.items()})  # fmt: skip
add("pth", {
    "a pickle of 100 MB of text": lambda: archive(b"X" + struct.pack("<I", 10**8) + "𝄞".encode() + b"a" * (10**8 - 4)),
    "old: a pickle of 100 MB of text": lambda: OLD + b"X" + struct.pack("<I", 10**8) + "𝄞".encode() + b"a" * (10**8 - 4),
})  # fmt: skip
add("pth", {"a pickle without an end": lambda: zip_of({"a/data.pkl": b"\x80\x02}"})})
add("pth", {"an empty pickle": lambda: zip_of({"a/data.pkl": b""})})

# Zip files.
DATA = {"archive/data.pkl": pickled(ONE), "archive/data/0": np.arange(6, dtype="<f4").tobytes()}


def packed(data: bytes, size: int, name: str = "archive/data/0") -> bytes:
    """A member that says it unpacks to `size` bytes."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = pack.compress(data) + pack.flush()
    whole_file = zip_of({"archive/data.pkl": pickled(ONE)} | {name: small})
    at = whole_file.rindex(name.encode()) - 46
    fields = list(struct.unpack_from("<4s6H3I5H2I", whole_file, at))
    fields[4], fields[7], fields[9] = 8, zlib.crc32(data), size
    return whole_file[:at] + struct.pack("<4s6H3I5H2I", *fields) + whole_file[at + 46 :]


def end64(**changes: int) -> bytes:
    fields = {"disk": 0, "first": 0, "here": 2, "number": 2, "size": 100, "start": 0} | changes
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, *fields.values())
    body = zip_of(DATA)[:-22]
    tail = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(body), 1)
    return (
        body + end + tail + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    )


def entries(number: int, told: int) -> bytes:
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, told, told, number * len(entry), len(local), 0)
    return local + entry * number + end


add("pth", {
    "nothing": lambda: b"",
    "a page": lambda: b"<html>Access denied</html>",
    "a zip file without members": lambda: zip_of({}),
    "a zip file of something else": lambda: zip_of({"a.txt": b"a"}),
    "two pickles": lambda: zip_of(DATA | {"b/data.pkl": pickled(ONE)}),
    "a compressed pickle": lambda: deflated(DATA),
    "a compressed storage": lambda: packed(bytes(24), 24),
    "a compressed storage of a gigabyte": lambda: packed(bytes(2**27), 2**30),
    "encrypted members": lambda: zip_of(DATA, flags=1),
    "a masked directory": lambda: zip_of(DATA, flags=0x2000),
    "members packed by bzip2": lambda: zip_of(DATA, method=12),
    "members packed by LZMA": lambda: zip_of(DATA, method=14),
    "two sizes": lambda: zip_of(DATA, size=2**31),
    "members that are larger than the file": lambda: zip_of(DATA, size=2**31, stored=2**31),
    "members of 2**32 - 1 bytes": lambda: zip_of(DATA, size=2**32 - 1, stored=2**32 - 1),
    "members at one place": lambda: zip_of(DATA, offset=0),
    "members at one place, with one name": lambda: zip_of(DATA, offset=0, name=b"archive/data.pkl"),
    "members beyond the file": lambda: zip_of(DATA, offset=2**31),
    "members that lie elsewhere": lambda: zip_of(DATA, offset=3),
    "one name twice in the directory": lambda: zip_of(DATA, name=b"archive/data.pkl"),
    "an empty name": lambda: zip_of(DATA, name=b""),
    "70,000 members": lambda: entries(70_000, 2**16 - 2),
    "a million members": lambda: entries(10**6, 2**16 - 2),
    "a million members that are told as one": lambda: entries(10**6, 1),
    "a directory of 2**63 bytes": lambda: end64(size=2**63),
    "a directory at 2**63": lambda: end64(start=2**63),
    "2**63 members": lambda: end64(here=2**63, number=2**63),
    "another disk": lambda: end64(disk=1),
    "2**16 - 1 members and no large end": lambda: entries(1, 2**16 - 1),
    "bytes behind the end": lambda: zip_of(DATA) + b"\x00",
    "a member that overlaps the directory": lambda: zip_of(DATA | {"archive/x": b""}, stored=150, size=150),
    "an end alone": lambda: struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, 46, 0, 0),
    "a changed number": lambda: archive(ONE).replace(struct.pack("<f", 4.0), struct.pack("<f", 5.0)),
    "old: a storage of 2**63 numbers": old(old_tensor(), b"]" + text("0") + b"a", struct.pack("<Q", 2**63) + bytes(24)),
    "old: a storage of 2**64 - 1 numbers": old(old_tensor(), b"]" + text("0") + b"a", b"\xff" * 8 + bytes(24)),
    "old: a storage that is cut": old(old_tensor(), b"]" + text("0") + b"a", struct.pack("<Q", 6) + bytes(23)),
    "old: a storage without a length": old(old_tensor(), b"]" + text("0") + b"a", b"\x06"),
    "old: no storage": old(old_tensor(), b"]", b""),
    "old: a storage of no tensor": old(old_tensor(), b"](" + text("0") + text("1") + b"e", struct.pack("<Q", 6) + bytes(24)),
    "old: a storage twice": old(old_tensor(), b"](" + text("0") + text("0") + b"e", struct.pack("<Q", 6) + bytes(24)),
    "old: storages that are a number": old(old_tensor(), whole(5), b""),
    "old: storages that are numbers": old(old_tensor(), b"]" + whole(5) + b"a", b""),
    "old: a machine that is a list": lambda: OLD[:40] + pickled(b"]") + pickled(old_tensor()),
    "old: pickles without an end": lambda: OLD + b"\x80\x02]",
    "old: nothing behind the magic number": lambda: OLD[:15],
    "old: text of 2**40 characters": lambda: OLD + b"\x8d" + struct.pack("<Q", 2**40),
    "old: a call of os.system": lambda: OLD + pickled(b"cos\nsystem\n" + text("true") + b"\x85R"),
    "old: a tensor beyond its storage": old(
        tensor((60,), (1,), of=storage("0", 60)[:-2] + b"NtQ"), b"]" + text("0") + b"a", struct.pack("<Q", 6) + bytes(24)
    ),
})  # fmt: skip

# Arrays.
HEADERS = {
    "Python objects": header(descr="'|O'"), "fields": header(descr="[('a', '<f4')]"),
    "fields in text": header(descr="'<f4,<f4'"),
    "an array in each number": header(descr="'(1000000000,)<f4'"), "objects in fields": header(descr="[('a', '|O')]"),
    "times": header(descr="'<M8[ns]'"), "a type of no bytes": header(descr="'<U0'"), "an unknown type": header(descr="'<q4'"),
    "a number of 3 bytes": header(descr="'<f3'"), "text of 2**31 bytes": header(descr="'<V2147483648'"),
    "text of 10**9 bytes": header(descr="'<V999999999'"), "a type that is a number": header(descr="4"),
    "a negative length": header("(-1,)"), "two negative lengths": header("(-2, -1)"),
    "a length of 2**60": header(f"({2**60},)"),
    "lengths whose product overflows": header(f"({2**32}, {2**32})"), "a length of 2**80": header(f"({2**80}, 0)"),
    "a length with a fraction": header("(2.0,)"), "a length that is true": header("(True, 2)"), "a list": header("[2]"),
    "a number": header("2"), "a length of 5,000 digits": header("(" + "9" * 5000 + ",)"), "40 axes": header("(1, " * 40 + ")"),
    "a hundred axes": header(f"({'1,' * 100})"), "a product": header("(2*3,)"), "commas": header("(,,)"),
    "an order that is 2": header(order="2"), "an order that is None": header(order="None"),
    "a call": "__import__('os').system('true')\n",
    "a dict of other names": "{'a': 1}\n", "no text": "\n", "a list of lists": "[[]]",
    "one name more": header()[:-3] + " 'x': 1}", "a name twice": "{'descr': '<f4', 'descr': '<f4', 'shape': (2,)}",
    "9,000 parentheses": "(" * 9000, "9,000 parentheses that close": "(" * 4500 + ")" * 4500, "9,000 signs": "-" * 9000 + "1",
    "2,000 nots": "not " * 2000 + "1", "a chain of 4,000": "a." * 4000 + "a", "a broken line": "{'descr': \n", "a tab": "\t{",
    "zeros": "\x00" * 100,
}  # fmt: skip
NUMBERS = {
    "nothing": lambda: b"", "only its name": lambda: b"\x93NUMPY", "version 9": lambda: npy(header(), bytes(8), 9),
    "10 MB of parentheses": lambda: npy("(" * 10**7, bytes(8), 2), "a header that is cut": lambda: npy(header())[:30],
    "a header of 2**32 - 1 bytes": lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + header().encode(),
    "numbers that are cut": lambda: npy(header(), bytes(7)), "another file": lambda: b"PK\x03\x04" + bytes(100),
    "a header that is no text": lambda: npy(b"\xff" * 60, b"", 3),
} | {name: (lambda value=value: npy(value, bytes(64))) for name, value in HEADERS.items()}  # fmt: skip
add("npy", NUMBERS)
add("npz", {name: (lambda make=make: zip_of({"x.npy": make()})) for name, make in NUMBERS.items()})
add("npz", {
    "an array that is cut, compressed": lambda: deflated({"x.npy": npy(header("(9,)"), bytes(8))}),
    "a compressed array of 1 GB": lambda: packed(npy(header(f"({2**28},)"), bytes(2**20)), 2**30, "x.npy"),
    "an array that says it is small": lambda: packed(npy(header(f"({2**25},)"), bytes(2**27)), 1000, "x.npy"),
    "an array that says it is large": lambda: packed(npy(header(), bytes(8)), 2**26, "x.npy"),
    "no deflate data": lambda: zip_of({"x.npy": b"abc"}, method=8, size=3),
    "encrypted": lambda: zip_of({"x.npy": npy(header(), bytes(8))}, flags=1),
    "packed by LZMA": lambda: zip_of({"x.npy": npy(header(), bytes(8))}, method=14),
    "a million members": lambda: entries(10**6, 1),
    "an array alone": lambda: npy(header(), bytes(8)),
})  # fmt: skip


# Safetensors.
def entry(begin: object = 0, end: object = 8, shape: object = (2,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def of(tensors: object, size: int = 8) -> Callable[[], bytes]:
    return lambda: safetensors(json.dumps(tensors).encode(), bytes(size))


add("safetensors", {
    "nothing": lambda: b"", "three bytes": lambda: b"abc", "a header of 2**63 bytes": lambda: struct.pack("<Q", 2**63) + b"{}",
    "a header of 2**64 - 1 bytes": lambda: b"\xff" * 8 + b"{}", "a header that is cut": lambda: struct.pack("<Q", 50) + b"{}",
    "a header of 20 MB": lambda: safetensors(b'{"a":[' + b"[]," * 7 * 10**6 + b"[]]}"),
    "a header of 5 MB of lists": lambda: safetensors(b'{"a":[' + b"[]," * 10**6 + b"[]]}"),
    "5,000 levels": lambda: safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000), "a list": lambda: safetensors(b"[]"),
    "a header that is no text": lambda: safetensors(b'{"\xff": 1}'),
    "two bytes more": of({"a": entry()}, 10), "no numbers": of({}, 9),
    "a tensor that is a number": of({"a": 1}), "no shape": of({"a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "an unknown kind": of({"a": entry(dtype="F4")}), "a kind that is a list": of({"a": entry(dtype=[])}),
    "another number of bytes": of({"a": entry(end=12)}, 12), "a place before the numbers": of({"a": entry(-8, 0)}),
    "an end before the begin": of({"a": entry(8, 0)}), "places with fractions": of({"a": entry(0.0, 8.0)}),
    "places that are text": of({"a": entry("0", "8")}), "places that are true": of({"a": entry(False, True)}),
    "three places": of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 16]}}),
    "a negative length": of({"a": entry(shape=[-2])}), "two negative lengths": of({"a": entry(shape=[-2, -1])}),
    "a length of 2**62": of({"a": entry(shape=[2**62])}), "a length of 2**200": of({"a": entry(shape=[2**200, 0], end=0)}, 0),
    "a million lengths": of({"a": entry(shape=[9] * 10**6)}), "a length that is true": of({"a": entry(shape=[True, 2])}),
    "a length that is NaN": of({"a": entry(shape=[float("nan")])}), "a length with a fraction": of({"a": entry(shape=[2.0])}),
    "tensors that overlap": of({"a": entry(), "b": entry(4, 12)}, 12),
    "400 tensors of one megabyte": of({f"t{i}": entry(0, 2**20, [2**18]) for i in range(400)}, 2**20),
    "400 empty tensors behind each other": of({"a": entry(), "b": entry(16, 16, [0])}, 8),
    "bytes between the tensors": of({"a": entry(), "b": entry(12, 20)}, 20),
    "bytes before the tensors": of({"a": entry(4, 12)}, 12),
    "a name that no file can hold": of({"\ud800": entry()}),
})  # fmt: skip
