"""Feature extractors: images in, named arrays of features out, by one interface whatever the network behind it.

"pool" [n, d] is what distances are taken between; an extractor may also give "spatial" (for sFID) and "logits" (for the
Inception Score). A name with a colon, "module:attribute", is a callable of the user's: from images [b, h, w, c] in 0…255
(other data: float32, as they are) to [b, d], or to a dict of such arrays. Its attributes `digest` (text that changes with
the weights) and `outputs` (names, "pool" among them) are used where they exist.
"""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Shaped

from score_sde import parallel
from score_sde.config import closest
from score_sde.importers import dinov2_path, inception_path, load_dinov2, load_inception, load_lpips, lpips_path
from score_sde.metrics.dinov2 import dinov2_features, stack_blocks
from score_sde.metrics.features import oriented_gradients
from score_sde.metrics.inception import fold, inception_features
from score_sde.metrics.lpips import lpips_features

Images = Shaped[np.ndarray, "b *shape"]  # 0…255 as uint8; float32 for data that are no images of at most 256 levels
Features = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Extractor:
    """compute(images, wanted) -> {name: one row per image}.

    Attributes:
      name: as on the command line.
      digest: of the weights and of the preprocessing; features with different digests are not compared.
      outputs: what it can give; always "pool".
      compute: of a batch, whose size is a multiple of the devices; each image's features do not depend on the others.
      of_8_bits: whether it takes nothing but images [h, w, 1 or 3] in 0…255.
    """

    name: str
    digest: str
    outputs: tuple[str, ...]
    compute: Callable[[Images, tuple[str, ...]], Features]
    of_8_bits: bool = False

    def __call__(self, images: Images, wanted: Sequence[str] = ("pool",)) -> Features:
        """The `wanted` outputs, in float32.

        Raises: ValueError for an output that this extractor lacks, data that it does not take, or an array without one
          row per image.
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
        """Raises ValueError for an output that this extractor lacks, and says where it comes from."""
        for name in set(wanted) - set(self.outputs):
            raise ValueError(f"Features {self.name!r} have no {name!r}, only {list(self.outputs)}; {_ADVICE[name]}")

    def check_data(self, shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> None:
        """Raises ValueError for examples that this extractor does not take, and says why."""
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


def get_extractor(name: str, mesh: Mesh) -> Extractor:
    """The extractor of this name, with its weights on the devices of `mesh`.

    Raises: ValueError for an unknown name or a callable that does not exist; FileNotFoundError where weights are missing.
    """
    if ":" in name:
        return _of_user(name)
    if name not in EXTRACTORS:
        raise ValueError(
            f"--features needs one of {sorted(EXTRACTORS)} or a callable as module:attribute, got {name!r}."
            f"{closest(name, list(EXTRACTORS))}"
        )
    return EXTRACTORS[name](mesh)


def _inception(mesh: Mesh) -> Extractor:
    """The InceptionV3 of 2015-12-05 in float32, its batch over the devices of the mesh."""
    tensors = load_inception(inception_path())
    cells = parallel.replicate(fold(tensors), mesh)
    # The published score has no bias in this layer. Source: the code of arXiv 1606.03498.
    weight = tensors.get("logits.weight")
    logits = None if weight is None else parallel.replicate(np.ascontiguousarray(weight.T), mesh)

    @functools.partial(jax.jit, static_argnames="wanted")
    def compute(cells, logits, images, wanted):
        features = inception_features(cells, images)._asdict()
        if "logits" in wanted:
            with jax.default_matmul_precision("float32"):
                features["logits"] = jnp.matmul(features["pool"], logits)
        return {name: features[name] for name in wanted}

    outputs = ("pool", "spatial") if logits is None else ("pool", "spatial", "logits")
    trunk = {name: value for name, value in tensors.items() if not name.startswith("logits.")}
    digest = _digest_of_arrays("bilinear TF1, (x - 128) / 128, float32", trunk)
    on_mesh = _on_mesh(mesh, functools.partial(compute, cells, logits))
    return Extractor("inception", digest, outputs, on_mesh, of_8_bits=True)


def _dinov2(mesh: Mesh) -> Extractor:
    """The class token of DINOv2 in float32, its batch over the devices of the mesh."""
    tensors = load_dinov2(dinov2_path())
    parameters = parallel.replicate(stack_blocks(tensors), mesh)
    features = jax.jit(dinov2_features)
    digest = _digest_of_arrays("bicubic 224 antialias, ImageNet mean and sd, position offset 0.1, float32", tensors)
    compute = _on_mesh(mesh, lambda images, wanted: {"pool": features(parameters, images)})
    return Extractor("dinov2", digest, ("pool",), compute, of_8_bits=True)


def _lpips(mesh: Mesh) -> Extractor:
    """LPIPS's activations, averaged over places, in float32, the batch over the devices of the mesh."""
    tensors = load_lpips(lpips_path())
    parameters, features = parallel.replicate(tensors, mesh), jax.jit(lpips_features)
    digest = _digest_of_arrays("sqrt(w) phi / (|phi| + 1e-10), mean over places, float32", tensors)
    compute = _on_mesh(mesh, lambda images, wanted: {"pool": features(parameters, images)})
    return Extractor("lpips", digest, ("pool",), compute, of_8_bits=True)


