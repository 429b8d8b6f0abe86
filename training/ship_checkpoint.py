"""Copy an evaluated run, or the results of a study, into `model_cards/`, its table into the pages that show it.

    python -m training.ship_checkpoint runs/quickstart/model
    python -m training.ship_checkpoint runs/dynonet_study
    python -m training.ship_checkpoint runs/online-study

The run may be that of a forecaster, of systems or of one's own series, of a model that fills gaps or of one that
reconstructs a system. The card, the checkpoint, the figures and the run's records go to `model_cards/NAME`, the results
to `model_cards/results/NAME.json`; NAME is the run's `evaluation.name`, or the one that a reconstruction was evaluated
under. Tables of it in README.md and the pages of `model_cards`, between the lines `<!-- results NAME ... -->` and
`<!-- end -->`, are written anew. Where `evaluation.ship_weights` is false in the run's settings or in those of its
evaluation, the weights and the probe, which holds a piece of the series, stay behind; where `evaluation.ship_probe` is,
the probe.

Of a study (training.study), NAME is its `name`; its results, their table in the page that has a place for it and
figures of them are shipped, no checkpoint. A run whose `evaluation.study` names a study shows its tables on the card,
so that the study is to be shipped first. Of an online study (training.run_online) its page is shipped as well,
`model_cards/NAME/README.md`.
"""

import argparse
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from transformers import AutoConfig

from hf_tsdyn.figures import save_figure
from hf_tsdyn.models import MASKED_MODELING
from hf_tsdyn.models.alrnn import ALRNNConfig
from hf_tsdyn.online_results import is_online
from hf_tsdyn.results import write_atomically
from hf_tsdyn.series_figures import efficiency_figure, error_bars_figure
from hf_tsdyn.series_results import SeriesResults
from training import evaluate_checkpoint, evaluate_completion, evaluate_reconstruction, evaluate_series
from training.evaluate_checkpoint import RESULTS_FILE
from training.evaluate_reconstruction import TRUTH_FIGURES
from training.fold_tables import has_folds
from training.online_page import write_online_page
from training.probe import PROBE_FILE
from training.reconstruction_request import as_evaluated, was_swept
from training.result_tables import END, RESULTS, is_of_series, read_results, render_pages
from training.run_config import CONFIG_FILE
from training.run_summary import SUMMARY_FILE
from training.series_facts import read_study

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS_FILE = "model.safetensors"
SHIPPED = ("README.md", "config.json", WEIGHTS_FILE, "figures", CONFIG_FILE, SUMMARY_FILE, PROBE_FILE)
LARGEST_FILE = 10_000_000  # bytes; a repository is no place for larger ones
DATA_NAMES = {"path": "DATA", "test_path": "TEST_DATA"}
"""What cards call the files that a run's `data` names."""


def evaluation_command(checkpoint: Path) -> ModuleType:
    """Return the module whose command scores the checkpoint's kind of model, and renders its card."""
    config = json.loads((checkpoint / "config.json").read_text())
    if config.get("model_type") == ALRNNConfig.model_type and was_swept(checkpoint):
        return evaluate_reconstruction
    own, shipped = checkpoint / RESULTS_FILE, checkpoint.parent / "results" / f"{checkpoint.name}.json"
    if is_of_series(own if own.is_file() else shipped):
        return evaluate_series
    masked = {model_class.__name__ for model_class in MASKED_MODELING.values()}
    return evaluate_completion if masked & set(config.get("architectures") or []) else evaluate_checkpoint


