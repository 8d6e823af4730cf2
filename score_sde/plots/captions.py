"""Text in pictures: a caption below each tile, and a heading above a grid. It needs Pillow, not matplotlib."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

INK = (31, 41, 51)
SMALL, HEADING = 12, 15  # the heights of the letters, in pixels
MORE = "…"


def with_captions(
    tiles: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str], background: int
) -> UInt8[np.ndarray, "n h_and_text w 3"]:
    """The tiles with a line of text below each, shortened to the tile's width."""
    width = tiles.shape[2]
    size = max(SMALL, min(width // 9, 2 * SMALL))
    bands = np.stack([text_band(text, width, size, background, centred=True) for text in captions])
    return np.concatenate([tiles, bands], axis=1)


def text_band(
    text: str, width: int, size: int, background: int, centred: bool = False, left: int = 0
) -> UInt8[np.ndarray, "h width 3"]:
    """One line of text on a band of the given width, shortened where it does not fit."""
    from PIL import Image, ImageDraw

    band = Image.new("RGB", (width, round(1.5 * size)), (background,) * 3)
    draw, font = ImageDraw.Draw(band), _font(size)
    shown = shortened(text, lambda part: draw.textlength(part, font=font) <= width - left)
    place = (width / 2, band.height / 2) if centred else (left, band.height / 2)
    ink = INK if background > 127 else tuple(255 - level for level in INK)
    draw.text(place, shown, fill=ink, font=font, anchor="mm" if centred else "lm")
    return np.asarray(band)


def shortened(text: str, fits: Any) -> str:
    """The text, or its start with an ellipsis, or "" where nothing fits."""
    text = " ".join(text.split())
    if fits(text):
        return text
    for length in range(len(text) - 1, 0, -1):
        if fits(text[:length].rstrip() + MORE):
            return text[:length].rstrip() + MORE
    return ""


@functools.cache
def _font(size: int) -> Any:
    """DejaVu Sans from matplotlib's files, without importing matplotlib. Pillow's own font has only Latin letters."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    path = Path(str(found.origin)).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf" if found else None
    return ImageFont.truetype(str(path), size) if path and path.is_file() else ImageFont.load_default(size)
