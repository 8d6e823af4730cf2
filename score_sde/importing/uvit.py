"""U-ViT, with classes, with the tokens of a text, or without conditions.

Source: the repository baofff/U-ViT.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from score_sde.importing.dit import feedforward, mlp_ratio
from score_sde.importing.tensors import Published, Tensors

HEADS = {512: 8, 768: 12, 1024: 16, 1152: 16}  # width -> heads of the published sizes S, M, L and H
TEXT = "text"  # the name of the condition that holds the tokens of a text


def uvit(tensors: Mapping[str, Any], *, num_heads: int | None = None, what: str = "A U-ViT") -> Published:
    """The network and parameters for the tensors of a U-ViT.

    The linear map of text tokens has a bias. It is added to the positions of those tokens, because
    our map has none.

    Args:
      tensors: name -> array.
      num_heads: None takes the number of the published size with this width.
      what: what the tensors are of, for messages.
    Raises: ValueError for a missing, unknown or wrong tensor, or for an unknown number of heads.
    """
    t = Tensors(tensors, what)
    width, channels, patch_size = (t.size("patch_embed.proj.weight", axis) for axis in (0, 1, 2))
    if num_heads is None and width not in HEADS:
        raise ValueError(
            f"{what} has the width {width}, which no published size has ({', '.join(map(str, HEADS))}); give num_heads."
        )
    half, hidden = t.count("in_blocks.", ".norm1.weight"), t.size("mid_block.mlp.fc1.weight", 0)
    outputs = t.size("decoder_pred.weight", 0) // patch_size**2
    rows = t.size("label_emb.weight", 0) if "label_emb.weight" in t else 0
    network: dict[str, Any] = {
        "name": "uvit", "patch_size": patch_size, "width": width, "depth": 2 * half + 1,
        "num_heads": HEADS[width] if num_heads is None else num_heads, "mlp_ratio": mlp_ratio(hidden, width, "gelu"),
        "qkv_bias": "mid_block.attn.qkv.bias" in t, "noise_mlp": "time_embed.0.weight" in t,
        "final_conv": "final_layer.weight" in t, "null_token": False, "num_classes": max(rows - 1, 0),
        "conditions": {TEXT: "tokens"} if "context_embed.weight" in t else None,
        "out_channels": None if outputs == channels else outputs,
    }  # fmt: skip
    params = _outside(t, network, channels, outputs, rows)
    names = [*(f"in_blocks.{i}" for i in range(half)), "mid_block", *(f"out_blocks.{i}" for i in range(half))]
    for i, name in enumerate(names):
        params[f"block_{i}"] = _block(t, f"{name}.", width, bias=network["qkv_bias"], has_skip=i > half)
    t.finish()
    return Published(network, params)


def _outside(t: Tensors, network: Mapping[str, Any], channels: int, outputs: int, rows: int) -> dict[str, Any]:
    """The parameters outside of the blocks."""
    width, p = network["width"], network["patch_size"]
    positions, conditions = t.take("pos_embed", 1, t.size("pos_embed", 1), width), {}
    if rows:
        conditions["label"] = t.take("label_emb.weight", rows, width)
    if network["conditions"]:
        text = t.linear("context_embed", t.size("context_embed.weight", 1), width)
        conditions[TEXT] = {"kernel": text["kernel"]}
        # The tokens are the noise level, the text, and the patches of a square.
        patches = max(n**2 for n in range(positions.shape[1]) if n**2 < positions.shape[1] - 1)
        of_text = slice(1, positions.shape[1] - patches)
        positions = jnp.asarray(positions).at[:, of_text].add(text["bias"][None, None])
    params = {
        "patch": t.patches("patch_embed.proj", channels, p, width),
        "positions": positions,
        "output_norm": t.norm("norm", width, bias=True),
        "output": t.linear("decoder_pred", width, p**2 * outputs),
    }
    params |= {"conditions": conditions} if conditions else {}
    if network["noise_mlp"]:
        params["noise_0"] = t.linear("time_embed.0", width, 4 * width)
        params["noise_1"] = t.linear("time_embed.2", 4 * width, width)
    if network["final_conv"]:
        kernel = t.take("final_layer.weight", outputs, outputs, 3, 3).transpose(2, 3, 1, 0)
        params["final_conv"] = {"kernel": kernel, "bias": t.take("final_layer.bias", outputs)}
    return params


def _block(t: Tensors, peer: str, width: int, *, bias: bool, has_skip: bool) -> dict[str, Any]:
    block = {
        "norm_0": t.norm(f"{peer}norm1", width, bias=True),
        "attention": t.qkv(f"{peer}attn.qkv", width, bias=bias) | {"out": t.linear(f"{peer}attn.proj", width, width)},
        "norm_1": t.norm(f"{peer}norm2", width, bias=True),
        "mlp": feedforward(t, f"{peer}mlp.", width, gated=False),
    }
    return block | ({"skip": t.linear(f"{peer}skip_linear", 2 * width, width)} if has_skip else {})
