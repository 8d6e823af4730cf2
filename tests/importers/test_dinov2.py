"""DINOv2's weights: names of both public files, conversion, and errors. Fetching is tested by running it."""

import hashlib

import numpy as np
import pytest

from score_sde.importers import dinov2, dinov2_path, import_dinov2, load_dinov2
from tests.importers.test_torch_archive import archive

WIDTH, INNER = 64, 16


def release(depth: int = 2, positions: int = 1 + 4, gated: bool = False) -> dict[str, np.ndarray]:
    """Small random weights by the release's names, one head wide; the feed-forward is narrow, and the giant's if `gated`."""
    first, last = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, positions, WIDTH), "mask_token": (1, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,)}
    for i in range(depth):
        linear = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), last: (WIDTH, INNER)}
        linear[first] = ((1 + gated) * INNER, WIDTH)
        for name, shape in linear.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{i}.{name}"] = (WIDTH,)
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    rng = np.random.default_rng(0)
    return {name: (rng.normal(size=shape) / 4).astype(np.float32) for name, shape in shapes.items()}


def pth(state: dict[str, np.ndarray]) -> bytes:
    """What torch.save writes of it."""
    with pytest.MonkeyPatch.context() as stand_in:
        return archive(
            lambda tensor: {
                name: tensor(value.ravel(), value.shape, tuple(n // value.itemsize for n in value.strides))
                for name, value in state.items()
            },
            stand_in,
        )


def hugging_face(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights by the names of transformers."""
    names = {
        "cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token",
        "pos_embed": "embeddings.position_embeddings", "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    }  # fmt: skip
    inner = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1", "mlp.w3": "mlp.weights_out"}
    inner |= {"ls2.gamma": "layer_scale2.lambda1", "mlp.w12": "mlp.weights_in"}
    theirs = {}
    for name, value in state.items():
        if name in names:
            theirs[names[name]] = value
            continue
        _, index, rest = name.split(".", 2)
        if rest.startswith("attn.qkv"):
            for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                theirs[f"encoder.layer.{index}.attention.attention.{part}.{rest.rpartition('.')[2]}"] = third
            continue
        for ours, other in inner.items():
            rest = rest.replace(ours, other)
        theirs[f"encoder.layer.{index}.{rest}"] = value
    return theirs


@pytest.mark.parametrize("gated", [False, True])
def test_both_public_files_give_the_same_tensors(gated, tmp_path):
    state = release(gated=gated)
    (tmp_path / "weights.pth").write_bytes(pth(state))
    loaded = load_dinov2(import_dinov2(tmp_path / "weights.pth", tmp_path / "cache" / "weights.npz"))
    named = dinov2.release_names(hugging_face(state))
    assert set(loaded) == set(named) == set(state) - {"mask_token"}
    for name, value in loaded.items():
        assert np.array_equal(value, state[name]) and np.array_equal(named[name], value) and value.dtype == np.float32
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["weights.npz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"register_tokens": np.zeros((1, 4, WIDTH))}, "has registers, and FD_DINOv2 is of the one without"),
        (lambda s: {"a": np.zeros(3)}, r"not a DINOv2 with patches of 14×14: among 1 tensors \['a'\]"),
        (lambda s: s | {"head.weight": np.zeros((9, WIDTH))}, r"\['head.weight'\]"),
        (lambda s: {n: v for n, v in s.items() if n != "blocks.1.ls2.gamma"}, r"\['blocks.1.ls2.gamma'\] … are missing"),
        (lambda s: s | {"pos_embed": s["pos_embed"][:, :4]}, r"\['pos_embed'\]"),
        (lambda s: s | {"patch_embed.proj.weight": np.zeros((WIDTH, 3, 16, 16))}, r"\['patch_embed.proj.weight'\]"),
        (lambda s: {n.replace("blocks.1", "blocks.2"): v for n, v in s.items()}, r"\['blocks.1.attn.proj.bias'"),
    ],
)  # fmt: skip
def test_networks_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dinov2.release_names(change(release()))


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="No DINOv2 weights at .*get them by `score-sde import_dinov2`"):
        load_dinov2(tmp_path / "weights.npz")
    (tmp_path / "page.html").write_text("<html>Access denied</html>")
    with pytest.raises(ValueError, match=r"page.html cannot be read as safetensors \(it does not begin as"):
        import_dinov2(tmp_path / "page.html", tmp_path / "weights.npz")
    assert not (tmp_path / "weights.npz").exists()


def test_what_is_fetched_is_checked(tmp_path, monkeypatch):
    """From a mirror in a folder, once with the expected digest and once with another."""
    mirror = tmp_path / "mirror" / dinov2.MODEL
    mirror.parent.mkdir(parents=True)
    monkeypatch.setenv("HF_ENDPOINT", f"{(tmp_path / 'mirror').as_uri()}/")
    with pytest.raises(
        OSError, match=r"mirror/facebook/dinov2-large/.* could not be fetched: .*get the file in another way"
    ):
        import_dinov2(output=tmp_path / "weights.npz")
    mirror.write_bytes(pth(release()))
    with pytest.raises(
        ValueError, match=f"facebook/dinov2-large.* has SHA-256 .* and should have {dinov2.SHA256}; not used"
    ):
        import_dinov2(output=tmp_path / "weights.npz")
    assert not (tmp_path / "weights.npz").exists()
    monkeypatch.setattr(dinov2, "SHA256", hashlib.sha256(mirror.read_bytes()).hexdigest())
    assert np.array_equal(
        load_dinov2(import_dinov2(output=tmp_path / "weights.npz"))["norm.bias"], release()["norm.bias"]
    )


def test_where_the_weights_are(monkeypatch, tmp_path):
    monkeypatch.setenv("SCORE_SDE_DINOV2", str(tmp_path / "mine.npz"))
    assert dinov2_path() == tmp_path / "mine.npz"
