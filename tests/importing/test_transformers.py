"""The tensors of published transformers: each is used once, and what is wrong has a name. Outputs: tests/networks."""

import jax
import numpy as np
import pytest

from score_sde import importing
from score_sde.importing import Tensors
from score_sde.importing.dit import mlp_ratio
from score_sde.networks import NETWORKS
from score_sde.networks.transformer import hidden_features
from tests.importing.packs import weights


def shapes_of(tree):
    return jax.tree.map(np.shape, tree)


def like_ours(found):
    """The shapes of the parameters that the network of a `Published` draws, for labels and images of 8 × 8."""
    fields = dict(found.network)
    net = NETWORKS[fields.pop("name")](**fields)
    x, label = np.zeros((1, 8, 8, 4), np.float32), {"label": np.zeros(1, np.int32)}
    return shapes_of(jax.eval_shape(net.init, jax.random.key(0), x, np.zeros(1, np.float32), label)["params"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc1.bias"), "A DiT does not fit the network: blocks.1.mlp.fc1.bias is missing. Give"),
        (lambda t: t.update(extra=np.zeros(3)), "extra is not a tensor of this network"),
        (
            lambda t: t.update({"t_embedder.mlp.2.weight": np.zeros((64, 63))}),
            r"t_embedder.mlp.2.weight has shape \(64, 63\) instead of \(64, 64\)",
        ),
        (lambda t: t.pop("x_embedder.proj.weight"), "A DiT needs the tensor 'x_embedder.proj.weight' .* got none; is the"),
        (
            lambda t: [t.pop(n) for n in list(t) if n.startswith("blocks.2.")][:0] or t.pop("blocks.1.attn.qkv.weight"),
            "blocks.1.attn.qkv.bias is not a tensor of this network.* and [0-9]+ more",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message):
    tensors = weights("dit")
    change(tensors)
    with pytest.raises(ValueError, match=message):
        importing.dit(tensors, num_heads=4)


def test_widths_that_no_published_size_has():
    for name, read in (("dit", importing.dit), ("uvit", importing.uvit), ("jit", importing.jit)):
        with pytest.raises(ValueError, match=r"has the width (64|48), which no published size has .*give num_heads"):
            read(weights(name))


def test_a_tensor_is_used_once():
    t = Tensors({"a": np.zeros(2)}, "A file")
    t.take("a", 2)
    with pytest.raises(ValueError, match="the tensor 'a' would be used twice"):
        t.take("a", 2)


def test_relatives_of_dit():
    """REPA's maps of features are left out, and norms of queries and keys are found by their names."""
    tensors = weights("dit") | {"projectors.0.0.weight": np.zeros((5, 64), np.float32)}
    for i in range(3):
        for which in "qk":
            tensors |= {f"blocks.{i}.attn.{which}_norm.{end}": np.ones(16, np.float32) for end in ("weight", "bias")}
    found = importing.dit(tensors, num_heads=4)
    assert found.network["qk_norm"] == "layer" and found.network["learn_sigma"]
    assert shapes_of(found.params) == like_ours(found)
    only_scale = {name: value for name, value in tensors.items() if "_norm.bias" not in name}
    assert importing.dit(only_scale, num_heads=4).network["qk_norm"] == "rms"


def test_positions_that_are_not_the_usual_table_are_kept():
    tensors = weights("dit")
    tensors["pos_embed"] = tensors["pos_embed"] + np.float32(0.01)
    found = importing.dit(tensors, num_heads=4)
    assert found.network["positions"] == "learned" and shapes_of(found.params) == like_ours(found)
    np.testing.assert_array_equal(found.params["positions"], tensors["pos_embed"])
    pixels = weights("jit")
    pixels["pos_embed"] = pixels["pos_embed"] + np.float32(0.01)
    with pytest.raises(ValueError, match="A JiT does not fit the network: pos_embed is not the fixed table"):
        importing.jit(pixels, num_heads=4, context_start=2)


def test_a_network_without_null_class_gets_a_row_of_zeros():
    table = weights("dit2")["y_embedder.embedding_table.weight"]
    found = importing.dit(weights("dit2"), num_heads=6, has_null=False)
    label = found.params["embedding"]["label"]
    assert found.network["num_classes"] == 4
    np.testing.assert_array_equal(label[:4], table)
    np.testing.assert_array_equal(label[4], 0.0)


@pytest.mark.parametrize("width", [768, 1024, 1280, 1664, 100])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_hidden_features_come_back(width, mlp):
    for ratio in (4.0, 3.7):
        hidden = hidden_features(width, ratio, mlp)
        assert hidden_features(width, mlp_ratio(hidden, width, mlp), mlp) == hidden
    assert mlp_ratio(hidden_features(width, 4.0, mlp), width, mlp) == 4.0
