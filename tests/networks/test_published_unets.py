"""U-Nets of other people in float64: outputs, gradients in x and in their weights, with every weight used once.

Packs in tests/golden/net. The sinusoidal frequencies of most peers are rounded to float32. Their packs hold the output
for exact frequencies too ("exactfreq"), or the comparison here takes the peer's rounded frequencies.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.importing import diffusers
from score_sde.importing.edm import UNUSED, edm
from score_sde.importing.guided_diffusion import guided_classifier, guided_diffusion
from score_sde.importing.score_sde import UNUSED_TORCH, score_sde_flax, score_sde_torch
from score_sde.networks import ADM, Encoder, NCSNpp, UNet, embeddings
from tests.networks.published import evaluate, load, nhwc, norms, part

SIZE: dict[str, Any] = {
    "channels": 32,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_resolutions": (8,),
    "dropout": 0.0,
}
CLASSIFIER: dict[str, Any] = {
    "channels": 32,
    "blocks_per_level": 1,
    "skip_rescale": False,
    "skip_projection": False,
    "scale_shift": True,
    "norm_groups": 32,
    "norm_epsilon": 1e-5,
    "noise_embedding": "sinusoidal_open",
    "dropout": 0.0,
}


class Pack(NamedTuple):
    """A pack, our network for it, its table (net, height, names), and the names of its noise labels and its weights."""

    net: Callable[..., Any]
    fields: Mapping[str, Any]
    table: Callable[..., Any]
    label: str
    weights: str = "sd/"
    divided: bool = False  # the peer is told σ, takes its logarithm, and divides the output by it


def by_height(table: Callable[..., Any]) -> Callable[..., Any]:
    return lambda net, height, names: table(net, height)


def unet2d(name: str) -> Pack:
    config = load(name)[1]["config"]

    def table(net, height, names):
        return diffusers.unet2d(net, height, names, config["flip_sin_to_cos"])

    fourier = config["time_embedding_type"] == "fourier"
    return Pack(UNet, diffusers.unet2d_fields(config), table, "timestep", divided=fourier)


PLAIN = {"num_heads": 4, "head_channels": None, "scale_shift": False, "resample_by": "convolution"}
PACKS: dict[str, Callable[[], Pack]] = {
    "edm_adm": lambda: Pack(ADM, {**SIZE, "num_classes": 5, "embedding_dim": 9}, by_height(edm), "noise_labels"),
    "guided_classifier": lambda: Pack(
        Encoder,
        {
            **CLASSIFIER,
            "out_features": 10,
            "channel_multipliers": (1, 2),
            "attention_resolutions": (8,),
            "head_channels": 16,
        }
        | {"pool": "attention"},
        by_height(guided_classifier),
        "timesteps",
    ),
    "guided_classifier_adaptive": lambda: Pack(
        Encoder,
        {**CLASSIFIER, "out_features": 4, "channel_multipliers": (1, 1), "attention_resolutions": (), "num_heads": 2}
        | {"resample_by": "convolution", "downsample_padding": "both"},
        by_height(guided_classifier),
        "timesteps",
    ),
    "guided_unet": lambda: Pack(
        ADM,
        {**SIZE, "norm_groups": 32, "head_channels": 16, "num_classes": 7, "out_channels": 6},
        by_height(guided_diffusion),
        "timesteps",
    ),
    "guided_unet_plain": lambda: Pack(
        ADM,
        {**SIZE, **PLAIN, "norm_groups": 32, "downsample_padding": "both"},
        by_height(guided_diffusion),
        "timesteps",
    ),
    "diffusers_ddpm": lambda: unet2d("diffusers_ddpm"),
    "diffusers_default": lambda: unet2d("diffusers_default"),
    "edm_ddpmpp": lambda: Pack(UNet, {**SIZE, "num_classes": 5, "embedding_dim": 9}, by_height(edm), "noise_labels"),
    "edm_ncsnpp": lambda: Pack(NCSNpp, {**SIZE, "num_classes": 5, "embedding_dim": 9}, by_height(edm), "noise_labels"),
    "ssp_ddpm": lambda: Pack(
        UNet,
        {**SIZE, "resample_by": "convolution", "skip_rescale": False, "norm_groups": 32},
        by_height(score_sde_torch),
        "time_cond",
    ),
    "ssp_ddpmpp": lambda: Pack(UNet, SIZE, by_height(score_sde_torch), "time_cond"),
    "ssp_ncsnpp_outputskip": lambda: Pack(
        NCSNpp,
        {**SIZE, "progressive_input": "skip", "progressive_output": "skip"},
        by_height(score_sde_torch),
        "time_cond",
        divided=True,
    ),
    "score_sde_jax_ncsnpp": lambda: Pack(NCSNpp, SIZE, by_height(score_sde_flax), "time_cond", "params/", divided=True),
}
QUICK = ("edm_adm", "guided_classifier")


def rounded(label: jax.Array, num_features: int, endpoint: bool = True) -> jax.Array:
    """`sinusoidal` with the frequencies in float32, as all peers of the first packs have them."""
    half = num_features // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10_000.0) / (half - int(endpoint))))
    angle = label[:, None] * jnp.asarray(frequencies, label.dtype)[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def condition(pack: Mapping[str, Any], net: Any) -> dict[str, jax.Array]:
    """The conditions of a pack in our form. The label of a classifier's pack is for its guidance."""
    if not net.num_classes:
        return {}
    names = {"class_labels": "label", "y": "label", "augment_labels": "embedding"}
    given = {ours: pack[f"in/{theirs}"] for theirs, ours in names.items() if f"in/{theirs}" in pack}
    if "label" in given:
        label = given["label"]
        given["label"] = jnp.asarray(np.argmax(label, axis=1) if label.ndim == 2 else label, jnp.int32)
    return {name: value if name == "label" else jnp.asarray(value, jnp.float64) for name, value in given.items()}


