"""Pictures of pixels: rounding to 8 bits, tiles side by side, and files.

An `image` has values in [−1, 1], and an `image_u8` has values in 0…255. Nothing in this file needs
matplotlib.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

from score_sde.plots.captions import HEADING, text_band, with_captions
from score_sde.plots.style import LINE_COLORS

LARGE_ENOUGH = 64  # tiles of fewer pixels are enlarged, so that an 8×8 digit can be read on a screen
NON_FINITE_COLOR = (255, 0, 255)


def to_uint8(image: Float[np.ndarray | Array, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """round(127.5 (x + 1)) within 0…255, which is the nearest level. Truncation would darken by half a level.

    Raises: ValueError for NaN or infinite values, which no grey level can show.
    """
    image = np.asarray(image)
    if not np.isfinite(image).all():
        count = int(image.size - np.isfinite(image).sum())
        raise ValueError(
            f"to_uint8 needs finite values, got {count} of {image.size} values that are not; "
            "find out where the network or solver diverged, or look at the images with image_grid, which marks them."
        )
    return np.clip(np.rint((image.astype(np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def image_grid(
    images: Float[np.ndarray | Array, "n *shape"] | UInt8[np.ndarray, "n *shape"],
    columns: int | None = None,
    padding: int = 4,
    upscale: int | None = None,
    background: int = 255,
    captions: Sequence[str] | None = None,
    title: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Arranges n images [h, w, c] in a grid, row by row. Signals [l, c] are drawn as lines.

    Args:
      images: values in [−1, 1], or 0…255 if uint8. Other values are clipped, and non-finite pixels
        are magenta.
      columns: the number of columns. None is the most nearly square grid.
      padding: the pixels between two tiles and around the grid.
      upscale: the number of repetitions of a pixel along each axis. None enlarges tiles that are
        narrower than 64 pixels.
      background: the grey level of the padding.
      captions: a line of text below each image, such as the name of its class, shortened to the
        width of its tile.
      title: a line above the grid.
    """
    tiles = render_tiles(images)
    if captions is not None and len(captions) != len(tiles):
        raise ValueError(f"image_grid needs a caption for each of {len(tiles)} images, got {len(captions)}.")
    upscale = default_upscale(tiles.shape[1:3]) if upscale is None else upscale
    columns = math.ceil(math.sqrt(len(tiles))) if columns is None else columns
    if min(columns, upscale) < 1 or padding < 0:
        raise ValueError(
            f"image_grid needs columns, upscale >= 1 and padding >= 0, got {columns=}, {upscale=}, {padding=}."
        )
    tiles = tiles.repeat(upscale, axis=1).repeat(upscale, axis=2)
    if captions is not None:
        tiles = with_captions(tiles, captions, background)
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    height, width = tiles.shape[1] + padding, tiles.shape[2] + padding
    grid = np.full((rows * height + padding, columns * width + padding, 3), background, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = padding + i // columns * height, padding + i % columns * width
        grid[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    if title:
        grid = np.concatenate([text_band(title, grid.shape[1], HEADING, background, left=padding), grid])
    return grid


def default_upscale(shape: tuple[int, ...]) -> int:
    """The smallest whole factor that makes the shorter side at least 64 pixels."""
    return max(1, math.ceil(LARGE_ENOUGH / min(shape)))


def render_tiles(images: Any) -> UInt8[np.ndarray, "n height width 3"]:
    """Images [n, h, w, c] with 1, 2 or 3 channels, or signals [n, l, c], as RGB tiles.

    Grey is repeated. Two channels (a, b) become (red, green, blue) = (a, (a + b)/2, b), which is
    grey where a = b.

    Raises: ValueError for another shape, another number of channels, or no images at all.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(
            f"image_grid needs at least one image, as [n, h, w, c] or [n, l, c], got shape {images.shape}; "
            "add the channel axis with images[..., None], and use density_plot for points [n, 2]."
        )
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 127.5 - 1
    if images.ndim == 3:
        return draw_signals(images)
    if images.shape[-1] not in (1, 2, 3):
        raise ValueError(
            f"image_grid needs 1, 2 or 3 channels in the last axis, got shape {images.shape}; choose channels to show."
        )
    return to_rgb(images)


def to_rgb(images: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
    """The image with three channels of 8 bits. Non-finite pixels are magenta."""
    bad = ~np.isfinite(images).all(axis=-1)
    rgb = to_uint8(np.where(bad[..., None], np.float32(0), images.astype(np.float32)))
    if rgb.shape[-1] == 1:
        rgb = rgb.repeat(3, axis=-1)
    elif rgb.shape[-1] == 2:
        mean = np.rint(rgb.astype(np.float32).mean(axis=-1)).astype(np.uint8)
        rgb = np.stack([rgb[..., 0], mean, rgb[..., 1]], axis=-1)
    rgb[bad] = NON_FINITE_COLOR
    return rgb


def draw_signals(signals: np.ndarray) -> UInt8[np.ndarray, "n height width 3"]:
    """Draws signals [n, l, c] as one line per channel over the range [−1, 1], with a thin line at zero."""
    from PIL import Image, ImageDraw

    smooth = 4  # drawn larger and then reduced, because Pillow's lines are not anti-aliased
    height, width = LARGE_ENOUGH, max(2 * LARGE_ENOUGH, min(signals.shape[1], 8 * LARGE_ENOUGH))
    x = np.linspace(2, width - 3, signals.shape[1]) * smooth
    tiles = []
    for signal in signals:
        bad = not np.isfinite(signal).all()
        tile = Image.new("RGB", (width * smooth, height * smooth), (246, 247, 249))
        draw = ImageDraw.Draw(tile)
        draw.line([(0, height * smooth / 2), (width * smooth, height * smooth / 2)], fill=(213, 217, 224), width=smooth)
        y = (height / 2 - np.clip(np.nan_to_num(signal), -1, 1) * (height / 2 - 3)) * smooth
        for channel in range(signal.shape[-1]):
            color = NON_FINITE_COLOR if bad else LINE_COLORS[channel % len(LINE_COLORS)]
            points = np.stack([x, y[:, channel]], axis=-1).ravel().tolist()
            draw.line(points, fill=color, width=int(1.5 * smooth), joint="curve")
        tiles.append(np.asarray(tile.resize((width, height), Image.Resampling.BOX)))
    return np.stack(tiles)


def save_image(path: str | os.PathLike[str], image_u8: np.ndarray) -> Path:
    """Writes an array [h, w] or [h, w, 3] of 0…255. The ending of the name chooses the format.

    Makes missing folders.
    """
    from PIL import Image

    if image_u8.dtype != np.uint8 or image_u8.ndim not in (2, 3):
        raise ValueError(
            f"save_image needs a uint8 array [h, w] or [h, w, 3], got {image_u8.dtype} of shape {image_u8.shape}; "
            "call image_grid or to_uint8 first."
        )
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"save_image needs a name that ends in .png, .webp or .jpg, got {path.name!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_u8).save(path, optimize=True)
    return path
