"""Every documented value can be given on a command line, and gets the type of its field."""

import math
import re

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import array, base, density2d, folder
from experiments.flags import ConfigFlag
from score_sde.catalogues import CATALOGUES
from score_sde.config import NO_CATALOGUES, Settings, apply_overrides, section_at
from score_sde.config.building import fixed_section
from score_sde.config.kinds import allows_none
from score_sde.config.options import REQUIRED, options_of
from score_sde.experiment import Experiment
from score_sde.run_config import from_workdir, write_config


def overridden(*texts, config=base.get_config):
    config = config()
    apply_overrides(config, [tuple(text.split("=", 1)) for text in texts], CATALOGUES)
    return config


@pytest.mark.few(11)
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("mesh.num_devices=1", 1),
        ("mesh.num_devices=None", None),
        ("optimizer.clip_norm=None", None),
        ("optimizer.b1=0.5", 0.5),
        ("optimizer.schedule.decay_steps=1e5", 100_000),
        ("ema.rampup_ratio=None", None),
        ("ema.half_lives_kimg=500", (500,)),
        ("ema.half_lives_kimg=(500.0, 5)", (500.0, 5)),
        ("training.keep_checkpoints=None", None),
        ("training.keep_every=None", None),
        ("training.num_steps=5e1", 50),
        ("training.num_steps=1e5", 100_000),
        ("data.augment.crop=(28, 28)", (28, 28)),
        ("data.augment.crop=28,28", (28, 28)),
        ("data.augment.crop=None", None),
        ("data.augment.random_flip=true", True),
        ("data.augment.random_flip=0", False),
        ("sampling.label=None", None),
        ("sampling.label=3", 3),
        ("sampling.threshold=None", None),
        ("sampling.guidance=classifier_free", ({"name": "classifier_free"},)),
        ("sampling.guidance=()", ()),
        ("network.out_channels=3", 3),
        ("network.out_channels=None", None),
        ("network.channel_multipliers=1,2", (1, 2)),
        ("objective.time_sampler.t_max=0.5", 0.5),
        ("objective.time_sampler.t_max=None", None),
        ("objective.learned_uncertainty=True", True),
        ("parameterization.sigma_data=None", None),
        ("sampling.grid.start=0.9", 0.9),
        ("sampling.grid.to_zero=True", True),
        ("optimizer.name=AdamW", "adamw"),
    ],
)
def test_a_field(text, value):
    config = overridden(text)
    path = text.partition("=")[0]
    settings = Experiment(config).config
    found = section_at(settings, path)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("config", "text", "value"),
    [
        (array.get_config, "data.train.label_key=None", None),
        (array.get_config, "data.train.label_key=y", "y"),
        (array.get_config, "data.train.value_range=None", None),
        (array.get_config, "data.train.value_range=(0, 255)", (0, 255)),
        (array.get_config, "data.train.levels=256", 256),
        (array.get_config, "data.train.levels=None", None),
        (array.get_config, "data.train.channels=3", 3),
        (array.get_config, 'data.train.conditions={"embedding": "text"}', {"embedding": "text"}),
        (array.get_config, "data.train.conditions.embedding=text", {"embedding": "text"}),
        (array.get_config, 'data.train.conditions=("text", "size")', ("text", "size")),
        (folder.get_config, "data.train.path=photos/5", "photos/5"),
        (folder.get_config, "data.train.path=007", "007"),
        (folder.get_config, "data.train.path='None'", "None"),
        (folder.get_config, "data.train.image_size=(32, 48)", (32, 48)),
        (folder.get_config, "data.train.image_size=None", None),
        (density2d.get_config, "data.train.noise=0.05", 0.05),  # of the density, which takes any field
    ],
)
def test_a_field_of_a_source(config, text, value):
    path = text.partition("=")[0].removesuffix(".embedding")
    found = section_at(overridden(text, config=config), path)
    assert (found.to_dict() if isinstance(found, ConfigDict) else found) == value


