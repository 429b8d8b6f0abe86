"""Folds of a series for rolling-origin cross-validation: parts of its training split that stand in for its splits."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np

from hf_tsdyn.data.parts import SeriesPart
from hf_tsdyn.data.rolling_origin import rolling_origins
from hf_tsdyn.data.series import SeriesDataset

FOLD_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class FoldOptions:
    """One fold of the training split of a series, cut as `hf_tsdyn.data.rolling_origins` does.

    The fold's training split is what lies before its origin, its validation split the `fold_length` steps from there on
    and the context before them. The series' own validation and test splits are not read.

    Args:
        num_folds: folds that share out the end of the training split.
        fold_length: steps of each.
        index: of this one, from 0, the earliest.
    Raises: ValueError on numbers below 1, or a fold that there is not."""

    num_folds: int
    fold_length: int
    index: int

    def __post_init__(self) -> None:
        _check_counts(self.num_folds, self.fold_length)
        if not 0 <= self.index < self.num_folds:
            raise ValueError(
                f"index must be that of one of the {self.num_folds} folds, from 0 on, found {self.index}; change it."
            )

    def cut(self, source: SeriesDataset, split: str, context_length: int) -> "FoldPart":
        """Return the part of a training split that the fold has for `split`.

        context_length: steps before the fold's origin that windows of its validation split may look back at.
        Raises: ValueError on a split other than "train" and "validation", or a series too short for the folds.
        """
        if split not in FOLD_SPLITS:
            raise ValueError(
                f"a fold must be read by one of its splits {FOLD_SPLITS}, found {split!r}; leave data.fold out to read "
                "that one."
            )
        folds = rolling_origins(
            source, num_folds=self.num_folds, fold_length=self.fold_length, context_length=context_length
        )
        part = getattr(folds[self.index], split)
        return FoldPart(source, part.ranges, split=part.split, fingerprint=self.fingerprint_of(source.fingerprint))

    def fingerprint_of(self, fingerprint: str) -> str:
        """Return the fingerprint of this fold of a series."""
        content = json.dumps({"series": fingerprint, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Folds:
    """All folds of a series: see `FoldOptions`."""

    num_folds: int
    fold_length: int

    def __post_init__(self) -> None:
        _check_counts(self.num_folds, self.fold_length)

    def __iter__(self) -> Iterator[FoldOptions]:
        return (FoldOptions(self.num_folds, self.fold_length, index) for index in range(self.num_folds))


class FoldPart(SeriesPart):
    """Part of a series with a fingerprint of its own, and the names of the series' channels."""

    def __init__(self, source: SeriesDataset, ranges: np.ndarray, *, split: str, fingerprint: str):
        super().__init__(source, ranges, split=split)
        self.fingerprint = fingerprint
        self.channel_names = source.channel_names

    def __reduce__(self) -> tuple[Any, ...]:
        source = cast(SeriesDataset, self.source)
        return partial(FoldPart, source, self.ranges, split=self.split, fingerprint=self.fingerprint), ()


def _check_counts(num_folds: int, fold_length: int) -> None:
    if min(num_folds, fold_length) < 1:
        raise ValueError(
            f"num_folds and fold_length must be at least 1, found {num_folds} and {fold_length}; raise them."
        )
