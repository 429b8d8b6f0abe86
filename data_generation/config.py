"""The settings of one dataset: a tree of dataclasses that check themselves."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from data_generation.acceptance import LyapunovConfig, ValidityConfig
from data_generation.rules import require, require_unique
from data_generation.switching import SwitchingConfig

SPLITS = ("train", "validation", "test")

# Where and how to run: everything else in the tree decides what the data are.
RUN_FIELDS = ("output", "jobs", "backend", "shard", "dry_run", "push_to_hub")


@dataclass(frozen=True)
class CandidatesConfig:
    """How many candidates each system of a split gets.

    Args:
        num_parameter_sets: parameter vectors per system, the unperturbed one included where it is asked for.
        num_initial_conditions: initial conditions per parameter vector.
        num_pairs: skew products of two systems of the split, drawn at random; `skew_products` says how.
        systems: systems and skew products of this split; null = those of the general list that belong to it."""

    num_parameter_sets: int = 4
    num_initial_conditions: int = 1
    num_pairs: int = 0
    systems: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("num_parameter_sets", "num_initial_conditions", "num_pairs"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative", value, "give 0 to leave the split out")
        require_unique("systems of a split must name each system", self.systems or [])


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
        initial_condition_scale: standard deviation of the initial condition, in those of the attractor.
        observation_noise: standard deviation of white noise added to what is stored, in those of each channel."""

    include_default_parameters: bool = True
    include_default_initial_condition: bool = True
    parameter_scale: float = 0.3
    sign_match: float = 0.0
    ignore_probability: float = 0.0
    initial_condition_scale: float = 0.2
    observation_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("sign_match", "ignore_probability"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be a probability", value, "give a number from 0 to 1")
        require(
            0 < self.parameter_scale < math.inf,
            "parameter_scale must be positive and finite",
            self.parameter_scale,
            "give 0.2 to 1.0, or num_parameter_sets 1 for the unperturbed systems alone",
        )
        require(
            0 <= self.initial_condition_scale < math.inf,
            "initial_condition_scale must not be negative",
            self.initial_condition_scale,
            "give 0 for the stored initial condition alone",
        )
        require(
            0 <= self.observation_noise < math.inf,
            "observation_noise must be finite and not negative",
            self.observation_noise,
            "give 0 for none, or 0.01 to 0.1",
        )


@dataclass(frozen=True)
class IntegrationConfig:
    """The sampling grid and the budget of one trajectory.

    Args:
        num_points: stored points.
        num_periods: dominant periods of the system that the stored points cover; two numbers [low, high] give each
            candidate its own, drawn uniformly.
        transient_periods: dominant periods integrated before the first stored point.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        max_steps: accepted and rejected steps after which a trajectory is given up.
        max_abs: magnitude of a state that counts as divergence, and the bound of the stored channels."""

    num_points: int = 2048
    num_periods: float | list[float] = 20.0
    transient_periods: float = 10.0
    rtol: float = 1e-10
    atol: float = 1e-12
    max_steps: int = 50_000
    max_abs: float = 1e4

    def __post_init__(self) -> None:
        require(
            self.num_points >= 64,
            "num_points must be at least 64",
            self.num_points,
            "raise it",
        )
        span = self.num_periods if isinstance(self.num_periods, list) else [self.num_periods] * 2
        require(
            len(span) == 2 and 0 < span[0] <= span[1] < math.inf,
            "num_periods must be positive and finite, or [low, high] of such numbers",
            self.num_periods,
            "give 40 or [25, 100], for example",
        )
        for name in ("rtol", "atol", "max_abs"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} must be positive and finite", value, "give such a number")
        require(
            0 <= self.transient_periods < math.inf,
            "transient_periods must not be negative",
            self.transient_periods,
            "give 0 to store the series from its initial condition on",
        )
        require(self.max_steps >= 1, "max_steps must be at least 1", self.max_steps, "50 000 is usual")


@dataclass(frozen=True)
class SkewProductConfig:
    """How skew products are drawn: pairs of a driver and a response, and the coupling between them.

    Args:
        parents: systems that random pairs are made of, or "all"; both parents of a pair belong to its split.
        max_period_ratio: random pairs whose periods differ by more are left out: one grid cannot sample both.
        kinds: couplings, of which each pair draws one; `data_generation.couplings` has their equations.
        matrix: of the activated couplings: Gaussian, or the identity and a Gaussian matrix of low rank.
        rank: of the latter.
        strength: factor on the driver's flow after both flows are brought to the same size.
        clock: "unit" makes the flow of every response about 1 per unit of time, "own" leaves it the speed that it
            has alone.
        stored_states: channels of a row: the response's alone, or the driver's and the response's.
        couplings: by name of the pair, instead of a draw; `data_generation.pair_search` writes them."""

    parents: Literal["all"] | list[str] = "all"
    max_period_ratio: float = 10.0
    kinds: list[Literal["additive", "tanh", "sin", "relu"]] = field(default_factory=lambda: ["additive"])
    matrix: Literal["gaussian", "low_rank"] = "gaussian"
    rank: int = 1
    strength: float = 1.0
    clock: Literal["unit", "own"] = "own"
    stored_states: Literal["response", "both"] = "response"
    couplings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(bool(self.kinds), "kinds must name at least one coupling", self.kinds, "give [additive]")
        require(self.rank >= 1, "rank must be at least 1", self.rank, "give 1")
        require(0 < self.strength < math.inf, "strength must be positive and finite", self.strength, "give 0.3 to 3")
        require(self.max_period_ratio >= 1, "max_period_ratio must be at least 1", self.max_period_ratio, "give 10")
        require_unique("parents must name each system", [] if self.parents == "all" else self.parents)


@dataclass(frozen=True)
class GenerationConfig:
    """Everything that decides a dataset, and where and how to make it.

    Args:
        output: the dataset's folder.
        seed: of every draw.
        systems: "all" of dysts, or names: of dysts, skew products `Driver->Response`, and functions of your own by
            import path, `package.module:function`.
        splits: candidates per system.
        switching: make streams of the candidates, whose parameters jump; null keeps a trajectory's parameters.
        rows_per_shard: candidates per file; rejected ones leave a file shorter.
        jobs: processes at once; -1 = one per core.
        backend: dask, ray or another joblib backend; null = the active `joblib.parallel_config`, loky by default.
        shard: "i/n", i from 0 to n - 1: make that share of the files only, as a member of an array of n runs.
        dry_run: print the plan, the expected size and time, and write nothing.
        push_to_hub: the dataset repository that gets the finished folder, e.g. "name/chaos"."""

    output: str
    seed: int = 0
    systems: Literal["all"] | list[str] = "all"
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    integration: IntegrationConfig = field(default_factory=IntegrationConfig)
    skew_products: SkewProductConfig = field(default_factory=SkewProductConfig)
    validity: ValidityConfig = field(default_factory=ValidityConfig)
    lyapunov: LyapunovConfig = field(default_factory=LyapunovConfig)
    switching: SwitchingConfig | None = None
    rows_per_shard: int = 1024
    jobs: int = -1
    backend: str | None = None
    shard: str | None = None
    dry_run: bool = False
    push_to_hub: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.output), "output must name a folder", self.output, "give --output DIR")
        require(self.seed >= 0, "seed must not be negative", self.seed, "give 0 or more")
        require(self.rows_per_shard >= 1, "rows_per_shard must be at least 1", self.rows_per_shard, "raise it")
        require(self.jobs >= 1 or self.jobs == -1, "jobs must be at least 1, or -1", self.jobs, "give -1")
        if self.switching is not None:
            self.switching.check_length(self.integration.num_points)
        index, slash, count = (self.shard or "0/1").partition("/")
        is_share = bool(slash) and index.isdecimal() and count.isdecimal() and int(index) < int(count)
        require(is_share, 'shard must be "i/n" with i from 0 to n - 1', self.shard, 'give "0/4", for example')
        if self.systems != "all":
            splits = (self.splits.train, self.splits.validation, self.splits.test)
            is_any = bool(self.systems) or any(split.systems or split.num_pairs for split in splits)
            require(is_any, "systems must name at least one system", self.systems, 'give "all"')
            require_unique("systems must name each system", self.systems)


def data_settings(config: GenerationConfig) -> dict[str, Any]:
    """Return, as nested dictionaries, the settings that decide the data: all but `RUN_FIELDS`, systems sorted.

    `switching` is there only where parameters switch, so that other datasets have the settings that they always had."""
    settings = {name: value for name, value in asdict(config).items() if name not in RUN_FIELDS}
    if config.switching is None:
        del settings["switching"]
    return settings | {"systems": config.systems if config.systems == "all" else sorted(config.systems)}
