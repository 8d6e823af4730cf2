"""Features of images: one extractor per file, and the catalogue of their names in --features."""

from collections.abc import Callable

from jax.sharding import Mesh

from score_sde.config import closest
from score_sde.metrics.features import dinov2, inception, lpips, oriented_gradients, pixels
from score_sde.metrics.features.base import Extractor
from score_sde.metrics.features.outside import outside

EXTRACTORS: dict[str, Callable[[Mesh], Extractor]] = {
    "dinov2": dinov2.extractor,
    "inception": inception.extractor,
    "lpips": lpips.extractor,
    "oriented_gradients": oriented_gradients.extractor,
    "pixels": pixels.extractor,
}


def get_extractor(name: str, mesh: Mesh) -> Extractor:
    """The extractor of this name, with its weights on the devices of `mesh`.

    Raises: ValueError for an unknown name or a callable that does not exist. FileNotFoundError
      where weights are missing.
    """
    if ":" in name:
        return outside(name)
    if name not in EXTRACTORS:
        raise ValueError(
            f"--features needs one of {sorted(EXTRACTORS)} or a callable as module:attribute, got {name!r}."
            f"{closest(name, list(EXTRACTORS))}"
        )
    return EXTRACTORS[name](mesh)
