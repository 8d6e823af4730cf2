"""Every kind of damage that a disk, a network, an editor or a person may do to a file."""

import struct

import numpy as np

from tests.damaged.corpus import inside
from tests.damaged.files import zip_of

BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, *b"()[]{}'\".0:9-\n")
NUMBERS = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    b"-1",
    b"1" * 30,
    b"e999",
    b"NaN",
    b"None",
    b"True",
    b"|O",
    b"(" * 50,
    b"[" * 50,
    b"\xed\xa0\x80",
    b"\x00" * 9,
    b"..",
)


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to four damages; of a zip file often within a member, so that the checksums fit."""
    places = inside(data)
    if places and rng.random() < 0.7:
        members, name = places[rng.integers(len(places))]
        return zip_of(members | {name: damaged(members[name], rng)})
    return damaged(data, rng)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four damages."""
    for _ in range(rng.integers(1, 5)):
        kind = KINDS[rng.integers(len(KINDS))]
        # Headers stand at the beginning, directories at the end.
        near = (len(data), min(len(data), 80), min(len(data), 400))[rng.integers(3)]
        at = int(rng.integers(near + 1))
        data = kind(data, len(data) - at if rng.random() < 0.2 else at, rng)
    return data


def flip(data, at, rng):
    return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :] if at < len(data) else data


def put(data, at, rng):
    return data[:at] + bytes([BYTES[rng.integers(len(BYTES))]]) + data[at + 1 :]


def cut(data, at, rng):
    return data[:at]


def leave_out(data, at, rng):
    return data[:at] + data[at + int(rng.integers(1, 60)) :]


def double(data, at, rng):
    return data[: at + int(rng.integers(1, 60))] + data[at:]


def insert(data, at, rng):
    return data[:at] + WORDS[rng.integers(len(WORDS))] + data[at:]


def overwrite(data, at, rng):
    word = WORDS[rng.integers(len(WORDS))]
    return data[:at] + word + data[at + len(word) :]


def number(data, at, rng):
    width, value = int(rng.choice([1, 2, 4, 8])), NUMBERS[rng.integers(len(NUMBERS))]
    return data[:at] + struct.pack("<Q", value)[:width] + data[at + width :]


def swap(data, at, rng):
    size = int(rng.integers(1, 40))
    return data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]


KINDS = (flip, flip, put, put, cut, leave_out, double, insert, overwrite, number, number, swap)
