"""The settings of one dataset: a tree of dataclasses filled from YAML and dotted command-line options."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from jsonargparse import ArgumentParser

SPLITS = ("train", "validation", "test")

# Where and how to run: everything else in the tree decides what the data are.
RUN_FIELDS = ("output", "jobs", "backend")


def _require(holds: bool, rule: str, found: object, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{rule}, found {found!r}; {remedy}.")


@dataclass(frozen=True)
class CandidatesConfig:
    """How many candidates each system of a split gets.

    Args:
        num_parameter_sets: parameter vectors per system, the unperturbed one included where it is asked for.
        num_initial_conditions: initial conditions per parameter vector."""

    num_parameter_sets: int = 4
    num_initial_conditions: int = 1

    def __post_init__(self) -> None:
        for name in ("num_parameter_sets", "num_initial_conditions"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} must not be negative", value, "give 0 to leave the split out")


@dataclass(frozen=True)
class SplitsConfig:
    """Candidates per system, by split; `data_generation.systems.split_of` fixes which system goes where."""

    train: CandidatesConfig = field(default_factory=CandidatesConfig)
    validation: CandidatesConfig = field(default_factory=CandidatesConfig)
    test: CandidatesConfig = field(default_factory=CandidatesConfig)


@dataclass(frozen=True)
class PerturbationConfig:
    """How parameters and initial conditions are drawn around a system's defaults.

    Args:
        include_default_parameters: make parameter index 0 the unperturbed system.
        include_default_initial_condition: start a system's first candidate at its stored initial condition.
        parameter_scale: standard deviation of a parameter's perturbation, relative to the parameter.
        sign_match: probability that a perturbation takes its parameter's sign, so that the parameter grows.
        ignore_probability: probability, in the limit of many parameters, that a parameter stays as it is.
        initial_condition_scale: standard deviation of the initial condition, in those of the attractor."""

    include_default_parameters: bool = True
    include_default_initial_condition: bool = True
    parameter_scale: float = 0.3
    sign_match: float = 0.0
    ignore_probability: float = 0.0
    initial_condition_scale: float = 0.2

    def __post_init__(self) -> None:
        for name in ("sign_match", "ignore_probability"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"{name} must be a probability", value, "give a number from 0 to 1")
        _require(
            0 < self.parameter_scale < math.inf,
            "parameter_scale must be positive and finite",
            self.parameter_scale,
            "give 0.2 to 1.0, or num_parameter_sets 1 for the unperturbed systems alone",
        )
        _require(
            0 <= self.initial_condition_scale < math.inf,
            "initial_condition_scale must not be negative",
            self.initial_condition_scale,
            "give 0 for the stored initial condition alone",
        )


@dataclass(frozen=True)
class IntegrationConfig:
    """The sampling grid and the budget of one trajectory.

    Args:
        num_points: stored points.
        num_periods: dominant periods of the system that the stored points cover.
        transient_periods: dominant periods integrated before the first stored point.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        max_steps: accepted and rejected steps after which a trajectory is given up.
        max_abs: magnitude of a state that counts as divergence, and the bound of the stored channels."""

    num_points: int = 2048
    num_periods: float = 20.0
    transient_periods: float = 10.0
    rtol: float = 1e-10
    atol: float = 1e-12
    max_steps: int = 50_000
    max_abs: float = 1e4

    def __post_init__(self) -> None:
        _require(
            self.num_points >= 64,
            "num_points must be at least 64",
            self.num_points,
            "raise it",
        )
        for name in ("num_periods", "rtol", "atol", "max_abs"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"{name} must be positive and finite", value, "give such a number")
        _require(
            0 <= self.transient_periods < math.inf,
            "transient_periods must not be negative",
            self.transient_periods,
            "give 0 to store the series from its initial condition on",
        )
        _require(self.max_steps >= 1, "max_steps must be at least 1", self.max_steps, "50 000 is usual")


@dataclass(frozen=True)
class ValidityConfig:
    """Thresholds of the checks in `data_generation.validity`.

    Args:
        max_z: largest distance of a value from its channel's mean, in standard deviations.
        min_channel_spread: smallest standard deviation of any channel, relative to its largest magnitude.
        min_tail_spread: smallest spread of the last quarter, in standard deviations of the known attractor.
        min_tail_ratio: smallest spread of the last quarter, relative to that of the whole series.
        min_spread_growth: smallest of the largest growth of a channel's spread from one eighth to the next.
        min_return_distance: smallest distance of the second half to any earlier stretch of the series."""

    max_z: float = 15.0
    min_channel_spread: float = 1e-5
    min_tail_spread: float = 1e-3
    min_tail_ratio: float = 0.1
    min_spread_growth: float = 1.0
    min_return_distance: float = 0.01

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            _require(0 <= value < math.inf, f"{name} must be finite and not negative", value, "give such a number")


@dataclass(frozen=True)
class GenerationConfig:
    """Everything that decides a dataset, and where and how to make it.

    Args:
        output: the dataset's folder.
        seed: of every draw.
        systems: dysts names, or "all".
        splits: candidates per system.
        rows_per_shard: candidates per file; rejected ones leave a file shorter.
        jobs: processes at once; -1 = one per core.
        backend: a joblib backend; null = the active `joblib.parallel_config`, which is loky by default."""

    output: str
    seed: int = 0
    systems: Literal["all"] | list[str] = "all"
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    integration: IntegrationConfig = field(default_factory=IntegrationConfig)
    validity: ValidityConfig = field(default_factory=ValidityConfig)
    rows_per_shard: int = 1024
    jobs: int = -1
    backend: str | None = None

    def __post_init__(self) -> None:
        _require(bool(self.output), "output must name a folder", self.output, "give --output DIR")
        _require(self.seed >= 0, "seed must not be negative", self.seed, "give 0 or more")
        _require(self.rows_per_shard >= 1, "rows_per_shard must be at least 1", self.rows_per_shard, "raise it")
        _require(self.jobs >= 1 or self.jobs == -1, "jobs must be at least 1, or -1", self.jobs, "give -1")
        if self.systems != "all":
            repeated = sorted({name for name in self.systems if self.systems.count(name) > 1})
            _require(bool(self.systems), "systems must name at least one system", self.systems, 'give "all"')
            _require(not repeated, "systems must name each system once", repeated, "remove the repetitions")


def data_settings(config: GenerationConfig) -> dict[str, Any]:
    """Return, as nested dictionaries, the settings that decide the data: all but `RUN_FIELDS`, systems sorted."""
    settings = {name: value for name, value in asdict(config).items() if name not in RUN_FIELDS}
    return settings | {"systems": config.systems if config.systems == "all" else sorted(config.systems)}


def load_config(arguments: Sequence[str] | None = None, *, exit_on_error: bool = True) -> GenerationConfig:
    """Read the settings from command-line arguments: `--config FILE.yaml` and options such as `--seed 1`.

    Args:
        arguments: those of the process when None.
        exit_on_error: print the error with the usage and exit, as a command does.
    Raises: jsonargparse.ArgumentError on an unknown key, a wrong type or a broken rule, unless it exits."""
    parser = ArgumentParser(
        prog="python -m data_generation",
        description="Generate an Arrow dataset of trajectories of chaotic systems.",
        exit_on_error=exit_on_error,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file, e.g. one of data_generation/configs")
    parser.add_class_arguments(GenerationConfig)
    parsed = parser.parse_args(arguments)
    try:
        settings = vars(parser.instantiate(parsed))
        return GenerationConfig(**{entry.name: settings[entry.name] for entry in fields(GenerationConfig)})
    except ValueError as error:
        parser.error(str(error))
