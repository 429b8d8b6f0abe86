"""Statistics of the attractors of many generated series beside those of the true ones, with a value for every failure.

What a series without an attractor scores:

| generated series | state_space_divergence | spectrum_distance | lyapunov_error | correlation_dimension_error |
|---|---|---|---|---|
| not finite | infinity | 1 | infinity | infinity |
| in the end at rest | as it is | as it is; 1 if always at rest | infinity | that of dimension 0 |
| in the end on a cycle | as it is | as it is | that of exponent 0 | that of dimension 1 |
| close pairs at no distance | as it is | as it is | as it is | infinity |

At rest the exponent is negative, of a size that cannot be seen. A channel that rests in the generated series alone is
left out of the last two, which it does not change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics.correlation_dimension import FEWEST_POINTS, RESOLUTION, correlation_dimension, correlation_length
from .metrics.invariants import InvariantOptions, spectrum_distance, state_space_divergence
from .metrics.largest_lyapunov import largest_lyapunov

ATTRACTOR_STATISTICS = (
    "state_space_divergence",
    "spectrum_distance",
    "lyapunov_error",
    "correlation_dimension_error",
)

REST = 0.01
"""A series rests if it moves less than this in its last quarter, in standard deviations of the truth."""

CLEAR = 2.0
"""Standard errors above 0 from which on an estimated exponent can be a unit."""


def attractor_statistics(
    truth: ArrayLike,
    generated: ArrayLike,
    options: InvariantOptions | None = None,
    *,
    dt: ArrayLike,
    seed: int,
    lyapunov_time: ArrayLike | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return how far each generated attractor is from the true one, by the names of `ATTRACTOR_STATISTICS`.

    state_space_divergence: as of `metrics`, nats. spectrum_distance: as of `metrics`, 0 to 1.
    lyapunov_error: |difference of the largest exponents|, both by `largest_lyapunov` on series of one length, so that
        what biases one biases the other; times the Lyapunov time, that is, relative to the truth's exponent. This is
        the unit in which valid prediction is measured: whatever the system's pace, a limit cycle scores about 1.
    correlation_dimension_error: |difference of the correlation dimensions|.

    Every one falls to a floor above 0 for a perfect generator: score another stretch of the truth to see it. Channels
    in which the truth is at rest are left out. A series' values do not depend on its neighbours in the batch. NaN
    where the truth cannot be measured: not finite, or at rest, in all four; shorter than 1000 steps, in the last two;
    without a clearly positive exponent, unless its Lyapunov time is known, in `lyapunov_error`; with close pairs at no
    distance, in `correlation_dimension_error`. The table of this module has what failed series score.

    Args:
        truth, generated: (series, time, channels), evenly sampled, of one length, all coordinates of the state.
        options: of the first two, `InvariantOptions()` by default.
        dt: scalar or (series,), time of one step.
        seed: of what is drawn, the same for every series.
        lyapunov_time: scalar or (series,), where it is known, in the unit of `dt`; NaN, or None for all, where the
            inverse of the truth's estimated exponent is to be taken.
    Raises: ValueError on unequal or wrong shapes, or times that are not positive.
    """
    true, other = np.asarray(truth, dtype=np.float64), np.asarray(generated, dtype=np.float64)
    if true.ndim != 3 or true.shape[1] < 2 or 0 in true.shape or other.shape != true.shape:
        raise ValueError(
            "truth and generated must have one shape (series, time, channels) with at least 2 steps, found "
            f"{true.shape} and {other.shape}; cut both to the same stretch and channels."
        )
    step, time = _times("dt", dt, len(true)), _times("lyapunov_time", lyapunov_time, len(true))
    rows = [_measure_pair(*pair, options or InvariantOptions(), seed) for pair in zip(true, other, strict=True)]
    divergence, distance, (exponent, error, dimension), (other_exponent, _, other_dimension) = (
        np.stack(column).T for column in zip(*rows, strict=True)
    )
    estimated = np.divide(1.0, exponent, out=np.full(len(true), np.nan), where=exponent > CLEAR * error)
    unit = np.where(np.isnan(time), estimated, time / step)
    values = divergence, distance, np.abs(other_exponent - exponent) * unit, np.abs(other_dimension - dimension)
    return dict(zip(ATTRACTOR_STATISTICS, values, strict=True))