def test_a_dictionary_without_a_name_changes_the_fields_that_it_has():
    config = overridden(
        "optimizer={'clip_norm': None, 'schedule': {'warmup_steps': 7}}",
        "network={'channels': 8}",
        "parameterization={'noise_label': {'scale': 3.0}}",
        "training={'num_steps': 1e3}",
        "data={'augment': {'random_flip': True}}",
    )
    expected = base.get_config()
    expected.optimizer.update({"schedule": {**expected.optimizer.schedule, "warmup_steps": 7}})
    with expected.ignore_type():
        expected.optimizer.clip_norm = None
    expected.network.channels, expected.parameterization.noise_label.scale = 8, 3.0
    expected.training.num_steps, expected.data.augment.random_flip = 1000, True
    assert config.to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("sde=ve", {"name": "ve"}),
        ("sde=VE", {"name": "ve"}),
        ("sde=SubVP", {"name": "sub_vp"}),
        ("sde={'name': 've', 'sigma_max': 10.0}", {"name": "ve", "sigma_max": 10.0}),
        ("sde={'name': 'vp'}", {"name": "vp"}),  # whole: its fields have their defaults
        ("parameterization=edm", {"name": "edm"}),
        ("parameterization.noise_label=log_sigma", {"name": "log_sigma"}),
        ("network=mlp", {"name": "mlp"}),
        ("objective=sliced", {"name": "sliced"}),
        ("objective.weighting=likelihood", {"name": "likelihood"}),
        ("objective.time_sampler=Log-Normal", {"name": "log_normal"}),
        ("sampling.solver=heun", {"name": "heun"}),
        ("sampling.grid=log_snr_uniform", {"name": "log_snr_uniform"}),
        ("sampling.threshold=dynamic", {"name": "dynamic"}),
        ("likelihood.divergence=exact", {"name": "exact"}),
        ("data.train=digits", {"name": "digits"}),
    ],
)
def test_a_name_is_the_section_with_its_defaults(text, section):
    config = overridden(text)
    assert section_at(config, text.partition("=")[0]).to_dict() == section
    Experiment(config)


def test_the_name_of_an_optimizer_leaves_the_other_fields():
    """They belong to the section, whatever the optimizer."""
    for text in ("optimizer=lion", "optimizer={'name': 'Lion'}", "optimizer.name=lion"):
        config = overridden("optimizer.weight_decay=0.2", text, "optimizer.learning_rate=0.5")
        changed = {"name": "lion", "learning_rate": 0.5, "weight_decay": 0.2}
        assert config.optimizer.to_dict() == {**base.get_config().optimizer.to_dict(), **changed}


def test_sections_go_before_their_fields():
    config = overridden("sde.sigma_max=9", "sde=ve", "sampling.threshold.limit=2", "sampling.threshold=static")
    assert config.sde.to_dict() == {"name": "ve", "sigma_max": 9}
    assert config.sampling.threshold.to_dict() == {"name": "static", "limit": 2}


def everything():
    """(path of a section, how to make it, its fields) for every fixed section, and for every member of every catalogue."""

    def fixed(prefix, target):
        for name, option in options_of(target).fields.items():
            inner = fixed_section(option.annotation)
            if inner is not None:
                path = f"{prefix}{name}"
                yield path, path, None, {n: o for n, o in options_of(inner).fields.items() if n not in ("own", "name")}
                yield from fixed(f"{path}.", inner)

    yield from fixed("", Settings)
    for path, family in CATALOGUES.at.items():
        for name, member in family.members.items():
            fields = options_of(member, family.num_args).fields
            is_leaf = {n: catalogue_of(f"{path}.{n}", o) is None and n not in family.ours for n, o in fields.items()}
            here = f"{path}.0" if path == "sampling.guidance" else path
            yield path, here, name, {n: o for n, o in fields.items() if is_leaf[n]}


def catalogue_of(path, option):
    return CATALOGUES.family(path, option.annotation)


def value_at(config, path):
    """What stands at a path that may go through a list of sections."""
    before, number, field = path.partition(".0.")
    return section_at(config, before)[0][field] if number else section_at(config, path)


