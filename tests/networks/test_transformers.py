"""DiT, U-ViT and JiT: conditions, first values, patches, recomputation, precision, and impossible fields."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import quickstart
from score_sde.experiment import Experiment
from score_sde.networks import NETWORKS, DiT, JiT, UViT
from score_sde.networks.patches import patchify, unpatchify
from score_sde.parallel import shard_batch
from tests.networks.build import apply, normal, params_for, share_beyond_bfloat16, tree_distance

SIZE = {"patch_size": 2, "width": 16, "num_heads": 2}
CONDITIONS = {"pooled": "vector", "text": "tokens", "low": "image"}
ALL = {"num_classes": 4, "embedding_dim": 5, "conditions": CONDITIONS}
OPTIONS = {"mlp": "swiglu", "norm": "rms", "qk_norm": "layer", "rope": True}
EACH = {
    "dit_cross_attention": DiT(**SIZE, depth=1),
    "dit_context": DiT(**SIZE, depth=1, **OPTIONS, tokens_by="context", positions="learned", learn_sigma=True),
    "uvit": UViT(**SIZE, depth=3, noise_mlp=True),
    "jit": JiT(**SIZE, depth=2, bottleneck=6, context_length=2, context_start=1),
}
each_network = pytest.mark.parametrize("net", EACH.values(), ids=EACH)


def given(batch):
    """The same conditions for each example. Of the last token of the text, nobody may know."""
    one = {"pooled": normal(1, (1, 3)), "text": normal(2, (1, 4, 6)), "low": normal(3, (1, 4, 8, 1))}
    one |= {"embedding": normal(4, (1, 5)), "label": jnp.array([2]), "text_length": jnp.array([3])}
    return {name: jnp.repeat(value, batch, axis=0) for name, value in one.items()}


@pytest.mark.few(2)
@each_network
def test_each_condition_reaches_its_own_example(net):
    """Example 0 is as it was, and each other example has one condition changed. Each is changed by it, but by padding."""
    net, condition = net.clone(**ALL), given(7)
    x = jnp.repeat(normal(0, (1, 4, 8, 3)), 7, axis=0)
    for i, name in enumerate(("pooled", "text", "low", "embedding"), 1):
        condition[name] = condition[name].at[(i, 1) if name == "text" else i].add(1.0)
    condition["label"] = condition["label"].at[5].set(4)
    condition["text"] = condition["text"].at[6, 3].add(1.0)
    t = jnp.full(7, 300.0)
    y = apply(net, params_for(net, x, t, condition), x, t, condition)
    assert y.shape == x.shape and y.dtype == jnp.float32
    change = jnp.abs(y - y[:1]).reshape(7, -1).max(axis=1)
    assert jnp.all(change[1:6] > 1e-4) and change[6] < 1e-6
    with pytest.raises(ValueError, match="images among the conditions have 1 channels .* got 2; give images"):
        wide = jnp.zeros((7, 4, 8, 2))
        jax.eval_shape(net.apply, {"params": params_for(net, x, t, condition)}, x, t, condition | {"low": wide})


@each_network
def test_nothing_as_condition_and_signals(net):
    """[b, l, c]. The null condition of nothing is nothing."""
    x, t = normal(0, (2, 8, 3)), jnp.array([1.0, 900.0])
    shape = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), x, t)[0])
    assert shape.shape == x.shape and net.null({}) == {}


@pytest.mark.parametrize("net", [EACH["dit_cross_attention"], EACH["jit"]], ids=["dit", "jit"])
def test_adaln_zero(net):
    """At first the output is zero, and so are all gates. The label table and the noise maps are N(0, 0.02²)."""
    x, t, label = normal(0, (2, 4, 4, 3)), jnp.array([1.0, 900.0]), {"label": jnp.array([0, 3])}
    y, variables = jax.jit(net.clone(num_classes=300).init_with_output)(jax.random.key(0), x, t, label)
    params = variables["params"]
    np.testing.assert_array_equal(y, 0.0)
    np.testing.assert_array_equal(params["block_0"]["modulation"]["kernel"], 0.0)
    for spread in (params["embedding"]["label"].std(), params["embedding"]["dense_0"]["kernel"].std()):
        assert abs(spread - 0.02) < 0.002
    query = params["block_0"]["attention"]["query"]["kernel"]
    assert 0.9 < jnp.abs(query).max() / math.sqrt(6 / (16 + 3 * 16)) <= 1  # the bound of one matrix for q, k and v


def test_patches():
    """Rows of tokens, and in each token rows, columns, channels; and the way back."""
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = patchify(x, 2)
    np.testing.assert_array_equal(tokens[1, 4], x[1, 2:4, 2:4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(tokens, (2, 3), 2), x)
    np.testing.assert_array_equal(unpatchify(patchify(x[:, 0], 3), (2,), 3), x[:, 0])


def loss(net, params, x, t):
    return jnp.square(net.apply({"params": params}, x, t, None, True, rngs={"dropout": jax.random.key(1)})).sum()


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "net", [DiT(**SIZE, depth=2, dropout=0.2), EACH["uvit"], EACH["jit"].clone(dropout=0.2)], ids=["dit", "uvit", "jit"]
)
def test_recomputation_keeps_less(net):
    """And the same parameters."""
    x, t = normal(0, (4, 8, 8, 3)), jnp.linspace(1.0, 900.0, 4)

    def kept(remat):
        again = net.clone(remat=remat)
        params = jax.eval_shape(lambda: again.init(jax.random.key(0), x, t)["params"])
        backward = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(again, p, x, t), p)[1], params)
        return params, sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(backward))

    (params, none), (same, dots), (also, blocks) = (kept(remat) for remat in ("none", "dots", "blocks"))
    assert params == same == also and blocks < 0.75 * dots and dots < 0.85 * none


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_recomputation_changes_no_gradient(remat):
    net, (x, t) = DiT(**SIZE, depth=1, dropout=0.2), (normal(0, (2, 8, 8, 3)), jnp.array([1.0, 900.0]))
    params = params_for(net, x, t)
    grads = [
        jax.jit(jax.grad(functools.partial(loss, net.clone(remat=kind))))(params, x, t) for kind in ("none", remat)
    ]
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads[0]))
    assert tree_distance(*grads) < 1e-5 * scale


def test_half_precision_has_a_float32_output():
    net, (x, t) = DiT(**SIZE, depth=1, dtype="bfloat16", **OPTIONS), (normal(0, (2, 8, 8, 3)), jnp.array([1.0, 900.0]))
    params = params_for(net, x, t)
    y, exact = apply(net, params, x, t), apply(net.clone(dtype="float32"), params, x, t)
    assert y.dtype == jnp.float32 and share_beyond_bfloat16(y) > 0.9
    assert 1e-4 < jnp.abs(y - exact).max() / jnp.abs(exact).max() < 0.05


def operands(jaxpr):
    """The types of the operands of every product of matrices and convolution of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield {str(v.aval.dtype) for v in equation.invars[:2]}
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operands(inner)


