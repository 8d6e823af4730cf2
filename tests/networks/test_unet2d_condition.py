"""The U-Net of Stable Diffusion against diffusers, in float64: outputs, with and without a mask, and gradients.

Packs tests/golden/net/diffusers_unet2dcond.npz (SD 1) and diffusers_unet2dcond_sdxl.npz (SDXL).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.importing import convert, shapes_of
from score_sde.importing.diffusers_text import unet2d_condition, unet2d_condition_fields
from score_sde.networks import UNet2DCondition
from score_sde.networks.unet2d_condition import size_embedding
from tests.networks.published import load, nhwc, norms, part

NAMES = ("diffusers_unet2dcond", pytest.param("diffusers_unet2dcond_sdxl", marks=pytest.mark.slow))


def condition_of(pack, meta):
    """The condition in our form; the mask of the pack's masked run."""
    condition = {"text": jnp.asarray(pack["in/encoder_hidden_states"], jnp.float64)}
    condition["text_mask"] = jnp.asarray(pack["in/encoder_attention_mask"], jnp.int32)
    if "in/text_embeds" in pack:
        text, sizes = (jnp.asarray(pack[f"in/{name}"], jnp.float64) for name in ("text_embeds", "time_ids"))
        condition["embedding"] = size_embedding(text, sizes, meta["config"]["addition_time_embed_dim"])
    return condition


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize("name", NAMES)
def test_output_and_gradients_in_float64(name):
    pack, meta = load(name)
    with jax.enable_x64(True):
        net = UNet2DCondition(**unet2d_condition_fields(meta["config"]), dtype="float64")
        weights = part(pack, "sd/", jnp.float64)
        x, probe = (jnp.asarray(nhwc(pack[key]), jnp.float64) for key in ("in/x", "probe"))
        label, condition = jnp.asarray(pack["in/timestep"], jnp.float64), condition_of(pack, meta)
        shapes = shapes_of(jax.eval_shape(net.init, jax.random.key(0), x, label, condition)["params"])

        @functools.partial(jax.jit)
        @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
        def gradients(weights, x, text, mask):
            params = convert(unet2d_condition(net), weights, shapes)
            given = {**condition, "text": text, "text_mask": mask}
            output = net.apply({"params": params}, x, label, given)
            return jnp.sum(output * probe), output

        text, mask = condition["text"], condition["text_mask"]
        (of_weights, of_x, of_text), output = gradients(weights, x, text, jnp.ones_like(mask))
        _, masked = gradients(weights, x, text, mask)
    close(output, nhwc(pack["out_f64_exactfreq"]), 1e-9)
    close(masked, nhwc(pack["masked_f64"]), 1e-5)  # its frequencies are rounded to float32
    close(of_x, nhwc(pack["grad_x_f64"]), 1e-5)
    close(of_text, pack["grad_encoder_hidden_states_f64"], 1e-5)
    assert np.abs(np.asarray(masked) - np.asarray(output)).max() > 1e-3
    close(norms(of_weights, meta["grad_names"]), pack["grad_norms"], 1e-4)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"widths": (32,)}, "one entry for each level in widths"),
        ({"num_heads": (7, 8, 8, 8)}, "num_heads and norm_groups that divide the widths"),
        ({"dropout": -0.1}, "0 <= dropout < 1"),
        ({"middle_layers": 0}, "middle_layers >= 1"),
    ],
)
def test_fields_out_of_range(fields, told):
    with pytest.raises(ValueError, match=told):
        UNet2DCondition(**fields)


def test_impossible_inputs():
    net = UNet2DCondition(widths=(32, 32), transformer_layers=(1, 0), num_heads=(1, 1), token_dim=4)
    init = functools.partial(jax.eval_shape, net.init, jax.random.key(0))
    text = jnp.zeros((1, 3, 5))
    with pytest.raises(ValueError, match=r"needs the conditions \{'text': 4\} \(name and width\), got \{'text': 5\}"):
        init(jnp.zeros((1, 4, 4, 3)), jnp.zeros(1), {"text": text})
    with pytest.raises(ValueError, match="sides divisible by 2"):
        init(jnp.zeros((1, 5, 5, 3)), jnp.zeros(1), {"text": text})


@pytest.mark.parametrize(
    "change", [{"act_fn": "gelu"}, {"num_class_embeds": 10}, {"up_block_types": ["UpBlock2D", "UpBlock2D"]}]
)
def test_a_config_that_asks_for_more_is_refused(change):
    config = {**load("diffusers_unet2dcond")[1]["config"], **change}
    with pytest.raises(ValueError, match=rf"needs {next(iter(change))} among .*; such a network is not part"):
        unet2d_condition_fields(config)
