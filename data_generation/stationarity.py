"""Two tests of whether a series has a constant level, with opposite null hypotheses: KPSS and augmented Dickey-Fuller.

Statistics, lags and p-values are defined as in statsmodels (`kpss`, `adfuller`, their defaults)."""

import math

import numpy as np
from numba import njit
from scipy.special import ndtr

KPSS_STATISTICS, KPSS_P_VALUES = (0.347, 0.463, 0.574, 0.739), (0.10, 0.05, 0.025, 0.01)
"""D. Kwiatkowski et al., Journal of Econometrics 54, 159 (1992), table 1, constant level."""

ADF_RANGE, ADF_SPLIT = (-18.83, 2.74), -1.61
ADF_LEFT, ADF_RIGHT = (2.1659, 1.4412, 0.038269), (1.7339, 0.93202, -0.12745, -0.010368)
"""Normal quantiles as polynomials, lowest power first, to the left and right of the split: J. G. MacKinnon, Journal of
Business and Economic Statistics 12, 167 (1994), tables 3 and 4, one series with a constant."""

ROWS_PER_BLOCK = 96

_compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})


def kpss_p_value(series: np.ndarray) -> float:
    """Return the p-value of the hypothesis that a series is stationary around a constant, from 0.01 to 0.10.

    The long-run variance uses Bartlett weights and the lag of B. Hobijn, P. H. Franses, M. Ooms, Statistica Neerlandica
    58, 483 (2004).

    Args:
        series: (time,), not constant."""
    residuals = np.ascontiguousarray(series, np.float64) - series.mean()
    return float(np.interp(_kpss_statistic(residuals), KPSS_STATISTICS, KPSS_P_VALUES))


def adf_p_value(series: np.ndarray) -> float:
    """Return the p-value of the hypothesis that a series has a unit root, against stationarity around a constant.

    The number of lagged differences, up to 12 (time / 100)^(1/4), is that of the smallest Akaike information.

    Args:
        series: (time,), at least 24 points, not constant."""
    levels = np.ascontiguousarray(series, np.float64)
    max_lag = min(len(levels) // 2 - 2, math.ceil(12 * (len(levels) / 100) ** 0.25))
    statistic = adf_statistic((levels - levels.mean()) / levels.std(), max_lag)
    if not ADF_RANGE[0] <= statistic <= ADF_RANGE[1]:
        return 0.0 if statistic < ADF_RANGE[0] else 1.0
    coefficients = ADF_LEFT if statistic <= ADF_SPLIT else ADF_RIGHT
    return float(ndtr(np.polynomial.polynomial.polyval(statistic, coefficients)))


@_compiled
def _kpss_statistic(residuals):
    num_points = len(residuals)
    num_lags = _kpss_lags(residuals)
    variance = _lagged_product(residuals, 0)
    for lag in range(1, num_lags + 1):
        variance += 2 * (1 - lag / (num_lags + 1)) * _lagged_product(residuals, lag)
    total = squares = 0.0
    for residual in residuals:
        total += residual
        squares += total * total
    return squares / (num_points * variance)


@_compiled
def _kpss_lags(residuals):
    num_points = len(residuals)
    total, weighted = _lagged_product(residuals, 0), 0.0
    for lag in range(1, int(num_points ** (2 / 9)) + 1):
        product = 2 * _lagged_product(residuals, lag)
        total += product
        weighted += lag * product
    return min(int(1.1447 * ((weighted / total) ** 2 * num_points) ** (1 / 3)), num_points - 1)


@_compiled
def _lagged_product(series, lag):
    total = 0.0
    for i in range(len(series) - lag):
        total += series[i] * series[i + lag]
    return total


@_compiled
def adf_statistic(levels: np.ndarray, max_lag: int) -> float:
    """Return the t-value of the level in the regression of differences on a constant, the level and lagged differences.

    One triangular factor serves all numbers of lags, as their regressions are nested: the best is chosen on the rows
    that all share, and gets the rows that only it can use added to its part of the factor."""
    num_differences = len(levels) - 1
    factor = np.zeros((max_lag + 3, max_lag + 3))
    _add_rows(factor, levels, max_lag, num_differences)
    lag, squares = _best_lag(factor[-1], num_differences - max_lag)
    nested = factor[: lag + 3, : lag + 3].copy()
    nested[-1, :-1] = factor[-1, : lag + 2]
    nested[-1, -1] = math.sqrt(squares)
    _add_rows(nested, levels, lag, max_lag)
    return _level_t_value(nested, num_differences - lag)


@_compiled
def _best_lag(target, num_rows):
    """Return the lags of the smallest information, fewest if several, and the sum of squared residuals with them.

    `target`: the differences in the factor's coordinates; what its last entries hold is left over."""
    squares, best_lag, best_squares, best_information = 0.0, 0, 0.0, np.inf
    for lag in range(len(target) - 3, -1, -1):
        squares += target[lag + 2] ** 2
        information = num_rows * math.log(squares) + 2 * lag
        if information <= best_information:
            best_lag, best_squares, best_information = lag, squares, information
    return best_lag, best_squares


@_compiled
def _level_t_value(factor, num_rows):
    """Of column 1: its row of the inverse factor gives both the coefficient and its variance."""
    num_columns = len(factor) - 1
    inverse = np.zeros(num_columns)
    inverse[1] = 1 / factor[1, 1]
    for j in range(2, num_columns):
        inverse[j] = -np.sum(inverse[1:j] * factor[j, 1:j]) / factor[j, j]
    deviation = abs(factor[-1, -1]) / math.sqrt(num_rows - num_columns)
    return np.sum(inverse * factor[-1, :-1]) / (deviation * math.sqrt(np.sum(inverse**2)))


@_compiled
def _add_rows(factor, levels, first, stop):
    """Update a triangular factor, one row per column, with the regression's rows first ... stop - 1, by reflections."""
    num_columns = len(factor)
    for start in range(first, stop, ROWS_PER_BLOCK):
        num_rows = min(ROWS_PER_BLOCK, stop - start)
        block = np.empty((num_columns, num_rows))
        for i in range(num_rows):
            block[0, i] = 1.0
            block[1, i] = levels[start + i]
            for lag in range(1, num_columns - 2):
                block[lag + 1, i] = levels[start + i - lag + 1] - levels[start + i - lag]
            block[-1, i] = levels[start + i + 1] - levels[start + i]
        _triangularise(factor, block)


@_compiled
def _triangularise(factor, block):
    num_columns, num_rows = block.shape
    for j in range(num_columns):
        squares = 0.0
        for i in range(num_rows):
            squares += block[j, i] ** 2
        if squares == 0.0:
            continue
        norm = math.copysign(math.sqrt(factor[j, j] ** 2 + squares), factor[j, j])
        head = factor[j, j] + norm
        scale = 1 / (norm * head)
        factor[j, j] = -norm
        for k in range(j + 1, num_columns):
            product = head * factor[k, j]
            for i in range(num_rows):
                product += block[j, i] * block[k, i]
            product *= scale
            factor[k, j] -= product * head
            for i in range(num_rows):
                block[k, i] -= product * block[j, i]
