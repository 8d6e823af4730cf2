"""The command `score-sde`, also `python -m score_sde`: score-sde COMMAND [--flags], in any folder."""

import ast
import os
import pathlib
import runpy
import sys

from score_sde.config.lookup import closest

COMMANDS = pathlib.Path(__file__).parent / "commands"


def main() -> None:
    """Runs the command that the first argument names. Modules of the working folder can be imported, as with `python -m`."""
    known = commands()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        width = max(map(len, known))
        print("score-sde COMMAND [--flags]; score-sde COMMAND --help shows its flags. The commands:\n")
        print("\n".join(f"  {name:{width}}  {text}" for name, text in known.items()))
        return
    name = sys.argv[1].replace("-", "_")
    if name not in known:
        raise SystemExit(
            f"Error: score-sde needs one of the commands {[*known]}, got {name!r}.{closest(name, [*known])}"
        )
    if os.getcwd() not in (os.path.abspath(path) for path in sys.path[:1]):
        sys.path.insert(0, os.getcwd())
    del sys.argv[1]
    runpy.run_module(f"score_sde.commands.{name}", run_name="__main__", alter_sys=True)


def commands() -> dict[str, str]:
    """The name of each command with the first words of its docstring, read without importing the command."""
    found = {}
    for path in sorted(COMMANDS.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition(":")[0]
    return found


if __name__ == "__main__":
    main()
