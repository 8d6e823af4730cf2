"""The weights of DINOv2 without registers, from the public files, under the names of the original release.

`score-sde import_dinov2` fetches ViT-L/14's weights from Hugging Face, checks their digest and
writes them as .npz. `--file` converts a file on this machine, of any size: model.safetensors of
facebook/dinov2-small, -base, -large or -giant, or dinov2_vitl14_pretrain.pth and similar files of
the release. Both files of the same weights give the same tensors.
"""

import math
import os
import pathlib
import tempfile

import numpy as np

from score_sde.importers.safetensors import read_safetensors
from score_sde.importers.torch_archive import is_torch_file, read_torch_archive
from score_sde.importers.weight_files import (
    check_digest,
    download,
    file_digest,
    read_weights,
    weights_path,
    write_weights,
)
from score_sde.internal.guarded import listed, open_file, reading

MODEL = "facebook/dinov2-large/resolve/main/model.safetensors"
SHA256 = "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23"  # from the file's page on huggingface.co
PATCH = 14

_NAMES = (  # parts of Hugging Face's names, and the release's names for them
    ("embeddings.cls_token", "cls_token"), ("embeddings.mask_token", "mask_token"), ("layernorm.", "norm."),
    ("embeddings.position_embeddings", "pos_embed"), ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("encoder.layer.", "blocks."), ("attention.attention.", "attn."), ("attention.output.dense.", "attn.proj."),
    ("layer_scale1.lambda1", "ls1.gamma"), ("layer_scale2.lambda1", "ls2.gamma"), ("mlp.weights_in.", "mlp.w12."),
    ("mlp.weights_out.", "mlp.w3."),
)  # fmt: skip
_PARTS = ("query", "key", "value")


def dinov2_path() -> pathlib.Path:
    """The path of the converted weights: $SCORE_SDE_DINOV2, or ~/.cache/score_sde/dinov2-vitl14.npz."""
    return weights_path("SCORE_SDE_DINOV2", "dinov2-vitl14.npz")


def import_dinov2(file: str | pathlib.Path | None = None, output: str | pathlib.Path | None = None) -> pathlib.Path:
    """Converts `file` to `output`.

    `file` = None fetches ViT-L/14's weights and checks their digest. `output` = None is
    dinov2_path().

    Raises: ValueError for a file that is not this network, or a digest that differs. OSError where
      the weights cannot be fetched.
    """
    path = pathlib.Path(output) if output else dinov2_path()
    if file is not None:
        return write_weights(path, release_names(_read(pathlib.Path(file)), str(file)))
    with tempfile.TemporaryDirectory() as folder:
        # The variable may name a mirror, as in Hugging Face's own tools.
        host = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        fetched = download(f"{host.rstrip('/')}/{MODEL}", pathlib.Path(folder))
        check_digest(file_digest(fetched), SHA256, MODEL)
        return write_weights(path, release_names(_read(fetched), str(fetched)))


def load_dinov2(path: str | pathlib.Path | None = None) -> dict[str, np.ndarray]:
    """The converted weights: "blocks.0.attn.qkv.weight" -> [3 d, d], and so on, in float32.

    Raises: FileNotFoundError where they were never imported. ValueError for a file of another
      network.
    """
    command = "`score-sde import_dinov2`, once (1.2 GB)"
    path = pathlib.Path(path) if path else dinov2_path()
    return release_names(read_weights(path, "DINOv2", command), str(path))


def release_names(tensors: dict[str, np.ndarray], where: str = "This") -> dict[str, np.ndarray]:
    """The tensors that the features of an image need, under the names of the release, in float32.

    Args:
      where: the file, for messages.
    Raises: ValueError for another network, or one with registers.
    """
    if any("register_tokens" in name for name in tensors):
        raise ValueError(
            f"{where} is a DINOv2 that has registers, and FD_DINOv2 is of the one without: get facebook/dinov2-large."
        )
    named = {_release_name(name): value for name, value in tensors.items()}
    named.pop("mask_token", None)  # only its training uses it
    try:
        named = _joined(named)
        expected = _shapes(named)
    except (KeyError, IndexError, ValueError):  # ValueError: queries and keys that cannot be concatenated
        expected = {}
    wrong = sorted(name for name in {*named, *expected} if name not in named or named[name].shape != expected.get(name))
    if wrong or not expected:
        raise ValueError(
            f"{where} is not a DINOv2 with patches of {PATCH}×{PATCH}: among {len(tensors)} tensors {listed(wrong)} … are "
            "missing, unknown or of another shape. Get facebook/dinov2-large's model.safetensors, or the release's "
            "dinov2_vitl14_pretrain.pth."
        )
    return {name: np.asarray(value, np.float32) for name, value in named.items()}


def _release_name(name: str) -> str:
    for theirs, released in _NAMES:
        name = name.replace(theirs, released)
    return name


def _joined(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Query, key and value in one tensor, as in the release."""
    joined = {name: value for name, value in named.items() if not any(f".attn.{part}." in name for part in _PARTS)}
    for name in named:
        if ".attn.query." in name:
            joined[name.replace("query", "qkv")] = np.concatenate([named[name.replace("query", p)] for p in _PARTS])
    return joined


def _shapes(named: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, for a DINOv2 with the width, depth and number of positions of these tensors.

    Raises: KeyError or IndexError where these sizes cannot be found.
    """
    width, positions = named["cls_token"].shape[-1], named["pos_embed"].shape[1]
    gated = "blocks.0.mlp.w3.weight" in named
    first, last = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    inner = named[f"blocks.0.{last}.weight"].shape[1]
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), last: (width, inner)}
    linear[first] = (2 * inner if gated else inner, width)
    block: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linear.items()}
    block |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    vectors = ("norm1.weight", "norm1.bias", "ls1.gamma", "norm2.weight", "norm2.bias", "ls2.gamma")
    block |= dict.fromkeys(vectors, (width,))
    depth = sum(name.endswith(".norm1.weight") for name in named)
    return {f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()} | {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + math.isqrt(max(positions - 1, 0)) ** 2, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of either kind of file."""
    with reading(path, "weights", "give another file"), open_file(path) as file:
        is_torch = is_torch_file(file.read(15))
    return read_torch_archive(path) if is_torch else read_safetensors(path)
