"""Classifier-free guidance of a model with a label, a vector, tokens and an image at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from score_sde.denoising import Denoiser, Epsilon
from score_sde.guidance import ClassifierFree
from score_sde.networks.conditions import Conditions, null_condition
from score_sde.sdes import VP
from tests.networks.build import normal

KINDS = {"clip": "vector", "text": "tokens", "low": "image"}
T = jnp.float32(0.4)


class Small(nn.Module):
    """Takes every kind; the tokens enter by the mean of those that are present."""

    @nn.compact
    def __call__(self, x, noise_label, condition=None, train=False):
        given = Conditions(width=8, token_width=8, num_classes=3, kinds=KINDS, name="conditions")(condition, x)
        tokens = jnp.mean(given.tokens, axis=1, where=given.mask[..., None])
        h = given.added_to(tokens)[:, None, None] + nn.Dense(8)(given.beside(x))
        return nn.Dense(x.shape[-1])(nn.swish(h))

    def null(self, condition):
        return null_condition(condition, 3)


X = normal(0, (3, 4, 4, 2))
CONDITION = {
    "label": jnp.array([0, 1, 2]),
    "clip": normal(1, (3, 5)),
    "text": normal(2, (3, 4, 6)),
    "text_length": jnp.array([4, 1, 2]),
    "low": normal(3, (3, 4, 4, 1)),
}


@pytest.fixture(scope="module")
def model():
    denoiser = Denoiser(VP(), Epsilon(), Small())
    return denoiser.bind(denoiser.init(jax.random.key(0), {"x": X}, CONDITION), CONDITION)


@pytest.mark.few(2)
@pytest.mark.parametrize("drop", [None, ("label",), ("text",), ("clip", "low"), ("label", "clip", "text", "low")])
def test_one_call_drops_the_named_conditions(model, drop):
    """As two calls: with the condition, and with the null condition in place of the named ones, masks included."""
    null = model.null_condition()
    assert not np.any(null["text_length"]) and set(np.asarray(null["label"])) == {3}
    gone = CONDITION if drop is None else [*drop, *["text_length"] * ("text" in drop)]
    negative = model.with_condition({**CONDITION, **{name: null[name] for name in gone}})(X, T)
    guided = ClassifierFree(2.5, drop=drop).wrap(model, {})
    assert float(guided.evaluations(T)) == 2
    for found, kept, without in zip(guided(X, T), model(X, T), negative, strict=True):
        assert np.abs(kept - without).max() > 1e-2
        np.testing.assert_allclose(found, without + 2.5 * (kept - without), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("drop", [(), ("text_length",), ("label", "sound")])
def test_only_conditions_of_the_model_can_be_dropped(model, drop):
    with pytest.raises(
        ValueError, match=r"ClassifierFree needs drop to name conditions of the model, \['label', 'clip', "
    ):
        ClassifierFree(2.0, drop=drop).wrap(model, {})
