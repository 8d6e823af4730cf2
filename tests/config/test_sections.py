"""The sections of a config: configs/base.py has all their fields, and the messages list the allowed values."""

import re
import typing

import pytest
from ml_collections import ConfigDict

from configs import base
from score_sde.catalogues import CATALOGUES
from score_sde.config import Settings, apply_overrides, checked_config, completed, made, plain, section_at
from score_sde.config.building import checked_member, fixed_section, section_options
from score_sde.config.differences import changes
from score_sde.config.kinds import Refused, convert, words
from score_sde.config.options import REQUIRED, options_of
from score_sde.config.sections import Mesh, Training
from score_sde.experiment import Experiment

# What configs/base.py says otherwise than a section from which the field is missing.
SHOWN_OTHERWISE = {
    "optimizer.schedule.warmup_steps": 5000,  # a config without the field has no warm-up
    "training.eval_every": 5000,  # nor evaluations, pictures and kept checkpoints that nobody asked for
    "training.sample_every": 5000,
    "training.keep_every": 50_000,
}
NOT_SHOWN = ("label", "threshold", "guidance", "crop", "decay_steps", "final_fraction")  # that few need


def sections(target=Settings, prefix=""):
    """(path, dataclass) of every fixed section."""
    for name, option in options_of(target).fields.items():
        inner = fixed_section(option.annotation)
        if inner is not None:
            yield f"{prefix}{name}", inner
            yield from sections(inner, f"{prefix}{name}.")


FIXED = dict(sections())


@pytest.mark.parametrize("path", FIXED)
def test_base_shows_every_field_with_its_default(path):
    shown = section_at(plain(base.get_config()), path)
    for name, option in section_options(path, FIXED[path], {}, CATALOGUES).fields.items():
        if name not in options_of(FIXED[path]).fields:
            continue  # an optimizer's own
        if option.default is REQUIRED:
            assert name in shown
        elif fixed_section(option.annotation) is None and name not in NOT_SHOWN:
            here = f"{path}.{name}"
            assert shown[name] == SHOWN_OTHERWISE.get(here, plain(option.default)), here


@pytest.mark.parametrize("target", [Settings, *FIXED.values()], ids=lambda target: target.__name__)
def test_every_field_has_a_doc(target):
    assert (target.__doc__ or "").strip()
    for name, option in options_of(target).fields.items():
        assert option.doc.endswith("."), f"{target.__name__}.{name}"
        assert typing.get_type_hints(target)[name] is not None


def test_a_config_with_only_what_is_required_has_the_defaults():
    config = base.get_config()
    for path, target in FIXED.items():
        section = section_at(config, path) or {}  # that of the schedule goes with the optimizer's
        for name, option in options_of(target).fields.items():
            if option.default is not REQUIRED and name in section:
                del section[name]
    settings = Experiment(config).settings
    assert settings.training == Training() and settings.mesh == Mesh() and settings.seed == 0
    assert settings.optimizer.schedule.warmup_steps == 0 and settings.likelihood.rtol == 1e-4
    assert settings.sampling.label is None and settings.sampling.solver == {"name": "ddim", "eta": 0.0}


def listed(message: str) -> set[str]:
    return set(re.findall(r"'(\w+)'", message.partition(" takes ")[2].partition("]")[0]))


@pytest.mark.parametrize("path", FIXED)
def test_the_error_of_a_fixed_section_lists_what_it_accepts(path):
    config = base.get_config()
    section = section_at(config, path)
    section["no_such_field"] = 1
    with pytest.raises(ValueError, match=f"config.{path} has the unknown field 'no_such_field'") as error:
        checked_config(config.to_dict(), CATALOGUES)
    accepted = section_options(path, FIXED[path], section.to_dict(), CATALOGUES).fields
    assert listed(str(error.value)) == set(accepted)
    assert set(section) - {"no_such_field"} <= set(accepted)


MEMBERS = [(path, name) for path, family in CATALOGUES.at.items() for name in family.members if path != "optimizer"]


@pytest.mark.parametrize(("path", "name"), MEMBERS)
def test_the_error_of_a_catalogue_s_section_lists_what_it_accepts(path, name):
    family = CATALOGUES.at[path]
    options = options_of(family.members[name], family.num_args)
    if options.is_open:
        pytest.skip("takes any field")
    with pytest.raises(
        ValueError, match=f"config.{path} has the unknown field 'no_such_field'; {name!r} takes"
    ) as error:
        checked_member(path, family, {"name": name, "no_such_field": 1}, CATALOGUES)
    assert listed(str(error.value)) == set(options.fields)


