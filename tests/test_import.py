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
    if name in score_sde.FAMILIES:
        assert value.__name__ == score_sde.FAMILIES[name]
    else:
        assert name == "__version__" or value.__module__.startswith("score_sde.")
    assert name in dir(score_sde)


def test_names_stand_in_their_families():
    """Those that earlier versions had at the top are still found there, where one family alone has the name."""
    assert score_sde.DDIM is score_sde.solvers.DDIM
    assert score_sde.EDMRho is score_sde.grids.EDMRho
    assert "DDIM" not in dir(score_sde)
    assert score_sde.grids.Uniform is not score_sde.objectives.Uniform
    with pytest.raises(AttributeError, match="Say which is meant: score_sde.objectives.Uniform or score_sde.grids.Uni"):
        score_sde.Uniform


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'VPSDE'. Its public names are .*\bVP\b"):
        score_sde.VPSDE


def test_importing_the_package_loads_nothing_heavy():
    assert _heavy_modules_after("import score_sde") == "[]"


def test_an_sde_loads_no_data_or_plotting_library():
    loaded = _heavy_modules_after("import score_sde; score_sde.VP")
    assert "jax" in loaded
    for name in ("tensorflow", "matplotlib", "orbax", "tensorflow_datasets", "grain"):
        assert f"'{name}'" not in loaded


def test_a_module_of_the_package_loads_no_family():
    code = "import sys; from score_sde import parallel; print([n for n in sys.modules if n.startswith('score_sde.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'score_sde.parallel'" in loaded and "score_sde.metrics" not in loaded and "score_sde.solvers" not in loaded


def test_importing_all_modules_does_not_start_jax():
    """The numbers of processes and devices can be chosen until JAX starts. An array as a constant of a module starts it."""
    code = (
        "import importlib, pkgutil, score_sde\n"
        "for module in pkgutil.walk_packages(score_sde.__path__, 'score_sde.'):\n"
        "    if not module.name.startswith(('score_sde.commands.', 'score_sde.__main__')):\n"
        "        importlib.import_module(module.name)\n"
        "        from jax._src import xla_bridge\n"
        "        assert not xla_bridge.backends_are_initialized(), module.name"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-1000:]


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
