"""The weights of LPIPS with VGG16, from two public files: torchvision's network and the learned weights.

`score-sde import_lpips` fetches both files, checks their digests and writes the part that LPIPS
uses (59 MB) as .npz.
"""

import pathlib
import tempfile

import numpy as np

from score_sde.importers.torch_archive import read_torch_archive
from score_sde.importers.weight_files import (
    check_digest,
    download,
    file_digest,
    read_weights,
    weights_path,
    write_weights,
)

VGG16 = "https://download.pytorch.org/models/vgg16-397923af.pth"
VGG16_SHA256 = (
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"  # the file's name contains the first digits
)
LINEAR = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth"
LINEAR_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"  # also in the package lpips 0.1.4

_CHANNELS = {
    0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512
}  # fmt: skip
_LINEAR = (64, 128, 256, 512, 512)


def lpips_path() -> pathlib.Path:
    """The path of the converted weights: $SCORE_SDE_LPIPS, or ~/.cache/score_sde/lpips-vgg16.npz."""
    return weights_path("SCORE_SDE_LPIPS", "lpips-vgg16.npz")


def import_lpips(
    vgg16: str | pathlib.Path | None = None,
    linear: str | pathlib.Path | None = None,
    output: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Converts the two files to `output`.

    A file that is None is fetched, and its digest is checked. `output` = None is lpips_path().

    Raises: ValueError for files that are not these weights, or a digest that differs. OSError where
      a file cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [
            _fetched(url, digest, pathlib.Path(folder)) if file is None else pathlib.Path(file)
            for file, url, digest in ((vgg16, VGG16, VGG16_SHA256), (linear, LINEAR, LINEAR_SHA256))
        ]
        tensors = used_tensors(
            read_torch_archive(files[0]) | read_torch_archive(files[1]), f"{files[0]} with {files[1]}"
        )
    return write_weights(pathlib.Path(output) if output else lpips_path(), tensors)


def load_lpips(path: str | pathlib.Path | None = None) -> dict[str, np.ndarray]:
    """The converted weights: "features.0.weight" [64, 3, 3, 3] … "lin4" [512], in float32.

    Raises: FileNotFoundError where they were never imported. ValueError for another file.
    """
    command = "`score-sde import_lpips`, once (a download of 528 MB)"
    path = pathlib.Path(path) if path else lpips_path()
    return used_tensors(read_weights(path, "LPIPS", command), str(path))


def used_tensors(tensors: dict[str, np.ndarray], where: str = "This") -> dict[str, np.ndarray]:
    """The tensors that LPIPS needs from both files, without VGG16's classifier, in float32.

    Args:
      where: the files, for messages.
    Raises: ValueError where a tensor is missing, has another shape, or a learned weight is
      negative.
    """
    named = {name.replace(".model.1.weight", ""): value for name, value in tensors.items()}
    named |= {name: named[name].reshape(-1) for name in map("lin{}".format, range(len(_LINEAR))) if name in named}
    shapes: dict[str, tuple[int, ...]] = {f"lin{i}": (channels,) for i, channels in enumerate(_LINEAR)}
    seen = 3
    for number, channels in _CHANNELS.items():
        shapes[f"features.{number}.weight"] = (channels, seen, 3, 3)
        shapes[f"features.{number}.bias"] = (channels,)
        seen = channels
    wrong = [name for name, shape in shapes.items() if name not in named or named[name].shape != shape]
    wrong += [name for name in shapes if name.startswith("lin") and name not in wrong and named[name].min() < 0]
    if wrong:
        raise ValueError(
            f"{where} does not hold the weights of LPIPS with VGG16: {wrong[:3]} … are missing, of another shape, or "
            f"negative. Get {VGG16} and {LINEAR}."
        )
    return {name: np.asarray(named[name], np.float32) for name in shapes}


def _fetched(url: str, digest: str, folder: pathlib.Path) -> pathlib.Path:
    path = download(url, folder)
    check_digest(file_digest(path), digest, url)
    return path
