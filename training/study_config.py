"""The settings of a study: models as rows of a table, each trained on some series at some horizons and seeds."""

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from training.folds import FoldOptions, Folds
from training.run_config import RunConfig, flatten, load_run_config

NAME = re.compile(r"[\w.=+-]+")
"""Of rows and datasets: they name folders."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One model of a study.

    Args:
        config: file of a run of `training.train`.
        label: text of the row in tables; its name by default.
        overrides: of the run, by dotted name, such as `model.film: false`.
        overrides_at: more of them for one dataset and horizon, `ETTh1-192: {...}`.
        settings: datasets and horizons, `{ETTh1: [96, 192]}`; those of the study by default.
        seeds: of its runs; those of the study by default. A closed form needs one.
    """

    config: str
    label: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    overrides_at: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, tuple[int, ...]] | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Errors that are no cell's; nothing here vouches for them.

    Args:
        kind: "claim" of what was published elsewhere, "rerun" of what the authors' own code gave when we ran it.
    """

    dataset: str
    horizon: int
    source: str
    mse: float
    mae: float | None = None
    num_parameters: int | None = None
    kind: Literal["claim", "rerun"] = "claim"


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Models, what they are trained and scored on, and which of them are compared.

    Args:
        name: of the study in its results.
        datasets: files of series by the names that tables show.
        settings: datasets and horizons of every row that names none.
        rows: models by name. A run gets `model.prediction_length` and `evaluation.protocol.horizons` from the horizon,
            `training.seed` and `data.seed` from the seed.
        compare: pairs of rows; the first's error less the second's gets an interval wherever both are scored.
        claims: errors from elsewhere by the name of their model.
        seeds: of every row that names none.
        folds: train and score every row on each fold inside the training split, in place of the series' own splits; for
            choices. Errors of all folds are in units of the whole training split.
        num_resamples, confidence, bootstrap_seed: of the intervals.
        output_dir: folder of the study.
        jobs: processes at once, of one thread each; -1 = one per core.
        backend: dask, ray or another joblib backend; null = processes of this machine.
        only: rows to train and score now; all by default. Tables hold whatever is done.
        final: score the test windows too. A command-line option, not for files: whatever is chosen is chosen before.
    Raises: ValueError on names that are unknown or no names of folders, or values that break a rule.
    """

    name: str
    datasets: dict[str, str]
    settings: dict[str, tuple[int, ...]]
    rows: dict[str, StudyRow]
    compare: list[tuple[str, str]] = field(default_factory=list)
    claims: dict[str, Claim] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: Folds | None = None
    num_resamples: int = 2000
    confidence: float = 0.95
    bootstrap_seed: int = 0
    output_dir: str
    jobs: int = 1
    backend: str | None = None
    only: tuple[str, ...] = ()
    final: bool = False

    def __post_init__(self) -> None:
        require(bool(self.rows), "rows must name a model at least", self.rows, "add one")
        for name in (*self.rows, *self.datasets):
            require(bool(NAME.fullmatch(name)), "names must be letters, digits and . = + - _ alone", name, "rename it")
        self._check_settings("settings", self.settings)
        for name, row in self.rows.items():
            self._check_row(name, row)
        unknown = sorted({*self.only, *(name for pair in self.compare for name in pair)} - set(self.rows))
        require(not unknown, f"only and compare must name rows, which are {list(self.rows)}", unknown, "correct them")
        lost = [name for name, claim in self.claims.items() if claim.dataset not in self.datasets]
        require(not lost, f"claims must be about one of the datasets {list(self.datasets)}", lost, "correct them")
        rule = "final must be left out of a study with folds, which never reads the test split"
        require(not (self.final and self.folds), rule, self.final, "leave out --final, or folds")
        require(self.jobs >= 1 or self.jobs == -1, "jobs must be at least 1, or -1", self.jobs, "give -1")
        require(0 < self.confidence < 1, "confidence must lie between 0 and 1", self.confidence, "correct it")
        require(self.num_resamples >= 1, "num_resamples must be at least 1", self.num_resamples, "raise it")

    def _check_settings(self, where: str, settings: dict[str, tuple[int, ...]]) -> None:
        horizons = [horizon for each in settings.values() for horizon in each]
        fine = set(settings) <= set(self.datasets) and bool(horizons) and min(horizons) >= 1
        rule = f"{where} must give horizons of at least 1 to some of the datasets {list(self.datasets)}"
        require(fine, rule, settings, "correct it")

    def _check_row(self, name: str, row: StudyRow) -> None:
        if row.settings is not None:
            self._check_settings(f"rows.{name}.settings", row.settings)
        seeds = self.seeds_of(row)
        fine = bool(seeds) and len(set(seeds)) == len(seeds) and min(seeds) >= 0
        require(fine, f"the seeds of row {name} must be different numbers from 0", seeds, "correct them")
        places = [f"{dataset}-{horizon}" for dataset, horizon in self.settings_of(row)]
        lost = [place for place in row.overrides_at if place not in places]
        require(not lost, f"overrides_at of row {name} must name some of {places}", lost, "correct them")

    def seeds_of(self, row: StudyRow) -> tuple[int, ...]:
        """Return the seeds of a row."""
        return self.seeds if row.seeds is None else row.seeds

    def settings_of(self, row: StudyRow) -> Iterator[tuple[str, int]]:
        """Yield the datasets and horizons of a row."""
        settings = self.settings if row.settings is None else row.settings
        return ((dataset, horizon) for dataset, horizons in settings.items() for horizon in horizons)