def ship_checkpoint(checkpoint: Path, *, root: Path = ROOT) -> Path:
    """Copy an evaluated run into `root` and return the folder of its card.

    What names a folder of this machine in its settings, results and card is replaced: the data's by "DATA" and the
    like, as the card calls them, those of a model that it started from by the last part of their path, that of its
    example by where it is shipped to.
    Raises: FileNotFoundError if the run was not evaluated; ValueError if its name is no name of a folder, a file is too
    large to ship, or the results are not its own.
    """
    command = evaluation_command(checkpoint)
    request = command.load_request([str(checkpoint)])
    _check_present(checkpoint, [RESULTS_FILE])
    results: Any = read_results(checkpoint / RESULTS_FILE)
    evaluation: Any = request.evaluation
    if command is evaluate_reconstruction:
        evaluation = as_evaluated(request, results)
        results.header["evaluation"] = _without_folder(results.header["evaluation"])
    name = str(evaluation.name)
    target = root / "model_cards" / name
    files = _shipped_files(checkpoint, evaluation)
    _check_shippable(checkpoint, name, target, files)
    if name not in results.header["models"]:
        raise ValueError(f"the results must be those of {name!r}, found {results.header['models']}; evaluate it again.")
    if command is evaluate_series and getattr(evaluation, "study", None) and read_study(evaluation) is None:
        raise ValueError(f"evaluation.study must be shipped first, found no results of {evaluation.study!r}; ship it.")
    pages = render_pages(root, name, results)
    settings = _public(request.run_config)
    config = AutoConfig.from_pretrained(checkpoint)
    card = command.render_card(dataclasses.replace(request, run_config=settings), results, config)

    _replace_folder(target, checkpoint, files, settings, card)
    results.write(root / RESULTS / f"{name}.json")
    _write_pages(pages)
    return target


def _replace_folder(target: Path, checkpoint: Path, files: Sequence[str], settings: dict[str, Any], card: str) -> None:
    """Put copies of the checkpoint's files, its settings and its card in the place of what is shipped."""
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in files:
        source = checkpoint / file
        shutil.copytree(source, part / file) if source.is_dir() else shutil.copyfile(source, part / file)
    (part / CONFIG_FILE).write_text(yaml.safe_dump(settings, sort_keys=False))
    (part / "README.md").write_text(card)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def ship_study(study: Path, *, root: Path = ROOT) -> Path:
    """Copy a study's results into `root`, draw them, and return the folder of the figures, or with folds the file.

    A study with folds has no figures, an online one those of `online_gallery` and a page. Those of others are the
    errors of all models at the first data set and horizon, also against their size, and those at all horizons of each
    data set, of the models that have them.
    Raises: FileNotFoundError without results, or the settings of an online study; ValueError if they are of another
        kind, without test windows, or of a name that is no name of a folder, or no page has a place for them.
    """
    results = SeriesResults.read(study / RESULTS_FILE)
    name = results.header["name"]
    _check_name(name)
    settings, on_folds, online = results.scored_on("test"), has_folds(results), is_online(results)
    if not settings and not on_folds and not online:
        raise ValueError(f"a shipped study must hold errors of test windows, found none in {study}; add --final.")
    pages = render_pages(root, name, results)
    if not pages and not online:
        raise ValueError(
            f"a page must hold the lines '<!-- results {name} -->' and {END!r}, found none in README.md and "
            f"model_cards; add them to model_cards/{name}/README.md."
        )
    file, figures = root / RESULTS / f"{name}.json", root / "model_cards" / name / "figures"
    if online:
        write_online_page(results, figures.parent, root=root)
    elif not on_folds:
        shutil.rmtree(figures, ignore_errors=True)
        _draw_study(results, settings, figures)
    results.write(file)
    _write_pages(pages)
    return file if on_folds else figures


def _write_pages(pages: Mapping[Path, str]) -> None:
    for page, text in pages.items():
        write_atomically(page, text.encode())


