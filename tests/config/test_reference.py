"""`score-sde config PATH` shows every section, name and field, with its default and doc."""

import pathlib
import subprocess
import sys

import pytest

from score_sde.catalogues import CATALOGUES
from score_sde.config import NO_CATALOGUES, Settings
from score_sde.config.options import options_of
from score_sde.config.reference import reference

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_the_sections_need_no_catalogue():
    text = reference("", NO_CATALOGUES)
    assert [line.split()[0] for line in text.splitlines()] == list(options_of(Settings).fields)


@pytest.mark.parametrize("path", CATALOGUES.at)
def test_every_member_of_a_catalogue_shows_its_fields(path):
    family = CATALOGUES.at[path]
    names = reference(path, CATALOGUES)
    for name, member in family.members.items():
        shown = reference(f"{path}.{name}", CATALOGUES)
        assert path == "optimizer" or f"\n  {name}\n" in names
        for field, option in options_of(member, family.num_args).fields.items():
            if field in family.ours:
                continue
            assert f"\n  {field} = {option.default!r}\n" in shown or f"\n  {field}\n" in shown
            assert option.doc.split(" ")[0].lower() in shown.lower()
            assert path == "optimizer" or option.doc.endswith("."), f"{path}.{name}.{field} needs a sentence under Args"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("sde.vp", ["sde.vp: VP", "α² = exp(−∫₀ᵗ β)", "  beta_min = 0.1\n      A number.", "  beta_max = 20.0"]),
        ("training.num_steps", ["num_steps = 100000", "A whole number >= 1. Where training ends."]),
        ("training.nonfinite", ["nonfinite = 'stop'", "One of 'stop', 'skip'."]),
        ("mesh.data", ["data = None", "A whole number >= 1 or None. Devices that hold a copy"]),
        ("optimizer.adamw", ["optimizer: adamw", "  weight_decay = 0.0001", "  learning_rate = 0.0002"]),
        ("sampling.solver.churn.solver.ddim", ["eta = 0.0"]),
        ("sampling.solver.predictor", ["euler_maruyama", "ddim"]),
        ("objective.weighting.EDM", ["EDMWeighting", "sigma_data = 0.5"]),
        ("data.train.array.value_range", ["value_range = None", "A tuple of 2 numbers or None. (low, high) of a"]),
        ("sde.flow", ["It has no fields."]),
        ("sampling.threshold", ["dynamic", "static", "module:attribute"]),
    ],
)
def test_what_a_path_shows(path, parts):
    text = reference(path, CATALOGUES)
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("sdee", r"A config has no section 'sdee'; it has .*Did you mean 'sde'\?"),
        ("sde.vpp", r"config.sde.name needs one of .*Did you mean 'vp'\?"),
        ("sde.vp.beta_mx", r"config.sde.vp has the unknown field 'beta_mx'; .*Did you mean 'beta_max'\?"),
        ("training.num_stps", r"config.training has the unknown field 'num_stps'; .*Did you mean 'num_steps'\?"),
        ("training.num_steps.x", r"config.training.num_steps is a field and has no fields of its own, got 'x'"),
    ],
)
def test_a_path_that_is_nothing(path, message):
    with pytest.raises(ValueError, match=message):
        reference(path, CATALOGUES)


def test_the_command():
    """--help may stand before the path; alone it loads no framework."""

    def run(*words):
        command = [sys.executable, "-X", "importtime", "-m", "score_sde", "config", *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    alone = run("--help")
    assert "score-sde config sde.vp" in alone.stdout and "\n  parameterization  What the" in alone.stdout
    loaded = {line.rpartition("|")[2].strip() for line in alone.stderr.splitlines()}
    assert "ml_collections" in loaded and not {"jax", "flax"} & loaded
    assert "beta_max = 20.0" in run("--help", "sde.vp").stdout
