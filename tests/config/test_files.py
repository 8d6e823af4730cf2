"""Config files by name: first the user's folder, then the package. An error in a file becomes a sentence with its line."""

import pathlib

import pytest

from score_sde.config.files import FOLDER, find_file, load_config, package_files

OWN = """
from score_sde.configs import base

def get_config():
    config = base.get_config()
    config.seed = 7
    return config
"""


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> str:
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


@pytest.mark.parametrize("name", ["configs/quickstart.py", "configs/quickstart", "quickstart", "quickstart.py"])
def test_the_package_has_it_where_the_working_folder_has_not(name):
    assert find_file(name) == FOLDER / "quickstart.py"
    assert load_config(f"{name}:ve").sde.name == "ve"
    write(f"{name.removesuffix('.py')}.py", OWN)
    assert load_config(name).seed == 7


def test_every_file_of_the_package_is_found_by_its_name():
    for name in [*package_files(), *package_files("sweeps")]:
        assert find_file(name).is_file() and name.startswith("configs/")
    assert "configs/base.py" in package_files() and not any("sweeps" in name for name in package_files())


def test_folders_of_the_user_s_do_not_hide_the_package_s():
    write("configs/__init__.py", "raise ImportError('of another project')")
    write("configs/base.py", "raise ImportError('of another project')")
    assert load_config("configs/cifar10/small.py").data.train.dataset == "cifar10"
    assert load_config(write("configs/mine.py", OWN)).seed == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quickstrt",
            r"--config needs FILE.py\[:variant\], got 'quickstrt'; it is neither in the working folder nor among",
        ),
        ("", r"--config needs FILE.py\[:variant\], got ''; "),
        (".", r"--config needs FILE.py\[:variant\], got '.'; "),
        ("/nowhere/x.py", r"--config needs FILE.py\[:variant\], got '/nowhere/x.py'; "),
    ],
)
def test_what_is_not_there_names_what_is(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_config(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"mine.py cannot be read: SyntaxError: "),
        (
            "import no_such_module\n",
            r"mine.py, line 1 cannot be read: ModuleNotFoundError: No module named 'no_such_module'\.$",
        ),
        (
            "from configs import no_such_config\n",
            r"line 1 cannot be read: .* imported as `from score_sde.configs import base`\.$",
        ),
        ("x = 1\n", r"--config needs a file with a function get_config\(\) that returns a ConfigDict, got mine.py\.$"),
        (
            "def get_config():\n    return {}\n",
            r"get_config\(\) of mine.py needs to return a ConfigDict, .*, got dict\.$",
        ),
        (OWN.replace("seed = 7", "training.num_steps = '7'"), r"mine.py, line 6 cannot be read: TypeError: "),
        (OWN.replace("seed = 7", "traning.num_steps = 7"), r"mine.py, line 6 cannot be read: AttributeError: "),
    ],
)
def test_a_mistake_in_a_file_is_a_sentence_with_its_line(text, message):
    write("mine.py", text)
    with pytest.raises(ValueError, match=message):
        load_config("mine.py")


def test_a_variant_that_a_file_has_not():
    with pytest.raises(ValueError, match=r"mine.py has no variants, got 've'; drop it\.$"):
        load_config(write("mine.py", OWN) + ":ve")
    with pytest.raises(ValueError, match=r"quickstart has the variants .*got 'no'"):
        load_config("quickstart:no")
