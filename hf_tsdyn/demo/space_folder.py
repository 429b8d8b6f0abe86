"""A Hub Space with the demo as one folder: nothing that it runs comes from a package index by this package's name."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from .checkpoints import Checkpoint

PACKAGE = Path(__file__).parents[1]
CHECKOUT = PACKAGE.parent
"""Of an editable install; of an installed wheel, where other packages lie."""
TEMPLATES = Path(__file__).parent / "space"
TORCH_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
"""Where torch for processors alone is, which is a tenth of the other's size."""


def write_space(folder: Path, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Write the files of a Space that serves the demo with these checkpoints: README, licence, app, package, weights.

    Raises: ValueError if the folder holds anything; FileNotFoundError where there is neither a checkout nor an
        installed package, so that nobody knows what it requires.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"a Space is written to a new or an empty folder, found {str(folder)!r}; choose another.")
    required, license_text = _required()
    requirements = "\n".join([TORCH_INDEX, *required])
    shutil.copytree(TEMPLATES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "LICENSE").write_text(license_text, encoding="utf-8")
    (folder / "requirements.txt").write_text(f"{requirements}\n", encoding="utf-8")
    for name, checkpoint in checkpoints.items():
        target = folder / "model_cards" / name
        target.mkdir(parents=True)
        for file in (checkpoint.folder / "config.json", *checkpoint.folder.glob("model*.safetensors*")):
            shutil.copy(file, target)


def _required() -> tuple[list[str], str]:
    """Return what the package and its demo need, and its licence."""
    project = CHECKOUT / "pyproject.toml"
    if project.is_file():  # what is installed of a checkout may know an older one
        content = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        lines = [*content["dependencies"], *content["optional-dependencies"]["demo"]]
        return _without_markers(lines), (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    try:
        installed = metadata.distribution(PACKAGE.name)
    except metadata.PackageNotFoundError as error:
        raise FileNotFoundError(
            f"a Space must install what {PACKAGE.name} requires, found no metadata that say it; write it from a "
            "checkout, or from an installed package."
        ) from error
    return _without_markers(installed.requires or []), installed.read_text("licenses/LICENSE") or ""


def _without_markers(lines: Iterable[str]) -> list[str]:
    """Return those of the requirements that the demo has, in order."""
    found = set()
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "demo"}):
            requirement.marker = None
            found.add(str(requirement))
    return sorted(found, key=str.lower)
