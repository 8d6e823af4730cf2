"""What is declared is what is used, and the wheel works where there is no checkout."""

import ast
import configparser
import importlib.metadata
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
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
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
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    assert names == {path.relative_to(ROOT).as_posix() for path in files if path.parent.name != "__pycache__"}
    assert {"score_sde/py.typed", "score_sde/data/digits.npz", "score_sde/data/LICENSE-digits.txt"} <= names
    assert f"\nVersion: {score_sde.__version__}\n" in header
    assert "Apache-2.0" in header
    assert licences


OUTSIDE = """
import pathlib, sys
import jax, numpy as np
import configs, experiments, score_sde
folder = pathlib.Path(sys.argv[1])
assert all(folder in pathlib.Path(m.__file__).parents for m in (configs, experiments, score_sde)), score_sde.__file__

import score_sde.data.digits

levels = score_sde.data.digits.DigitsSource("test").gather(np.arange(5))["x"]
assert levels.shape == (5, 8, 8, 1) and levels.min() == 0 and levels.max() == 16
images = levels.astype(np.float32) / 8 - 1

digits = score_sde.GaussianMixture(np.full(5, 0.2, np.float32), images, np.full(images.shape, 1e-3, np.float32))
sde, solver, grid = score_sde.VP(), score_sde.DDIM(), score_sde.LogSNRUniform(num_steps=30)
x = score_sde.sample(jax.random.key(0), sde, digits.denoise(sde), solver, grid, (8, 8, 8, 1)).x
distance = np.abs(np.asarray(x)[:, None] - images).max(axis=(2, 3, 4)).min(axis=1)
assert (distance < 0.05).all(), distance
print("ok")
"""


def test_the_installed_wheel_loads_the_digits_and_samples(wheel, tmp_path):
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    run = [sys.executable, "-c", OUTSIDE, str(target)]
    environment = {"PYTHONPATH": str(target), "PATH": "", "HOME": str(tmp_path)}
    result = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["ok"]
