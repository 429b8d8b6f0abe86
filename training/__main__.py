"""Name the commands of this package: `python -m training`."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent


def commands() -> dict[str, str]:
    """Return what each command does, the first line of its docstring, by module."""
    found = {}
    for file in sorted(FOLDER.glob("[!_]*.py")):
        source = file.read_text()
        if '\nif __name__ == "__main__":\n' in source:
            first = (ast.get_docstring(ast.parse(source)) or "").splitlines()[:1]
            found[f"training.{file.stem}"] = "".join(first)
    return found


def main() -> None:
    """Print a line per command."""
    print("usage: python -m training.COMMAND --help, from the root of a checkout\n")
    for name, text in commands().items():
        print(f"  python -m {name:<34} {text}")


if __name__ == "__main__":
    main()
