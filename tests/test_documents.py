"""The documents: the programs, flags, config files and fields in them exist, and the Python of the README runs."""

import operator
import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

import score_sde
from score_sde.catalogues import CATALOGUES
from score_sde.config.files import load_config
from score_sde.config.overrides import apply_overrides
from score_sde.data import SOURCES
from score_sde.denoising import PARAMETERIZATIONS
from score_sde.guidance import GUIDANCE
from score_sde.guidance.inverse import METHODS
from score_sde.guidance.operators import OPERATORS
from score_sde.likelihood import DIVERGENCES
from score_sde.metrics import METRICS
from score_sde.networks import NETWORKS
from score_sde.objectives import OBJECTIVES, TIME_SAMPLERS, WEIGHTINGS
from score_sde.sdes import SDES
from score_sde.solvers import SOLVERS
from score_sde.solvers.grids import GRIDS
from score_sde.tasks import TASKS

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILT_IN = {"help", "helpshort", "helpfull", "verbosity"}
ANY_RUN = "configs/base.py"  # stands for the config of a run that a document names by its workdir


def commands() -> list[tuple[str, str]]:
    """(where, command line) of every call of our programs in a block or in the text of a document."""
    found = []
    for path in DOCUMENTS:
        text = re.sub(r"\\\n\s*", " ", path.read_text(encoding="utf-8"))
        for line in re.findall(r"(?:python -m experiments\.|score-sde )[^\n`]*", text):
            found.append((path.name, line.split("   #")[0].split("  or ")[0].strip()))
    return found


def flags_of(program: str) -> set[str]:
    """The names of the flags that a program defines, itself and in flags.py."""
    files = [ROOT / "experiments" / f"{program}.py", ROOT / "experiments" / "flags.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text)) | set(
        re.findall(r"define_config\(", text) and ["config"]
    )
    return names | BUILT_IN


@pytest.mark.few(38)
@pytest.mark.parametrize(("where", "command"), commands(), ids=lambda value: value[:60])
def test_a_command_of_the_documents(where, command):
    program, *rest = re.sub(r"^python -m experiments\.|^score-sde ", "", command).split(maxsplit=1)
    program = program.strip(".,:;()|…")
    if "|" in program or not program.isidentifier():  # "train|sample|…", of programs in general
        return
    assert (ROOT / "experiments" / f"{program}.py").is_file(), f"{where}: no program {program}"
    quotes_close = rest and all(rest[0].count(quote) % 2 == 0 for quote in "'\"")
    words = shlex.split(rest[0], comments=True) if quotes_close else []
    given = [word.removeprefix("--") for word in words if word.startswith("--") and len(word) > 2]
    known = flags_of(program)
    for flag in given:
        name = flag.partition("=")[0].partition(".")[0].strip("[]")
        assert name in known or name.removeprefix("no") in known, f"{where}: {program} has no flag --{name}"
    config = load_config(
        next((f.partition("=")[2] for f in given if f.startswith("config=")), ANY_RUN).replace("…", ANY_RUN)
    )
    fields = [flag.removeprefix("config.").partition("=") for flag in given if flag.startswith("config.")]
    fields += [part.partition("=") for flag in given if flag.startswith("set=") for part in [flag[len("set=") :]]]
    written = [(path, text) for path, _, text in fields if path.replace(".", "").replace("_", "").isalnum() and text]
    if not any(stand_in in command for stand_in in ("…", "FIELD", "my_project")):  # a file of the reader's own
        apply_overrides(config, written, CATALOGUES)


def test_every_document_has_commands_that_are_looked_at():
    assert len(commands()) > 20


def examples() -> list[str]:
    """The blocks of Python in the README, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def run(example: str) -> dict[str, Any]:
    """The names that an example, as it stands there, leaves."""
    names: dict[str, Any] = {}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(compile(example, "README.md", "exec"), names)
    return names


def test_the_first_example_of_the_readme_runs():
    assert "sample(" in examples()[0]
    run(examples()[0])


def test_the_readme_s_training_in_plain_python_learns_its_data(tmp_path, monkeypatch):
    """The class that is asked for comes out where it lies on the circle."""
    (example,) = (example for example in examples() if "ss.Trainer(" in example)
    assert sum(bool(line) for line in example.splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    names = run(example)
    assert names["samples"].shape == (16, 2)
    assert np.abs(names["samples"].mean(axis=0) - [-(0.5**0.5), 0.5**0.5]).max() < 0.2
    assert (tmp_path / "runs" / "circle" / "description.json").is_file()
    assert names["trainer"].load().step == 400


def lists() -> dict[str, Mapping[str, Any]]:
    """Every list of members that a config can name, with the document that has to have them."""
    return {
        "catalogue.md": {**SDES, **PARAMETERIZATIONS, **OBJECTIVES, **WEIGHTINGS, **TIME_SAMPLERS}
        | {**NETWORKS, **DIVERGENCES, **TASKS},
        "solvers.md": {**SOLVERS, **GRIDS},
        "guidance.md": GUIDANCE,
        "inverse.md": {**METHODS, **OPERATORS},
        "data.md": SOURCES,
        "evaluation.md": METRICS,
    }


@pytest.mark.parametrize("document", lists())
def test_a_document_names_every_member(document):
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    assert [name for name in lists()[document] if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_public_names_in_a_document_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"\bss\.\w+(?:\.\w+)?", text))):
        operator.attrgetter(name.removeprefix("ss."))(score_sde)  # raises AttributeError with the name


def anchors(path: pathlib.Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_of_a_document_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        if not target.startswith("http"):
            assert file.exists(), f"{path.name} links to {link}"
            assert not anchor or anchor in anchors(file), f"{path.name} links to {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path):
    folders = "benchmarks|configs|docs|experiments|launch|notebooks|score_sde|scripts|tests"
    named = re.findall(rf"`((?:{folders})/[a-z0-9_/.]+)[`:]", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
