"""Training batches as a pure function of (seed, step), and evaluation batches with every example once.

The examples of a run form one endless stream. Position p of the stream holds example π_e(p mod n),
where π_e is the random order of epoch e = ⌊p/n⌋. Batch `step` holds the positions step·B, …, step·B
+ B − 1. So every example comes once per epoch, and a batch may contain the end of one epoch and the
start of the next. The data position in a checkpoint is just the step. All random numbers of a row
(flip, crop, dequantization) are a hash of (seed, p). So nothing depends on earlier batches or on
the number of processes.

This is vectorized numpy over a random-access source. grain's MapDataset can express the same order.
On in-memory CIFAR-10 images grain gives 22,000 images/s, and this code several times that. This
code also has no iterator state to save, and its threads take two dozen lines (prefetch.py).
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer, Shaped, UInt64

from score_sde.data.base import Batch, DataSpec, Examples, Source
from score_sde.data.hashing import fold, permutation, seed_key, uniforms, uniforms_f32
from score_sde.data.prefetch import prefetch
from score_sde.data.replacing import OnError, Replacing

_AUGMENT, _DEQUANTIZE = 0, 1  # numbers of the random streams of a position


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainBatches:
    """batches[step] = {"x" float32 [b, *shape], "index" int32 [b], "condition": {name: array}, "observation": {name: array}}.

    Conditions and observations are arrays [b, ...]. Without any, their dictionary is empty.
    With on_error="skip", a batch also has "replaced" [b]: the rows that replace an example which
    cannot be used.

    Attributes:
      source: the source of the examples.
      batch_size: B, over all processes. A process holds b = B/process_count rows.
      seed: the random seed of the order, the augmentation and the dequantization noise.
      random_flip: whether to mirror each image left to right (its last spatial axis) with
        probability 1/2.
      crop: (height, width), or one size per spatial axis, of a window at a uniformly random place.
        Conditions that lie over x (`DataSpec.spatial`) are flipped and cropped with it.
      dequantize: whether to add (u − 1/2)·bin_width, with u uniform in [0, 1), to each number of a
        quantized x.
      on_error: "raise", or "skip" to replace examples that cannot be used by others (`Replacing`).
      process_index: which slice of the batch this process holds.
      process_count: the number of processes. The global batch does not depend on it.

    Raises: ValueError for an empty source, a batch that does not divide, or an augmentation that
      the shape forbids.
    """

    source: Source
    batch_size: int
    seed: int
    random_flip: bool = False
    crop: tuple[int, ...] | None = None
    dequantize: bool = False
    on_error: OnError = "raise"
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        _check_sizes("TrainBatches", self.source, self.batch_size, self.process_index, self.process_count)
        _check_crop(self.source.spec, self.crop)
        seed_key(self.seed)
        if self.random_flip and len(self.source.spec.shape) < 2:
            raise ValueError(f"random_flip needs images, got shape {self.source.spec.shape}; set random_flip=False.")
        if self.random_flip:
            self.source.spec.moving()
        if self.dequantize and self.source.spec.levels is None:
            raise ValueError("dequantize needs a quantized source, got continuous data; set dequantize=False.")

    @property
    def spec(self) -> DataSpec:
        """The source's spec, with the shape after cropping."""
        return _cropped_spec(self.source.spec, self.crop)

    def __getitem__(self, step: int) -> Batch:
        """Returns this process's rows of batch `step`."""
        if step < 0:
            raise IndexError(f"TrainBatches needs step >= 0, got {step}.")
        positions = step * self.batch_size + _rows(self.batch_size, self.process_index, self.process_count)
        batch, index, replaced = self._examples.gather(self._example_at(positions))
        keys = fold(seed_key(self.seed), positions)
        batch = self._augment(batch, fold(keys, _AUGMENT))
        x = self.spec.scale(batch["x"])
        if self.dequantize:
            noise = uniforms_f32(fold(keys, _DEQUANTIZE), self.spec.dimension).reshape(x.shape)
            x += (noise - np.float32(0.5)) * np.float32(self.spec.bin_width)
        return _batch(x, index, batch, self.spec) | ({"replaced": replaced} if self.on_error == "skip" else {})

    @functools.cached_property
    def _examples(self) -> Replacing:
        return Replacing(self.source, self.on_error)

    def iterate(
        self, start_step: int = 0, stop_step: int | None = None, *, depth: int = 2, num_threads: int = 1
    ) -> Iterator[Batch]:
        """Yields batches start_step, start_step + 1, …, prepared ahead by threads.

        Args:
          start_step: the first step.
          stop_step: one above the last step. None means no end.
          depth: the number of batches that may wait. 0 prepares each batch in the caller's thread.
          num_threads: the number of threads. More than one helps where images are decoded while
            reading.
        """
        return prefetch(self.__getitem__, start_step, stop_step, depth=depth, num_threads=num_threads)

    def _example_at(self, positions: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """π_e(p mod n) with e = ⌊p/n⌋."""
        epochs, offsets = np.divmod(positions, len(self.source))
        index = np.empty_like(positions)
        for epoch in range(epochs[0], epochs[-1] + 1):
            rows = epochs == epoch
            index[rows] = permutation(len(self.source), self.seed, epoch)[offsets[rows]]
        return index

    def _augment(self, batch: Examples, keys: UInt64[np.ndarray, " b"]) -> Examples:
        """Flips and crops x, and all conditions that lie over it.

        One random number decides the flip, and one for each axis decides the crop.
        """
        shape = self.source.spec.shape
        u = uniforms(keys, 2 + len(shape))
        if self.crop is not None:
            room = np.subtract(shape[:-1], self.crop) + 1
            batch = _cropped(
                batch, self.source.spec, np.floor(u[:, 1 : 1 + len(room)] * room).astype(np.int64), self.crop
            )
        if self.random_flip:
            flipped, axis = u[:, 0] < 0.5, len(shape) - 1
            batch = {**batch}
            for name in ("x", *self.source.spec.moving()):
                batch[name] = batch[name].copy()
                batch[name][flipped] = np.flip(batch[name][flipped], axis=axis)
        return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalBatches:
    """batches[i] holds examples i·B, …, i·B + B − 1 in the source's order, with "is_real" False on padding.

    All batches have B rows over all processes, and all processes have the same number of batches.
    Padding rows repeat the last example, with its index. So they are valid input, and writing by
    index is harmless. Multiply any sum by "is_real". With on_error="skip", rows of examples that
    cannot be used hold other examples, and their "is_real" is False.

    Attributes:
      source: the source of the examples.
      batch_size: B, over all processes.
      crop: the size of the central window to take (rounded towards the top left).
      on_error: "raise", or "skip" to leave out examples that cannot be used.
      process_index: which slice of each batch this process holds.
      process_count: the number of processes.
    """

    source: Source
    batch_size: int
    crop: tuple[int, ...] | None = None
    on_error: OnError = "raise"
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        _check_sizes("EvalBatches", self.source, self.batch_size, self.process_index, self.process_count)
        _check_crop(self.source.spec, self.crop)

    @property
    def spec(self) -> DataSpec:
        """The source's spec, with the shape after cropping."""
        return _cropped_spec(self.source.spec, self.crop)

    def __len__(self) -> int:
        """⌈n/B⌉."""
        return math.ceil(len(self.source) / self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        """Returns this process's rows of one batch."""
        if not 0 <= number < len(self):
            raise IndexError(f"EvalBatches needs 0 <= number < {len(self)}, got {number}.")
        positions = number * self.batch_size + _rows(self.batch_size, self.process_index, self.process_count)
        batch, replaced = self._at(np.minimum(positions, len(self.source) - 1))
        return {**batch, "is_real": (positions < len(self.source)) & ~replaced}

    def at(self, indices: Integer[np.ndarray, " b"]) -> Batch:
        """The examples at `indices`, scaled and cropped as in batches. Skipped examples are replaced by others."""
        return self._at(indices)[0]

    def _at(self, indices: Integer[np.ndarray, " b"]) -> tuple[Batch, Bool[np.ndarray, " b"]]:
        examples, index, replaced = self._examples.gather(indices)
        if self.crop is not None:
            centre = np.subtract(self.source.spec.shape[:-1], self.crop) // 2
            corners = np.broadcast_to(centre, (len(indices), len(centre)))
            examples = _cropped(examples, self.source.spec, corners, self.crop)
        return _batch(self.spec.scale(examples["x"]), index, examples, self.spec), replaced

    @functools.cached_property
    def _examples(self) -> Replacing:
        return Replacing(self.source, self.on_error)

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The examples at `indices`, as the source gives them. Skipped examples are replaced by others."""
        return self._examples.gather(indices)[0]

    @property
    def bad(self) -> dict[int, str]:
        """The examples that were skipped so far: index -> reason."""
        return dict(sorted(self._examples.bad.items()))

    def __iter__(self) -> Iterator[Batch]:
        """Yields all batches, prepared ahead by a thread."""
        return self.iterate()

    def iterate(self, *, depth: int = 2, num_threads: int = 1) -> Iterator[Batch]:
        """Yields all batches. `num_threads` threads prepare up to `depth` of them ahead."""
        return prefetch(self.__getitem__, 0, len(self), depth=depth, num_threads=num_threads)


def _batch(x: Float[np.ndarray, "b ..."], index: Int64[np.ndarray, " b"], examples: Examples, spec: DataSpec) -> Batch:
    """The examples of a source as a batch: x, the indices, the conditions and the observations."""
    riders = {name: values for name, values in examples.items() if name != "x"}
    observation = {name: riders.pop(name) for name in spec.observations}
    return {"x": x, "index": index.astype(np.int32), "condition": riders, "observation": observation}


def _rows(batch_size: int, process_index: int, process_count: int) -> Int64[np.ndarray, " b"]:
    """The contiguous rows of the global batch that belong to one process."""
    size = batch_size // process_count
    return np.arange(process_index * size, (process_index + 1) * size, dtype=np.int64)


def _windows(
    x: Shaped[np.ndarray, "b ..."], offsets: Int64[np.ndarray, "b axes"], sizes: tuple[int, ...]
) -> Shaped[np.ndarray, "b ..."]:
    """x[i, o : o + size, …] for the offsets o of each row i."""
    windows = [tuple(slice(o, o + s) for o, s in zip(corner, sizes, strict=True)) for corner in offsets.tolist()]
    return np.stack([row[window] for row, window in zip(x, windows, strict=True)])


def _cropped(batch: Examples, spec: DataSpec, corners: Int64[np.ndarray, "b axes"], sizes: tuple[int, ...]) -> Examples:
    """The batch with x, and all conditions that lie over x, cropped to the windows at the corners of each row."""
    return {**batch, **{name: _windows(batch[name], corners, sizes) for name in ("x", *spec.moving())}}


def _cropped_spec(spec: DataSpec, crop: tuple[int, ...] | None) -> DataSpec:
    if crop is None:
        return spec
    moving = {name: (*crop, *spec.riders[name][len(crop) :]) for name in spec.moving()}
    conditions, observations = (
        {name: moving.get(name, shape) for name, shape in riders.items()}
        for riders in (spec.conditions, spec.observations)
    )
    return dataclasses.replace(
        spec,
        shape=(*crop, spec.shape[-1]),
        spatial=tuple(moving),
        conditions=conditions,
        observations=observations,
    )


def _check_crop(spec: DataSpec, crop: tuple[int, ...] | None) -> None:
    if crop is None:
        return
    spatial = spec.shape[:-1]
    fits = len(crop) == len(spatial) and all(1 <= c <= s for c, s in zip(crop, spatial, strict=True))
    if not spatial or not fits:
        raise ValueError(f"crop needs one size from 1 to {spatial} for each spatial axis of {spec.shape}, got {crop}.")
    for name in spec.moving():
        if spec.riders[name][: len(crop)] != spatial:
            raise ValueError(
                f"crop needs conditions and observations of x's size {spatial} where they lie over it, got {name!r} of shape "
                f"{spec.riders[name]}; resize it, or set crop=None."
            )


def _check_sizes(name: str, source: Source, batch_size: int, process_index: int, process_count: int) -> None:
    if len(source) < 1:
        raise ValueError(f"{name} needs a source with examples, got an empty one.")
    if batch_size < 1:
        raise ValueError(f"{name} needs batch_size >= 1, got {batch_size}.")
    if not 0 <= process_index < process_count:
        raise ValueError(f"{name} needs 0 <= process_index < process_count, got {process_index=}, {process_count=}.")
    if batch_size % process_count:
        raise ValueError(f"{name} needs a batch_size that process_count divides, got {batch_size=}, {process_count=}.")