@pytest.mark.parametrize(
    ("name", "in_float32"), [("dit_cross_attention", 1), ("dit_context", 1), ("uvit", 2), ("jit", 1)]
)
def test_half_precision_has_all_products_but_the_output_s(name, in_float32):
    """U-ViT's output is two layers. The maps of two vectors are in float32 as well. So is their way back."""
    net, condition = EACH[name].clone(**ALL, dtype="bfloat16"), given(2)
    x, t = jnp.zeros((2, 4, 8, 3)), jnp.zeros(2)
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, t, condition)["params"])

    def squared(params, x):
        return jnp.square(net.apply({"params": params}, x, t, condition)).sum()

    with jax.default_matmul_precision("highest"):  # XLA's own convolution, as on an accelerator
        forward = list(operands(jax.make_jaxpr(squared)(params, x).jaxpr))
        both = list(operands(jax.make_jaxpr(jax.grad(squared))(params, x).jaxpr))
    # Forwards, each product of float32 has a gradient by its matrix, and the output has one by its input too.
    assert forward.count({"float32"}) == in_float32 + 2 and both.count({"float32"}) == 3 * in_float32 + 2 * 2
    assert all(kinds in ({"bfloat16"}, {"float32"}) for kinds in both)
    assert forward.count({"bfloat16"}) > 10 and both.count({"bfloat16"}) > 30