def _times(name: str, values: ArrayLike | None, count: int) -> NDArray[np.float64]:
    """Return a time for each series, NaN where it is not known; ValueError unless all others are positive."""
    times = np.asarray(np.nan if values is None else values, dtype=np.float64)
    if times.shape not in ((), (count,)) or not (np.isnan(times) | (times > 0)).all():
        raise ValueError(
            f"{name} must be one positive time, or one for each of {count} series, found {values!r}; give dt and "
            "lyapunov_time in one unit."
        )
    return np.broadcast_to(times, (count,))


class Measured(NamedTuple):
    """The largest exponent per step, its standard error, and the correlation dimension."""

    exponent: float
    standard_error: float
    dimension: float


UNKNOWN = Measured(np.nan, np.nan, np.nan)
"""Of a truth that cannot be measured."""

FAILED = Measured(np.inf, np.nan, np.inf)
"""Of a generated series that has no attractor, or none that can be measured: infinitely far from any truth."""


def _measure_pair(
    truth: np.ndarray, generated: np.ndarray, options: InvariantOptions, seed: int
) -> tuple[float, float, Measured, Measured]:
    """Return divergence, spectrum distance, and what is measured of either series (time, channels)."""
    moving = np.isfinite(truth).all() & (truth.min(axis=0) < truth.max(axis=0))
    if not moving.any():
        return np.nan, np.nan, UNKNOWN, UNKNOWN
    truth, generated = truth[:, moving], generated[:, moving]
    divergence = state_space_divergence(truth, generated, options, rng=np.random.default_rng(seed))
    distance = spectrum_distance(truth, generated, smoothing=options.spectrum_smoothing)
    if len(truth) < FEWEST_POINTS:
        return divergence, distance, UNKNOWN, UNKNOWN
    window = min(correlation_length(truth), len(truth) // 10)
    true = _measure(truth, window, seed)
    return divergence, distance, true, _measure_generated(generated, truth.std(axis=0), window, seed)


def _measure(series: np.ndarray, window: int, seed: int) -> Measured:
    """Measure a finite series that varies in every channel; a dimension that cannot be measured is NaN."""
    exponent, error, *_ = largest_lyapunov(series, theiler_window=window)
    try:
        dimension = correlation_dimension(
            series, rng=np.random.default_rng(seed), theiler_window=window, min_points=FEWEST_POINTS
        ).dimension
    except ValueError:  # few values, or points that repeat
        dimension = np.nan
    return Measured(exponent, error, dimension)


def _measure_generated(series: np.ndarray, scale: np.ndarray, window: int, seed: int) -> Measured:
    """Measure a generated series, whose truth has the standard deviations `scale`; see the module's table."""
    if not np.isfinite(series).all():
        return FAILED
    end = series[-(len(series) // 4) :]
    if (np.ptp(end, axis=0) < REST * scale).all():
        return FAILED._replace(dimension=0.0)
    if _repeats(series / scale):
        return Measured(0.0, 0.0, 1.0)
    moving = series[:, np.ptp(series, axis=0) > 0]
    # By a power of two, which changes no digit: squares of a series that has run away would overflow.
    found = _measure(np.ldexp(moving, -np.frexp(np.abs(moving).max(axis=0))[1]), window, seed)
    return found._replace(dimension=np.inf) if np.isnan(found.dimension) else found


def _repeats(series: np.ndarray) -> bool:
    """Return whether the last half of a series goes at least twice through one cycle."""
    half = len(series) // 2
    recent = series[-1 - half // 2 : -1]
    lags = half // 2 - np.flatnonzero(np.abs(recent - series[-1]).max(axis=1) < RESOLUTION)
    return any(np.abs(series[-half:] - series[-half - lag : -lag]).max() < RESOLUTION for lag in lags)