@pytest.mark.parametrize("family", {**CATALOGUES.at, **{base.__name__: f for base, f in CATALOGUES.of.items()}}.items())
def test_names_are_found_whatever_their_case(family):
    """And no two of a catalogue differ by their case, "_" and "-" alone."""
    path, family = family
    for name in family.members:
        for spelt in (name.upper(), name.title(), name.replace("_", "-"), name.replace("_", "")):
            assert family.canonical(path, spelt) == name


def test_names_of_a_config_are_those_of_the_catalogue():
    """So that a resumed run finds no difference."""
    config = base.get_config()
    config.sde.name, config.optimizer.name, config.sampling.solver.name = "VP", "Adam", "Ddim"
    assert plain(Experiment(config).config) == plain(Experiment(base.get_config()).config)


def test_whole_floats_of_a_config_file_are_whole_numbers():
    config = base.get_config()
    with config.ignore_type():
        config.training.num_steps = 1e5
        config.network.channels = 64.0
    experiment = Experiment(config)
    assert plain(experiment.config) == plain(Experiment(base.get_config()).config)
    assert type(experiment.settings.training.num_steps) is int


def test_an_older_config_that_lacks_what_came_later_is_the_same_experiment():
    older = base.get_config()
    for name in (
        "eval_every",
        "sample_every",
        "keep_every",
        "nonfinite",
        "max_skips",
        "eval_levels",
        "keep_checkpoints",
    ):
        del older.training[name]
    training = Experiment(older).settings.training
    assert (training.eval_every, training.sample_every, training.keep_every) == (0, 0, None)
    assert (training.nonfinite, training.max_skips, training.eval_levels, training.keep_checkpoints) == (
        "stop",
        100,
        9,
        2,
    )


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, 2.0, 2),
        (int, 2.5, None),
        (int, True, None),
        (int, 2**63, None),
        (float, 3, 3),
        (float, 10**39, None),
        (float, float("nan"), None),
        (float | int, 2.0, 2.0),
        (bool, 1, None),
        (typing.Literal["a", 1], "a", "a"),
        (typing.Literal["a", 1], True, None),
        (tuple[float, float], [0, 1], (0, 1)),
        (tuple[float, float], (0, 1, 2), None),
        (tuple[int, ...], (1, 2.0), (1, 2)),
        (dict[str, int], {"a": 2.0}, {"a": 2}),
        (dict[str, int], {"a": "b"}, None),
        (dict[str, int], {1: 1}, None),
        (typing.Any, {"a": [1, {"b": None}]}, {"a": (1, {"b": None})}),
        (typing.Any, b"x", None),
        (typing.Any, {1, 2}, None),
    ],
)
def test_what_an_annotation_allows(annotation, value, expected):
    if expected is None:
        with pytest.raises(Refused, match=re.escape(f"needs {words(annotation)}, got")):
            convert(annotation, value)
    else:
        found = convert(annotation, value)
        assert found == expected and type(found) is type(expected)


def test_a_section_becomes_its_dataclass():
    made_one = made(Training, {"num_steps": 5})
    assert made_one == Training(num_steps=5) and made_one.batch_size == 128
    config = ConfigDict({**base.get_config(), "optimizer": {"name": "adamw", "weight_decay": 0.1}})
    optimizer = Experiment(config).settings.optimizer
    assert optimizer.own == {"weight_decay": 0.1} and optimizer.learning_rate == 2e-4


def test_a_config_from_before_tasks_is_one_that_trains_a_denoiser():
    """Its run goes on, and a field of the section can be set."""
    config = base.get_config()
    before = config.copy_and_resolve_references()
    with before.unlocked():
        del before.task
    assert completed(plain(before), CATALOGUES) == completed(plain(config), CATALOGUES)
    apply_overrides(before, [("task.condition_dropout", "0.1")], CATALOGUES)
    assert before.task.to_dict() == {"name": "denoising", "condition_dropout": 0.1}


def test_the_order_of_names_in_a_list_of_sections_is_no_change():
    """Else a set of samples could not be read again: its manifest is written with sorted names."""
    there = {"guidance": [{"log_snr_min": -2.0, "name": "classifier_free"}]}
    assert changes(there, {"guidance": [{"name": "classifier_free", "log_snr_min": -2.0}]}) == {}
    assert list(changes(there, {"guidance": [{"name": "classifier_free", "log_snr_min": -3.0}]})) == ["guidance"]