def require(holds: bool, rule: str, found: object, remedy: str) -> None:
    """Raise ValueError with the rule, what was found and what to do, unless the rule holds."""
    if not holds:
        raise ValueError(f"{rule}, found {found!r}; {remedy}.")


def load_study_config(arguments: Sequence[str] | None = None) -> StudyConfig:
    """Return the settings of a command line.

    Raises: SystemExit with a message on unknown keys, wrong types or values that break a rule.
    """
    parser = ArgumentParser(
        prog="python -m training.study", description="Train and score the models of a table.", allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file; options after it override it")
    parser.add_class_arguments(StudyConfig, skip={"only", "final"})
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows to train and score now")
    parser.add_argument("--final", action="store_true", help="score the test windows too")
    namespace = parser.parse_args(arguments)
    try:
        settings = parser.instantiate(namespace)
        values: dict[str, Any] = {item.name: settings[item.name] for item in dataclasses.fields(StudyConfig)}
        values["only"] = tuple(values["only"])
        return StudyConfig(**values)
    except (TypeError, ValueError) as error:
        parser.error(str(error))


@dataclass(frozen=True)
class Cell:
    """One run of a study: a row on a dataset at a horizon with a seed.

    name: with row, setting, fold and seed; that of its folder below the study's cells.
    fold: that it is trained and scored on; None of the series' own splits.
    arguments: those of `training.train`.
    """

    name: str
    row: str
    dataset: str
    horizon: int
    fold: FoldOptions | None
    seed: int
    folder: Path
    arguments: tuple[str, ...]

    def resolve(self) -> tuple[RunConfig, dict[str, Any]]:
        """Return the run's configuration, and the same as plain values for the record.

        Raises: ValueError, naming the cell, on whatever `load_run_config` refuses, or a fold that is not the cell's.
        """
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                config, resolved = load_run_config(self.arguments)
        except SystemExit as ended:
            reason = said.getvalue().strip().splitlines()[-1:] or ["refused"]
            raise ValueError(f"cell {self.name}: {reason[0]}") from ended
        if config.data.fold != self.fold:
            raise ValueError(
                f"cell {self.name}: data.fold must be what the study's folds say, {self.fold}, found "
                f"{config.data.fold}; leave it out of the run's file and overrides."
            )
        return config, resolved


def build_cells(config: StudyConfig) -> list[Cell]:
    """Return every run of a study, in the order of rows, settings, folds and seeds."""
    return [
        _cell(config, name, dataset, horizon, fold, seed)
        for name, row in config.rows.items()
        for dataset, horizon in config.settings_of(row)
        for fold in config.folds or (None,)
        for seed in config.seeds_of(row)
    ]


def _cell(config: StudyConfig, row_name: str, dataset: str, horizon: int, fold: FoldOptions | None, seed: int) -> Cell:
    row, place = config.rows[row_name], f"{dataset}-{horizon}"
    parts = [row_name, place, *([] if fold is None else [f"fold-{fold.index}"]), f"seed-{seed}"]
    folder = Path(config.output_dir, "cells", *parts)
    options = {"model.prediction_length": horizon, "evaluation.protocol.horizons": [horizon]}
    options |= flatten(row.overrides) | flatten(row.overrides_at.get(place, {}))
    options |= {"evaluation.name": row_name, "evaluation.dataset_name": dataset, "data.path": config.datasets[dataset]}
    options |= {"training.seed": seed, "data.seed": seed, "training.output_dir": str(folder)}
    options |= {"training.disable_tqdm": True}
    options |= {} if fold is None else {"data.fold": dataclasses.asdict(fold)}
    return Cell("/".join(parts), row_name, dataset, horizon, fold, seed, folder, run_arguments(row.config, options))


def run_arguments(file: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the arguments of `training.train` for a run's file and options by dotted name."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return "--config", file, *(text for name, value in texts.items() for text in (f"--{name}", value))
