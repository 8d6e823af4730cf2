"""DiT as diffusers has it (`DiTTransformer2DModel`): each block embeds the noise level and the class by itself.

Source: the package diffusers, 0.42.
"""

from collections.abc import Mapping
from typing import Any

from score_sde.importing.dit import mlp_ratio, noise_embedding
from score_sde.importing.tensors import Published, Tensors


def diffusers_dit(tensors: Mapping[str, Any], *, num_heads: int, what: str = "A DiTTransformer2DModel") -> Published:
    """The network and parameters for the tensors of a DiTTransformer2DModel.

    Args:
      tensors: name -> array.
      num_heads: num_attention_heads of its config.json.
      what: what the tensors are of, for messages.
    Raises: ValueError for a missing, unknown or wrong tensor.
    """
    t = Tensors(tensors, what)
    width, channels, patch_size = (t.size("pos_embed.proj.weight", axis) for axis in (0, 1, 2))
    outputs = t.size("proj_out_2.weight", 0) // patch_size**2
    rows = t.size("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", 0)
    depth = t.count("transformer_blocks.", ".norm1.linear.weight")
    hidden = t.size("transformer_blocks.0.ff.net.2.weight", 1)
    network = {
        "name": "dit", "patch_size": patch_size, "width": width, "depth": depth, "num_heads": num_heads,
        "mlp_ratio": mlp_ratio(hidden, width, "gelu"), "mlp_epsilon": 1e-5, "reaches_end": True, "own_embeddings": True,
        "num_classes": rows - 1, "learn_sigma": outputs == 2 * channels,
        "out_channels": None if outputs == 2 * channels else outputs,
    }  # fmt: skip
    params: dict[str, Any] = {
        "patch": t.patches("pos_embed.proj", channels, patch_size, width),
        "output": {
            "modulation": t.linear("proj_out_1", width, 2 * width),
            "linear": t.linear("proj_out_2", width, patch_size**2 * outputs),
        },
    }
    for i in range(depth):
        peer, emb = f"transformer_blocks.{i}.", f"transformer_blocks.{i}.norm1.emb."
        params[f"block_{i}_embedding"] = noise_embedding(
            t, f"{emb}timestep_embedder.", width, ("linear_1", "linear_2")
        ) | {"label": t.take(f"{emb}class_embedder.embedding_table.weight", rows, width)}
        names = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
        params[f"block_{i}"] = {
            "modulation": t.linear(f"{peer}norm1.linear", width, 6 * width),
            "attention": {ours: t.linear(f"{peer}attn1.{theirs}", width, width) for ours, theirs in names.items()},
            "mlp": {
                "in": t.linear(f"{peer}ff.net.0.proj", width, hidden),
                "out": t.linear(f"{peer}ff.net.2", hidden, width),
            },
        }
    t.finish()
    return Published(network, params)
