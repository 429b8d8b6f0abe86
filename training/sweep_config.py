"""The settings of a sweep, and the cells of its grid: all is checked before the first model is trained."""

import dataclasses
import difflib
import itertools
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import yaml
from jsonargparse import ArgumentParser, Namespace

from hf_tsdyn.metrics.invariants import InvariantOptions
from hf_tsdyn.models.alrnn import ALRNNConfig
from hf_tsdyn.models.alrnn.fitting import FitOptions
from hf_tsdyn.reconstruction import ReconstructionProtocol
from training.model_config import build_model_config
from training.reconstruction_config import ReconstructionConfig
from training.run_config import flatten
from training.sweep_data import SweepData

SPOKEN_OUT = {"data.item": 0}
"""What settings that are null, which a record leaves out, stand for."""

_SHOWN = {item.name for item in dataclasses.fields(ReconstructionConfig)} - {
    item.name for item in dataclasses.fields(ReconstructionProtocol)
}
IDLE = (
    *("name", "output_dir", "jobs", "ensemble_size", "backend", "shard", "data.path", "data.test_path"),
    *(f"evaluation.{name}" for name in sorted(_SHOWN)),
)
"""Settings that no weight and no score depends on; files count by their contents."""

MAX_NAME = 180
"""Of a cell: it names a folder and, with more behind it, files."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A grid over fields of the model and of its fit, each cell of it with the same seeds.

    Args:
        name: of the sweep in its results.
        data: the series, and what selects and scores.
        model: fields of ALRNNConfig; `num_channels` is the data's when left out.
        grid: lists of values by field, `model.num_relu_units: [2, 10]` or `fit.learning_rate: [1e-3, 5e-3]`; every
            combination is a cell.
        num_seeds: models of each cell.
        seeds: of the models of each cell, in place of 0, 1, ...: more of them are another sweep, in a folder of its
            own, as the choice of the best depends on them.
        fit: epochs, batches, learning rate; `evaluation.invariants` says how a divergence is measured here too.
        evaluation: how the finished models are scored on test data, which no choice depends on, and what cards say.
        output_dir: folder of the sweep.
        jobs: processes at once, of one thread each; -1 = one per core.
        ensemble_size: most seeds of a cell in one batched program. Like `jobs` it changes no result.
        backend: dask, ray or another joblib backend; null = the active one, processes of this machine by default.
        shard: "i/n", i from 0 to n - 1: train that share alone, as a member of an array of n runs on one folder.
    Raises: ValueError on values that break a rule."""

    name: str
    data: SweepData
    model: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    num_seeds: int = 1
    seeds: tuple[int, ...] | None = None
    fit: FitOptions = field(default_factory=FitOptions)
    evaluation: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    output_dir: str
    jobs: int = -1
    ensemble_size: int = 16
    backend: str | None = None
    shard: str | None = None

    def __post_init__(self) -> None:
        counts = {"num_seeds": self.num_seeds, "ensemble_size": self.ensemble_size}
        for name, value in counts.items():
            _require(value >= 1, f"{name} must be at least 1", value, "raise it")
        _require(self.jobs >= 1 or self.jobs == -1, "jobs must be at least 1, or -1", self.jobs, "give -1")
        seeds = self.all_seeds
        fine = bool(seeds) and len(set(seeds)) == len(seeds) and min(seeds) >= 0
        _require(fine, "seeds must be different numbers from 0", seeds, "correct them")
        index, slash, count = (self.shard or "0/1").partition("/")
        is_share = bool(slash) and index.isdecimal() and count.isdecimal() and int(index) < int(count)
        _require(is_share, 'shard must be "i/n" with i from 0 to n - 1', self.shard, 'give "0/4", for example')
        for name, values in self.grid.items():
            _check_axis(name, values)
        model_type = self.model.get("model_type", ALRNNConfig.model_type)
        _require(model_type == ALRNNConfig.model_type, "model.model_type must be alrnn", model_type, "leave it out")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of each cell, in order."""
        return tuple(range(self.num_seeds)) if self.seeds is None else self.seeds


def _require(holds: bool, rule: str, found: object, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{rule}, found {found!r}; {remedy}.")


def _check_axis(name: str, values: object) -> None:
    section, _, rest = name.partition(".")
    is_field = section in ("model", "fit") and bool(rest) and "." not in rest
    _require(is_field, "grid must name fields model.FIELD or fit.FIELD", name, "correct it")
    _require(isinstance(values, list) and bool(values), f"grid.{name} must be a list of values", values, "give one")
    names = [_value_name(value) for value in cast(list[object], values)]
    _require(len(set(names)) == len(names), f"the values of grid.{name} must differ", values, "drop repetitions")


def load_sweep_config(arguments: Sequence[str] | None = None) -> tuple[SweepConfig, dict[str, Any]]:
    """Return the settings of a command line, and the same as plain values for the record.

    Raises: SystemExit with a message on unknown keys, wrong types or values that break a rule.
    """
    parser = _parser()
    namespace = parser.parse_args(arguments)
    namespace["grid"] = flatten(namespace["grid"])
    resolved = _plain(parser, namespace)
    try:
        settings = parser.instantiate(namespace)
        config = SweepConfig(**{item.name: settings[item.name] for item in dataclasses.fields(SweepConfig)})
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return config, resolved


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m training.sweep", description="Train a grid of AL-RNNs on one series.", allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file; options after it override it")
    parser.add_class_arguments(SweepConfig)
    for item in dataclasses.fields(InvariantOptions):
        parser.link_arguments(f"evaluation.invariants.{item.name}", f"fit.invariants.{item.name}")
    return parser


def _plain(parser: ArgumentParser, namespace: Namespace) -> dict[str, Any]:
    plain = yaml.safe_load(parser.dump(namespace, skip_validation=True))
    plain.pop("config", None)
    return plain


def differing_settings(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the names of settings that decide results and differ between two records."""
    parser = _parser()
    defaults = _plain(parser, parser.get_defaults())  # an older record lacks fields that came later
    one, other = (SPOKEN_OUT | flatten(defaults) | flatten(record) for record in (found, wanted))
    differing = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    return sorted(name for name in differing if not f"{name}.".startswith(tuple(f"{idle}." for idle in IDLE)))


