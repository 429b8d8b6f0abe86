"""A monitor that says when the errors of a stream have grown for good."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class DriftMonitor:
    """Count the times at which losses rose above their own past, by the Page-Hinkley test in its one-sided form.

    Each loss is measured in standard deviations from the mean of those since the last alarm, and
    `evidence = max(0, evidence + deviation - tolerance)`; above `threshold` that is an alarm, and everything but the
    count of alarms starts anew. Scaling all losses changes nothing.

    Args:
        tolerance: standard deviations by which losses may rise without counting.
        threshold: evidence that makes an alarm: so many steps at one deviation more than tolerated.
        min_observations: losses that make the mean and deviation before any counts, at least 2.
    Raises: ValueError on values out of range.
    Source: Page, Biometrika 41 (1954), and Hinkley, Biometrika 58 (1971); the standardisation is ours.
    """

    def __init__(self, *, tolerance: float = 0.25, threshold: float = 50.0, min_observations: int = 100):
        if tolerance < 0 or threshold <= 0 or min_observations < 2:
            raise ValueError(
                "tolerance must be at least 0, threshold above 0 and min_observations at least 2, found "
                f"{tolerance}, {threshold} and {min_observations}; change them."
            )
        self.tolerance = tolerance
        self.threshold = threshold
        self.min_observations = min_observations
        self.num_alarms = 0
        self._restart()

    def update(self, loss: float) -> bool:
        """Take in the next loss and return whether it raises an alarm.

        Raises: ValueError if it is not finite.
        """
        if not math.isfinite(loss):
            raise ValueError(f"a loss must be finite, found {loss}; leave out what could not be computed.")
        if self._count >= self.min_observations:
            spread = math.sqrt(self._squares / self._count)
            deviation = (loss - self._mean) / spread if spread > 0 else 0.0
            self._evidence = max(0.0, self._evidence + deviation - self.tolerance)
        if self._evidence > self.threshold:
            self.num_alarms += 1
            self._restart()
            return True
        self._count += 1
        step = loss - self._mean
        self._mean += step / self._count
        self._squares += step * (loss - self._mean)
        return False

    def state(self) -> Tensor:
        """Return all that moves, float64."""
        numbers = [self._count, self._mean, self._squares, self._evidence, self.num_alarms]
        return torch.tensor(numbers, dtype=torch.float64)

    def load_state(self, state: Tensor) -> None:
        """Go on from what `state` returned."""
        count, self._mean, self._squares, self._evidence, alarms = state.tolist()
        self._count, self.num_alarms = int(count), int(alarms)

    def _restart(self) -> None:
        self._count = 0
        self._mean = self._squares = self._evidence = 0.0


__all__ = ["DriftMonitor"]
