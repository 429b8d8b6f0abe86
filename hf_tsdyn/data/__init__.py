"""Trajectories and series on disk, parts of them, windows, and augmentations."""

from hf_tsdyn.data.augmentations import Augmentations
from hf_tsdyn.data.parts import SeriesPart, carve_end, carve_rows
from hf_tsdyn.data.rolling_origin import Fold, FoldScore, cross_validate, rolling_origins
from hf_tsdyn.data.series import SeriesDataset, SeriesOptions, TrajectorySource
from hf_tsdyn.data.trajectories import FEATURES, Trajectory, TrajectoryDataset
from hf_tsdyn.data.windows import (
    ChannelBucketSampler,
    RandomWindows,
    SequentialWindows,
    WindowDataset,
    identity,
)

__all__ = [
    "FEATURES",
    "Augmentations",
    "ChannelBucketSampler",
    "Fold",
    "FoldScore",
    "RandomWindows",
    "SequentialWindows",
    "SeriesDataset",
    "SeriesOptions",
    "SeriesPart",
    "Trajectory",
    "TrajectoryDataset",
    "TrajectorySource",
    "WindowDataset",
    "carve_end",
    "carve_rows",
    "cross_validate",
    "identity",
    "rolling_origins",
]
