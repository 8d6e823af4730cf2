"""Encoded image files (PNG, JPEG, WebP, …) -> uint8 arrays [h, w, c], read by Pillow."""

import dataclasses
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from score_sde.data.base import SKIP

if TYPE_CHECKING:
    import PIL.Image

_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_MODES = {channels: mode for mode, channels in _CHANNELS.items()}
_CONVERTIBLE = (*_CHANNELS, "CMYK", "YCbCr", "HSV", "RGBX", "RGBa", "La")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDecoder:
    """The pixels 0…255 of one image, upright, cropped to the aspect of `image_size` and resized to it.

    Palettes become their colours, and 1-bit images become 0 and 255. Transparent pixels are laid
    over `background`, unless an alpha channel is asked for. Animations and files of several pages
    give their first picture. 16-bit colour gives its upper 8 bits. Resizing takes the largest
    central window of the right aspect, and Pillow's Lanczos filter. When it shrinks, the filter
    averages over the source pixels. An image that has the size already is not changed.

    Attributes:
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). None takes the channels of the file,
        without alpha.
      convert: whether to convert an image with another number of channels. Otherwise it raises an
        error.
      image_size: (height, width), or None to keep the size of the file.
      background: the colour under transparent pixels: one level 0…255 or three (RGB). With an alpha
        channel, it replaces the invisible colour of wholly transparent pixels.

    Raises: ValueError for an impossible number of channels, size or colour.
    """

    channels: int | None = None
    convert: bool = False
    image_size: tuple[int, int] | None = None
    background: int | Sequence[int] = 255

    def __post_init__(self):
        if self.channels is not None and self.channels not in _MODES:
            raise ValueError(f"Images have 1, 2, 3 or 4 channels, got channels={self.channels}.")
        if self.image_size is not None and min(self.image_size) < 1:
            raise ValueError(f"image_size needs positive sizes, got {self.image_size}.")
        if len(self._colour) != 3 or not all(type(level) is int and 0 <= level <= 255 for level in self._colour):
            raise ValueError(f"background needs one level from 0 to 255, or three (RGB), got {self.background!r}.")

    def __call__(self, file: str | os.PathLike | io.BytesIO, name: str) -> UInt8[np.ndarray, "h w c"]:
        """Decodes a file, given by its path or its bytes. Error messages call the file `name`.

        Raises: ValueError if the file cannot be decoded, or holds another number of channels.
        """
        image = _without_palette(_open(file, name))
        if image.has_transparency_data:
            image = _without_hidden_colours(image, self._colour, self.channels in (2, 4))
        image = _with_channels(image, name, self.channels, self.convert)
        if self.image_size is not None:
            image = _fit(image, *self.image_size)
        pixels = np.array(image)
        return pixels if pixels.ndim == 3 else pixels[..., None]

    @property
    def _colour(self) -> tuple[int, ...]:
        return (self.background,) * 3 if isinstance(self.background, int) else tuple(self.background)


def as_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width). One number means a square.

    Raises: ValueError for anything but (height, width), one size, or None.
    """
    if size is None:
        return None
    sizes = (size, size) if isinstance(size, int) else size
    if not isinstance(sizes, Sequence) or [type(length) for length in sizes] != [int, int]:
        raise ValueError(f"image_size needs (height, width) or one whole number for a square, got {size!r}.")
    return sizes[0], sizes[1]


def _open(file: str | os.PathLike | io.BytesIO, name: str) -> "PIL.Image.Image":
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(file) as opened:
            return PIL.ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, … for a broken file
        raise ValueError(f"Image {name} cannot be read ({error}); repair or remove it, or {SKIP}.") from error


def _without_palette(image: "PIL.Image.Image") -> "PIL.Image.Image":
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert("LA" if image.has_transparency_data else "L") if image.mode == "1" else image


def _without_hidden_colours(
    image: "PIL.Image.Image", background: tuple[int, ...], keep_alpha: bool
) -> "PIL.Image.Image":
    """The image laid over the background. With `keep_alpha`, only where the image is wholly transparent."""
    import PIL.Image

    if image.mode[0] in "IF":  # its depth raises an error later
        return image
    is_grey = image.mode in ("L", "LA", "La")
    seen = image.convert("RGBA")
    under = PIL.Image.new("RGBA", image.size, (*background, 0 if keep_alpha else 255))
    if keep_alpha:
        alpha = seen.getchannel("A")
        under.paste(seen, mask=alpha.point(lambda level: 255 if level else 0))
        return under.convert("LA") if is_grey else under
    over = PIL.Image.alpha_composite(under, seen).convert("RGB")
    return over.convert("L") if is_grey and len(set(background)) == 1 else over


def _with_channels(image: "PIL.Image.Image", name: str, channels: int | None, convert: bool) -> "PIL.Image.Image":
    have = _CHANNELS.get(image.mode)
    if have is not None and channels in (None, have):
        return image
    wanted = "1, 2, 3 or 4 channels of 8 bits" if channels is None else f"{channels} channels of 8 bits"
    if image.mode[0] in "IF":  # 16-bit and float pixels would be clipped at 255, not scaled
        raise ValueError(
            f"Image {name} needs {wanted}, got mode {image.mode}, more than 8 bits a pixel; save it with 8 bits, or all images "
            "as one array (data.train.name=array; levels=65536 for 16 bits)."
        )
    if image.mode not in _CONVERTIBLE:
        raise ValueError(f"Image {name} needs {wanted}, got mode {image.mode}; save it as RGB or grey.")
    if convert:
        return image.convert(_MODES[channels or 3])
    held = f"mode {image.mode}" if have is None else f"{have}"
    raise ValueError(
        f"Image {name} needs {wanted}, got {held}; set convert=True to convert such images, or channels to what all have."
    )


def _fit(image: "PIL.Image.Image", height: int, width: int) -> "PIL.Image.Image":
    import PIL.Image

    if (image.height, image.width) == (height, width):
        return image
    scale = min(image.height / height, image.width / width)
    wide, high = round(width * scale), round(height * scale)
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    window = image.crop(
        (left, top, left + wide, top + high)
    )  # resize(box=…) would let the filter see beyond the window
    return window.resize((width, height), PIL.Image.Resampling.LANCZOS)