@pytest.mark.few(49)
@pytest.mark.parametrize(
    ("path", "inside", "name", "fields"), everything(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_default_can_be_typed_and_none_where_it_is_a_value(path, inside, name, fields):
    named = [] if name is None else [f"{path}={name}"]
    for field, option in fields.items():
        here = f"{inside}.{field}"
        if fixed_section(option.annotation) is None and catalogue_of(here, option) is None:
            if option.default is not REQUIRED:
                assert value_at(overridden(*named, f"{here}={option.default}"), here) == option.default
            if allows_none(option.annotation):
                assert value_at(overridden(*named, f"{here}=None"), here) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training=7", r"config.training is a section: set its fields, as training.num_steps=… or .*, got 7\.$"),
        ("mesh.data={}", r"config.mesh.data needs a whole number >= 1 or None, got \{\}\.$"),
        (
            "objective.time_sampler=None",
            r"config.objective.time_sampler needs one of the names \['discrete', .*got None",
        ),
        ("sde=7", r"config.sde needs one of the names \['cosine', .*, or \{'name': …, 'field': …\} with .*, got 7\.$"),
        ("sde=vee", r"config.sde.name needs one of \['cosine', .*got 'vee'. Did you mean 've'\?$"),
        ("sampling.grid.end=None", r"config.sampling.grid.end needs a number, got None\.$"),
        ("network.depth=3", r"config.network has the unknown field 'depth'; 'ddpmpp' takes \['channels', "),
        ("network.channels=1.5", r"config.network.channels needs a whole number, got 1.5\.$"),
        ("seed=99999999999999999999", r"config.seed needs a whole number >= 0, got 99999999999999999999\.$"),
        ("optimizer.learning_rate=inf", r"config.optimizer.learning_rate needs a number > 0, got inf\.$"),
        ("optimizer.learning_rate=1e39", r"config.optimizer.learning_rate needs a number > 0, got 1e\+39\.$"),
        ("optimizer.b1=nan", r"config.optimizer.b1 needs a number, got nan\.$"),
        (
            "parameterization.noise_label.scale=nan",
            r"config.parameterization.noise_label.scale needs a number, got nan",
        ),
        ("sde.beta_max=inf", r"config.sde.beta_max needs a number, got inf\.$"),
        ("likelihood.rtol=inf", r"config.likelihood.rtol needs a number >= 0, got inf\.$"),
        (
            "sampling.threshold.limit=1",
            r"config.sampling.threshold is None and has no fields; give it a name first, as ",
        ),
        ("data.augment.random_flip=2", r"config.data.augment.random_flip needs True or False, got 2\.$"),
        ("sde.beta_max.x=1", r"config.sde.beta_max is not a section and has no fields; set sde.beta_max itself\.$"),
        (
            "training.num_steps=" + "9" * 200_000,
            r"A value may have 100,000 characters, got 200,000; write a config file",
        ),
    ],
)
def test_what_is_no_value_is_a_sentence(text, message):
    with pytest.raises(ValueError, match=message):
        overridden(text)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "langevin", "num_steps": 1.5}, r"config.sampling.solver.num_steps needs a whole number, got 1.5\.$"),
        (
            {"name": "churn", "solver": None},
            r"config.sampling.solver.solver needs a section with a name, .*got None; the",
        ),
        (
            {"name": "churn", "solver": {"name": "ddim", "eta": "x"}},
            r"config.sampling.solver.solver.eta needs a number",
        ),
        ({"name": "dpm_solver_fast", "remainder": 2**31}, r"solver.remainder needs a whole number, got 2147483648\.$"),
        (
            {"name": "langevin", "num_steps": 1e7},
            r"config.sampling.solver.num_steps needs whole numbers up to 1,000,000, got",
        ),
        ({"name": "churn", "solver": {"name": "ddim"}, "S_noise": math.inf}, r"S_noise needs a number, got inf\.$"),
    ],
)
def test_a_section_is_checked_at_every_depth(section, message):
    with pytest.raises(ValueError, match=message):
        Experiment(overridden(f"sampling.solver={section!r}"))


