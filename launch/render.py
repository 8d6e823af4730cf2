"""Fills a template of this folder.

    python launch/render.py launch/jobset_gpu.yaml NAME=vp IMAGE=… > vp.yaml

Fields are written ${NAME} in the template; $$ is a dollar sign. Needs nothing but Python.
"""

import pathlib
import string
import sys


def render(text: str, fields: dict[str, str]) -> str:
    """The template with every field filled.

    Raises: ValueError for a field that is missing, empty or unknown.
    """
    template = string.Template(text)
    wanted = sorted(template.get_identifiers())
    missing = [name for name in wanted if not fields.get(name)]
    unknown = sorted(fields.keys() - set(wanted))
    if missing or unknown:
        raise ValueError(f"The template needs NAME=VALUE for {wanted}; missing {missing}, unknown {unknown}.")
    return template.substitute(fields)


def main(arguments: list[str]) -> None:
    """Renders the file named first with the fields after it, to standard output."""
    if not arguments or any("=" not in argument for argument in arguments[1:]):
        raise SystemExit("Usage: python launch/render.py TEMPLATE NAME=VALUE …")
    path, *rest = arguments
    fields = dict(argument.split("=", 1) for argument in rest)
    try:
        sys.stdout.write(render(pathlib.Path(path).read_text(encoding="utf-8"), fields))
    except (ValueError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
