"""JiT, the transformer on pixels.

Source: the repository LTH14/JiT.
"""

from collections.abc import Mapping
from typing import Any

from score_sde.importing.dit import (
    adaln_block,
    adaln_output,
    block_features,
    is_sincos,
    mlp_ratio,
    noise_embedding,
)
from score_sde.importing.tensors import Published, Tensors

HEADS = {768: 12, 1024: 16, 1280: 16, 1664: 16}  # width -> heads of the published sizes B, L, H and G
CONTEXT_START = {768: 4, 1024: 8, 1280: 10, 1664: 10}


def jit(
    tensors: Mapping[str, Any],
    *,
    num_heads: int | None = None,
    context_start: int | None = None,
    what: str = "A JiT",
) -> Published:
    """The network and parameters for the tensors of a JiT.

    Args:
      tensors: name -> array.
      num_heads: None takes the number of the published size with this width.
      context_start: the first block with class tokens. None is as for num_heads.
      what: what the tensors are of, for messages.
    Raises: ValueError for a missing, unknown or wrong tensor, or an unknown width without the two
      numbers.
    """
    t = Tensors(tensors, what)
    bottleneck, channels, patch_size = (t.size("x_embedder.proj1.weight", axis) for axis in (0, 1, 2))
    width, rows = t.size("x_embedder.proj2.weight", 0), t.size("y_embedder.embedding_table.weight", 0)
    if width not in HEADS and None in (num_heads, context_start):
        raise ValueError(
            f"{what} has the width {width}, which no published size has ({', '.join(map(str, HEADS))}); give num_heads "
            "and context_start."
        )
    heads = HEADS[width] if num_heads is None else num_heads
    start = CONTEXT_START[width] if context_start is None else context_start
    depth, features = t.count("blocks.", ".attn.qkv.weight"), block_features(t)
    outputs = t.size("final_layer.linear.weight", 0) // patch_size**2
    length = t.size("in_context_posemb", 1) if "in_context_posemb" in t else 0
    network = {
        "name": "jit", "patch_size": patch_size, "width": width, "depth": depth, "num_heads": heads,
        "mlp_ratio": mlp_ratio(features["hidden"], width, "swiglu"), "bottleneck": bottleneck, "context_length": length,
        "context_start": start, "num_classes": rows - 1, "out_channels": None if outputs == channels else outputs,
    }  # fmt: skip
    token = t.take("x_embedder.proj2.weight", width, bottleneck, 1, 1)
    params = {
        "patch": t.patches("x_embedder.proj1", channels, patch_size, bottleneck, bias=False),
        "token": {"kernel": token[:, :, 0, 0].T, "bias": t.take("x_embedder.proj2.bias", width)},
        "embedding": noise_embedding(t, "t_embedder.mlp.", width)
        | {"label": t.take("y_embedder.embedding_table.weight", rows, width)},
        "output": adaln_output(t, width, patch_size**2 * outputs, rms=True),
    }
    fixed = {"mlp": "swiglu", "norm": "rms", "qk_norm": "rms"}
    params |= {f"block_{i}": adaln_block(t, f"blocks.{i}.", width, width // heads, fixed) for i in range(depth)}
    if length:
        params["context"] = t.take("in_context_posemb", 1, length, width)
    positions = t.take("pos_embed", 1, t.size("pos_embed", 1), width)
    if not is_sincos(positions):
        t.wrong.append("pos_embed is not the fixed table of sines and cosines")
    t.finish()
    return Published(network, params)