def _draw_study(results: SeriesResults, settings: Sequence[tuple[str, int]], folder: Path) -> None:
    dataset, horizon = settings[0]
    save_figure(efficiency_figure(results, dataset=dataset, horizon=horizon), folder / "efficiency.png")
    save_figure(error_bars_figure(results, dataset=dataset, horizons=[horizon]), folder / "errors.png")
    for dataset in dict.fromkeys(dataset for dataset, _ in settings):
        horizons = [horizon for place, horizon in settings if place == dataset]
        models = [
            model
            for model in results.header["models"]
            if all(results.mean_of(model, "mse", dataset, horizon) for horizon in horizons)
        ]
        if models and (dataset, *horizons) != settings[0]:
            figure = error_bars_figure(results, dataset=dataset, horizons=horizons, models=models)
            save_figure(figure, folder / f"errors_{dataset}.png")


def _shipped_files(checkpoint: Path, evaluation: Any) -> tuple[str, ...]:
    """What the licence of the run's series lets be shipped."""
    if not getattr(evaluation, "ship_weights", True):
        _check_shows_no_series(checkpoint)
        return tuple(file for file in SHIPPED if file not in (WEIGHTS_FILE, PROBE_FILE))
    if not getattr(evaluation, "ship_probe", True):
        return tuple(file for file in SHIPPED if file != PROBE_FILE)
    return SHIPPED


def _check_shows_no_series(checkpoint: Path) -> None:
    """Raise ValueError if there are figures from before `ship_weights` was set to false."""
    found = [name for name in TRUTH_FIGURES if (checkpoint / "figures" / f"{name}.png").exists()]
    if found:
        raise ValueError(
            f"figures of a run with ship_weights false must not show its series, found {found}; evaluate it again."
        )


def _check_shippable(checkpoint: Path, name: str, target: Path, files: Sequence[str]) -> None:
    _check_name(name)
    if checkpoint.resolve() == target.resolve():
        raise ValueError(f"checkpoint must be a run's own folder, found {checkpoint}, where it would be shipped to.")
    _check_present(checkpoint, files)
    for file in files:
        size = (checkpoint / file).stat().st_size
        if size > LARGEST_FILE:
            raise ValueError(f"{file} must be at most {LARGEST_FILE} bytes to be shipped, found {size}.")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name) or name in ("results", "templates"):
        raise ValueError(f"evaluation.name must be the name of a folder to ship, found {name!r}; choose another.")


def _check_present(checkpoint: Path, files: Sequence[str]) -> None:
    missing = [file for file in files if not (checkpoint / file).exists()]
    if missing:
        raise FileNotFoundError(
            f"{checkpoint} must hold an evaluated run, found no {missing}; run training.evaluate_checkpoint, "
            "evaluate_series, evaluate_completion or evaluate_reconstruction first."
        )


def _public(settings: dict[str, Any]) -> dict[str, Any]:
    data = settings["data"]
    public = settings | {"data": data | {key: name for key, name in DATA_NAMES.items() if data.get(key)}}
    for name in ("checkpoint", "encoder_checkpoint"):
        start = public.get(name)
        if start and not start.startswith("model_cards/") and start.count("/") != 1:
            public[name] = Path(start).name
    if "evaluation" in public:
        public["evaluation"] = _without_folder(public["evaluation"])
    return public


def _without_folder(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Settings without a `model_id` that is a folder of this machine and no name on the Hub."""
    model_id = evaluation.get("model_id") or ""
    is_name = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model_id) and not Path(model_id).exists()
    public = is_name or not model_id or model_id.startswith("model_cards/")
    return evaluation if public else evaluation | {"model_id": None}


def main(arguments: Sequence[str] | None = None) -> None:
    """Ship the run or the study that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ship_checkpoint",
        description="Copy an evaluated run, or a study's results, into model_cards/.",
    )
    parser.add_argument("checkpoint", type=Path, help="folder of a run that was trained and evaluated, or of a study")
    folder = parser.parse_args(arguments).checkpoint
    is_study = not (folder / "config.json").exists() and is_of_series(folder / RESULTS_FILE)
    try:
        print(f"shipped to {ship_study(folder) if is_study else ship_checkpoint(folder)}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
