"""EDM2's U-Net against NVlabs/edm2: outputs, gradients, the learned uncertainty, and forced weight normalization.

Packs tests/golden/net/edm2*.npz. Their weights are not of unit magnitude.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.denoising.parameterizations import EDMPreconditioning
from score_sde.importing import convert, edm2, shapes_of
from score_sde.internal.unit_kernel import UNIT_KERNEL, normalized
from score_sde.networks import EDM2UNet
from score_sde.networks.magnitude import MPUncertainty
from score_sde.objectives import DenoisingScoreMatching, EDMWeighting
from score_sde.sdes import EDM
from score_sde.tasks import Denoising
from score_sde.training.optimizers import as_optimizer, build_optimizer, is_decayed, is_fixed
from tests.networks.published import load, nhwc, part

# pack -> (fields, standard deviation of the data)
NETS = {
    "edm2": ({"channels": 32, "num_classes": 5, "head_channels": 16, "attention_resolutions": (8,)}, 0.5),
    "edm2_uncond": (
        {
            "channels": 16,
            "blocks_per_level": 2,
            "noise_multiplier": 1,
            "embedding_multiplier": 3,
            "head_channels": 32,
            "attention_resolutions": (8,),
            "concat_balance": 0.4,
        },
        1.0,
    ),
    "edm2_train": ({"channels": 16, "num_classes": 4, "head_channels": 16, "attention_resolutions": (4,)}, 0.5),
}


class Peer:
    """A pack with our network, compiled once: EDM's preconditioning around it, and its gradients, in float64."""

    def __init__(self, name):
        fields, self.sigma_data = NETS[name]
        self.pack, self.meta = load(name)
        self.net = EDM2UNet(**{"channel_multipliers": (1, 2), "blocks_per_level": 1, "dtype": "float64", **fields})
        self.weights = part(self.pack, "sd/", jnp.float64)
        self.uncertainty = MPUncertainty(self.weights["logvar_fourier.freqs"].size)
        self.x, self.sigma = jnp.asarray(nhwc(self.pack["in/x"])), jnp.asarray(self.pack["in/sigma"], jnp.float64)
        labels = self.pack.get("in/class_labels")
        self.condition = {} if labels is None else {"label": jnp.asarray(np.argmax(labels, axis=1), jnp.int32)}
        height = self.x.shape[1]
        shapes = self._shapes(self.net, self.x, self.sigma, self.condition)
        self.params = functools.partial(
            convert, edm2.edm2(self.net, height), shapes=shapes, unused=edm2.UNCERTAINTY, what="the pack"
        )
        self.pullback = jax.jit(self._pullback)

    def _shapes(self, net, *inputs):
        return shapes_of(jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"])

    def denoised(self, weights, x, sigma, condition):
        """c_skip x + c_out F(c_in x, log(σ)/4)."""
        variance = sigma[:, None, None, None] ** 2 + self.sigma_data**2
        output = self.net.apply({"params": self.params(weights)}, x / jnp.sqrt(variance), jnp.log(sigma) / 4, condition)
        c_out = sigma[:, None, None, None] * self.sigma_data / jnp.sqrt(variance)
        return self.sigma_data**2 / variance * x + c_out * output

    def _pullback(self, weights, x, sigma, condition, cotangent):
        def function(weights, x):
            return self.denoised(weights, x, sigma, condition)

        output, pullback = jax.vjp(function, weights, x)
        return output, *pullback(cotangent)

    def log_variance(self, weights, sigma):
        label = jnp.log(sigma) / 4
        table = edm2.edm2_uncertainty()
        params = convert(table, weights, self._shapes(self.uncertainty, label), unused=edm2.NETWORK)
        return self.uncertainty.apply({"params": params}, label)


@functools.cache
def peer(name):
    with jax.enable_x64(True):
        return Peer(name)


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize(
    "name", [name if name == "edm2_train" else pytest.param(name, marks=pytest.mark.slow) for name in NETS]
)
def test_output_and_gradients_in_float64(name):
    p = peer(name)
    with jax.enable_x64(True):
        probe = jnp.asarray(nhwc(p.pack["probe"]), jnp.float64)
        x = p.x.astype(jnp.float64)
        output, weight_grads, x_grad = p.pullback(p.weights, x, p.sigma, p.condition, probe)
        close(output, nhwc(p.pack["out_f64"]), 1e-12)
        close(x_grad, nhwc(p.pack["grad_x_f64"]), 1e-12)
        if "logvar_f64" in p.pack:
            close(p.log_variance(p.weights, p.sigma), p.pack["logvar_f64"].ravel(), 1e-12)
        if "nolabels_f64" in p.pack:
            null = p.net.null(p.condition)
            output, *_ = p.pullback(p.weights, x, p.sigma, null, probe)
            close(output, nhwc(p.pack["nolabels_f64"]), 1e-12)
    expected = dict(zip(p.meta["grad_names"], p.pack["grad_norms"], strict=True))
    names = [name for name in expected if name.startswith("unet.")]
    ours = [np.linalg.norm(np.asarray(weight_grads[name])) for name in names]
    close(ours, np.array([expected[name] for name in names]), 1e-5)


def test_gradients_of_the_loss_at_normalized_weights():
    """The gradient that training takes after the weights were normalized, of Karras et al.'s Eq. 21."""
    p = peer("edm2_train")
    with jax.enable_x64(True):
        weights = {**p.weights, **part(p.pack, "sd_after/", jnp.float64)}
        weights["logvar_linear.weight"] = normalized(weights["logvar_linear.weight"], (1,))  # not part of sd_after
        sigma = jnp.exp(jnp.asarray(p.pack["loss/rnd_normal"], jnp.float64).ravel() - 0.4)
        y, noise = (jnp.asarray(nhwc(p.pack[key]), jnp.float64) for key in ("in/images", "loss/noise"))
        x = y + sigma[:, None, None, None] * noise
        log_variance, pullback = jax.vjp(lambda w: p.log_variance(w, sigma), weights)
        weight = ((sigma**2 + 0.25) / (sigma * 0.5) ** 2 / jnp.exp(log_variance))[:, None, None, None]
        zeros = jnp.zeros_like(x)
        denoised, *_ = p.pullback(weights, x, sigma, p.condition, zeros)
        error = denoised - y
        loss = weight * error**2 + log_variance[:, None, None, None]
        close(loss, nhwc(p.pack["loss/loss"]), 1e-5)
        _, of_network, _ = p.pullback(weights, x, sigma, p.condition, 2 * weight * error / len(y))
        of_uncertainty = pullback((1 - weight * error**2).sum(axis=(1, 2, 3)) / len(y))[0]
    for name in [key for key in p.pack if key.startswith("loss/grad/")]:
        theirs, name = p.pack[name], name.removeprefix("loss/grad/")
        ours = (of_network if name.startswith("unet.") else of_uncertainty)[name]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * max(np.abs(theirs).max(), 1e-3))


