"""A folder of image files."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int32, Integer, Shaped, UInt8

from score_sde.data.base import (
    SKIP,
    BadExample,
    DataSpec,
    Examples,
    Source,
    as_condition,
    as_path,
    check_finite,
    rider_names,
    rider_shapes,
)
from score_sde.data.cache import ExampleCache
from score_sde.data.classes import normal, numbered
from score_sde.data.decoding import ImageDecoder, as_size
from score_sde.data.digests import digest_of_array, digest_of_json
from score_sde.data.listing import COMMON, LISTED, Listing, list_images
from score_sde.internal.guarded import read_npy

TRIED = 100  # the most files that are tried, to find one that can be read


class FolderSource(Source):
    """Example i is the i-th image file below `path`, in the order of the relative paths ("/" between their parts).

    At construction only the first readable image is opened. A file that cannot be read, or that
    does not fit the other images, raises an error with its name when it is reached. Files are
    decoded when asked for (about 8,000 CIFAR-sized PNG/s on one core). They stay in memory if the
    whole folder fits into `cache_bytes`. All formats that Pillow reads are used, and links are
    followed. `summary` counts the files that are left out.

    Args:
      path: the folder.
      image_size: (height, width), or one number for a square, to which images are cropped and
        resized. With None, all files must have the same size.
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGBA). None takes the channels of the first
        file, without alpha.
      convert: whether to convert images with another number of channels. Otherwise they raise an
        error.
      background: the colour under transparent pixels: one level 0…255 or three (RGB).
      labels: whether the subfolder of `path` is the label of an image. Subfolders are numbered in
        alphabetical order.
      class_names: the order in which subfolders are numbered. It may name more classes than there
        are subfolders.
      conditions: name -> .npy file (relative to `path`) with one row per image, in the order of the
        images.
      observations: the same for measurements of each image. Only guidance gets observations, the
        network does not.
      spatial: the conditions and observations that are flipped and cropped with x. None is those with the spatial
        sizes of x.
      cache_bytes: the memory for decoded images. 0 decodes every time.
    Raises: FileNotFoundError if there is no such folder, no image in it, or no such .npy file.
      ValueError if an image cannot be used, or if labels or conditions do not fit the images.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        image_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        convert: bool = False,
        background: int | Sequence[int] = 255,
        labels: bool = False,
        class_names: Sequence[str] | None = None,
        conditions: Mapping[str, str] | None = None,
        observations: Mapping[str, str] | None = None,
        spatial: Sequence[str] | None = None,
        cache_bytes: int = 2**30,
    ):
        self._folder = as_path(path, "FolderSource")
        told, measured = rider_names(conditions, observations)
        renamed = told | measured
        self._listing = _listing(self._folder, renamed.values())
        self.files = list(self._listing.files)
        size = as_size(image_size)
        self._decoder = ImageDecoder(channels=channels, convert=convert, image_size=size, background=background)
        self._first, shape = self._first_readable()
        self._decoder = dataclasses.replace(self._decoder, channels=shape[-1])
        self.class_names: tuple[str, ...] = ()
        self._riders: Examples = {}
        if labels:
            known = None if class_names is None else tuple(class_names)
            self.class_names, self._riders["label"] = _subfolder_labels(self._folder, self.files, known)
        elif class_names is not None:
            raise ValueError(f"class_names needs labels=True, got {labels=}; set it, or leave out class_names.")
        for name, file in renamed.items():
            self._riders[name] = self._load_rows(name, file)
        self.spec = DataSpec(
            shape=shape,
            levels=256,
            num_classes=len(self.class_names) if labels else None,
            **rider_shapes(self._riders, measured),
            class_names=self.class_names if labels else None,
            spatial=None if spatial is None else tuple(spatial),
        )
        self._images = ExampleCache(self._read, len(self.files), cache_bytes)

    def __len__(self) -> int:
        return len(self.files)

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels at `indices`, without reading x."""
        return self._riders["label"][indices]

    def digest(self) -> str:
        """The digest of the files' relative paths and sizes, and of the conditions."""
        riders = {name: digest_of_array(values) for name, values in self._riders.items()}
        return digest_of_json([self._listing_digest, riders])

    @functools.cached_property
    def _listing_digest(self) -> str:
        return digest_of_json([(normal(file), (self._folder / file).stat().st_size) for file in self.files])

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The images at `indices`, decoded or copied from memory."""
        riders = {name: values[indices] for name, values in self._riders.items()}
        for name, values in riders.items():
            check_finite(values, indices, f"{self.spec.kind_of(name)} {name!r}", str(self._folder))
        return {**self._images(indices), **riders}

    def summary(self) -> str:
        """The number of images, the classes, and the files that are left out, with the reason."""
        listing, parts = self._listing, [super().summary(), f"in {self._folder}"]
        if listing.passed_over:
            parts.append(f"passed over: {listing.passed_over_in_words()}")
        if self.class_names and listing.empty:
            names = ", ".join(map(repr, listing.empty[:LISTED])) + (", …" if len(listing.empty) > LISTED else "")
            parts.append(f"{len(listing.empty)} without images: {names}")
        return "; ".join(parts)

    def _read(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        return {"x": np.stack([self._decode_checked(i) for i in indices.tolist()])}

    def _first_readable(self) -> tuple[int, tuple[int, ...]]:
        """The first image that can be decoded; all images must have its shape.

        Raises the error of the first file if no image can be decoded.
        """
        errors = []
        for i in range(min(len(self.files), TRIED)):
            try:
                return i, self._decode(i).shape
            except BadExample as error:
                errors.append(error)
        raise errors[0]

    def _decode_checked(self, i: int) -> UInt8[np.ndarray, "h w c"]:
        image = self._decode(i)
        if image.shape != self.spec.shape:
            raise BadExample(
                i,
                f"FolderSource needs images of one size, got {image.shape} in {self._name(i)} and "
                f"{self.spec.shape} in {self._name(self._first)}; set image_size=(height, width) to crop and resize, or "
                f"{SKIP}.",
            )
        return image

    def _decode(self, i: int) -> UInt8[np.ndarray, "h w c"]:
        file = self._folder / self.files[i]
        try:
            return self._decoder(file, self._name(i))
        except ValueError as error:
            raise BadExample(i, str(error)) from error

    def _name(self, i: int) -> str:
        """The path of a file, in printable characters."""
        return normal(str(self._folder / self.files[i]))

    def _load_rows(self, name: str, file: str) -> Shaped[np.ndarray, "n ..."]:
        path = self._folder / file
        if path.suffix != ".npy" or not path.is_file():
            raise FileNotFoundError(
                f"Condition {name!r} needs an .npy file with a row per image, got no such file {path}."
            )
        values = read_npy(path, "write it again with np.save")
        if not values.ndim or len(values) != len(self.files):
            raise ValueError(
                f"Condition {name!r} needs one row for each of {len(self.files)} images, got shape {values.shape} in {path}."
            )
        return as_condition(values, name)


def _listing(folder: pathlib.Path, ignored: Iterable[str]) -> Listing:
    if not folder.is_dir():
        raise FileNotFoundError(f"FolderSource needs a folder of images, got {folder}, which is not a folder.")
    listing = list_images(folder, tuple(ignored))
    if not listing.files:
        others = f"; passed over: {listing.passed_over_in_words()}" if listing.passed_over else ""
        raise FileNotFoundError(
            f"FolderSource needs images ({', '.join(COMMON)} and others that Pillow reads) below {folder}, got none{others}."
        )
    return listing


def _subfolder_labels(
    folder: pathlib.Path, files: Iterable[str], known: Sequence[str] | None
) -> tuple[tuple[str, ...], Integer[np.ndarray, " n"]]:
    stray = [file for file in files if "/" not in file]
    if stray:
        raise ValueError(f"labels=True needs every image in a subfolder of {folder}, got {stray[0]}; move it into one.")
    parents = [file.split("/")[0] for file in files]
    return numbered(parents, known, f"The folder {folder}")