@dataclass(frozen=True)
class Cell:
    """One combination of the grid's values, by field, and the settings of its models."""

    name: str
    values: dict[str, Any]
    model: ALRNNConfig
    fit: FitOptions


def build_cells(config: SweepConfig, num_channels: int) -> list[Cell]:
    """Return every cell of the grid for a series of `num_channels`.

    Raises: ValueError, naming the cell, on fields that the model or the fit does not have, wrong types, or
        combinations that break a rule.
    """
    return [
        _build_cell(config, dict(zip(config.grid, values, strict=True)), num_channels)
        for values in itertools.product(*config.grid.values())
    ]


def _build_cell(config: SweepConfig, values: dict[str, Any], num_channels: int) -> Cell:
    name = cell_name(values)
    _require(len(name) <= MAX_NAME, f"a cell's name must have at most {MAX_NAME} letters", name, "vary fewer fields")
    chosen: dict[str, dict[str, Any]] = {"model": {}, "fit": {}}
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        chosen[section][key] = value
    fields = {"model_type": ALRNNConfig.model_type, "num_channels": num_channels} | config.model | chosen["model"]
    try:
        model = cast(ALRNNConfig, build_model_config(fields))
        fit = _changed_fit(config.fit, chosen["fit"])
    except ValueError as error:
        raise ValueError(f"cell {name}: {error}") from error
    _require(
        model.num_channels == num_channels,
        f"model.num_channels must be the {num_channels} of the data",
        model.num_channels,
        "leave it out, or choose columns",
    )
    return Cell(name, values, model, fit)


def _changed_fit(base: FitOptions, changes: Mapping[str, Any]) -> FitOptions:
    known = [item.name for item in dataclasses.fields(FitOptions) if item.name != "invariants"]
    for name in changes:
        close = difflib.get_close_matches(name, known, n=3) or known
        _require(name in known, "grid keys of fit must be its fields", name, f"did you mean {', '.join(close)}?")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FitOptions)
    try:
        typed = parser.instantiate(parser.parse_object(dict(changes)))
    except ArgumentError as error:
        raise ValueError(f"fit must have values of the right type: {error}") from error
    return dataclasses.replace(base, **{name: typed[name] for name in changes})


def cell_name(values: Mapping[str, Any]) -> str:
    """Return a cell's name, which is also its folder's: `num_relu_units=2,learning_rate=0.001`."""
    parts = (f"{dotted.partition('.')[2]}={_value_name(value)}" for dotted, value in values.items())
    return ",".join(parts) or "only"


def _value_name(value: object) -> str:
    return str(value).replace("/", "_").replace(" ", "")
