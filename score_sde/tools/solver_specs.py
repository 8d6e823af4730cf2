"""Solvers written on a command line: "heun", "ddim(eta=0.5)", "ancestral_steps(solver=heun, eta=0.8)"."""

import ast
from typing import Any

from score_sde.catalogues import CATALOGUES
from score_sde.config import build
from score_sde.solvers import Solver


def split(text: str) -> list[str]:
    """The parts of a text between commas. Commas inside of parentheses do not count."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def solver_of(text: str) -> Solver:
    """The solver that `text` names, with its fields in parentheses.

    A field that is a solver is written in the same way.

    Raises: ValueError for text of another form, or an unknown solver or field.
    """
    return build("solver", CATALOGUES.at["sampling.solver"], section_of(text), catalogues=CATALOGUES)


def section_of(text: str, kind: str = "solver") -> dict[str, Any]:
    """The config section {"name": …, field: value} of `text`. `kind` is what an error calls it.

    Raises: ValueError for text of another form.
    """
    try:
        return _section(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(f"A {kind} is written as name or name(field=value, …), got {text!r}.") from error


def _section(node: Any) -> dict[str, Any]:
    if isinstance(node, ast.Name):
        return {"name": node.id}
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError(node)
    return {"name": node.func.id, **{str(k.arg): _value(k.value) for k in node.keywords}}  # type: ignore[attr-defined]


def _value(node: Any) -> Any:
    if isinstance(node, ast.Name | ast.Call):
        return _section(node)
    return ast.literal_eval(node)
