"""The interface of feature extractors: from images to named arrays of features.

Distances are computed between the features "pool" [n, d]. An extractor may also have "spatial" (for
sFID) and "logits" (for the Inception Score).
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Shaped

from score_sde import parallel

Images = Shaped[np.ndarray, "b *shape"]  # images of at most 256 levels as uint8 0…255; other data as float32
Features = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Extractor:
    """compute(images, wanted) -> {name: one row per image}.

    Attributes:
      name: the name on the command line.
      digest: the digest of the weights and of the preprocessing. Features with different digests
        are not compared.
      outputs: the available outputs, "pool" among them.
      compute: a function of a batch, whose size is a multiple of the number of devices. The
        features of an image do not depend on the other images.
      of_8_bits: whether it takes only images [h, w, 1 or 3] in 0…255.
    """

    name: str
    digest: str
    outputs: tuple[str, ...]
    compute: Callable[[Images, tuple[str, ...]], Features]
    of_8_bits: bool = False

    def __call__(self, images: Images, wanted: Sequence[str] = ("pool",)) -> Features:
        """The `wanted` outputs, in float32.

        Raises: ValueError for an output that this extractor lacks, data that it does not take, or
          an array without one row per image.
        """
        self.check(wanted)
        self.check_data(images.shape[1:], images.dtype)
        features = self.compute(images, tuple(wanted))
        rows = {name: np.asarray(features[name], np.float32) for name in wanted}
        for name, values in rows.items():
            if values.ndim != 2 or len(values) != len(images):
                raise ValueError(
                    f"Features {self.name!r} need an array [{len(images)}, d] as {name!r}, got shape {values.shape}."
                )
        return rows

    def check(self, wanted: Sequence[str]) -> None:
        """Raises ValueError for an output that this extractor lacks, with an extractor that has it."""
        for name in sorted(set(wanted) - set(self.outputs)):
            advice = _ADVICE.get(name, "use --features=module:attribute, a callable that gives it.")
            raise ValueError(f"Features {self.name!r} have no {name!r}, only {list(self.outputs)}; {advice}")

    def check_data(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        """Raises ValueError, with the reason, for examples that this extractor does not take."""
        image = len(shape) == 3 and shape[-1] in (1, 3) and dtype == np.uint8
        if self.of_8_bits and not image:
            sizes = ", ".join(map(str, ("b", *shape)))
            raise ValueError(
                f"Features {self.name!r} need images [b, h, w, 1 or 3] in 0…255, got {np.dtype(dtype)} [{sizes}]; data "
                "without levels or of more than 256 stay floats, since 8 bits would clip or round them: store images as "
                "uint8, or use --features=pixels or a callable for other data."
            )


_ADVICE = {
    "pool": "an extractor always needs it.",
    "spatial": "sfid needs --features=inception, or a callable that gives it.",
    "logits": (
        "the Inception Score needs --features=inception with weights that have logits: get pytorch-fid's "
        "pt_inception-2015-12-05-6726825d.pth and run `score-sde import_inception --file=` with it."
    ),
}


def on_mesh(
    mesh: Mesh, compute: Callable[[jax.Array, tuple[str, ...]], dict[str, jax.Array]]
) -> Callable[[Images, tuple[str, ...]], Features]:
    """`compute` of 8-bit images, with the batch sharded over the devices."""

    def sharded(images: Images, wanted: tuple[str, ...]) -> Features:
        batch = jax.device_put(_padded(images, mesh), parallel.batch_sharding(mesh))
        features = parallel.to_host(compute(batch, wanted))
        return {name: values[: len(images)] for name, values in features.items()}

    return sharded


def _padded(images: Images, mesh: Mesh) -> Images:
    """The images. The last image is repeated until the devices can share them evenly."""
    missing = parallel.round_up(len(images), mesh) - len(images)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def of_values(name: str, function: Callable[[Float[np.ndarray, "b *shape"]], np.ndarray]) -> Extractor:
    """An extractor without weights, for images in [−1, 1]."""

    def compute(images: Images, wanted: tuple[str, ...]) -> Features:
        x = images.astype(np.float64) / 127.5 - 1 if images.dtype == np.uint8 else images
        return {"pool": function(x).reshape(len(images), -1)}

    return Extractor(name, f"score_sde {name} 1", ("pool",), compute)


def digest_of_arrays(preprocessing: str, tensors: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of a network's tensors, and of the preprocessing of the images."""
    digest = hashlib.sha256(preprocessing.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
