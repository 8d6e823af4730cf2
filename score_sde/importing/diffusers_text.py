"""The names and the config of diffusers' UNet2DConditionModel.

Source: diffusers, models/unets/unet_2d_condition.py and transformers/transformer_2d.py.
"""

from collections.abc import Mapping
from typing import Any

from score_sde.importing.diffusers import LAYERS
from score_sde.importing.mapping import Entry, after, flipped, kernel, linear, norm
from score_sde.networks.unet2d_condition import UNet2DCondition

ATTENTIONS = {"self_attention": "attn1", "cross_attention": "attn2"}
PARTS = {"query": "to_q", "key": "to_k", "value": "to_v"}


def unet2d_condition(net: UNet2DCondition) -> list[Entry]:
    """The table for UNet2DConditionModel."""
    # Theirs has the cosines before the sines, and ours has the sines first.
    table = [Entry("noise_0/kernel", ("time_embedding.linear_1.weight",), after(kernel, flipped))]
    table += [Entry("noise_0/bias", ("time_embedding.linear_1.bias",)), *linear("noise_1", "time_embedding.linear_2")]
    if net.embedding_dim:
        table += linear("embedding_0", "add_embedding.linear_1") + linear("embedding_1", "add_embedding.linear_2")
    table += linear("input", "conv_in") + norm("output_norm", "conv_norm_out") + linear("output", "conv_out")
    last = len(net.widths) - 1
    for level, depth in enumerate(net.transformer_layers):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        for part, theirs, number in (("encoder", down, 0), ("decoder", up, 1)):
            for i in range(net.blocks_per_level + number):
                table += _block(f"{part}_{level}_block_{i}", f"{theirs}.resnets.{i}")
                if depth:
                    table += _transformer(f"{part}_{level}_attention_{i}", f"{theirs}.attentions.{i}", depth)
        if level < last:
            table += linear(f"encoder_{level}_down/conv", f"{down}.downsamplers.0.conv")
        if level:
            table += linear(f"decoder_{level}_up/conv", f"{up}.upsamplers.0.conv")
    for i in (0, 1):
        table += _block(f"middle_block_{i}", f"mid_block.resnets.{i}")
    return table + _transformer("middle_attention", "mid_block.attentions.0", net.middle_layers)


def unet2d_condition_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `UNet2DCondition` for a config.json of UNet2DConditionModel.

    Raises: ValueError for a config that asks for something that `UNet2DCondition` does not have.
    """
    widths, types = list(config["block_out_channels"]), list(config["down_block_types"])
    crossed = ["CrossAttn" in name for name in types]
    ups = [name.replace("Down", "Up") for name in reversed(types)]
    allowed: dict[str, tuple[Any, ...]] = {
        "down_block_types": (["CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in crossed],),
        "up_block_types": (ups,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn",),
        "act_fn": ("silu", "swish"),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0,),
        "downsample_padding": (1,),
        "mid_block_scale_factor": (1,),
        "addition_embed_type": (None, "text_time"),
        "addition_time_embed_dim": (None, 256, config.get("addition_time_embed_dim")),
        "time_embedding_type": ("positional",),
        "time_embedding_dim": (None, 4 * widths[0]),
        "resnet_time_scale_shift": ("default",),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
    }
    off = ("only_cross_attention", "dual_cross_attention", "class_embeddings_concat", "center_input_sample",
           "resnet_skip_time_act")  # fmt: skip
    none = ("encoder_hid_dim", "encoder_hid_dim_type", "class_embed_type", "num_class_embeds", "time_cond_proj_dim",
            "timestep_post_act", "time_embedding_act_fn", "cross_attention_norm", "mid_block_only_cross_attention",
            "reverse_transformer_layers_per_block")  # fmt: skip
    allowed |= dict.fromkeys(off, (False,)) | dict.fromkeys(none, (None,))
    for name, values in allowed.items():
        value = config.get(name, values[0])
        if (list(value) if isinstance(value, tuple) else value) not in values:
            raise ValueError(
                f"This UNet2DConditionModel needs {name} among {list(values)}, got {value!r}; such a network is not part of "
                "this library."
            )
    depths = _for_each_level(config.get("transformer_layers_per_block", 1), widths)
    heads = config.get("num_attention_heads") or config.get(
        "attention_head_dim", 8
    )  # the second is a number of heads too
    return {
        "widths": tuple(widths),
        "blocks_per_level": config.get("layers_per_block", 2),
        "transformer_layers": tuple(depth if cross else 0 for depth, cross in zip(depths, crossed, strict=True)),
        "middle_layers": depths[-1],
        "num_heads": tuple(_for_each_level(heads, widths)),
        "token_dim": config["cross_attention_dim"],
        "embedding_dim": config.get("projection_class_embeddings_input_dim") or 0,
        "norm_groups": config.get("norm_num_groups", 32),
        "norm_epsilon": config.get("norm_eps", 1e-5),
        "dropout": config.get("dropout", 0.0),
        "out_channels": config["out_channels"],
    }


def _for_each_level(value: Any, widths: list[int]) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * len(widths)


def _block(ours: str, theirs: str) -> list[Entry]:
    table = linear(f"{ours}/embedding", f"{theirs}.time_emb_proj")
    for layer, their_layer in LAYERS.items():
        table += (norm if layer.startswith("norm") else linear)(f"{ours}/{layer}", f"{theirs}.{their_layer}")
    return table + linear(f"{ours}/skip", f"{theirs}.conv_shortcut", optional=True)


def _transformer(ours: str, theirs: str, depth: int) -> list[Entry]:
    table = norm(f"{ours}/norm", f"{theirs}.norm")
    table += linear(f"{ours}/in", f"{theirs}.proj_in") + linear(f"{ours}/out", f"{theirs}.proj_out")
    for i in range(depth):
        layer, their_layer = f"{ours}/layer_{i}", f"{theirs}.transformer_blocks.{i}"
        for j in range(3):
            table += norm(f"{layer}/norm_{j}", f"{their_layer}.norm{j + 1}")
        for name, their_name in ATTENTIONS.items():
            for part, their_part in PARTS.items():
                table += linear(f"{layer}/{name}/{part}", f"{their_layer}.{their_name}.{their_part}", bias=False)
            table += linear(f"{layer}/{name}/out", f"{their_layer}.{their_name}.to_out.0")
        table += linear(f"{layer}/mlp_0", f"{their_layer}.ff.net.0.proj") + linear(
            f"{layer}/mlp_1", f"{their_layer}.ff.net.2"
        )
    return table
