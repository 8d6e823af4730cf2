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
        # a field that only the new section has, and a tuple and None in a section
        (
            {"sde.sigma_max": 60.0, "sde": {"name": "ve", "sigma_max": 1.0}},
            ['--config.sde={"name": "ve", "sigma_max": 60.0}'],
        ),
        ({"data.augment": {"crop": (4, None)}}, ['--config.data.augment={"crop": (4, None)}']),
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


def test_none_passes_with_the_section_around_it():
    """config_flags reads a field by the type of its value, and None for a number would not be read."""
    arguments, config = command_line(CONFIG, {"optimizer.clip_norm": None, "optimizer.learning_rate": 0.1})
    assert len(arguments) == 2 and arguments[1].startswith('--config.optimizer={"name": "adam", ')
    read = load_config(arguments)
    assert read.optimizer.clip_norm is None and read.optimizer.learning_rate == 0.1 and plain(read) == plain(config)
    assert read.optimizer.schedule.warmup_steps == 100


def test_a_variant_and_the_fields_that_it_sets():
    arguments, config = command_line(f"{CONFIG}:flow", {"sampling.grid.start": 0.9})
    assert arguments[1] == "--config.sampling.grid.start=0.9" and config.sde.name == "flow"


def test_an_unknown_field_names_the_closest():
    with pytest.raises(
        ValueError, match=r"needs fields of the config, got 'optimizer.learning_rat'.*'optimizer.learning_rate'"
    ):
        command_line(CONFIG, {"optimizer.learning_rat": 1e-3})
    with pytest.raises(ValueError, match="Did you mean 'sde.beta_max'"):
        command_line(CONFIG, {"sdes.beta_max": 1.0})


@pytest.mark.parametrize(
    ("path", "value"),
    [("training.num_steps", 1.5), ("seed", True), ("sde.beta_max", "20"), ("optimizer.name", 3), ("sde", 1)],
)
def test_a_value_of_another_type_is_refused(path, value):
    with pytest.raises(ValueError, match=f"{path} needs a value like .*, got"):
        command_line(CONFIG, {path: value})


def test_what_the_command_line_cannot_say():
    with pytest.raises(ValueError, match="The command line cannot pass .*write a config file"):
        command_line(CONFIG, {"seed": None})


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