def test_what_has_an_infinite_default_may_be_infinite():
    section = {"name": "unipc", "order": 2.0}  # and a whole float is a whole number
    assert Experiment(overridden(f"sampling.solver={section!r}")).solver.order == 2
    config = overridden("sampling.solver=edm_heun", "sampling.solver.S_max=inf")
    assert Experiment(config).solver.S_max == math.inf


def test_a_placeholder_takes_the_type_of_the_field():
    config = base.get_config()
    config.training["keep_every"] = placeholder(int)
    apply_overrides(config, [("training.keep_every", "1e3")], CATALOGUES)
    assert config.training.keep_every == 1000


def test_without_catalogues_only_fixed_sections_are_read():
    config = base.get_config()
    apply_overrides(config, [("sde", "nothing"), ("sde.x", "1"), ("training.num_steps", "5e1")], NO_CATALOGUES)
    assert config.sde == base.get_config().sde and config.training.num_steps == 50
    with pytest.raises(ValueError, match="config.training has the unknown field 'num_stps'"):
        apply_overrides(config, [("training.num_stps", "1")], NO_CATALOGUES)


def test_flags_of_a_config_are_told_from_others():
    flag = ConfigFlag(None)
    argv = [
        "train",
        "--config=a.py",
        "--config.sde.x=1=2",
        "-config.a",
        "3",
        "--config.b",
        "--noconfig.c",
        "--workdir",
        "w",
    ]
    assert flag.split([*argv, "--config.d", "--", "--config.e=1"]) == [
        "train",
        "--config=a.py",
        "--workdir",
        "w",
        "--",
        "--config.e=1",
    ]
    assert flag._overrides == [("sde.x", "1=2"), ("a", "3"), ("b", "True"), ("c", "False"), ("d", "True")]


@pytest.mark.parametrize(
    ("label", "overrides", "told"),
    [
        ("time", ["sde.beta_max=10"], ["network was told the time t.*sde.beta_max: 20.0 there, 10.0 here"]),
        ("time", ["sde=ve"], ["network was told the time t.*sde.name: 'vp' there, 've' here"]),
        ("time", ["sampling.grid.num_steps=3", "training.num_steps=5"], []),
        ("log_sigma", ["sde.beta_max=10"], []),
        (
            "log_sigma",
            ["parameterization.sigma_data=0.5"],
            ["trained to predict something else .*sigma_data: 1.0 there, 0.5"],
        ),
    ],
)
def test_another_model_than_the_trained_one_is_told(label, overrides, told, tmp_path, caplog):
    config = base.get_config()
    config.parameterization.noise_label = ConfigDict({"name": label})
    write_config(Experiment(config), tmp_path)
    from_workdir(tmp_path, overrides)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(told)
    for message, expected in zip(messages, told, strict=True):
        assert re.search(expected, message), message


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["network.channels=100000000000000000000"], "config.network.channels needs a whole number, got 1000"),
        (["network.channels=10000000"], "config.network.channels needs whole numbers up to 1,000,000, got 10000000"),
        (
            ["network.channel_multipliers=(1, 1e9)"],
            r"config.network.channel_multipliers needs whole numbers up to .*, got \(",
        ),
        (["network=mlp", "network.depth=100000000000000000000"], "config.network.depth needs a whole number, got 1000"),
        (["network=mlp", "network.depth=100000"], "MLP needs depth <= 1000, got 100000"),
        (["network.blocks_per_level=100000"], "UNet needs blocks_per_level <= 1000, got 100000"),
        (["sampling.grid.num_steps=1e9"], "config.sampling.grid.num_steps needs whole numbers up to 1,000,000, got"),
        (["sde=ddpm", "sde.num_levels=1e9"], "config.sde.num_levels needs whole numbers up to 1,000,000, got"),
        (
            ["network.channels=1e6", "network.channel_multipliers=(9,)", "network.attention_resolutions=()"],
            r"The network has \d+,.* parameters, and no machine",
        ),
    ],
)
def test_what_no_machine_could_hold_is_told_before_it_is_built(texts, message):
    with pytest.raises(ValueError, match=message):
        experiment = Experiment(overridden(*texts))
        experiment.denoiser
        experiment.recipe.state_shapes()
