"""DiT, and its relatives with the same names of tensors: SiT, REPA's SiT, LightningDiT.

Source: the repositories facebookresearch/DiT and willisma/SiT.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from score_sde.importing.tensors import Published, Tensors, with_null_row
from score_sde.networks.positions import sincos_positions
from score_sde.networks.transformer import hidden_features

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # width -> heads of the published sizes S, B, L and XL
TRAINING_ONLY = "projectors."  # REPA's map to features of another network, which only its training uses


def dit(
    tensors: Mapping[str, Any],
    *,
    num_heads: int | None = None,
    has_null: bool = True,
    rope: bool = False,
    keep_positions: bool = False,
    what: str = "A DiT",
) -> Published:
    """The network and parameters for the tensors of a DiT or SiT.

    Args:
      tensors: name -> array.
      num_heads: None takes the number of the published size with this width.
      has_null: whether the last class of the table is the null class. Only a network trained
        without dropping labels has none.
      rope: whether queries and keys are turned by their positions. The tensors do not show it.
      keep_positions: whether the table of positions is a parameter even if it is the usual one.
      what: what the tensors are of, for messages.
    Raises: ValueError for a missing, unknown or wrong tensor, or for an unknown number of heads.
    """
    t = Tensors({name: value for name, value in tensors.items() if not name.startswith(TRAINING_ONLY)}, what)
    width, channels, patch_size = (t.size("x_embedder.proj.weight", axis) for axis in (0, 1, 2))
    heads = known_heads(width, num_heads, what)
    outputs = t.size("final_layer.linear.weight", 0) // patch_size**2
    rows = t.size("y_embedder.embedding_table.weight", 0)
    depth, features = t.count("blocks.", ".attn.qkv.weight"), block_features(t)
    network = {
        "name": "dit", "patch_size": patch_size, "width": width, "depth": depth, "num_heads": heads, "rope": rope,
        "num_classes": rows - has_null, "learn_sigma": outputs == 2 * channels,
        "out_channels": None if outputs == 2 * channels else outputs,
        "mlp_ratio": mlp_ratio(features.pop("hidden"), width, features["mlp"]), **features,
    }  # fmt: skip
    params = {
        "patch": t.patches("x_embedder.proj", channels, patch_size, width),
        "embedding": noise_embedding(t, "t_embedder.mlp.", width)
        | {"label": with_null_row(t.take("y_embedder.embedding_table.weight", rows, width), has_null=has_null)},
        "output": adaln_output(t, width, patch_size**2 * outputs, rms=features["norm"] == "rms"),
    }
    params |= {f"block_{i}": adaln_block(t, f"blocks.{i}.", width, width // heads, features) for i in range(depth)}
    positions = t.take("pos_embed", 1, t.size("pos_embed", 1), width)
    usual = not keep_positions and is_sincos(positions)
    network["positions"] = "sincos" if usual else "learned"
    t.finish()
    return Published(network, params if usual else params | {"positions": positions})


def known_heads(width: int, num_heads: int | None, what: str) -> int:
    """`num_heads`, or the number of heads of the published size with this width.

    Raises: ValueError for a width that no published size has.
    """
    if num_heads is None and width not in HEADS:
        raise ValueError(
            f"{what} has the width {width}, which no published size has ({', '.join(map(str, HEADS))}); give num_heads."
        )
    return HEADS[width] if num_heads is None else num_heads


def block_features(t: Tensors) -> dict[str, Any]:
    """What the tensors show of the blocks: the fields mlp, norm and qk_norm, and the number of hidden features."""
    gated = "blocks.0.mlp.w12.weight" in t
    last = "blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"
    qk_norm = "none"
    if "blocks.0.attn.q_norm.weight" in t:
        qk_norm = "layer" if "blocks.0.attn.q_norm.bias" in t else "rms"
    return {
        "mlp": "swiglu" if gated else "gelu",
        "norm": "rms" if "blocks.0.norm1.weight" in t else "layer",
        "qk_norm": qk_norm,
        "hidden": t.size(last, 1),
    }


def mlp_ratio(hidden: int, width: int, mlp: str) -> float:
    """A ratio with which an MLP has `hidden` features: a whole number where there is one."""
    ratio = hidden / width * (1.5 if mlp == "swiglu" else 1.0)
    candidates = (float(round(ratio)), ratio, ratio + 1 / width)
    return next(r for r in candidates if hidden_features(width, r, mlp) == hidden)


def adaln_block(t: Tensors, peer: str, width: int, d: int, features: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one `AdaLNBlock`, whose heads have d features."""
    attention = t.qkv(f"{peer}attn.qkv", width) | {"out": t.linear(f"{peer}attn.proj", width, width)}
    if features["qk_norm"] != "none":
        bias = features["qk_norm"] == "layer"
        attention["query_norm"] = t.norm(f"{peer}attn.q_norm", d, bias=bias)
        attention["key_norm"] = t.norm(f"{peer}attn.k_norm", d, bias=bias)
    block = {
        "attention": attention,
        "mlp": feedforward(t, f"{peer}mlp.", width, gated=features["mlp"] == "swiglu"),
        "modulation": t.linear(f"{peer}adaLN_modulation.1", width, 6 * width),
    }
    if features["norm"] == "rms":
        block |= {f"norm_{i}": t.norm(f"{peer}norm{i + 1}", width, bias=False) for i in (0, 1)}
    return block


def feedforward(t: Tensors, peer: str, width: int, *, gated: bool) -> dict[str, Any]:
    """The parameters of one `Feedforward`."""
    if not gated:
        hidden = t.size(f"{peer}fc1.weight", 0)
        return {"in": t.linear(f"{peer}fc1", width, hidden), "out": t.linear(f"{peer}fc2", hidden, width)}
    hidden = t.size(f"{peer}w3.weight", 1)
    both = t.linear(f"{peer}w12", width, 2 * hidden)
    gate, inside = ({end: array[..., part] for end, array in both.items()} for part in _halves(hidden))
    return {"gate": gate, "in": inside, "out": t.linear(f"{peer}w3", hidden, width)}


def _halves(size: int) -> tuple[slice, slice]:
    return slice(0, size), slice(size, 2 * size)


def noise_embedding(t: Tensors, peer: str, width: int, names: tuple[str, str] = ("0", "2")) -> dict[str, Any]:
    """The two linear maps of the noise features."""
    first, second = names
    features = t.size(f"{peer}{first}.weight", 1)
    return {"dense_0": t.linear(peer + first, features, width), "dense_1": t.linear(peer + second, width, width)}


def adaln_output(t: Tensors, width: int, features: int, *, rms: bool) -> dict[str, Any]:
    """The parameters of `AdaLNOutput`."""
    output = {
        "modulation": t.linear("final_layer.adaLN_modulation.1", width, 2 * width),
        "linear": t.linear("final_layer.linear", width, features),
    }
    return output | ({"norm": t.norm("final_layer.norm_final", width, bias=False)} if rms else {})


def is_sincos(positions: Any) -> bool:
    """Whether [1, tokens, width] is the fixed table for a square of tokens, up to rounding."""
    _, tokens, width = positions.shape
    side = round(tokens**0.5)
    return (
        side**2 == tokens
        and width % 4 == 0
        and np.allclose(positions[0], sincos_positions((side, side), width), atol=1e-4)
    )
