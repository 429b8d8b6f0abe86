"""One series in the order of time, with what is known of each step: what online learners are run on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..data.series import SeriesDataset, TrajectorySource


@dataclass(frozen=True, eq=False)
class Stream:
    """A whole series, step after step.

    values: (time, channels), data units, evenly sampled; NaN = unseen. Kept as read-only float32.
    time_features: (time, features), of the calendar or whatever else is known of a step in advance.
    channel_names: one of each channel; their numbers by default.
    Raises: ValueError on other shapes or lengths, infinite values, time features that are not finite, or channel names
        that are not one of each channel.
    """

    values: np.ndarray
    time_features: np.ndarray | None = None
    channel_names: tuple[str, ...] = ()
    name: str = "stream"

    def __post_init__(self) -> None:
        values = _read_only(self.values)
        if values.ndim != 2 or 0 in values.shape or np.isinf(values).any():
            raise ValueError(
                "values must have shape (time, channels), none of them 0, and be finite or NaN, found "
                f"{values.shape} with {np.isinf(values).sum()} infinite ones in {self.name!r}; transpose a "
                "(channels, time) array, and make NaN of what was not seen."
            )
        object.__setattr__(self, "values", values)
        if self.time_features is not None:
            object.__setattr__(self, "time_features", self._check_time_features(_read_only(self.time_features)))
        names = tuple(self.channel_names) or tuple(map(str, range(values.shape[1])))
        if len(set(names)) != len(names) or len(names) != values.shape[1]:
            raise ValueError(
                f"channel_names must name each of the {values.shape[1]} channels of {self.name!r} once, found {names}; "
                "correct them, or leave them out."
            )
        object.__setattr__(self, "channel_names", names)

    def _check_time_features(self, features: np.ndarray) -> np.ndarray:
        if features.ndim != 2 or len(features) != len(self) or not features.size or not np.isfinite(features).all():
            raise ValueError(
                f"time_features must be finite and have shape ({len(self)}, features), a row for each step of "
                f"{self.name!r}, found {features.shape} with {(~np.isfinite(features)).sum()} that are not finite; "
                "give them for the same steps as the values."
            )
        return features

    def __len__(self) -> int:
        return len(self.values)

    @property
    def num_channels(self) -> int:
        """Channels of each step."""
        return self.values.shape[1]

    @property
    def num_time_features(self) -> int:
        """Time features of each step."""
        return 0 if self.time_features is None else self.time_features.shape[1]

    @classmethod
    def from_dataset(cls, dataset: TrajectorySource, row: int = 0) -> Stream:
        """Return one row of a dataset, under the name of the row.

        Of a `SeriesDataset` it is the whole series, whatever the split: training, validation, test and what comes after
        them. Of every other source it is the row as it is. Time features come with it if the source has any.
        """
        if isinstance(dataset, SeriesDataset):
            options = replace(dataset.options, validation_share=0.0, test_share=0.0, months=None)
            dataset = SeriesDataset(dataset.path, "train", context_length=0, options=options)
            names = dataset.channel_names[row]
        else:
            names = ()
        features = dataset.time_features(row)
        return cls(dataset.values(row).T, None if features is None else features.T, names, dataset[row].item_id)


def _read_only(array: np.ndarray) -> np.ndarray:
    """A float32 copy that nobody can change."""
    copy = np.array(array, dtype=np.float32, order="C")
    copy.flags.writeable = False
    return copy
