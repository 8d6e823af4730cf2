"""The facts of a source, by which a resumed run sees whether its data have changed."""

import json
import shutil
import unicodedata

import numpy as np
import pytest

from score_sde.data import ArraySource, DensitySource, DigitsSource, FolderSource, Subset, TFDSSource
from score_sde.data import digests as digests_module
from score_sde.data.digests import digest_of_array
from tests.data.numbered import Numbered
from tests.data.test_folder import noise, write
from tests.data.test_sources import CASES
from tests.data.tiny_tfds import image_feature, png, prepare

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", CASES)
def test_facts_are_json_and_do_not_depend_on_where_the_data_lie(name, tmp_path):
    """A copy elsewhere has the same facts. Of a source of a user's own, which need not tell, there is no digest."""
    (tmp_path / "here").mkdir()
    source = CASES[name](tmp_path / "here")
    facts = source.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["num_examples"] == 11 and facts["shape"] == list(source.spec.shape) and len(facts["digest"]) == 64
    assert Numbered(3).facts()["digest"] is None and Subset(Numbered(3), np.arange(2)).facts()["digest"] is None


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)


def test_a_folder_is_its_listing(tmp_path):
    here = tmp_path / "here"
    for name in ("cat/1.png", "café/2.png"):
        write(here / name, noise(4, 4, 1))
    facts = FolderSource(here, labels=True).facts()
    assert facts["class_names"] == ["café", "cat"]
    there = copied(here, tmp_path)
    (there / "café").rename(there / unicodedata.normalize("NFD", "café"))
    assert FolderSource(there, labels=True).facts() == facts
    (there / "cat/1.png").rename(there / "cat/3.png")
    assert FolderSource(there, labels=True).digest() != facts["digest"]
    there = copied(here, tmp_path / "again")
    (there / "cat/1.png").write_bytes((there / "cat/1.png").read_bytes() + b"\0")
    assert FolderSource(there, labels=True).digest() != facts["digest"]


def test_an_array_is_its_values_whatever_its_file(tmp_path):
    x, y = RNG.normal(size=(6, 3)), np.arange(6) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez_compressed(tmp_path / "b.npz", y=y, x=x)
    sources = [ArraySource(tmp_path / name, label_key="y") for name in ("a.npz", "b.npz")]
    assert sources[0].facts() == sources[1].facts()
    for other in ({"x": np.nextafter(x, 9), "y": y}, {"x": x, "y": 1 - y}):
        np.savez(tmp_path / "c.npz", **other)
        assert ArraySource(tmp_path / "c.npz", label_key="y").digest() != sources[0].digest()


def test_of_a_large_array_blocks_from_its_first_to_its_last_byte(monkeypatch):
    monkeypatch.setattr(digests_module, "WHOLE", 64)
    monkeypatch.setattr(digests_module, "BLOCK", 16)
    for dtype in (np.uint8, np.float64):
        array = RNG.integers(0, 200, (100, 3)).astype(dtype)
        digest = digest_of_array(array)
        assert digest_of_array(array.copy()) == digest != digest_of_array(array[1:])
        for place in ((0, 0), (-1, -1)):
            changed = array.copy()
            changed[place] += 1
            assert digest_of_array(changed) != digest


def test_densities_and_digits_and_parts_tell_them_apart():
    base = DensitySource("moons")
    assert DensitySource("moons", num_examples=5, std=0.1).digest() == base.digest()
    others = [DensitySource("moons", seed=1), DensitySource("moons", std=0.2), DensitySource("rings")]
    digits = [DigitsSource("train"), DigitsSource("test"), Subset(DigitsSource("test"), np.arange(5))]
    digits.append(Subset(DigitsSource("test"), np.arange(1, 6)))
    digests = [source.digest() for source in [base, *others, *digits]]
    assert len(set(digests)) == len(digests)


def test_a_tfds_split_is_its_version_and_its_records(tmp_path):
    records = [{"image": png(noise(4, 4, 1))} for _ in range(4)]
    splits = {"train": records[:3], "test": records[3:]}
    for folder, version in (("a", "1.0.0"), ("b", "1.0.0"), ("c", "1.0.1")):
        prepare(tmp_path / folder, {"image": image_feature(4, 4, 1)}, splits, version=version)
    facts = TFDSSource("tiny", data_dir=tmp_path / "a").facts()
    assert TFDSSource("tiny", data_dir=tmp_path / "b").facts() == facts and facts["num_examples"] == 3
    for other in (TFDSSource("tiny", data_dir=tmp_path / "c"), TFDSSource("tiny", "test", data_dir=tmp_path / "a")):
        assert other.digest() != facts["digest"]
