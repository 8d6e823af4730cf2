"""The declared dependencies are the used ones, and the wheel works without a checkout."""

import ast
import configparser
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import score_sde

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("score_sde", "configs", "experiments")
# Needed by jax.export, tensorflow-datasets and grain's array_record source, which import them without saying so.
IMPORTED_BY_OTHERS = {"flatbuffers", "importlib-resources", "array-record"}


# Where a wheel has the folders of the repository: nothing of the package stands beside it.
INSIDE = {"score_sde": "score_sde", "configs": "score_sde/configs", "experiments": "score_sde/commands"}


def _files(folder: pathlib.Path, inside: str) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    relative = (path.relative_to(folder) for path in found)
    links = {pathlib.PurePosixPath(place).name for place in INSIDE.values()} - {"score_sde"}
    return {f"{inside}/{path.as_posix()}" for path in relative if path.parts[0] not in links}


def _setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line.strip()]


def _declared() -> set[str]:
    return {canonicalize_name(r.name) for r in _requirements(_setup_cfg()["options"]["install_requires"])}


def _imported_modules() -> set[str]:
    modules = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    modules.add(node.module.partition(".")[0])
    return modules - set(sys.stdlib_module_names) - set(PACKAGES)


def test_what_is_imported_is_declared_and_the_reverse():
    distributions = importlib.metadata.packages_distributions()
    imported = {canonicalize_name(distributions[name][0]) for name in _imported_modules()}
    optional = {canonicalize_name(r.name) for r in _requirements(_setup_cfg()["options.extras_require"]["sweeps"])}
    assert imported - _declared() == optional
    assert _declared() - imported - IMPORTED_BY_OTHERS == set()


def _locked(file: str) -> dict[str, list[str]]:
    """The versions of each distribution in a lock, one for each range of Pythons."""
    locked: dict[str, list[str]] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)==([\w.]+)", line):
            locked.setdefault(canonicalize_name(match[1]), []).append(match[2])
    return locked


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-lowest.txt"])
def test_a_lock_holds_every_requirement(file):
    """And the lowest one the lowest version of each that setup.cfg allows, at least for one Python."""
    locked, parser = _locked(file), _setup_cfg()
    extras = parser["options.extras_require"]
    declared = [
        parser["options"]["install_requires"],
        *(extras[name] for name in ("test", "dev", "notebooks", "sweeps")),
    ]
    for requirement in _requirements("\n".join(declared)):
        if requirement.name != "score_sde":
            versions = locked.get(canonicalize_name(requirement.name), [])
            assert versions, f"{requirement} is not in {file}; run `make lock`"
            assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: {versions}"
            (least,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
            if file == "constraints-lowest.txt":
                assert min(map(Version, versions)) == least, f"{requirement}: {versions}"
    assert not {"torch", "tensorflow"} & locked.keys()


def test_the_versions_agree():
    assert f"\nversion: {score_sde.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {score_sde.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    # A copy, because setuptools leaves its build folder behind and would pack what an earlier build left there.
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_the_packages_files_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        header = archive.read(metadata).decode()
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert names == {name for folder, inside in INSIDE.items() for name in _files(ROOT / folder, inside)}
    assert {"score_sde/py.typed", "score_sde/data/digits.npz", "score_sde/data/LICENSE-digits.txt"} <= names
    assert f"\nVersion: {score_sde.__version__}\n" in header
    assert "Apache-2.0" in header
    assert licences


OUTSIDE = """
import pathlib, sys
import jax, numpy as np
import score_sde
assert pathlib.Path(sys.argv[1]) in pathlib.Path(score_sde.__file__).parents, score_sde.__file__

import score_sde.data.digits

levels = score_sde.data.digits.DigitsSource("test").gather(np.arange(5))["x"]
assert levels.shape == (5, 8, 8, 1) and levels.min() == 0 and levels.max() == 16
images = levels.astype(np.float32) / 8 - 1

digits = score_sde.GaussianMixture(np.full(5, 0.2, np.float32), images, np.full(images.shape, 1e-3, np.float32))
sde, solver, grid = score_sde.VP(), score_sde.DDIM(), score_sde.grids.LogSNRUniform(num_steps=30)
x = score_sde.sample(jax.random.key(0), digits.denoise(sde), solver, grid, (8, 8, 8, 1)).x
distance = np.abs(np.asarray(x)[:, None] - images).max(axis=(2, 3, 4)).min(axis=1)
assert (distance < 0.05).all(), distance
print("ok")
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a command where only the installed wheel is, and gives what it printed."""
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)

    def run(folder: pathlib.Path, *words: str, code: int = 0) -> str:
        environment = {"PYTHONPATH": str(target), "PATH": "", "HOME": str(folder), "JAX_PLATFORMS": "cpu"}
        environment["JAX_COMPILATION_CACHE_DIR"] = os.environ["JAX_COMPILATION_CACHE_DIR"]
        result = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        assert result.returncode == code, result.stderr
        return result.stdout + result.stderr

    run.folder = target
    return run


def test_the_installed_wheel_loads_the_digits_and_samples(installed, tmp_path):
    assert installed(tmp_path, "-c", OUTSIDE, str(installed.folder)).split()[0] == "ok"


OWN_CONFIG = """
from score_sde.configs import density2d

def get_config():
    config = density2d.get_config()
    config.sde = {"name": "models.curves:CubicVP", "b": 9.0}
    config.network.update({"width": 8, "depth": 1})
    config.training.update({"num_steps": 2, "batch_size": 8, "log_every": 1})
    config.data.train.num_examples = config.data.eval.num_examples = 20
    return config
"""
OWN_SDE = """
import jax.numpy as jnp
import score_sde as ss
from score_sde.internal.pytree import pytree

@pytree
class CubicVP(ss.SDE):
    b: float = 11.0

    def log_alpha(self, t):
        return -0.5 * self.b * t**3

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))
"""


def test_the_command_of_the_installed_wheel_works_in_any_folder(installed, tmp_path):
    """Also in one with folders configs/ and experiments/ of the user's own, whose config and SDE it takes."""
    script = installed.folder / "bin" / "score-sde"
    (tmp_path / "empty").mkdir()
    listed = installed(tmp_path / "empty", str(script))
    assert "train" in listed and "evaluate" in listed
    assert "flags:" in installed(tmp_path / "empty", str(script), "train", "--help", code=1)  # absl's
    for name, text in {
        "configs/__init__.py": "",
        "configs/mine.py": OWN_CONFIG,
        "configs/base.py": "raise ImportError('the base of another project')",
        "experiments/__init__.py": "raise ImportError('of another project')",
        "models/curves.py": OWN_SDE,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    installed(tmp_path, str(script), "train", "--config=configs/mine.py", "--workdir=run", "--config.sde.b=10")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["sde"] == {
        "name": "models.curves:CubicVP",
        "b": 10,
    }
    samples = ["--num_samples=2", "--set=sampling.grid.num_steps=2", "--output=samples"]
    installed(tmp_path, str(script), "sample", "--workdir=run", *samples)
    assert (tmp_path / "samples" / "samples.npz").is_file()
    package_s = ["--config=configs/density2d.py:rings", "--config.training.num_stps=2"]
    refused = installed(tmp_path, str(script), "train", "--workdir=other", *package_s, code=1)
    assert "config.training has the unknown field 'num_stps'" in refused  # the file was found