def test_forced_normalization_is_the_peers():
    pack = load("edm2_train")[0]
    for name in (
        "unet.emb_noise.weight",
        "unet.enc.4x4_block0.conv_res1.weight",
        "unet.enc.4x4_block0.conv_skip.weight",
    ):
        weight = jnp.asarray(pack[f"sd/{name}"], jnp.float32)
        ours = normalized(weight, range(1, weight.ndim))
        np.testing.assert_allclose(ours, pack[f"sd_after/{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [False, True], ids=["config", "optax"])
def test_every_update_ends_at_unit_magnitude(given):
    """Adam alone leaves the sphere at once, with a rate of 0.1."""
    kernel = normalized(jax.random.normal(jax.random.key(0), (3, 3, 4, 5)), (0, 1, 2))
    params = {"conv": {UNIT_KERNEL: kernel, "gain": jnp.ones(())}, "dense": {"kernel": jnp.ones((2, 2))}}
    optimizer = as_optimizer(optax.adam(0.1)) if given else build_optimizer("adam", learning_rate=0.1, clip_norm=None)
    grads = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), params)
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers and raises floats to them
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    size = jnp.sqrt(jnp.mean(jnp.square(moved["conv"][UNIT_KERNEL]), axis=(0, 1, 2)))
    np.testing.assert_allclose(size, 1.0, atol=2e-4)
    assert jnp.abs(moved["conv"][UNIT_KERNEL] - kernel).max() > 0.05
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1, rtol=1e-4, atol=0.2)


def test_unit_weights_do_not_decay_and_fourier_phases_stay():
    assert not is_decayed(("conv_0", UNIT_KERNEL), 4) and not is_decayed(("output_gain",), 0)
    assert is_fixed(("network", "fourier", "phases")) and is_fixed(("uncertainty", "fourier", "frequencies"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"channel_multipliers": ()}, "at least one level"),
        ({"concat_balance": 1.5}, r"0 <= concat_balance <= 1, got 1\.5"),
        ({"clip": 0.0}, "clip > 0, got 0.0; None does not clip"),
        ({"dropout": 1.0}, "0 <= dropout < 1"),
        ({"dtype": "float64"}, '64-bit mode for dtype "float64"'),
        ({"attention": "flash"}, "attention to be one of plain, fused"),
    ],
)
def test_fields_out_of_range(fields, told):
    with pytest.raises(ValueError, match=told):
        EDM2UNet(**fields)


def test_impossible_inputs():
    net, key, label = EDM2UNet(channels=8, channel_multipliers=(1, 2), num_classes=3), jax.random.key(0), jnp.zeros(1)
    with pytest.raises(ValueError, match=r"needs the conditions \{'label': \(1,\)\}, got \{\}; pass exactly those"):
        jax.eval_shape(net.init, key, jnp.zeros((1, 16, 16, 3)), label)
    with pytest.raises(ValueError, match="sides divisible by 2"):
        jax.eval_shape(net.init, key, jnp.zeros((1, 7, 7, 3)), label)


def test_a_task_takes_the_network_s_own_uncertainty():
    """Beside the network, where an objective learns one."""
    net = EDM2UNet(
        channels=8, channel_multipliers=(1,), blocks_per_level=1, attention_resolutions=(), uncertainty_features=6
    )
    objective = DenoisingScoreMatching(EDM(), EDMWeighting(), learned_uncertainty=True)
    denoiser = Denoising.model(EDM(), EDMPreconditioning(), net, objective)
    shapes = jax.eval_shape(lambda key: denoiser.init(key, {"x": jnp.zeros((1, 4, 4, 3))}, {}), jax.random.key(0))
    assert set(shapes_of(shapes["uncertainty"])) == {"fourier/frequencies", "fourier/phases", "linear/unit_kernel"}
    assert shapes["uncertainty"]["linear"][UNIT_KERNEL].shape == (6, 1)
