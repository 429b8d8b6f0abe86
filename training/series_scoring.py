"""The windows of a series that models are scored on, and what a results file says of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from hf_tsdyn.channel_scaling import channel_statistics
from hf_tsdyn.data.windows import SequentialWindows
from hf_tsdyn.evaluation import EvaluationProtocol
from hf_tsdyn.forecasting import Forecaster
from hf_tsdyn.provenance import git_revision, hardware_class, package_versions
from hf_tsdyn.series_evaluation import WindowErrors, score_windows
from training.run_config import DataConfig


class SeriesScorer:
    """Score forecasters on every window of a series' splits, in units of its training rows' standard deviations.

    A split is read when it is asked for, and not before. With a fold, the splits are the fold's, and the units those of
    the whole training split, so that folds compare.

    Attributes:
        series_fingerprint: of the files and their options.
        fingerprint: of what is trained on: that of the series, or of the fold.
        num_train_steps: of all rows of the whole training split.
    Raises: ValueError or OSError, as the data do, or on a channel that is constant in training.
    """

    def __init__(self, data: DataConfig, protocol: EvaluationProtocol):
        train = replace(data, fold=None).open("train", 0)
        self.data = data
        self.protocol = protocol
        self.series_fingerprint = train.fingerprint
        self.fingerprint = train.fingerprint if data.fold is None else data.fold.fingerprint_of(train.fingerprint)
        self.num_train_steps = int(train.lengths.sum())
        rows = (train.values(row) for row in range(len(train)))
        self._scale = channel_statistics(rows, int(train.num_channels[0]))[1]

    def score(self, forecaster: Forecaster, split: str, horizon: int, *, show_progress: bool = True) -> WindowErrors:
        """Return the errors of a forecaster on every window of a split.

        Raises: ValueError or OSError on a split that is too short for a window, or as `score_windows` does.
        """
        length = self.protocol.context_length
        windows = SequentialWindows(
            self.data.open(split, length), context_length=length, prediction_length=horizon, stride=1
        )
        return score_windows(
            forecaster, windows, scale=self._scale, batch_size=self.protocol.batch_size, show_progress=show_progress
        )

    def facts(self, errors: Mapping[tuple[str, int], WindowErrors]) -> dict[str, Any]:
        """Return what the header of results says of the series; `errors` by split and horizon."""
        num_windows: dict[str, dict[str, int]] = {}
        for (split, horizon), each in errors.items():
            num_windows.setdefault(split, {})[str(horizon)] = len(each.squared)
        return {
            "fingerprint": self.series_fingerprint,
            "channel_names": list(next(iter(errors.values())).channel_names),
            "num_train_steps": self.num_train_steps,
            "num_windows": num_windows,
        }


def bootstrap_options(protocol: EvaluationProtocol) -> dict[str, Any]:
    """Return the options of the intervals."""
    return {"num_resamples": protocol.num_resamples, "confidence": protocol.confidence, "seed": protocol.seed}


def provenance() -> dict[str, Any]:
    """Return what every header says of where its numbers came from."""
    return {
        "versions": package_versions(),
        "hardware": hardware_class(torch.device("cpu")),
        "git_revision": git_revision(),
    }