ERRORS = [
    (DiT, {"num_heads": 7}, "DiT needs num_heads that divides width=384, got 7"),
    (DiT, {"mlp": "relu"}, "DiT needs mlp to be one of gelu, exact_gelu, swiglu, got 'relu'"),
    (DiT, {"positions": "fixed"}, "DiT needs positions to be one of sincos, learned, none"),
    (DiT, {"width": 390, "num_heads": 5}, r"DiT needs a width that 2 · the number of axes \(4\) divides"),
    (DiT, {"rope": True, "width": 60, "num_heads": 10}, r"DiT needs heads of a size that 4 divides .* got 6"),
    (DiT, {"attention": "flash"}, "DiT needs attention to be one of plain, fused, got 'flash'"),
    (DiT, {"remat": "all"}, "DiT needs remat to be one of none, blocks, dots"),
    (DiT, {"dropout": 1.0}, "DiT needs 0 <= dropout < 1, got 1.0"),
    (DiT, {"mlp_ratio": 0.0}, "DiT needs mlp_ratio > 0, got 0.0"),
    (DiT, {"out_channels": 0}, "DiT needs out_channels >= 1"),
    (DiT, {"dtype": "float64"}, "DiT needs JAX's 64-bit mode for dtype \"float64\""),
    (DiT, {"own_embeddings": True, "conditions": {"text": "tokens"}}, "DiT takes conditions of the kinds vector, got 'text'"),
    (UViT, {"depth": 12}, "UViT needs an odd depth, got 12; a skip joins"),
    (JiT, {"bottleneck": 0}, "JiT needs bottleneck >= 1"),
    (JiT, {"patch_size": 3}, r"JiT needs sides that patch_size=3 divides, got \(8, 8\); pad or resize"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "fields", "message"), ERRORS)
def test_errors(network, fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network(**fields).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))


def test_points_are_for_another_network():
    with pytest.raises(
        ValueError, match=r"UViT needs images \[b, h, w, c\] or signals .*got \(1, 2\); use MLP for points"
    ):
        UViT().init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))


def test_devices_share_heads_and_hidden_features():
    """Of a DiT, by name. What stands outside of the blocks is not divided."""
    net = EACH["dit_context"].clone(conditions=CONDITIONS, tokens_by="cross_attention")
    x, condition = jnp.zeros((1, 4, 8, 3)), {k: v for k, v in given(1).items() if k in (*CONDITIONS, "text_length")}
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1), condition)["params"]
    paths = [tuple(key.key for key in path) for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    axes = {"/".join(path): axis for path in paths if (axis := net.tensor_axis(path)) is not None}
    columns = [
        *(f"{a}/{p}" for a in ("attention", "cross_attention") for p in ("query", "key", "value")),
        "mlp/in",
        "mlp/gate",
        "modulation",
    ]
    expected = {f"block_0/{name}/kernel": 1 for name in columns} | {f"block_0/{name}/bias": 0 for name in columns}
    expected |= {f"block_0/{name}/out/kernel": 0 for name in ("attention", "cross_attention", "mlp")}
    assert axes == expected
    assert all(NETWORKS[name]().tensor_axis(("output", "linear", "kernel")) is None for name in ("sit", "uvit", "jit"))


def on_digits(name):
    """An experiment with a tiny transformer on images of 8 × 8 with ten classes."""
    config = quickstart.get_config()
    config.network = ConfigDict({"name": name, "patch_size": 4, "width": 16, "num_heads": 2, "depth": 3})
    config.training.update({"batch_size": 16})
    config.mesh.num_devices = 1
    return Experiment(config)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["dit", "sit", "uvit", "jit"])
def test_trains_from_a_config(name):
    """The training step is traced for the classes of the data, as they are, and not compiled."""
    with jax.numpy_dtype_promotion("standard"):  # as optax counts steps
        experiment = on_digits(name)
        assert experiment.task.network.num_classes == 10
        recipe = experiment.recipe
        state, *_ = jax.eval_shape(recipe.train_step(), recipe.state_shapes(), recipe.batch_shapes())
    assert jax.tree.map(np.shape, state.params) == jax.tree.map(np.shape, recipe.state_shapes().params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "uvit", "jit"])
def test_training_lowers_the_loss(name):
    with jax.numpy_dtype_promotion("standard"):
        experiment = on_digits(name)
        step, state, losses = experiment.recipe.train_step(), experiment.recipe.init_state(), []
        for number in range(200):
            state, metrics, _ = step(state, shard_batch(experiment.train_batches[number], experiment.mesh))
            losses.append(float(metrics["loss"]))
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])