def _on_mesh(
    mesh: Mesh, compute: Callable[[jax.Array, tuple[str, ...]], dict[str, jax.Array]]
) -> Callable[[Images, tuple[str, ...]], Features]:
    """`compute` of 8-bit images, their batch over the devices."""

    def on_mesh(images: Images, wanted: tuple[str, ...]) -> Features:
        sharded = jax.device_put(_padded(images, mesh), parallel.batch_sharding(mesh))
        features = parallel.to_host(compute(sharded, wanted))
        return {name: values[: len(images)] for name, values in features.items()}

    return on_mesh


def _padded(images: Images, mesh: Mesh) -> Images:
    """The images, the last repeated until the devices share them evenly."""
    missing = parallel.round_up(len(images), mesh) - len(images)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def _plain(name: str, function: Callable[[Float[np.ndarray, "b *shape"]], np.ndarray]) -> Extractor:
    """An extractor without weights, of images in [−1, 1]."""

    def compute(images: Images, wanted: tuple[str, ...]) -> Features:
        x = images.astype(np.float64) / 127.5 - 1 if images.dtype == np.uint8 else images
        return {"pool": function(x).reshape(len(images), -1)}

    return Extractor(name, f"score_sde {name} 1", ("pool",), compute)


def _oriented_gradients(mesh: Mesh) -> Extractor:
    """Oriented gradients, blurred: for small grey images, where no network is at hand."""
    del mesh

    def function(x: Float[np.ndarray, "b *shape"]) -> np.ndarray:
        if x.ndim != 4:
            raise ValueError(f"Features 'oriented_gradients' need images [b, h, w, c], got shape {x.shape}.")
        return oriented_gradients(x)

    return _plain("oriented_gradients", function)


def _pixels(mesh: Mesh) -> Extractor:
    """The values themselves, in [−1, 1] for images: of any data."""
    del mesh
    return _plain("pixels", lambda x: x)


def _of_user(name: str) -> Extractor:
    """The callable "module:attribute"; without a `digest`, that of the module's file."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
        function = functools.reduce(getattr, attribute.split("."), module)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--features={name} needs a module that can be imported and has the attribute: {error}; put its folder on "
            "PYTHONPATH."
        ) from error
    if not callable(function):
        raise ValueError(f"--features={name} needs a callable from images to features, got {type(function).__name__}.")
    digest = getattr(function, "digest", None)
    if digest is None:
        file = inspect.getsourcefile(module)
        source = pathlib.Path(file).read_bytes() if file else name.encode()
        digest = f"source {hashlib.sha256(source).hexdigest()}"
    outputs = tuple(getattr(function, "outputs", ("pool",)))

    def compute(images: Images, wanted: tuple[str, ...]) -> Features:
        result = function(images)
        named = result if isinstance(result, dict) else {"pool": result}
        return {name: np.asarray(values) for name, values in named.items()}

    return Extractor(name, str(digest), outputs, compute)


def _digest_of_arrays(preprocessing: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(preprocessing.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


EXTRACTORS: dict[str, Callable[[Mesh], Extractor]] = {
    "dinov2": _dinov2,
    "inception": _inception,
    "lpips": _lpips,
    "oriented_gradients": _oriented_gradients,
    "pixels": _pixels,
}
