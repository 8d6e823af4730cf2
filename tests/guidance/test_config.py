"""Rules in a config and on the command line."""

import pytest

from score_sde.catalogues import CATALOGUES
from score_sde.config import apply_overrides
from score_sde.configs import base
from score_sde.experiment import Experiment
from score_sde.guidance import APG, GUIDANCE, CFGZeroStar, ClassifierFree, Piecewise


def rules(*written):
    config = base.get_config()
    apply_overrides(config, [tuple(each.split("=", 1)) for each in written], CATALOGUES)
    return Experiment(config).guidance


@pytest.mark.parametrize("name", GUIDANCE)
def test_a_name_alone_is_a_rule(name):
    assert isinstance(rules(f"sampling.guidance={name}")[0], GUIDANCE[name])


def test_fields_of_a_rule_and_of_its_schedule():
    found = rules(
        "sampling.guidance=[{'name': 'classifier_free', 'scale': 3.0, 'log_snr_max': 4.0}, 'dynamic_threshold']",
        "sampling.guidance.0.schedule=piecewise",
        "sampling.guidance.0.schedule.log_snr=(-1,0,2)",
        "sampling.guidance.0.schedule.weight=(0,1,0.5)",
        "sampling.guidance.0.rescale=0.7",
    )
    schedule = Piecewise((-1, 0, 2), (0, 1, 0.5))
    assert found[0] == ClassifierFree(3.0, log_snr_max=4.0, schedule=schedule, rescale=0.7) and len(found) == 2
    assert rules("sampling.guidance=apg", "sampling.guidance.0.momentum=-0.5") == (APG(momentum=-0.5),)
    assert rules("sampling.guidance={'name': 'cfg_zero_star', 'predicts': 'v'}") == (CFGZeroStar(predicts="v"),)


def test_mistakes():
    with pytest.raises(
        ValueError, match=r"config.sampling.guidance\[0\].predicts needs one of 'eps', 'x0', 'v', 'flow'"
    ):
        rules("sampling.guidance={'name': 'cfg_zero_star', 'predicts': 'score'}")
    with pytest.raises(ValueError, match=r"unknown field 'momentm'.*Did you mean 'momentum'\?"):
        rules("sampling.guidance={'name': 'apg', 'momentm': 0.5}")
