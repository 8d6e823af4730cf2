"""The package's public names, and what importing them costs."""

import pathlib
import subprocess
import sys

import pytest

import score_sde

HEAVY = "{'jax', 'tensorflow', 'matplotlib', 'flax', 'orbax', 'tensorflow_datasets', 'grain', 'scipy'}"


def _heavy_modules_after(statement: str) -> str:
    code = f"import sys; {statement}; print(sorted({HEAVY} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.smoke
@pytest.mark.parametrize("name", score_sde.__all__)
def test_every_public_name_resolves(name):
    value = getattr(score_sde, name)
    assert name == "__version__" or value.__module__.startswith("score_sde.")
    assert name in dir(score_sde)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'VPSDE'; its public names are .*\bVP\b"):
        score_sde.VPSDE


def test_importing_the_package_loads_nothing_heavy():
    assert _heavy_modules_after("import score_sde") == "[]"


def test_an_sde_loads_no_data_or_plotting_library():
    loaded = _heavy_modules_after("import score_sde; score_sde.VP")
    assert "jax" in loaded
    for name in ("tensorflow", "matplotlib", "orbax", "tensorflow_datasets", "grain"):
        assert f"'{name}'" not in loaded


def _entry_points() -> list[str]:
    folder = pathlib.Path(__file__).parent.parent / "experiments"
    return [path.stem for path in sorted(folder.glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", _entry_points())
def test_help_lists_the_flags_and_loads_no_framework(name):
    command = [sys.executable, "-X", "importtime", "-m", f"experiments.{name}", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent.parent)
    if name == "config":  # which has no flags
        assert "score-sde config sde.vp" in result.stdout
    else:
        assert "flags:" in result.stdout and "  --" in result.stdout
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "ml_collections" in loaded
    assert not {"jax", "matplotlib", "tensorflow"} & loaded
