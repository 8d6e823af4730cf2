"""Every text on a command line gives a config that builds, or an error of one or two sentences."""

import random
import re

import pytest
from ml_collections import ConfigDict

from configs import base, density2d, quickstart
from score_sde.config import literal, section_at
from score_sde.experiment import Experiment
from score_sde.run_config import apply_override

BUILT = (
    "sde",
    "parameterization",
    "denoiser",
    "objective",
    "optimizer",
    "solver",
    "grid",
    "log_prob",
    "guidance",
    "task",
)
CONFIGS = {"base": base.get_config, "points": density2d.get_config, "digits": lambda: quickstart.get_config("ve")}

WORDS = r"""
None true False 0 -1 1 2 1.5 5e1 1e5 1e-3 1e300 -1e300 1e999 inf -inf nan 2.0 0x10 007 1_000 100000000000000000000
-99999999999999999999 () (1,) (1,2) (1,2,2) (0,) (-1,2) (1.5,2.0) (None,) ('a',) ("a","b") (nan,)
(100000000000000000000,) [] [1,2] [[1],[2]] {} {1:2} {'a':1} {'':1} {'a.b':1} {'x':{'y':{'z':1}}} {'num_steps':10}
{'clip_norm':None} {'name':None} {'name':1} {'name':'vp'} {'name':'ve'} {'name':'ddim'} {'name':'uniform'}
{'name':'log_snr'} {'name':'langevin','num_steps':1.5} {'name':'unipc','order':2.0} {'name':'edm_heun','S_max':inf}
{'name':'mlp','depth':100000000000000000000} {'name':'ddpmpp','channels':100000000000000000000}
{'name':'predictor_corrector'} {'name':'predictor_corrector','predictor':{'name':'ddim'},'corrector':3}
{'name':'churn','solver':None} {'name':'churn','solver':{'name':'churn','solver':{'name':'ddim','eta':'x'}}}
{'name':'dpm_solver_fast','remainder':3000000000} {'name':'runge_kutta','tableau':((1,),)}
{'name':'given','table':(1,0)} {'name':'given','table':'abc'}
{'name':'with_restarts','grid':{'name':'uniform'},'inner':{'name':'given','table':(1,0)}}
{'name':'nowhere:X'} {'name':'json:loads'} {'name':'json:'} {'name':':x'} {'name':'.:x'} {'name':'a..b:x'}
{'name':'os:PathLike'} ve VP Ve vp: :vp a:b ddim DDIM adamw AdamW lion exact dynamic static heun log_normal text 'text'
"a" '' ' " \ \n \x00 é 😀 a=b a,b -- * __import__('os') b'x' {1,2} 1+2j 1j ... lambda:0 [1 (( {{ {'a' 1: (1,2
"""
VALUES = [*WORDS.split(), "", " ", "\n", "\x00", "(" * 500, "[" * 5000, "9" * 5000, "x" * 100_001]
OTHERS = (
    "sampling.threshold",
    "sampling.threshold.limit",
    "sampling.guidance",
    "sampling.guidance.0.scale",
    "task",
    "task.condition_dropout",
    "sampling.label",
    "sampling.solver.predictor",
    "sampling.solver.solver.eta",
    "network.out_channels",
    "optimizer.weight_decay",
    "data.augment.crop",
    "data.train.conditions.x",
)


def paths(section, prefix=""):
    for name, value in section.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from paths(value, f"{prefix}{name}.")


def mutated(rng: random.Random, text: str) -> str:
    """`text` with a few characters added, taken away or doubled."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        added = text[:at] + rng.choice(".=:{}()[]',\"0e-_ \x00é") + text[at:]
        text = rng.choice([added, text[:at] + text[at + 1 :], text[:at] * 2])
    return text[:1000]


def overrides(rng: random.Random, config: ConfigDict) -> list[str]:
    """Up to three, half of them what the config says already."""
    known, found = [*paths(config), *OTHERS], []
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(known)
        current = section_at(config, path)
        value = rng.choice(VALUES) if current is None or rng.random() < 0.5 else written(current)
        found.append(f"{path}={value}")
    return [mutated(rng, text) if rng.random() < 0.1 else text for text in found]


def written(value) -> str:
    """A value as a command line has it."""
    return repr(value.to_dict()) if isinstance(value, ConfigDict) else str(value)


def outcome(config: ConfigDict, texts: list[str]) -> str | None:
    """The message of the error, or None where everything was built."""
    try:
        for text in texts:
            apply_override(config, text)
        experiment = Experiment(config)
        for name in BUILT:
            getattr(experiment, name)
    except (ValueError, FileNotFoundError) as error:  # of data that are not there
        return str(error)
    return None


def check(what, config: ConfigDict, texts=()) -> bool:
    """Whether it is built, having checked that it is refused in one or two sentences where not."""
    try:
        message = outcome(config, texts)
    except BaseException as error:
        raise AssertionError(f"{what!r} raised {type(error).__name__}: {error}") from error
    if message is not None:
        without_lists = re.sub(r"'[^']*'|\[.*?\]", "", message, flags=re.DOTALL)
        sentences = re.findall(r"[.?](?= [A-Z]|$)", without_lists)
        assert 1 <= len(sentences) <= 2 and len(message) < 3000, f"{what!r}: {message}"
    return message is None


@pytest.mark.few(1)
@pytest.mark.parametrize("seed", range(4))
def test_every_text_is_a_config_or_a_sentence(seed):
    rng, number = random.Random(seed), 75
    built = 0
    for _ in range(number):
        name = rng.choice(list(CONFIGS))
        texts = overrides(rng, CONFIGS[name]())
        built += check((name, texts), CONFIGS[name](), texts)
    assert 0.1 * number < built < 0.9 * number


def test_every_value_in_a_file_is_a_config_or_a_sentence():
    """A config.json, or a config file, in which a field is anything."""
    rng, number, built = random.Random(0), 150, 0
    for _ in range(number):
        name = rng.choice(list(CONFIGS))
        config = CONFIGS[name]()
        path = rng.choice(list(paths(config)))
        parents, _, field = path.rpartition(".")
        section = section_at(config, parents) if parents else config
        value = literal(rng.choice([text for text in VALUES if len(text) < 1000 and "a.b" not in text]))
        with section.unlocked(), section.ignore_type():
            section[field] = value if rng.random() < 0.8 else [value, {"a": [value]}]
        built += check((name, path, value), config)
    assert 0.01 * number < built < 0.9 * number
