"""Whether a generated series has the long-term behaviour of the true one: invariants of the dynamics, and errors.

Series are (time, channels), evenly sampled, in data units. Every score falls to its floor, not to 0, for a perfect
generator, because both series are finite: print `truth_floor` and the lengths beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

if TYPE_CHECKING:
    from hf_tsdyn.forecasting import Forecaster

MAX_BINNED_CHANNELS = 10
MAX_CENTRES = 10_000

BATCH_VALUES = 2**18
"""Numbers in one batch of windows, or of distances: bounds memory."""


@dataclass(frozen=True)
class InvariantOptions:
    """How the invariants of one data set are measured; scores are comparable under equal options alone.

    num_bins: per channel, of the state-space divergence up to ten channels.
    mixture_variance: of each Gaussian in that of more channels, in units of the channel's variance in the truth.
    spectrum_smoothing: standard deviation of the smoothing of spectra, in frequency bins.
    prediction_steps: horizon of the prediction error.
    """

    num_bins: int = 30
    mixture_variance: float = 1.0
    spectrum_smoothing: float = 20.0
    prediction_steps: int = 20

    def __post_init__(self) -> None:
        _check_positive(**vars(self))


class Floor(NamedTuple):
    """The score of truth against truth, and the steps of each part."""

    value: float
    steps: int


def complete_series(name: str, values: ArrayLike, *, min_steps: int = 2, varying: bool = True) -> NDArray[np.float64]:
    """Return a series, (time, channels); ValueError if short, not finite, or, if `varying`, constant in a channel."""
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 2 or series.shape[0] < min_steps or series.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (time, channels) with at least {min_steps} steps, found {series.shape}; "
            "give a longer series, with a channel axis."
        )
    gaps = np.flatnonzero(~np.isfinite(series).all(axis=0)).tolist()
    if gaps:
        raise ValueError(
            f"{name} must be finite, found NaN or infinity in channels {gaps}; cut it there, or fill gaps."
        )
    constant = np.flatnonzero(series.min(axis=0) == series.max(axis=0)).tolist()
    if varying and constant:
        raise ValueError(f"{name} must vary in every channel, found constant channels {constant}; leave them out.")
    return series


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, found {value!r}; InvariantOptions holds usual values.")


def _generated_series(generated: ArrayLike, truth: np.ndarray) -> NDArray[np.float64] | None:
    """Return `generated` as an array, None where it is not finite; ValueError unless it has the truth's channels."""
    series = np.asarray(generated, dtype=np.float64)
    if series.ndim != 2 or series.shape[1] != truth.shape[1] or len(series) < 2:
        raise ValueError(
            f"a generated series must have at least 2 steps and the truth's {truth.shape[1]} channels, found shape "
            f"{series.shape}; generate the observed channels alone, (time, channels)."
        )
    return series if np.isfinite(series).all() else None


def state_space_divergence(
    truth: ArrayLike,
    generated: ArrayLike,
    options: InvariantOptions = InvariantOptions(),
    *,
    rng: np.random.Generator | None = None,
) -> float:
    """Return the Kullback-Leibler divergence, in nats, of where `generated` is from where `truth` is.

    Binned up to ten channels, else between Gaussian mixtures after standardising channels by the truth's mean and
    standard deviation: units do not count.

    Args:
        rng: where the mixture's samples are drawn from, seeded with 0 by default so that calls repeat.
    Returns: infinity for a generated series that is not finite.
    Raises: ValueError on unequal channels, or a truth that is short, not finite or constant in a channel.
    """
    true = complete_series("truth", truth)
    if true.shape[1] <= MAX_BINNED_CHANNELS:
        return binned_divergence(true, generated, num_bins=options.num_bins)
    other = _generated_series(generated, true)
    if other is None:
        return float("inf")
    loc, scale = true.mean(axis=0), true.std(axis=0)
    return mixture_divergence(
        (true - loc) / scale,
        (other - loc) / scale,
        variance=options.mixture_variance,
        rng=np.random.default_rng(0) if rng is None else rng,
    )


