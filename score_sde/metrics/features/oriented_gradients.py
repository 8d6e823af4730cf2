"""Oriented gradients: features of small grey images that need no network."""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float64

from score_sde.metrics.features.base import Extractor, of_values


def oriented_gradients(
    images: Float[np.ndarray | Array, "n h w c"], orientations: int = 8
) -> Float64[np.ndarray, "n h w features"]:
    """|g| max(0, cos(θ − φ))² for the gradient g = |g| (cos θ, sin θ) and each orientation φ, blurred.

    The blur is a Gaussian of 1/8 of the shorter side. A stroke may move by this distance and keep
    most of its features. Both numbers were chosen by leave-one-out accuracy on the 1,500 training
    digits. It is 0.998 (the same for a wider blur), against 0.993 for plain pixels. On the 297 test
    digits, by other hands, it is 0.973 against 0.963, each ± 0.01.

    Source: the idea of Dalal and Triggs, Histograms of oriented gradients for human detection, CVPR
      2005, with a smooth weighting in place of bins and cells.
    """
    x = np.asarray(images).astype(np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    across, down = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    length = np.hypot(across, down)
    angles = 2 * np.pi * np.arange(orientations) / orientations
    along = np.maximum(0, across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles))
    response = along**2 / np.where(length > 0, length, 1)[..., None]
    width = min(x.shape[1:3]) / 8
    rows, columns = blur_matrix(x.shape[1], width), blur_matrix(x.shape[2], width)
    return np.einsum("ih,nhwk,jw->nijk", rows, response.reshape(*x.shape[:3], -1), columns, optimize=True)


def blur_matrix(size: int, width: float) -> Float64[np.ndarray, "size size"]:
    """The matrix of a Gaussian blur of a line of pixels, with zeros beyond its ends."""
    offsets = np.arange(size)[:, None] - np.arange(size)
    return np.exp(-0.5 * (offsets / width) ** 2) / (np.sqrt(2 * np.pi) * width)


def extractor(mesh: Mesh) -> Extractor:
    """Blurred oriented gradients, for small grey images without a network."""
    del mesh

    def function(x: Float[np.ndarray, "b *shape"]) -> np.ndarray:
        if x.ndim != 4:
            raise ValueError(f"Features 'oriented_gradients' need images [b, h, w, c], got shape {x.shape}.")
        return oriented_gradients(x)

    return of_values("oriented_gradients", function)
