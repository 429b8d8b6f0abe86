"""Cross-validation in time: train on what lies before an origin, score on what follows, move the origin on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hf_tsdyn.data.parts import SeriesPart, lengths_by_name
from hf_tsdyn.data.series import TrajectorySource
from hf_tsdyn.data.windows import SequentialWindows
from hf_tsdyn.forecasting import Forecaster


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


@dataclass(frozen=True, eq=False)
class FoldScore:
    """Errors of one fold.

    Fields:
        mse, mae: (channels,) mean squared and absolute error over all windows, their steps and every seen target, in
            the units of the data (squared, for the first); NaN for a channel of which no target was seen.
        num_windows: how many were scored."""

    mse: np.ndarray
    mae: np.ndarray
    num_windows: int


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
    `source`: of a training split neither validation nor test data are touched.

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


def cross_validate(
    fit: Callable[[TrajectorySource], Forecaster],
    folds: Sequence[Fold],
    *,
    prediction_length: int,
    batch_size: int = 256,
) -> list[FoldScore]:
    """Fit a forecaster to the training part of each fold, and score it on every window of the validation part.

    Windows lie one step apart, each with the fold's context and `prediction_length` targets behind it; none is dropped.
    A setting is chosen by the mean of its scores over the folds; to weigh channels alike, divide `mse` by a variance of
    each channel from the training data.

    Args:
        fit: a function of the training part; what it returns forecasts (batch, context_length, channels).
    Raises: ValueError if rows differ in their number of channels, a validation part is shorter than a window, or
        forecasts have another shape than targets.
    """
    return [_score(fit(fold.train), fold, prediction_length, batch_size) for fold in folds]


def _score(forecaster: Forecaster, fold: Fold, prediction_length: int, batch_size: int) -> FoldScore:
    channels = np.unique(fold.validation.num_channels).tolist()
    if len(channels) > 1:
        raise ValueError(
            f"every row must have the same channels to be scored by channel, found {channels} of them in "
            f"{fold.validation.source!r}; cross-validate rows of one number of channels at a time."
        )
    windows = SequentialWindows(
        fold.validation, context_length=fold.context_length, prediction_length=prediction_length, stride=1
    )
    sums = torch.zeros(3, channels[0], dtype=torch.float64)  # squared, absolute, seen
    for first in range(0, len(windows), batch_size):
        batch = windows.__getitems__(range(first, min(first + batch_size, len(windows))))
        targets = batch["future_values"]
        forecasts = forecaster.forecast(
            batch["past_values"],
            prediction_length=prediction_length,
            past_observed_mask=batch.get("past_observed_mask"),
        )
        if forecasts.shape != targets.shape:
            raise ValueError(
                f"forecasts must have the shape of their targets, {tuple(targets.shape)}, found "
                f"{tuple(forecasts.shape)} from {type(forecaster).__name__}; correct its forecast."
            )
        seen = batch.get("future_observed_mask", torch.ones_like(targets, dtype=torch.bool))
        errors = torch.where(seen, forecasts.double() - targets.double(), 0.0)
        sums += torch.stack([errors.square(), errors.abs(), seen.double()]).sum(dim=(1, 2))
    mse, mae = (sums[:2] / sums[2]).numpy()
    return FoldScore(mse, mae, len(windows))
