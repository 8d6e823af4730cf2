"""Class labels, vectors, token sequences and images as conditions of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.networks import MLP, Encoder, UNet
from score_sde.networks.conditions import Conditions, null_condition
from tests.networks.build import apply, inputs, normal, params_for, tiny

NETWORKS = {
    "unet": (tiny(channel_multipliers=(1,), num_classes=4, embedding_dim=5), inputs((3, 4, 4, 3))),
    "mlp": (MLP(width=16, depth=1, num_classes=4, embedding_dim=5), inputs((3, 2))),
}
CONDITION = {"label": jnp.array([0, 3, 4]), "embedding": normal(7, (3, 5))}

each_network = pytest.mark.parametrize(("net", "data"), NETWORKS.values(), ids=NETWORKS)


@each_network
def test_each_condition_reaches_its_own_example(net, data):
    params = params_for(net, *data, CONDITION)
    y = apply(net, params, *data, CONDITION)
    for name, value in (
        ("label", CONDITION["label"].at[1].set(2)),
        ("embedding", CONDITION["embedding"].at[1].add(1.0)),
    ):
        change = jnp.abs(apply(net, params, *data, {**CONDITION, name: value}) - y).reshape(3, -1).max(axis=1)
        assert change[1] > 1e-3
        np.testing.assert_array_equal(change[jnp.array([0, 2])], 0.0)


@pytest.mark.few(1)
@each_network
def test_null_class_is_learned_and_apart(net, data):
    params = params_for(net, *data, CONDITION)
    null = jnp.full(3, 4)

    def loss(params, label):
        return jnp.square(net.apply({"params": params}, *data, {**CONDITION, "label": label})).sum()

    table = jax.jit(jax.grad(loss))(params, null)["embedding"]["label"]
    assert jnp.abs(table[4]).max() > 0
    assert not jnp.any(table[:4])


@each_network
def test_label_out_of_range_is_not_taken_for_another(net, data):
    params = params_for(net, *data, CONDITION)
    y = apply(net, params, *data, {**CONDITION, "label": jnp.array([-1, 5, 4])})
    assert jnp.isnan(y).reshape(3, -1).all(axis=1).tolist() == [True, True, False]


@each_network
def test_impossible_conditions(net, data):
    def init(network, condition):
        network.init(jax.random.key(0), *data, condition)

    with pytest.raises(
        ValueError, match=r"needs the conditions \['embedding', 'label'\], got \[\]; pass exactly those"
    ):
        init(net, None)
    with pytest.raises(ValueError, match=r"got \['embedding', 'label', 'text'\]"):
        init(net, {**CONDITION, "text": jnp.zeros((3, 2))})
    with pytest.raises(ValueError, match=r'"embedding" needs shape \(3, 5\), got \(3, 6\)'):
        init(net, {**CONDITION, "embedding": jnp.zeros((3, 6))})
    with pytest.raises(ValueError, match=r'"label" needs shape \(3,\), got \(3, 4\)'):
        init(net, {**CONDITION, "label": jnp.zeros((3, 4), jnp.int32)})
    with pytest.raises(ValueError, match='"label" needs integers 0 … 4, got float32'):
        init(net, {**CONDITION, "label": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"num_classes=0, embedding_dim=0 needs the conditions \[\], got \['label'\]"):
        init(net.clone(num_classes=0, embedding_dim=0), {"label": CONDITION["label"]})


KINDS = {"clip": "vector", "text": "tokens", "words": "tokens", "low": "image", "mask": "image"}
X = normal(9, (3, 4, 4, 2))
MANY = {
    "label": jnp.array([0, 3, 4]),
    "clip": normal(10, (3, 6)),
    "text": normal(11, (3, 5, 7)),
    "text_mask": jnp.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [1, 1, 1, 1, 1]]),
    "words": normal(12, (3, 2, 3)),
    "low": normal(13, (3, 4, 4, 1)),
    "mask": normal(14, (3, 4, 4)),
}
MODULE = Conditions(width=8, token_width=4, num_classes=4, kinds=KINDS)
VARIABLES = MODULE.init(jax.random.key(0), MANY, X)


def given(module=MODULE, **changes):
    return module.apply(VARIABLES, {**MANY, **changes}, X)


def test_each_kind_becomes_what_layers_take():
    found = given()
    assert [vector.shape for vector in found.vectors] == [(3, 8), (3, 8)]
    np.testing.assert_allclose(found.vectors[1], MANY["clip"] @ VARIABLES["params"]["clip"]["kernel"], rtol=1e-5)
    assert found.tokens.shape == (3, 1 + 5 + 2, 4)
    np.testing.assert_array_equal(found.tokens[:, 0], np.tile(VARIABLES["params"]["null_token"][0], (3, 1)))
    np.testing.assert_array_equal(found.mask[:, 1:6], MANY["text_mask"])
    np.testing.assert_array_equal(found.images, np.concatenate([MANY["low"], MANY["mask"][..., None]], axis=-1))
    np.testing.assert_array_equal(found.beside(X)[..., :2], X)
    features = normal(15, (3, 8))
    np.testing.assert_array_equal(found.added_to(features), features + found.vectors[0] + found.vectors[1])


def test_a_module_takes_only_what_it_uses():
    alone = Conditions(width=8, kinds={"clip": "vector"}).init(jax.random.key(0), {"clip": MANY["clip"]}, X)
    assert list(alone["params"]) == ["clip"]
    assert jax.tree.leaves(Conditions(width=8).init(jax.random.key(0), None, X)) == []


def test_a_length_a_mask_and_padding_with_zeros_are_the_same():
    without = {name: values for name, values in MANY.items() if name != "text_mask"}
    length = jnp.array([3, 0, 5])
    mask = jnp.arange(5)[None] < length[:, None]
    padded = jnp.where(mask[..., None], MANY["text"], 0.0)
    found = [
        MODULE.apply(VARIABLES, {**without, **changes}, X).mask
        for changes in ({"text_length": length}, {"text_mask": mask}, {"text": padded})
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[0][:, 1:6], mask)


def test_the_null_condition_is_the_null_class_and_zeros():
    found = MODULE.apply(VARIABLES, null_condition(MANY, 4), X)
    np.testing.assert_array_equal(found.vectors[0], np.tile(VARIABLES["params"]["label"][4], (3, 1)))
    assert not np.any(found.vectors[1]) and not np.any(found.images)
    np.testing.assert_array_equal(found.mask, [[True] + 7 * [False]] * 3)


def test_the_unet_takes_all_kinds_at_once():
    """Each condition reaches its own image alone; a token that the mask leaves out reaches none."""
    net = tiny(channel_multipliers=(1,), num_classes=4, conditions=KINDS)
    data = X, jnp.array([1.0, 300.0, 900.0])
    params = params_for(net, *data, MANY)
    y = apply(net, params, *data, MANY)
    for name in KINDS:
        change = apply(net, params, *data, {**MANY, name: MANY[name].at[1].add(1.0)}) - y
        change = jnp.abs(change).reshape(3, -1).max(axis=1)
        assert change[1] > 1e-3, name
        np.testing.assert_array_equal(change[jnp.array([0, 2])], 0.0)
    absent = {**MANY, "text": MANY["text"].at[1, 1].add(1.0)}
    np.testing.assert_array_equal(apply(net, params, *data, absent), y)


def test_cross_attention_stands_at_its_resolutions():
    def layers(**fields):
        net = tiny(conditions={"text": "tokens"}, **fields)
        data = jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), {"text": jnp.zeros((1, 3, 2))}
        params = jax.eval_shape(net.init, jax.random.key(0), *data)["params"]
        return {name for name in params if "cross_attention" in name}

    middle = {"middle_cross_attention"}
    assert layers(cross_attention_resolutions=()) == middle
    at_4 = {"encoder_1_cross_attention_0", "decoder_1_cross_attention"}
    assert layers() == middle | at_4
    at_8 = {"encoder_0_cross_attention_0", "decoder_0_cross_attention"}
    assert layers(cross_attention_resolutions=(8, 4)) == middle | at_4 | at_8
    with pytest.raises(ValueError, match=r"cross_attention_resolutions among the heights \[8, 4\]"):
        layers(cross_attention_resolutions=(16,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": None}, r"needs the conditions \['clip', 'label', 'low', 'mask', 'text', 'words'\], got \['clip', "),
        ({"clip_mask": jnp.ones((3, 6))}, r"got \['clip', 'clip_mask',"),
        ({"clip": normal(1, (3, 6, 1))}, r'"clip" needs shape \(3, any\), got \(3, 6, 1\)'),
        ({"clip": normal(1, (3, 5))}, r'"clip" has a width of 6 in this network, got shape \(3, 5\)'),
        ({"text": normal(1, (3, 5, 8))}, r'"text" has a width of 7 in this network, got shape \(3, 5, 8\)'),
        ({"text": normal(1, (2, 5, 7))}, r'"text" needs shape \(3, any, any\), got \(2, 5, 7\)'),
        ({"text": jnp.ones((3, 5, 7), int)}, r'"text" of kind "tokens" needs floating numbers, got int32'),
        ({"text_mask": jnp.ones((3, 4), bool)}, r'"text_mask" needs shape \(3, 5\), got \(3, 4\)'),
        ({"text_mask": jnp.ones((3, 5))}, r'"text_mask" needs booleans or integers, got float32'),
        ({"text_length": jnp.ones(3, int)}, r'takes "text_mask" or "text_length", got both'),
        ({"text_mask": None, "text_length": jnp.ones((3, 1), int)}, r'"text_length" needs shape \(3,\), got \(3, 1\)'),
        ({"low": normal(1, (3, 2, 2, 1))}, r'"low" needs shape \(3, 4, 4, any\), got \(3, 2, 2, 1\)'),
        ({"low": jnp.ones((3, 4, 4, 1), int)}, r'"low" of kind "image" needs floating numbers, got int32; scale 8-bit'),
    ],
)
def test_conditions_that_do_not_fit(changes, message):
    condition = {name: values for name, values in {**MANY, **changes}.items() if values is not None}
    with pytest.raises(ValueError, match=message):
        MODULE.apply(VARIABLES, condition, X)


def test_networks_refuse_kinds_that_they_cannot_take():
    with pytest.raises(
        ValueError, match="MLP takes conditions of the kinds vector, got 'text' of kind 'tokens'; leave it"
    ):
        MLP(conditions={"text": "tokens"})
    with pytest.raises(
        ValueError, match="Encoder takes conditions of the kinds vector, image, got 'text' of kind 'tokens'"
    ):
        Encoder(conditions={"text": "tokens"})
    with pytest.raises(
        ValueError, match="UNet takes conditions of the kinds vector, tokens, image, got 'a' of kind 'sound'"
    ):
        UNet(conditions={"a": "sound"})
    with pytest.raises(ValueError, match="takes 'label' by the field num_classes; set that field"):
        UNet(conditions={"label": "vector"})


def test_images_with_other_channels_than_in_training():
    net = Encoder(
        out_features=2, channels=8, channel_multipliers=(1,), attention_resolutions=(), conditions={"low": "image"}
    )
    data = X, jnp.zeros(3)
    shapes = jax.eval_shape(net.init, jax.random.key(0), *data, {"low": MANY["low"]})
    with pytest.raises(ValueError, match="have 1 channels in all in this network, got 2"):
        jax.eval_shape(net.apply, shapes, *data, {"low": X})
