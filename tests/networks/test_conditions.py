"""Class labels and embeddings as conditions, in both networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.networks import MLP
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