def images(x: np.ndarray, weights: str) -> jax.Array:
    return jnp.asarray(x if x.ndim == 2 or weights == "params/" else nhwc(x), jnp.float64)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PACKS]
)
def test_output_and_gradients_in_float64(name, monkeypatch):
    (arrays, meta), made = load(name), PACKS[name]()
    exact = "out_f64_exactfreq" in arrays
    if not exact:
        monkeypatch.setattr(embeddings, "sinusoidal", rounded)
    with jax.enable_x64(True):
        net = made.net(**{**made.fields, "dtype": "float64"})
        weights = {n.removeprefix("module."): v for n, v in part(arrays, made.weights, jnp.float64).items()}
        if name.startswith("ssp"):
            weights = {n if "all_modules." in n else f"all_modules.{n}": v for n, v in weights.items()}
        x, probe = (images(arrays[key], made.weights) for key in ("in/x", "probe" if "probe" in arrays else "in/x"))
        label = jnp.asarray(arrays[f"in/{made.label}"], jnp.float64)
        inputs = (x, jnp.log(label) if made.divided else label, condition(arrays, net))
        result = evaluate(
            net,
            made.table(net, x.shape[1], weights),
            weights,
            inputs,
            probe / label[:, None, None, None] if made.divided else probe,
            unused=(*UNUSED, *UNUSED_TORCH),
        )
        output = result.output / label[:, None, None, None] if made.divided else result.output
        # diffusers multiplies times by frequencies in float32.
        tolerance = 1e-9 if exact else 1e-5 if name.startswith("diffusers") else 1e-8
        key = "out_f64_exactfreq" if exact else "out_f64" if "out_f64" in arrays else "out_f32"
        close(output, images(arrays[key], made.weights), 1e-3 if key == "out_f32" else tolerance)
        if "probe" not in arrays:  # the tests have only the outputs of some packs
            return
        close(
            result.x_grad,
            images(arrays["grad_x_f64" if exact else "grad_x_f32"], made.weights),
            1e-2 if key == "out_f32" else 1e-4,
        )
    names = [n for n in meta["grad_names"] if not n.endswith(("GaussianFourierProjection_0/W", "time_proj.weight"))]
    expected = dict(zip(meta["grad_names"], arrays["grad_norms"], strict=True))
    theirs = np.array([expected[n] for n in names])
    ours = norms(result.weight_grads, [n.removeprefix("module.") for n in names])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=(1e-2 if key == "out_f32" else 1e-4) * theirs.max())


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Agreement relative to the largest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())
