"""Settings of what a trajectory must be to be stored: validity checks and Lyapunov exponents."""

import math
from dataclasses import asdict, dataclass, field

from data_generation.rules import require, require_unique

OPTIONAL_CHECKS = (
    "outlier", "decaying", "shrinking", "linear", "limit_cycle", "few_peaks", "not_stationary", "regular",
)  # fmt: skip


@dataclass(frozen=True)
class ValidityConfig:
    """The checks in `data_generation.validity`, and their thresholds.

    Args:
        checks: those of `OPTIONAL_CHECKS` to run; values that are not finite or too large, fixed points and channels
            that do not move are always rejected.
        max_z: largest distance of a value from its channel's mean, in standard deviations.
        min_channel_spread: smallest standard deviation of any channel, relative to its largest magnitude.
        min_tail_spread: smallest spread of the last quarter, in standard deviations of the known attractor.
        min_tail_ratio: smallest spread of the last quarter, relative to that of the whole series.
        min_spread_growth: smallest of the largest growth of a channel's spread from one eighth to the next.
        max_line_share: largest share of the variance along the first principal axis.
        min_return_distance: smallest distance of the second half to any earlier stretch of the series.
        min_num_peaks: fewest peaks in the spectrum of the channel that has most.
        min_peak_power: least height and prominence of a peak, relative to the largest power of its channel.
        max_unit_root_p: level of both tests of stationarity, KPSS and ADF.
        min_growth_correlation: least K of the 0-1 test that counts as diffusion.
        min_diffusing_share: least share of the 0-1 test's walks that diffuse, in the channel where most do."""

    checks: list[str] = field(default_factory=lambda: list(OPTIONAL_CHECKS))
    max_z: float = 15.0
    min_channel_spread: float = 1e-5
    min_tail_spread: float = 1e-3
    min_tail_ratio: float = 0.1
    min_spread_growth: float = 1.0
    max_line_share: float = 0.99
    min_return_distance: float = 0.01
    min_num_peaks: int = 4
    min_peak_power: float = 1e-5
    max_unit_root_p: float = 0.05
    min_growth_correlation: float = 0.2
    min_diffusing_share: float = 0.2

    def __post_init__(self) -> None:
        known = ", ".join(OPTIONAL_CHECKS)
        for name in self.checks:
            require(name in OPTIONAL_CHECKS, "checks must hold names of checks only", name, f"choose among {known}")
        require_unique("checks must name each check", self.checks)
        for name, value in asdict(self).items():
            if name != "checks":
                require(0 <= value < math.inf, f"{name} must be finite and not negative", value, "give such a number")


@dataclass(frozen=True)
class LyapunovConfig:
    """The largest Lyapunov exponent of accepted trajectories, from their own equations.

    Args:
        num_periods: dominant periods over which the exponent is measured; 0 leaves it out, and only unperturbed systems
            get a Lyapunov time, where dysts' exponent can be trusted.
        transient_periods: periods before, in which the tangent turns into the fastest direction.
        min_rate: exponent x period above which a trajectory counts as clearly chaotic and gets a Lyapunov time.
        reject_regular: reject trajectories whose exponent, errors allowed for, lies below `min_rate`.
        reject_bifurcated: reject a trajectory if of it and its unperturbed parent one is chaotic and one is not."""

    num_periods: float = 100.0
    transient_periods: float = 10.0
    min_rate: float = 0.02
    reject_regular: bool = False
    reject_bifurcated: bool = False

    def __post_init__(self) -> None:
        for name in ("num_periods", "transient_periods", "min_rate"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} must be finite and not negative", value, "give such a number")
        require(
            self.num_periods > 0 or not (self.reject_regular or self.reject_bifurcated),
            "reject_regular and reject_bifurcated need an exponent",
            self.num_periods,
            "give lyapunov.num_periods 100",
        )
