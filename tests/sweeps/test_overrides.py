"""Overrides as a command line, and back."""

import pytest

from score_sde.sweeps.overrides import command_line, differences, load_config, plain, resolve

CONFIG = "configs/quickstart.py"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"optimizer.learning_rate": 1}, ["--config.optimizer.learning_rate=1.0"]),
        ({"training.num_steps": 300.0}, ["--config.training.num_steps=300"]),
        ({"network.channel_multipliers": [1, 2, 4]}, ["--config.network.channel_multipliers=(1, 2, 4)"]),
        ({"network.attention_resolutions": ()}, ["--config.network.attention_resolutions=()"]),
        ({"ema.half_lives_kimg": (5.0,)}, ["--config.ema.half_lives_kimg=(5.0,)"]),
        ({"data.augment.dequantize": False}, ["--config.data.augment.dequantize=False"]),
        ({"data.train.split": 'it\'s "odd"'}, ['--config.data.train.split=it\'s "odd"']),
        (
            {"optimizer.learning_rate": 1.2345678901234567e-05},
            ["--config.optimizer.learning_rate=1.2345678901234568e-05"],
        ),
        (
            {"sde": {"sigma_min": 0.01, "name": "ve", "sigma_max": 50.0}},
            ['--config.sde={"name": "ve", "sigma_max": 50.0, "sigma_min": 0.01}'],
        ),
        # a field that only the new section has, and a part of a section that no catalogue makes
        (
            {"sde.sigma_max": 60.0, "sde": {"name": "ve", "sigma_max": 1.0}},
            ['--config.sde={"name": "ve", "sigma_max": 60.0}'],
        ),
        (
            {"data.augment": {"crop": (4, 4)}},
            ['--config.data.augment={"crop": (4, 4), "dequantize": True, "random_flip": False}'],
        ),
        ({"network.out_channels": 2}, ["--config.network.out_channels=2"]),
    ],
)
def test_a_value_keeps_its_type(overrides, expected):
    arguments, config = command_line(CONFIG, overrides)
    assert arguments == [f"--config={CONFIG}", *expected]
    assert plain(load_config(arguments)) == plain(config)
    for path, value in overrides.items():
        section = config
        for name in path.split("."):
            section = section[name]
        if path != "sde" and not isinstance(value, dict | list):
            assert section == value and (type(section) is type(value) or isinstance(section, int | float))


def test_none_passes():
    arguments, config = command_line(CONFIG, {"optimizer.clip_norm": None, "optimizer.learning_rate": 0.1})
    assert arguments[1:] == ["--config.optimizer.clip_norm=None", "--config.optimizer.learning_rate=0.1"]
    read = load_config(arguments)
    assert read.optimizer.clip_norm is None and read.optimizer.learning_rate == 0.1 and plain(read) == plain(config)
    assert read.optimizer.schedule.warmup_steps == 100


def test_a_variant_and_the_fields_that_it_sets():
    arguments, config = command_line(f"{CONFIG}:flow", {"sampling.grid.start": 0.9})
    assert arguments[1] == "--config.sampling.grid.start=0.9" and config.sde.name == "flow"


def test_an_unknown_field_names_the_closest():
    with pytest.raises(
        ValueError, match=r"config.optimizer has the unknown field 'learning_rat'.*Did you mean 'learning_rate'\?"
    ):
        command_line(CONFIG, {"optimizer.learning_rat": 1e-3})
    with pytest.raises(ValueError, match=r"A config has no section 'sdes'; it has .*Did you mean 'sde'\?"):
        command_line(CONFIG, {"sdes.beta_max": 1.0})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training.num_steps", 1.5, "a whole number >= 1, got 1.5"),
        ("seed", True, "a whole number >= 0, got True"),
        ("seed", None, "a whole number >= 0, got None"),
        ("sde.beta_max", "20", "a number, got '20'"),
        ("optimizer.name", 3, "a text, got 3"),
        ("sde", 1, r"one of the names \['cosine', .* got 1"),
    ],
)
def test_a_value_of_another_type_is_refused(path, value, message):
    with pytest.raises(ValueError, match=f"config.{path} needs {message}"):
        command_line(CONFIG, {path: value})


@pytest.mark.parametrize("text", ["None", "5", "true", "'quoted'", '"', "(1, 2)", "", " a b "])
def test_a_text_that_looks_like_something_else_stays_a_text(text):
    arguments, config = command_line(CONFIG, {"data.train.split": text})
    assert load_config(arguments).data.train.split == config.data.train.split == text


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"--config=configs/nothing.py cannot be read"):
        command_line("configs/nothing.py", {})


def test_sections_go_before_the_fields_in_them():
    base = load_config([f"--config={CONFIG}"])
    config = resolve(base, {"sde.sigma_max": 9.0, "sde": {"name": "ve", "sigma_max": 1.0}})
    assert config.sde.sigma_max == 9.0 and base.sde.name == "vp"


def test_differences_between_configs():
    found = differences({"sde": {"a": 1, "b": 2}, "seed": 0}, {"sde": {"a": 1.0}, "seed": 0})
    assert found == ["sde.a: 1 there, 1.0 here", "sde.b: 2 there, 'absent' here"]
