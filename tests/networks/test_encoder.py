"""The encoder: what it refuses."""

import jax
import jax.numpy as jnp
import pytest

from score_sde.networks import Encoder, UNet


@pytest.mark.parametrize(("network", "where"), [(Encoder(out_features=3), "at the end"), (UNet(), "in the middle")])
def test_attention_at_a_height_that_no_level_has_is_an_error(network, where):
    """Else it would be left out without a word."""
    message = (
        rf"{type(network).__name__} needs attention_resolutions among the heights \[8, 4, 2(, 1)?\] of its levels, got "
    )
    with pytest.raises(ValueError, match=rf"{message}\(16,\); choose among them, or \(\) for attention {where} only"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
