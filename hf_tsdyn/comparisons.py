"""Which model is better on how many systems, and whether that is more than chance: wins, ranks and paired tests.

All of it rests on ranks within a system or of differences between two models on it, so that no system outweighs the
others and a failed forecast (an infinite error) is the worst value there is. Nothing is left out: a model without a
value on a system on which another has one counts as failed there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, wilcoxon

from .results import ResultRow

SMALLER_IS_BETTER = frozenset(
    "completion_mae correlation_dimension_error lyapunov_error mae mase mse normalised_crps normalised_mae "
    "normalised_mse prediction_error smape spectrum_distance state_space_divergence step_normalised_mae "
    "weighted_quantile_loss".split()
)
LARGER_IS_BETTER = frozenset(("vpt_lyapunov", "vpt_periods"))
"""Metrics by the part of their name before "@"; one that is in neither set has no better end."""


def is_larger_better(metric: str) -> bool:
    """Return whether more of a metric is better; its threshold or part, after "@", does not matter.

    Raises: ValueError for one that has no better end, as a coverage, or is not known.
    """
    name = metric.partition("@")[0]
    if name in LARGER_IS_BETTER:
        return True
    if name in SMALLER_IS_BETTER:
        return False
    raise ValueError(
        f"models can be compared by a metric of which more is better or worse, one of "
        f"{sorted(SMALLER_IS_BETTER | LARGER_IS_BETTER)}, found {metric!r}; choose another."
    )


@dataclass(frozen=True, eq=False)
class Losses:
    """One metric of several models on the same systems.

    values: (models, systems), the smaller the better whatever the metric; infinite where a model failed.
    """

    models: tuple[str, ...]
    systems: tuple[str, ...]
    values: NDArray[np.float64]


class WinsMatrix(NamedTuple):
    """shares: (models, models), of systems on which the row's model beats the column's, a tie counting half."""

    models: tuple[str, ...]
    shares: NDArray[np.float64]
    num_systems: int


class PairedTest(NamedTuple):
    """Wilcoxon's signed-rank test of two models over systems.

    p_value: two-sided, of this pair alone. adjusted: corrected for all pairs that were tested. effect: the matched
    pairs' rank-biserial correlation, 1 where `model` is better on every system, -1 where `other` is; ties shrink it.
    """

    model: str
    other: str
    p_value: float
    adjusted: float
    effect: float
    num_systems: int


def losses(rows: Iterable[ResultRow], metric: str, horizon: int, *, models: Sequence[str] | None = None) -> Losses:
    """Return one metric at one horizon as an array, its sign turned where larger is better.

    Args:
        models: in this order; all that have such rows by default.
    Raises: ValueError if no model has such rows, a system has two values of one model, or the metric has no better
        end.
    """
    sign = -1.0 if is_larger_better(metric) else 1.0
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if (row.metric, row.horizon) == (metric, horizon) and (models is None or row.model in models):
            if row.system in found.setdefault(row.model, {}):
                raise ValueError(
                    f"a model must have one value a system, found two of {row.model!r} on {row.system!r} ({metric} @ "
                    f"{horizon}); take them from one evaluation."
                )
            found[row.model][row.system] = sign * row.value
    names = tuple(found if models is None else models)
    systems = tuple(sorted({system for values in found.values() for system in values}))
    if not systems:
        raise ValueError(
            f"a comparison needs values of {metric!r} at horizon {horizon}, found none of {list(names) or 'any model'}"
            "; evaluate it."
        )
    values = [[found.get(name, {}).get(system, np.inf) for system in systems] for name in names]
    return Losses(names, systems, np.array(values))


def wins_matrix(
    rows: Iterable[ResultRow], metric: str, horizon: int, *, models: Sequence[str] | None = None
) -> WinsMatrix:
    """Return the share of systems on which each model beats each other one; arguments and errors as in `losses`."""
    table = losses(rows, metric, horizon, models=models)
    first, second = table.values[:, None], table.values[None]
    shares = ((first < second) + 0.5 * (first == second)).mean(axis=2)
    return WinsMatrix(table.models, shares, len(table.systems))


def average_ranks(
    rows: Iterable[ResultRow], metric: str, horizon: int, *, models: Sequence[str] | None = None
) -> dict[str, float]:
    """Return each model's rank, 1 the best, ties sharing theirs, as a mean over systems; as in `losses`.

    Ranks depend on who else is ranked: they compare models within one table, not between two.
    """
    table = losses(rows, metric, horizon, models=models)
    ranks = rankdata(table.values, axis=0).mean(axis=1)
    return dict(zip(table.models, ranks.tolist(), strict=True))


def paired_tests(
    rows: Iterable[ResultRow],
    metric: str,
    horizon: int,
    *,
    models: Sequence[str] | None = None,
    correction: Literal["holm", "none"] = "holm",
) -> list[PairedTest]:
    """Test every pair of models over systems, in the order of the models.

    Differences of 0 are ranked and then set aside (Pratt); two failures are one. Where all are 0, p is 1.

    Args:
        models: as in `losses`; the correction is over all pairs of them.
    Raises: as `losses`; ValueError on an unknown correction.
    Source: Wilcoxon (1945), Pratt (1959), Holm (1979), Kerby (2014) for the effect size.
    """
    if correction not in ("holm", "none"):
        raise ValueError(f"correction must be 'holm' or 'none', found {correction!r}; choose one.")
    table = losses(rows, metric, horizon, models=models)
    pairs = list(combinations(range(len(table.models)), 2))
    found = [_signed_ranks(table.values[first], table.values[second]) for first, second in pairs]
    p_values = [p_value for p_value, _ in found]
    adjusted = holm(p_values) if correction == "holm" else p_values
    return [
        PairedTest(table.models[first], table.models[second], p_value, corrected, effect, len(table.systems))
        for (first, second), (p_value, effect), corrected in zip(pairs, found, adjusted, strict=True)
    ]


def holm(p_values: ArrayLike) -> list[float]:
    """Return p-values (tests,) adjusted so that the chance of any false rejection among them stays below the level."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def _signed_ranks(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The p-value and the effect of a pair: losses (systems,) of both."""
    equal = first == second  # two failures too
    difference = np.where(equal, 0.0, second) - np.where(equal, 0.0, first)  # positive where the first is better
    if equal.all():
        return 1.0, 0.0
    ranks = rankdata(np.abs(difference))
    effect = float((np.sign(difference) * ranks).sum() / ranks.sum())
    # The test sees ranks alone: infinite differences become the largest ones.
    result: Any = wilcoxon(np.sign(difference) * ranks, zero_method="pratt")
    return float(result.pvalue), effect
