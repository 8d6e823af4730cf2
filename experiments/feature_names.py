"""What --features takes, for --help, which loads no framework."""

import ast
import pathlib

import score_sde


def feature_names() -> str:
    """The keys of `EXTRACTORS`, from the text of its file (importing it would load JAX), and a callable of the user's."""
    tree = ast.parse(
        pathlib.Path(score_sde.__file__).with_name("evaluation").joinpath("extractors.py").read_text("utf-8")
    )
    (names,) = (
        [ast.literal_eval(key) for key in node.value.keys if key is not None]
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.value, ast.Dict)
        and ast.unparse(node.target) == "EXTRACTORS"
    )
    return f"{', '.join(names)}, or a callable as module:attribute"
