"""Animations as GIF, animated PNG or WebP."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = (".gif", ".png", ".webp")
GREYS = 64


def animation(
    frames: Sequence[np.ndarray] | np.ndarray,
    path: str | os.PathLike[str],
    frames_per_second: float | int = 15,
    hold_seconds: float | int = 2,
) -> Path:
    """Writes frames [h, w, 3] of 0…255 as an endless GIF, animated PNG or WebP.

    image_grid makes such frames. All frames of a GIF share one palette of 64 greys, or of 256
    colours by median cut. There is no dithering, because it would flicker. PNG and WebP are
    lossless and smaller: 48 frames of 36 noisy digits take 0.9 MB as .gif, 0.24 MB as .png and 0.13
    MB as .webp. Every browser shows all three.

    Args:
      frames: frames of one size, in the order in which they are shown.
      path: the file. Its ending chooses the format: .gif, .png or .webp.
      frames_per_second: at most 50, because browsers slow down a faster GIF.
      hold_seconds: how long the last frame is shown, before the animation starts again.
    """
    path = Path(path)
    frames = check_frames(frames, path, frames_per_second)
    duration = [max(20, 10 * round(100 / frames_per_second))] * (len(frames) - 1) + [
        max(20, round(1000 * hold_seconds))
    ]
    options: dict[str, Any] = {"save_all": True, "duration": duration, "loop": 0}
    if path.suffix.lower() == ".gif":
        images = with_shared_palette(frames)
        options |= {"optimize": True, "disposal": 1}
    else:
        images = [to_pillow(frame) for frame in frames]
        options |= {"lossless": True, "method": 4} if path.suffix.lower() == ".webp" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, append_images=images[1:], **options)
    return path


def check_frames(frames: Any, path: Path, frames_per_second: float | int) -> list[np.ndarray]:
    """The frames as a list.

    Raises: ValueError for frames that cannot be shown.
    """
    frames = list(frames)
    shapes = {(frame.shape, str(frame.dtype)) for frame in frames}
    if len(shapes) != 1 or (first := frames[0]).dtype != np.uint8 or first.ndim != 3 or first.shape[-1] != 3:
        found = ", ".join(f"{dtype} {shape}" for shape, dtype in sorted(shapes)) or "no frames"
        raise ValueError(f"animation needs uint8 frames [h, w, 3] of one size, got {found}; make each with image_grid.")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"animation needs a name that ends in {', '.join(FORMATS)}, got {path.name!r}.")
    if not 0 < frames_per_second <= 50:
        raise ValueError(f"animation needs 0 < frames_per_second <= 50, got {frames_per_second}.")
    return frames


def to_pillow(frame: np.ndarray) -> Any:
    """A Pillow image, with one channel if the frame is grey."""
    from PIL import Image

    grey = (frame == frame[..., :1]).all()
    return Image.fromarray(np.ascontiguousarray(frame[..., 0]) if grey else frame)


def with_shared_palette(frames: list[np.ndarray]) -> list[Any]:
    """Palette images. The colours are taken from up to 16 frames, spread over the animation."""
    from PIL import Image

    if all((frame == frame[..., :1]).all() for frame in frames):
        return [grey_palette_image(frame[..., 0]) for frame in frames]
    chosen = np.unique(np.linspace(0, len(frames) - 1, 16).round().astype(int))
    mosaic = Image.fromarray(np.concatenate([frames[i] for i in chosen]))
    palette = mosaic.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def grey_palette_image(grey: np.ndarray) -> Any:
    """0…255 rounded to the nearest of 64 greys, black and white included. This takes a third less space."""
    from PIL import Image

    top = GREYS - 1
    index = np.rint(grey.astype(np.float32) * (top / 255)).astype(np.uint8)
    image = Image.frombytes("P", index.shape[::-1], index.tobytes())
    image.putpalette([round(255 * level / top) for level in range(GREYS) for _ in range(3)])
    return image
