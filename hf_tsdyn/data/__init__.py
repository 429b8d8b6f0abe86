"""Trajectories and series on disk, parts of them, windows, and augmentations."""

from hf_tsdyn.data.augmentations import Augmentations
from hf_tsdyn.data.parts import SeriesPart, carve_end, carve_rows
from hf_tsdyn.data.rolling_origin import Fold, rolling_origins
from hf_tsdyn.data.series import SeriesDataset, SeriesOptions, TrajectorySource
from hf_tsdyn.data.trajectories import FEATURES, Trajectory, TrajectoryDataset
from hf_tsdyn.data.window_dataset import WindowDataset
from hf_tsdyn.data.windows import ChannelBucketSampler, RandomWindows, SequentialWindows, identity

__all__ = [
    "FEATURES",
    "Augmentations",
    "ChannelBucketSampler",
    "Fold",
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
    "identity",
    "rolling_origins",
]
