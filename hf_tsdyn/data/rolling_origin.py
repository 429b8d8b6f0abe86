"""Cross-validation in time: train on what lies before an origin, score on what follows, move the origin on."""

from dataclasses import dataclass

import numpy as np

from hf_tsdyn.data.parts import SeriesPart, lengths_by_name
from hf_tsdyn.data.series import TrajectorySource


@dataclass(frozen=True, eq=False)
class Fold:
    """One origin: what may be trained on, and what is validated on.

    Fields:
        train: steps before the origin.
        validation: the steps whose forecasts count, and before them those that contexts look back at.
        origin: (rows,) the first target of each row, as a step of the source.
        context_length: of the windows of `validation`: with a shorter one, targets would lie before the origin."""

    train: SeriesPart
    validation: SeriesPart
    origin: np.ndarray
    context_length: int


def rolling_origins(
    source: TrajectorySource,
    *,
    num_folds: int,
    fold_length: int,
    context_length: int,
    min_train_length: int | None = None,
    gap: int = 0,
    expanding: bool = True,
) -> list[Fold]:
    """Return `num_folds` folds, early ones first, whose targets share out the end of every row.

    In a row of T steps the origin of fold k (from 0) is o_k = T - (num_folds - k) fold_length. Its targets are the
    steps from o_k up to, not including, o_k + fold_length; its validation part begins `context_length` steps earlier,
    as far as there are any, so that windows with that context have every target there. It trains on the steps from 0
    up to o_k - gap, or, not `expanding`, on the last of them, as many as the first fold has. No step lies outside
    `source`: of a training split neither validation nor test data are touched. Whatever was fitted to a training part,
    `hf_tsdyn.series_evaluation.score_windows` scores it on all windows of the validation part.

    Args:
        min_train_length: fewest steps to train on in a row; by default those of a context and one target.
        gap: steps between training part and targets that are used as context alone.
    Raises: ValueError on numbers below 1 (`gap`, `context_length`: below 0), or, naming them, rows whose first fold
        has less than `min_train_length` steps to train on.
    Source: Tashman 2000, International Journal of Forecasting 16: evaluation with a rolling origin.
    """
    least = context_length + 1 if min_train_length is None else min_train_length
    if min(num_folds, fold_length, least) < 1 or min(context_length, gap) < 0:
        raise ValueError(
            "num_folds, fold_length and min_train_length must be at least 1, context_length and gap at least 0, found "
            f"{num_folds!r}, {fold_length!r}, {min_train_length!r}, {context_length!r} and {gap!r}; raise them."
        )
    first_origin = source.lengths - num_folds * fold_length
    short = np.flatnonzero(first_origin - gap < least)
    if short.size:
        raise ValueError(
            f"every row must have {least} steps to train on, {gap} of gap and {num_folds} folds of {fold_length}, "
            f"{least + gap + num_folds * fold_length} steps, found {short.size} that are shorter, such as "
            f"{lengths_by_name(source, short)}; take fewer or shorter folds, or carve whole rows."
        )
    folds = []
    for number in range(num_folds):
        origin = first_origin + number * fold_length
        start = np.zeros_like(origin) if expanding else origin - first_origin
        name = f"{source.split}-fold{number}"
        train = SeriesPart(source, np.stack([start, origin - gap], axis=1), split=f"{name}-train")
        ranges = np.stack([np.maximum(origin - context_length, 0), origin + fold_length], axis=1)
        validation = SeriesPart(source, ranges, split=f"{name}-validation")
        folds.append(Fold(train, validation, origin, context_length))
    return folds
