"""The config of a built experiment: it can be read as before, and a change raises an error."""

import copy
import pickle

import pytest

from configs import base
from score_sde.config import FrozenConfig, plain
from score_sde.experiment import Experiment


def experiment() -> Experiment:
    config = base.get_config()
    with config.unlocked():
        config.sampling.guidance = [{"name": "threshold", "limit": 2.0}]
    return Experiment(config)


CHANGES = {
    "an attribute": "config.seed = 3",
    "a field of a section": "config.sde.beta_max = 3.0",
    "an item": "config['sde']['beta_max'] = 3.0",
    "a new field": "config.sde.new = 3.0",
    "an update": "config.update({'seed': 3})",
    "an update of a section": "config.sde.update(beta_max=3.0)",
    "a deletion": "del config.sde.beta_max",
    "a deleted item": "del config['sde']",
    "a section in a list": "config.sampling.guidance[0]['limit'] = 3.0",
    "another in a list": "config.sampling.guidance[0].update(limit=3.0)",
    "an unlocked config": "config.unlock(); config.seed = 3",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_refused_and_the_sentence_says_what_to_do(change):
    config = experiment().config
    before = plain(config)
    with pytest.raises(AttributeError, match=r"config of an Experiment is fixed.*; got .*build again: .*Experiment\("):
        exec(change)
    assert plain(config) == before


def test_the_sentence_names_the_field():
    with pytest.raises(AttributeError, match=r"got config\.objective\.weighting\.name = 'edm'"):
        experiment().config.objective.weighting.name = "edm"


def test_it_reads_as_the_config_that_it_is_of():
    config = experiment().config
    assert config.sde.beta_max == config["sde"]["beta_max"] == 20.0 and config.sampling.guidance[0]["limit"] == 2.0
    assert config.sampling.get("nothing") is None and "seed" in config
    assert plain(Experiment(config).config) == plain(config)
    assert plain(pickle.loads(pickle.dumps(config))) == plain(config)  # noqa: S301


@pytest.mark.parametrize("copied", [FrozenConfig.copy_and_resolve_references, copy.deepcopy])
def test_a_copy_can_be_changed_and_built(copied):
    built = experiment()
    config = copied(built.config)
    config.sde.beta_max = 18.0
    config.sampling.guidance[0]["limit"] = 3.0
    again = Experiment(config)
    assert again.sde.beta_max == 18.0 and again.guidance[0].limit == 3.0
    assert built.config.sde.beta_max == 20.0 and built.config.sampling.guidance[0]["limit"] == 2.0
