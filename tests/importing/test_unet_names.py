"""Each table of a U-Net names every parameter of ours once, and every published tensor once, whatever the options."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from score_sde.importing import diffusers, shapes_of
from score_sde.importing.edm import edm
from score_sde.importing.guided_diffusion import guided_diffusion
from score_sde.importing.score_sde import score_sde_flax, score_sde_torch
from score_sde.networks import UNet

SIZE = {"channels": 8, "channel_multipliers": (1, 2, 2), "blocks_per_level": 2, "attention_resolutions": (4,)}
CASES = {
    "defaults": {},
    "blocks with attention": {"decoder_attention": "block", "num_heads": 2},
    "by convolution": {"resample_by": "convolution", "resample_taps": (1, 3, 3, 1)},
    "by filter": {"resample_by": "filter", "noise_embedding": "fourier", "noise_conditional": False},
    "both residual": {"progressive_input": "residual", "progressive_output": "residual", "noise_embedding": "fourier"},
    "both skips": {"progressive_input": "skip", "progressive_combine": "cat", "progressive_output": "skip"},
}
TABLES = {"flax": score_sde_flax, "torch": score_sde_torch}


def check(net, table):
    x = jnp.zeros((1, 8, 8, 3))
    condition = {"label": jnp.zeros(1, jnp.int32)} if net.num_classes else {}
    condition |= {"embedding": jnp.zeros((1, net.embedding_dim))} if net.embedding_dim else {}
    params = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1), condition)["params"]
    used = [entry for entry in table if not entry.optional or entry.ours in shapes_of(params)]
    assert sorted(entry.ours for entry in used) == sorted(shapes_of(params))
    assert set(Counter(name for entry in used for name in entry.theirs).values()) == {1}


@pytest.mark.few(2)
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_score_sde(fields):
    net = UNet(**{**SIZE, **fields})
    for table in TABLES.values():
        check(net, table(net, 8))


def test_other_peers():
    adm = {"decoder_attention": "block", "skip_projection": False, "scale_shift": True, "label_at": "output"}
    check(UNet(**SIZE, num_classes=3, embedding_dim=2), edm(UNet(**SIZE, num_classes=3, embedding_dim=2), 8))
    net = UNet(**SIZE, **adm, num_classes=3)
    check(net, edm(net, 8))
    check(net, guided_diffusion(net, 8))
    check(net, diffusers.unet2d(net, 8, ()))


def test_a_numbering_by_hand():
    """Of a network with one level and one block, in score_sde's order."""
    net = UNet(channels=8, channel_multipliers=(1,), blocks_per_level=1, attention_resolutions=())
    theirs = {entry.ours: entry.theirs[0] for entry in score_sde_torch(net, 8)}
    assert theirs["input/kernel"] == "all_modules.2.weight"
    assert theirs["encoder_0_block_0/conv_0/bias"] == "all_modules.3.Conv_0.bias"
    assert theirs["middle_attention/out/kernel"] == "all_modules.5.NIN_3.W"
    assert theirs["decoder_0_block_1/norm_1/scale"] == "all_modules.8.GroupNorm_1.weight"
    assert theirs["output/kernel"] == "all_modules.10.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "needs down_block_types among .*got .'KDownBlock2D'."),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "the mirror of the encoder's"),
        ({"act_fn": "gelu"}, "needs act_fn among .'silu', 'swish'., got gelu"),
        ({"block_out_channels": [32, 48]}, "block_out_channels that the first divides"),
    ],
)
def test_a_config_that_asks_for_more_is_refused(change, told):
    config = {
        "sample_size": 8, "out_channels": 3, "layers_per_block": 1, "block_out_channels": [32, 64],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }  # fmt: skip
    skips = {"down_block_types": ["SkipDownBlock2D"] * 2, "up_block_types": ["SkipUpBlock2D"] * 2}
    with pytest.raises(ValueError, match="needs 128 channels or more in blocks with a skip"):
        diffusers.unet2d_fields({**config, **skips})
    fields = diffusers.unet2d_fields(config)
    assert (fields["channel_multipliers"], fields["attention_resolutions"]) == ((1, 2), (4,))
    with pytest.raises(ValueError, match=told):
        diffusers.unet2d_fields({**config, **change})
