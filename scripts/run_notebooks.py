"""Executes notebooks/*.py. With --write it renews the .ipynb beside each, else it checks that it holds the same cells."""

import argparse
import pathlib
import sys
import time

import jupytext
import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Gives what a reader sees of a notebook, without outputs."""
    return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """Runs the notebook in its own folder, so that it works as it does for a user, and gives it with its outputs."""
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # random by default, which would change every line of history
    client = nbclient.NotebookClient(
        notebook, timeout=900, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()
    return notebook


def main() -> int:
    """Returns the number of notebooks whose .ipynb is missing or out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the .ipynb files")
    write = parser.parse_args().write
    stale = 0
    for path in sorted(FOLDER.glob("*.py")):
        start = time.perf_counter()
        notebook = execute(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")
        paired = path.with_suffix(".ipynb")
        if write:
            nbformat.write(notebook, paired)
        elif not paired.exists() or cells(nbformat.read(paired, as_version=4)) != cells(notebook):
            print(f"{paired.name} needs the cells of {path.name}; run `make notebook`.", file=sys.stderr)
            stale += 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
