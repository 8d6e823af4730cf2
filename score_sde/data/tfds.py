"""A data set of the TensorFlow Datasets catalogue, read by random access and without TensorFlow."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32, Integer

from score_sde.data.base import (
    BadExample,
    DataSpec,
    Examples,
    Source,
    as_condition,
    as_labels,
    check_finite,
    rider_names,
    rider_shapes,
)
from score_sde.data.cache import ExampleCache
from score_sde.data.decoding import ImageDecoder, as_size
from score_sde.data.digests import digest_of_json

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

TRIED = 100  # the most records that are tried, to find one that can be decoded
_DOWNLOAD_RETRIES = 4  # about 3 s of back-off; TFDS's own 10 wait 200 s before they say that there is no network


class TFDSSource(Source):
    """Example i is record i of a prepared TFDS split in the array_record format.

    Only prepared data are read, unless `download` is set. Reading and decoding run at about 6,000
    CIFAR-10 images/s on one core. Decoded examples stay in memory if the whole split fits into
    `cache_bytes` (CIFAR-10 takes 154 MB). Then only the first epoch decodes.

    Args:
      dataset: the name in the catalogue, with config and version if wanted: "cifar10",
        "imagenet_resized/64x64:0.1.0".
      split: "train", "test[:50%]", … (TFDS's syntax of slices).
      data_dir: the folder where TFDS keeps prepared data. None is $TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      image_key: the feature that becomes x: an image, or an array of fixed shape.
      label_key: the feature with one integer per example. None means no labels.
      conditions: further features of fixed shape that come with each example, as a mapping from the
        network's name to the data set's name, or as a list where both names agree.
      observations: further features with measurements of each example, named as in `conditions`.
        Only guidance gets observations, the network does not.
      spatial: the conditions and observations that are flipped and cropped with x. None is those with the spatial
        sizes of x.
      image_size: (height, width), or one number for a square, to which images are cropped and
        resized. It is needed where the images differ in size.
      channels: the number of channels to which images are converted. None takes them as they are,
        without alpha.
      background: the colour under transparent pixels: one level 0…255 or three (RGB).
      download: whether to download and prepare a missing data set, which needs TensorFlow and a
        network.
      cache_bytes: the memory for decoded examples. 0 decodes every time.
    Raises: FileNotFoundError if the data set is not prepared. ValueError for an unknown split or
      feature, another file format, or examples without a fixed shape.
    """

    def __init__(
        self,
        dataset: str,
        split: str = "train",
        *,
        data_dir: str | os.PathLike | None = None,
        image_key: str = "image",
        label_key: str | None = None,
        conditions: Mapping[str, str] | Sequence[str] | None = None,
        observations: Mapping[str, str] | Sequence[str] | None = None,
        spatial: Sequence[str] | None = None,
        image_size: int | Sequence[int] | None = None,
        channels: int | None = None,
        background: int | Sequence[int] = 255,
        download: bool = False,
        cache_bytes: int = 2**30,
    ):
        builder = _builder(dataset, data_dir, download)
        self._name = f"{dataset} ({split})"
        self._x_key, self._label_key = image_key, label_key
        told, self._observations = rider_names(conditions, observations)
        self._riders = told | self._observations
        size, convert = as_size(image_size), channels is not None
        self._decoder = ImageDecoder(channels=channels, convert=convert, image_size=size, background=background)
        features = builder.info.features
        for key in self._keys():
            if key not in features:
                raise ValueError(f"{dataset} has no feature {key!r}; it has {', '.join(features)}: set the keys.")
        if label_key is not None:
            _check_label(features[label_key], dataset, label_key)
        self._is_image = _is_image(features[image_key], dataset, image_key)
        self._records = _records(builder, dataset, split, encoded=[image_key] if self._is_image else [])
        self._examples = ExampleCache(self._read, len(self._records), cache_bytes)
        self.spec = self._describe(features, None if spatial is None else tuple(spatial))
        splits = {name: list(info.shard_lengths) for name, info in builder.info.splits.items()}
        self._identity = {"name": builder.info.full_name, "split": split, "splits": splits, "features": self._keys()}

    def __len__(self) -> int:
        return len(self._records)

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels at `indices`, read without decoding the images."""
        return self._as_labels([record[self._label_key] for record in self._records.__getitems__(indices.tolist())])

    def _as_labels(self, values: Sequence[Any]) -> Int32[np.ndarray, " b"]:
        return as_labels(np.array(values), f"{self._label_key} of {self._name}")

    def digest(self) -> str:
        """The digest of the data set's name and version, the split, the examples in each file, and the features."""
        return digest_of_json(self._identity)

    def _keys(self) -> list[str]:
        label = [] if self._label_key is None else [self._label_key]
        return [self._x_key, *label, *self._riders.values()]

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The records at `indices`, read and decoded, or copied from memory."""
        return self._examples(indices)

    def _describe(self, features: Any, spatial: tuple[str, ...] | None) -> DataSpec:
        if self._is_image and None in features[self._x_key].shape[:2] and self._decoder.image_size is None:
            raise ValueError(f"{self._name} holds images of different sizes; set image_size=(height, width).")
        first = self._first_readable()
        return DataSpec(
            shape=first["x"].shape[1:],
            levels=256 if first["x"].dtype == np.uint8 else None,
            num_classes=None if self._label_key is None else features[self._label_key].num_classes,
            **rider_shapes(first, self._observations),
            class_names=None if self._label_key is None else tuple(features[self._label_key].names),
            spatial=spatial,
        )

    def _read(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        records = self._records.__getitems__(indices.tolist())
        x = [self._decode(i, record[self._x_key]) for i, record in zip(indices.tolist(), records, strict=True)]
        batch = {"x": np.stack(x)}
        if self._label_key is not None:
            batch["label"] = self._as_labels([record[self._label_key] for record in records])
        for name, key in self._riders.items():
            batch[name] = as_condition(np.stack([record[key] for record in records]), key)
        for name, values in batch.items():
            check_finite(values, indices, f"Feature {name!r}", self._name)
        return batch

    def _first_readable(self) -> Examples:
        """The first example that can be used.

        Raises the error of the first example if no example can be used.
        """
        errors = []
        for i in range(min(len(self), TRIED)):
            try:
                return self.gather(np.array([i]))
            except BadExample as error:
                errors.append(error)
        raise errors[0]

    def _decode(self, i: int, value: Any) -> np.ndarray:
        if not self._is_image:
            array = np.asarray(value)
            return array if array.dtype == np.uint8 else as_condition(array, self._x_key).astype(np.float32)
        try:
            return self._decoder(io.BytesIO(value), f"{i} of {self._name}")
        except ValueError as error:
            raise BadExample(i, str(error)) from error


def _builder(name: str, data_dir: str | os.PathLike | None, download: bool) -> "DatasetBuilder":
    """Finds the prepared files.

    The files contain the description that reading needs, so the code of the data set is not
    imported.
    """
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.registered import DatasetNotFoundError
    from tensorflow_datasets.core.utils.file_utils import list_data_dirs

    place = {} if data_dir is None else {"data_dir": os.path.expanduser(data_dir)}
    try:
        return read_only_builder.builder_from_files(name, **place)
    except DatasetNotFoundError as error:
        if download:
            return _download(name, place)
        folders = ", ".join(str(folder) for folder in list_data_dirs(given_data_dir=place.get("data_dir")))
        option = f" --data_dir={place['data_dir']}" if place else ""
        raise FileNotFoundError(
            f"TFDS data set {name!r} is not prepared in data_dir {folders}{_closest(name)}; where there is network and "
            f"TensorFlow, run `tfds build {name} --file_format=array_record{option}` once, or set download=True."
        ) from error


def _download(name: str, place: dict[str, str]) -> "DatasetBuilder":
    import importlib.util

    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError(
            f"Preparing {name!r} needs TensorFlow (reading it does not); `pip install tensorflow`, or prepare it "
            f"elsewhere with `tfds build {name} --file_format=array_record` and copy the folder."
        )
    retries = downloader.MAX_RETRIES
    downloader.MAX_RETRIES = _DOWNLOAD_RETRIES
    try:
        builder = tfds.builder(name, file_format="array_record", **place)
        builder.download_and_prepare()
    except OSError as error:  # requests' errors are OSErrors
        raise ConnectionError(
            f"TFDS data set {name!r} could not be downloaded ({error}); prepare it on a machine with network by "
            f"`tfds build {name} --file_format=array_record` and copy the folder to data_dir."
        ) from error
    finally:
        downloader.MAX_RETRIES = retries
    return builder


def _is_image(feature: Any, name: str, key: str) -> bool:
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.Image):
        return False
    if feature.np_dtype != np.uint8:
        raise ValueError(f"TFDSSource needs 8-bit images, got {feature.np_dtype} in {name}, feature {key!r}.")
    return True


def _check_label(feature: Any, name: str, key: str) -> None:
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.ClassLabel) or not feature.num_classes:
        raise ValueError(
            f"label_key needs a feature of {name} that holds a class (ClassLabel), got {key!r}, a "
            f"{type(feature).__name__}; choose another feature, or give this one as a condition."
        )


def _records(builder: "DatasetBuilder", name: str, split: str, encoded: Sequence[str]) -> Any:
    """Opens the split. The features in `encoded` stay as the bytes of their files."""
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split=split, decoders={key: tfds.decode.SkipDecoding() for key in encoded})
    except NotImplementedError as error:
        raise ValueError(
            f"{name} is prepared as {builder.info.file_format.value}, which has no random access; run `tfds build "
            f"{name} --file_format=array_record --overwrite`, or `tfds convert_format`, once."
        ) from error
    except ValueError as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"{name} has no split {split!r}; it has {known}, and slices such as 'train[:90%]'.") from error


def _closest(name: str) -> str:
    """Names close to `name`, for a name that is not in the catalogue."""
    import difflib

    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    base = name.split("/")[0].split(":")[0]
    close = difflib.get_close_matches(base, known, n=3)
    return f" (the catalogue has no such name; the closest: {', '.join(close)})" if close and base not in known else ""
