"""The members of a zip file. All their places are checked before one is read.

Python's zipfile trusts the directory of a file. It accepts a million members, members that overlap,
and a member that grows a thousandfold when it is unpacked. Here the size of a directory is limited,
and members may not overlap. A compressed member is unpacked only where the caller allows it, up to
a size that the caller gives.

Source: APPNOTE.TXT, PKWARE's description of the format, Secs. 4.3 to 4.5.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MOST_MEMBERS = 2**16
MOST_DIRECTORY = 2**24  # the most bytes of a directory
STORED, DEFLATED = 0, 8

_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
_ENTRY, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_LONGEST_COMMENT = 2**16 - 1
_ENCRYPTED = 0x2041  # three bits of the flags: encrypted, strongly encrypted, with a masked directory
_UTF8 = 0x800


class Member(NamedTuple):
    """A member of a zip file.

    Attributes:
      start: the place of its first byte.
      stored: its bytes in the file.
      size: its bytes when unpacked.
    """

    name: str
    offset: int
    start: int
    stored: int
    size: int
    method: int
    crc: int


def read_directory(stream: io.BufferedIOBase) -> dict[str, Member]:
    """All members of a zip file by name, in the order of its directory.

    Raises: ValueError, with a reason as part of a sentence, for a file that is not a zip file, is
      cut, or contradicts itself.
    """
    end = stream.seek(0, 2)
    number, size, start = _find_directory(stream, end)
    if number > MOST_MEMBERS or size > MOST_DIRECTORY:
        raise ValueError(f"{number:,} members, and a directory of {size:,} bytes, are too many")
    found: dict[str, Member] = {}
    for member in _entries(stream, _read(stream, start, size), number):
        if member.name in found:
            raise ValueError(f"two members are called {member.name[:80]!r}")
        found[member.name] = member
    taken = 0
    for member in sorted(found.values(), key=lambda member: member.offset):
        if member.offset < taken:
            raise ValueError(f"member {member.name[:80]!r} overlaps another one")
        taken = member.start + member.stored
    if taken > start:
        raise ValueError("a member overlaps the directory")
    return found


def read_member(stream: io.BufferedIOBase, member: Member, most: int | None = None) -> bytearray:
    """The bytes of a member, compared with its checksum.

    Args:
      most: the most bytes that a compressed member may have when unpacked. None: a compressed
        member raises an error.
    Raises: ValueError, with a reason as part of a sentence.
    """
    name = repr(member.name[:80])
    if member.method == STORED:
        if member.size != member.stored:
            raise ValueError(f"member {name} has two sizes")
        data = bytearray(member.size)
        stream.seek(member.start)
        if stream.readinto(data) != member.size:
            raise ValueError(f"member {name} is cut off")
    elif member.method != DEFLATED or most is None:
        raise ValueError(f"member {name} is compressed, which is not expected here")
    elif member.size > most:
        raise ValueError(f"member {name} has {member.size:,} bytes when unpacked, more than the {most:,} allowed")
    else:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        data = bytearray(unpack.decompress(_read(stream, member.start, member.stored), member.size + 1))
        if len(data) != member.size or not unpack.eof:
            raise ValueError(f"member {name} has another size than the directory says")
    if zlib.crc32(data) != member.crc:
        raise ValueError(f"the bytes of member {name} were changed, by their checksum")
    return data


def _find_directory(stream: io.BufferedIOBase, end: int) -> tuple[int, int, int]:
    """(the number of entries in the directory, its bytes, its start)."""
    tail_start = max(0, end - _END.size - _LONGEST_COMMENT)
    tail = _read(stream, tail_start, end - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise ValueError("it is not a zip file, or its end was cut off")
    _, disk, first_disk, here, number, size, start, comment = _END.unpack_from(tail, at)
    place = tail_start + at
    if place + _END.size + comment != end:
        raise ValueError("bytes follow the end of the zip file")
    if 0xFFFF in (here, number) or 0xFFFFFFFF in (size, start):
        disk, first_disk, here, number, size, start = _end64(stream, place)
    if disk or first_disk or here != number or start + size > place:
        raise ValueError("its directory lies outside the file")
    return number, size, start


def _end64(stream: io.BufferedIOBase, place: int) -> tuple[int, int, int, int, int, int]:
    """The fields of a large file, which have 64 bits."""
    if place < _LOCATOR64.size + _END64.size:
        raise ValueError("its directory lies outside the file")
    sign, _, start, _ = _LOCATOR64.unpack(_read(stream, place - _LOCATOR64.size, _LOCATOR64.size))
    if sign != b"PK\x06\x07" or start > place - _LOCATOR64.size - _END64.size:
        raise ValueError("its directory lies outside the file")
    sign, _, _, _, *fields = _END64.unpack(_read(stream, start, _END64.size))
    if sign != b"PK\x06\x06":
        raise ValueError("its directory lies outside the file")
    return tuple(fields)


def _entries(stream: io.BufferedIOBase, directory: bytes, number: int) -> Iterator[Member]:
    at = 0
    for _ in range(number):
        if at + _ENTRY.size > len(directory):
            raise ValueError("its directory is cut off")
        sign, _, _, flags, method, _, _, crc, *rest = _ENTRY.unpack_from(directory, at)
        stored, size, name_size, extra_size, comment_size, disk, _, _, offset = rest
        at += _ENTRY.size
        name_bytes, extra = directory[at : at + name_size], directory[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size + comment_size
        if sign != b"PK\x01\x02" or at > len(directory) or disk:
            raise ValueError("its directory is damaged")
        name = name_bytes.decode("utf-8" if flags & _UTF8 else "cp437")
        if flags & _ENCRYPTED:
            raise ValueError(f"member {name[:80]!r} is encrypted")
        size, stored, offset = _wide(extra, [size, stored, offset])
        yield Member(name, offset, _start(stream, offset, name_bytes), stored, size, method, crc)
    if at != len(directory):
        raise ValueError("its directory has another length than it says")


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """The values. Values that 32 bits cannot hold come from the extra field."""
    at = 0
    while 0xFFFFFFFF in values and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + length]
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            return [next(wide, value) if value == 0xFFFFFFFF else value for value in values]
        at += 4 + length
    return values


def _start(stream: io.BufferedIOBase, offset: int, name: bytes) -> int:
    """The place of the first byte of a member, behind the member's own header."""
    sign, *_, name_size, extra_size = _LOCAL.unpack(_read(stream, offset, _LOCAL.size))
    if sign != b"PK\x03\x04" or _read(stream, offset + _LOCAL.size, name_size) != name:
        raise ValueError(f"member {name[:80]!r} is not where the directory says")
    return offset + _LOCAL.size + name_size + extra_size


def _read(stream: io.BufferedIOBase, start: int, size: int) -> bytes:
    """Bytes of the file.

    The size is checked first, because `stream.read` allocates as many bytes as it is asked for.
    """
    if start + size > stream.seek(0, 2):
        raise ValueError("it is cut off")
    stream.seek(start)
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("it is cut off")
    return data
