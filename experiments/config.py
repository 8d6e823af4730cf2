"""What a config may say: score-sde config [SECTION[.NAME][.FIELD]]

Without a path the command lists the sections. `score-sde config sde` lists the names of
SDEs. `score-sde config sde.vp` lists the fields of one SDE with types and defaults.
`score-sde config training.num_steps` shows one field.
"""

import sys

from score_sde.config import NO_CATALOGUES
from score_sde.config.reference import reference


def main(arguments: list[str]) -> None:
    """Prints the sections, names or fields at the path among the arguments. --help changes nothing."""
    paths = [argument for argument in arguments if argument not in ("-h", "--help")]
    if len(paths) > 1 or any(path.startswith("-") for path in paths):
        raise SystemExit(f"Error: config takes one path, as sde.vp, got {paths}.")
    if not paths:
        print(f"{__doc__}\n{reference('', NO_CATALOGUES)}")
        return
    from score_sde.catalogues import CATALOGUES

    try:
        print(reference(paths[0].removeprefix("config."), CATALOGUES))
    except ValueError as error:
        raise SystemExit(f"Error: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
