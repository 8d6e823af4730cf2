"""The modules of our U-Net in the order of the call: published networks number or name theirs in this order too."""

from collections.abc import Iterator

from score_sde.networks.unet import UNet


def walk(net: UNet, height: int) -> Iterator[tuple[str, str]]:
    """Yields (kind, our name) for images of this height; a kind is block, attention, down, up, input or output."""
    levels = range(len(net.channel_multipliers))
    attended = [height // 2**level in net.attention_resolutions for level in levels]
    for level in levels:
        for i in range(net.blocks_per_level):
            yield "block", f"encoder_{level}_block_{i}"
            if attended[level]:
                yield "attention", f"encoder_{level}_attention_{i}"
        if level + 1 < len(levels):
            yield "down", f"encoder_{level}_down"
            if net.progressive_input != "none":
                yield "input", f"encoder_{level}_input"
    yield from (("block", "middle_block_0"), ("attention", "middle_attention"), ("block", "middle_block_1"))
    for level in reversed(levels):
        yield from _decoder_level(net, level, attended[level])


def _decoder_level(net: UNet, level: int, attended: bool) -> Iterator[tuple[str, str]]:
    for i in range(net.blocks_per_level + 1):
        yield "block", f"decoder_{level}_block_{i}"
        if attended and net.decoder_attention == "block":
            yield "attention", f"decoder_{level}_attention_{i}"
    if attended and net.decoder_attention == "level":
        yield "attention", f"decoder_{level}_attention"
    if net.progressive_output != "none":
        yield "output", f"decoder_{level}_output"
    if level:
        yield "up", f"decoder_{level}_up"
    elif net.progressive_output != "skip":
        yield "output", "output"
