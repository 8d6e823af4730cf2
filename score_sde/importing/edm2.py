"""The names of EDM2's U-Net and its learned uncertainty.

Source: arXiv 2312.02696; NVlabs/edm2, training/networks_edm2.py.
"""

from score_sde.importing.mapping import Entry, after, interleaved, kernel
from score_sde.networks.edm2 import EDM2UNet

LAYERS = {"conv_0": "conv_res0", "embedding": "emb_linear", "conv_1": "conv_res1"}
UNCERTAINTY, NETWORK = (r"logvar_.*",), (r"unet\..*",)  # the names of the other part of the file


def edm2(net: EDM2UNet, height: int) -> list[Entry]:
    """The table for the network, in images of this height."""
    table = _fourier("unet.emb_fourier") + unit("noise", "unet.emb_noise") + [Entry("output_gain", ("unet.out_gain",))]
    if net.num_classes:
        table += unit("label", "unet.emb_label")
    sides = [height // 2**level for level in range(len(net.channel_multipliers))]
    table += unit("input", f"unet.enc.{height}x{height}_conv") + unit("output", "unet.out_conv")
    for level, side in enumerate(sides):
        attended = side in net.attention_resolutions
        for part, their_part, number in (("encoder", "enc", 0), ("decoder", "dec", 1)):
            for i in range(net.blocks_per_level + number):
                table += _block(f"{part}_{level}_block_{i}", f"unet.{their_part}.{side}x{side}_block{i}", attended)
        if level:
            table += _block(f"encoder_{level - 1}_down", f"unet.enc.{side}x{side}_down")
            table += _block(f"decoder_{level}_up", f"unet.dec.{2 * side}x{2 * side}_up")
    for i in (0, 1):
        table += _block(f"middle_block_{i}", f"unet.dec.{sides[-1]}x{sides[-1]}_in{i}", attention=i == 0)
    return table


def edm2_uncertainty() -> list[Entry]:
    """The table for `MPUncertainty`."""
    return _fourier("logvar_fourier") + unit("linear", "logvar_linear")


def unit(ours: str, theirs: str, *, optional: bool = False) -> list[Entry]:
    """The entry of a map or convolution whose weights are used divided by their norm."""
    return [Entry(f"{ours}/unit_kernel", (f"{theirs}.weight",), kernel, optional)]


def _fourier(theirs: str) -> list[Entry]:
    return [Entry("fourier/frequencies", (f"{theirs}.freqs",)), Entry("fourier/phases", (f"{theirs}.phases",))]


def _block(ours: str, theirs: str, attention: bool = False) -> list[Entry]:
    table = [Entry(f"{ours}/embedding_gain", (f"{theirs}.emb_gain",))]
    for layer, their_layer in LAYERS.items():
        table += unit(f"{ours}/{layer}", f"{theirs}.{their_layer}")
    table += unit(f"{ours}/skip", f"{theirs}.conv_skip", optional=True)
    if attention:
        qkv = Entry(f"{ours}/qkv/unit_kernel", (f"{theirs}.attn_qkv.weight",), after(kernel, interleaved))
        table += [qkv, *unit(f"{ours}/out", f"{theirs}.attn_proj")]
    return table
