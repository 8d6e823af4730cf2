"""What --features and --metrics take, for --help, which loads no framework."""

import ast
import pathlib

import score_sde


def feature_names() -> str:
    """The keys of `EXTRACTORS`, and that a callable of the user is allowed."""
    return f"{', '.join(_keys('metrics/features/__init__.py', 'EXTRACTORS'))}, or a callable as module:attribute"


def metric_names() -> str:
    """The keys of `METRICS`, and that a class of the user is allowed."""
    return f"{', '.join(_keys('metrics/__init__.py', 'METRICS'))}, or a class as module:attribute"


def _keys(file: str, name: str) -> list[str]:
    """The keys of a catalogue, from the text of its file: importing it would load JAX."""
    tree = ast.parse(pathlib.Path(score_sde.__file__).parent.joinpath(file).read_text("utf-8"))
    (keys,) = (
        [ast.literal_eval(key) for key in node.value.keys if key is not None]
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and ast.unparse(node.target) == name
    )
    return keys
