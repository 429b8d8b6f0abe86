"""Trajectories on disk, windows of them, and augmentations."""

from hf_tsdyn.data.augmentations import Augmentations
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
    "RandomWindows",
    "SequentialWindows",
    "SeriesDataset",
    "SeriesOptions",
    "Trajectory",
    "TrajectoryDataset",
    "TrajectorySource",
    "WindowDataset",
    "identity",
]