def _bin_counts(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, num_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the bins that hold points, ascending, and how many; -1 is everything outside."""
    keys = np.zeros(len(values), dtype=np.int64)
    outside = np.zeros(len(values), dtype=bool)
    for channel, start, stop in zip(values.T, low, high, strict=True):
        inside = np.clip(channel, start, stop)
        outside |= inside != channel
        index = ((inside - start) * (num_bins / (stop - start))).astype(np.int64)
        keys = keys * num_bins + np.minimum(index, num_bins - 1)
    keys[outside] = -1
    return np.unique(keys, return_counts=True)


def binned_divergence(
    truth: ArrayLike, generated: ArrayLike, *, num_bins: int = 30, smoothing: float = 1e-5, margin: float = 0.1
) -> float:
    """Return sum p log(p / q) over bins, p of the truth's points and q of the generated ones, in nats.

    The box is the truth's range, widened on each side by `margin` standard deviations, in `num_bins` equal parts per
    channel. Generated points outside share one bin more and count in the total, so that leaving the box costs what
    being in the wrong bin costs. `smoothing` is added to the counts of bins that either series visits: over the whole
    grid of many channels it would outweigh the points. Where bins hold one point each, as in many channels, any
    generator scores about -log(smoothing).

    Returns: infinity for a generated series that is not finite.
    Raises: as `state_space_divergence`; ValueError also where the bins of all channels cannot be numbered.
    Source: Brenner et al. (arXiv:2410.14240), whose code has no outside bin and smooths over the whole grid.
    """
    true = complete_series("truth", truth)
    other = _generated_series(generated, true)
    _check_positive(num_bins=num_bins, smoothing=smoothing)
    if int(num_bins) ** true.shape[1] >= 2**63:
        raise ValueError(
            f"num_bins ** channels must be below 2 ** 63, found {num_bins} ** {true.shape[1]}; take fewer."
        )
    if other is None:
        return float("inf")
    edge = margin * true.std(axis=0)
    low, high = true.min(axis=0) - edge, true.max(axis=0) + edge
    visits = [_bin_counts(series, low, high, num_bins) for series in (true, other)]
    bins = np.union1d(visits[0][0], visits[1][0])
    shares = np.full((2, len(bins)), smoothing)
    for share, (visited, count) in zip(shares, visits, strict=True):
        share[np.searchsorted(bins, visited)] += count
    p, q = shares / shares.sum(axis=1, keepdims=True)
    return float(np.sum(p * np.log(p / q)))


def mixture_divergence(
    truth: ArrayLike, generated: ArrayLike, *, variance: float, num_samples: int = 1000, rng: np.random.Generator
) -> float:
    """Return the divergence, in nats, of a Gaussian mixture on the generated points from one on the true points.

    Each point is the centre of an isotropic Gaussian; of a series longer than `MAX_CENTRES` as many, evenly spread.
    The Monte Carlo mean of log p - log q over samples of the truth's mixture can fall slightly below 0.

    Args:
        variance: of every Gaussian in every channel, squared data units.
        rng: where samples are drawn from; equal states compare generators on the same samples.
    Returns: infinity for a generated series that is not finite, or so far away that its density vanishes.
    Raises: ValueError on unequal channels or a truth that is short or not finite.
    Source: Brenner et al. (arXiv:2410.14240).
    """
    true = complete_series("truth", truth, varying=False)
    other = _generated_series(generated, true)
    _check_positive(variance=variance, num_samples=num_samples)
    if other is None:
        return float("inf")
    loc = true.mean(axis=0)
    true, other = _spread_points(true) - loc, _spread_points(other) - loc
    samples = true[rng.integers(len(true), size=num_samples)]
    samples = samples + np.sqrt(variance) * rng.standard_normal(samples.shape)
    log_ratio = _log_mixture(samples, true, variance) - _log_mixture(samples, other, variance)
    divergence = float(log_ratio.mean())
    return divergence if np.isfinite(divergence) else float("inf")


def _spread_points(series: np.ndarray) -> np.ndarray:
    """Return at most `MAX_CENTRES` points of the series, evenly spread over it."""
    if len(series) <= MAX_CENTRES:
        return series
    return series[np.linspace(0, len(series) - 1, MAX_CENTRES).astype(np.int64)]


def _log_mixture(samples: np.ndarray, centres: np.ndarray, variance: float) -> NDArray[np.float64]:
    """Return the log density at each sample, up to the constant that all mixtures of this variance share."""
    log_density = np.empty(len(samples))
    group = max(1, BATCH_VALUES // len(centres))
    with np.errstate(over="ignore", invalid="ignore"):  # of centres too far away to be squared
        half_norms = np.square(centres).sum(axis=1) / 2
        for first in range(0, len(samples), group):
            part = samples[first : first + group]
            exponents = (part @ centres.T - half_norms) / variance
            largest = exponents.max(axis=1)
            total = np.exp(exponents - largest[:, None]).sum(axis=1)
            log_density[first : first + group] = largest + np.log(total) - np.square(part).sum(axis=1) / (2 * variance)
    return log_density - np.log(len(centres))


def smoothed_spectrum(channel: np.ndarray, smoothing: float) -> NDArray[np.float64]:
    """Return the smoothed power spectrum from frequency 0 on, of sum 1, of a channel (time,) that varies."""
    centred = channel - channel.mean()
    power = np.abs(np.fft.rfft(centred / np.abs(centred).max())) ** 2
    power = gaussian_filter1d(power, smoothing)
    return power / power.sum()


def _hellinger(truth: np.ndarray, generated: np.ndarray, smoothing: float) -> float:
    """Return the Hellinger distance between the spectra of two channels, 1 where the generated one is constant."""
    if generated.min() == generated.max():
        return 1.0
    difference = np.sqrt(smoothed_spectrum(truth, smoothing)) - np.sqrt(smoothed_spectrum(generated, smoothing))
    return np.sqrt(np.sum(difference**2) / 2)


def spectrum_distance(truth: ArrayLike, generated: ArrayLike, *, smoothing: float = 20.0) -> float:
    """Return the Hellinger distance between power spectra, the mean over channels: 0 is equal, 1 is disjoint.

    Spectra |FFT|^2 of the common length (the start of the longer series), smoothed by a Gaussian of standard deviation
    `smoothing`, in frequency bins, and normalised to sum 1. Each series is centred first, so that neither offset nor
    scale counts. Comparable at equal length and smoothing alone.

    Returns: 1 for a generated series that is not finite; a channel in which it is constant counts 1.
    Raises: ValueError on unequal channels, or a truth that is short, not finite or constant in a channel.
    Source: Brenner et al. (arXiv:2410.14240); Mikhaeil, Monfared, Durstewitz (arXiv:2110.07238).
    """
    true = complete_series("truth", truth)
    other = _generated_series(generated, true)
    _check_positive(smoothing=smoothing)
    if other is None:
        return 1.0
    steps = min(len(true), len(other))
    pairs = zip(complete_series("truth", true[:steps]).T, other[:steps].T, strict=True)
    return float(np.mean([_hellinger(*pair, smoothing) for pair in pairs]))


def prediction_error(
    forecaster: Forecaster, series: ArrayLike, *, num_steps: int = 20, context_length: int = 1
) -> NDArray[np.float64]:
    """Return the mean squared error of each step ahead, (num_steps,), over every start and channel.

    Each channel in units of its variance over `series`, so that the series' mean as forecast scores about 1.

    Args:
        series: (time, channels); every window of `context_length + num_steps` steps is one forecast, in float32.
        context_length: steps that the forecaster sees before each start.
    Returns: infinity at steps where some forecast is not finite.
    Raises: ValueError on a series without a window, not finite or constant in a channel.
    """
    _check_positive(num_steps=num_steps, context_length=context_length)
    length = context_length + num_steps
    values = complete_series("series", series, min_steps=length)
    windows = np.lib.stride_tricks.sliding_window_view(values, length, axis=0).swapaxes(1, 2)
    total = np.zeros((num_steps, values.shape[1]))
    group = max(1, BATCH_VALUES // (length * values.shape[1]))
    for first in range(0, len(windows), group):
        past, future = np.split(windows[first : first + group], [context_length], axis=1)
        with torch.no_grad():
            forecast = forecaster.forecast(torch.tensor(past.astype(np.float32)), prediction_length=num_steps)
        error = forecast.double().cpu().numpy() - future
        total += np.where(np.isfinite(error), error**2, np.inf).sum(axis=0)
    return (total / values.var(axis=0)).mean(axis=1) / len(windows)


def truth_floor(truth: ArrayLike, score: Callable[[np.ndarray, np.ndarray], float]) -> Floor:
    """Return the score of the second half of `truth` as if it were generated, against the first half.

    What a perfect generator scores at half the length. The floor at the whole length is lower: a divergence shrinks
    as 1 / T once the bins are well filled.

    Args:
        score: takes (truth, generated), such as `spectrum_distance`.
    """
    true = complete_series("truth", truth, min_steps=4)
    steps = len(true) // 2
    return Floor(score(true[:steps], true[steps : 2 * steps]), steps)
