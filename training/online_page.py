"""The page of an online study in a checkout: its text and its figures, rendered from results and settings alone."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from hf_tsdyn.online_card import render_online_card
from hf_tsdyn.online_gallery import draw_pictures, pictures_of
from hf_tsdyn.series_results import SeriesResults

GENERATED = Path("data_generation", "configs")


def write_online_page(results: SeriesResults, target: Path, *, root: Path) -> None:
    """Put the page and the figures of a study in the place of what is in a folder.

    root: the checkout, which holds the study's settings.
    Raises: FileNotFoundError without them.
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        draw_pictures(results, part / "figures")
        (part / "README.md").write_text(render_online_page(results, part, root=root))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def render_online_page(results: SeriesResults, folder: Path, *, root: Path) -> str:
    """Return the page, with those figures of the study that lie in the folder.

    root: the checkout, which holds the study's settings.
    Raises: FileNotFoundError without them.
    """
    pictures = [(f"figures/{picture.file}", picture.caption) for picture in pictures_of(results)]
    shown = [(path, caption) for path, caption in pictures if (folder / path).is_file()]
    return render_online_card(results, commands=commands_of(results.header["name"], root=root), figures=shown)


def commands_of(name: str, *, root: Path) -> list[str]:
    """Return the commands from a checkout to the page of a study; files of series, which nothing writes, are PATH/TO.

    The study's settings are the file of its name among those of this project, - written as _.
    Raises: FileNotFoundError without it.
    """
    settings = Path("training", "configs", f"{name.replace('-', '_')}.yaml")
    if not (root / settings).is_file():
        raise FileNotFoundError(
            f"the settings of the study {name!r} must lie in {settings}, found no such file in {root}; put them there."
        )
    study = yaml.safe_load((root / settings).read_text())
    generating, options = _sources(study, root)
    return [
        *generating,
        " ".join(
            [f"python -m training.run_online --config {settings.as_posix()}", *options, f"--output_dir runs/{name}"]
        ),
        f"python -m training.ship_checkpoint runs/{name}",
    ]


def _sources(study: dict[str, Any], root: Path) -> tuple[list[str], list[str]]:
    """The commands that write the datasets of a study, and the options that name the files of all others."""
    outputs = {}
    for file in sorted((root / GENERATED).glob("*.yaml")):
        outputs[yaml.safe_load(file.read_text()).get("output")] = (GENERATED / file.name).as_posix()
    generated = dict.fromkeys(path for path in study["datasets"].values() if path in outputs)
    files = {dataset: path for dataset, path in study["datasets"].items() if path not in outputs}
    return (
        [f"python -m data_generation --config {outputs[path]}" for path in generated],
        [f"--datasets.{dataset} PATH/TO/{Path(path).name}" for dataset, path in files.items()],
    )
