"""Every config file in all its variants: no two of its sections are the same object."""

import copy
import importlib
import inspect

import pytest
from ml_collections import ConfigDict, FieldReference

from configs import base, quickstart
from score_sde.config import plain, section_at, shared_sections
from score_sde.data import DENSITIES
from score_sde.experiment import Experiment
from tests.test_experiment import CONFIGS, FILES

VARIANTS = {
    "array": ("", "points"),
    "cifar10.ddpmpp_sub_vp": ("", "deep"),
    "cifar10.ddpmpp_vp": ("", "deep"),
    "cifar10.edm_ddpmpp": ("", "cond"),
    "cifar10.ncsnpp_ve": ("", "deep"),
    "cifar10.small": ("", "benchmark", "guided"),
    "density2d": tuple(DENSITIES),
    "fashion_mnist.small": ("", "guided"),
    "quickstart": tuple(quickstart.SDES),
}
MODULES = [".".join(path.relative_to(CONFIGS).with_suffix("").parts) for path in FILES]
CASES = [(name, variant) for name in MODULES for variant in VARIANTS.get(name, (None,))]


def load(name, variant):
    get_config = importlib.import_module(f"configs.{name}").get_config
    return get_config() if variant is None else get_config(variant)


def leaves(section, prefix=""):
    """The path and value of every field that is no section; references as they are."""
    for name, value in section.items(preserve_field_references=True):
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("name", MODULES)
def test_every_variant_is_in_the_list(name):
    parameters = inspect.signature(importlib.import_module(f"configs.{name}").get_config).parameters
    assert bool(parameters) == (name in VARIANTS)
    if parameters and name != "density2d":
        with pytest.raises(ValueError, match="has the variants") as refused:
            load(name, "no such variant")
        assert all(repr(variant) in str(refused.value) for variant in VARIANTS[name])


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_field_that_is_set_changes_no_other(name, variant):
    """The data of training and the held-out data above all: once, both were those of testing."""
    config = load(name, variant)
    assert shared_sections(config) == []
    shared = [id(v) for _, v in leaves(config) if isinstance(v, FieldReference | list | dict | set)]
    assert len(shared) == len(set(shared))
    marked = {"train": {}, "eval": {}}
    for half, fields in marked.items():
        section = config.data[half]
        for path, _ in leaves(section):
            parents, _, field = path.rpartition(".")
            inner = section_at(section, parents) if parents else section
            with inner.unlocked(), inner.ignore_type():
                inner[field] = fields[path] = f"{half} {path}"
    for half, fields in marked.items():
        assert {path: section_at(config.data[half], path) for path in fields} == fields


def test_a_config_with_one_section_in_two_places_is_refused():
    """However it came about: a dictionary or a section given twice, or a part of one."""
    source = {"name": "digits", "split": "train", "labels": False}
    nested = ConfigDict({**source, "conditions": {"embedding": "text"}})
    for train, heldout in ((source, source), (ConfigDict(source),) * 2, (nested, ConfigDict(dict(nested)))):
        config = base.get_config()
        config.data = ConfigDict({"train": train, "eval": heldout, "augment": {}})
        with pytest.raises(
            ValueError, match=r"config.data.eval(.conditions)? and config.data.train.* are one object, so"
        ):
            Experiment(config)
        config.data = ConfigDict({"train": train, "eval": copy.deepcopy(heldout), "augment": {}})
        assert shared_sections(config) == []
    again = ConfigDict(plain(config))
    assert shared_sections(again) == []
