"""The settings of a benchmark: models as rows, conditions under which they forecast, systems and series."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse import ArgumentParser

from hf_tsdyn.evaluation import EvaluationProtocol
from training.study_config import NAME, require

Kind = Literal["baseline", "checkpoint", "chronos", "patchtst", "fitted_alrnn", "fracast"]
OF_CHECKPOINTS: tuple[Kind, ...] = ("checkpoint", "chronos", "patchtst")
"""Kinds that need a path."""
FLOOR = "truth"
"""Folder of the floors' cells, which no model's may be."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One row of a benchmark.

    Args:
        kind: "baseline" of `hf_tsdyn.baselines.BASELINES`, "checkpoint" of an architecture of this package, the others
            as the classes of `hf_tsdyn.baselines` are called.
        path: folder or Hub name of a checkpoint; for these kinds alone.
        rule: which baseline; that of the row's name by default.
        options: of the class; of Chronos, of its `from_pretrained`.
        label: text of the row in tables; its name by default.
        baseline: whether the differences of all others to it are reported.
    """

    kind: Kind
    path: str | None = None
    rule: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class SeriesEntry:
    """A series of your own: a CSV, NPY, Parquet or Arrow file, or a folder of such, all of it held out.

    Args:
        columns, time_column: as of `hf_tsdyn.data.SeriesOptions`.
    """

    path: str
    columns: tuple[str, ...] | None = None
    time_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What forecasts what, under which conditions.

    Args:
        name: of the benchmark in its results.
        data: folder of a generated dataset; null scores the series alone.
        split: of it.
        systems: of that split to forecast; all by default.
        series: others by name. One that is too short for a condition is forecast as far as it allows, and says so in
            the header; medians are over the systems of `data`, if there are any.
        conditions: protocols by name.
        models: rows by name.
        drawn: systems, series too, whose rollouts are kept beside the results for the leaderboard to draw; one each.
        measure_memory: measure the memory of one forecast of each model and condition, in a process of its own.
        output_dir: folder of the benchmark.
        jobs: processes at once, of one thread each; -1 = one per core.
        backend: dask, ray or another joblib backend; null = processes of this machine.
        only: models to score now; all by default. Tables hold whatever is done.
    Raises: ValueError on names that are no names of folders, or values that break a rule.
    """

    name: str
    data: str | None = None
    split: str = "test"
    systems: tuple[str, ...] = ()
    series: dict[str, SeriesEntry] = field(default_factory=dict)
    conditions: dict[str, EvaluationProtocol]
    models: dict[str, ModelEntry]
    drawn: tuple[str, ...] = ()
    measure_memory: bool = True
    output_dir: str
    jobs: int = 1
    backend: str | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.models), "models must name a model at least", self.models, "add one")
        require(bool(self.conditions), "conditions must name a condition at least", self.conditions, "add one")
        for name in (self.name, *self.models, *self.conditions, *self.series):
            require(bool(NAME.fullmatch(name)), "names must be letters, digits and . = + - _ alone", name, "rename it")
        given = self.data is not None or bool(self.series)
        require(given, "a benchmark must have systems", None, "give --data, or --series.NAME.path")
        rule = "systems must be those of data, and left out without it"
        require(self.data is not None or not self.systems, rule, self.systems, "leave them out, or give --data")
        require(FLOOR not in self.models, f"{FLOOR!r} must name no model: it is the floors' own", FLOOR, "rename it")
        for name, entry in self.models.items():
            expected = entry.kind in OF_CHECKPOINTS
            rule = f"model {name}, of kind {entry.kind}, must {'' if expected else 'not '}have a path"
            require((entry.path is not None) == expected, rule, entry.path, f"correct models.{name}.path")
            rule = f"model {name}, of kind {entry.kind}, is no baseline and must have no rule"
            require(entry.rule is None or entry.kind == "baseline", rule, entry.rule, "leave it out")
        unknown = sorted(set(self.only) - set(self.models))
        require(not unknown, f"only must name models, which are {list(self.models)}", unknown, "correct it")
        require(self.jobs >= 1 or self.jobs == -1, "jobs must be at least 1, or -1", self.jobs, "give -1")

    @property
    def asked(self) -> tuple[str, ...]:
        """Models to score now."""
        return self.only or tuple(self.models)


def load_benchmark_config(arguments: Sequence[str] | None = None) -> BenchmarkConfig:
    """Return the settings of a command line.

    Raises: SystemExit with a message on unknown keys, wrong types or values that break a rule.
    """
    parser = ArgumentParser(
        prog="python -m training.benchmark", description="Score models on held-out systems.", allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file; options after it override it")
    parser.add_class_arguments(BenchmarkConfig, skip={"only", "systems"})
    parser.add_argument("--only", nargs="+", default=[], metavar="MODEL", help="models to score now")
    parser.add_argument(
        "--systems", nargs="+", default=[], metavar="SYSTEM", help="systems to forecast; all by default"
    )
    namespace = parser.parse_args(arguments)
    try:
        settings = parser.instantiate(namespace)
        values: dict[str, Any] = {item.name: settings[item.name] for item in dataclasses.fields(BenchmarkConfig)}
        values |= {name: tuple(values[name]) for name in ("only", "systems")}
        return BenchmarkConfig(**values)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
