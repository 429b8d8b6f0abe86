"""What an evaluation asks of every forecaster: contexts, horizons, windows, and what is done to the contexts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .data.held_out_windows import HeldOutWindow, draw_context
from .metrics.probabilistic import check_increasing_levels


@dataclass(frozen=True)
class EvaluationProtocol:
    """What is asked of every forecaster.

    context_length: steps that a forecaster sees. horizons: steps ahead at which accumulated errors are reported;
    the largest is forecast. num_windows: drawn per trajectory without repetition (all there are, if fewer).
    seed: of the windows, of sampled paths and the bootstrap. num_curve_points: single steps, spaced geometrically, at
    which error growth is kept. num_resamples, confidence: of the bootstrap over systems. quantile_levels: scored of
    forecasters that have a distribution; with none, point forecasts alone are scored. num_samples: paths a series, of
    forecasters whose quantiles are those of sampled paths.
    look_back, look_ahead: steps that a window has before and after its forecast origin; by default what is seen and
    forecast. Protocols that agree in both have the same origins, whatever their contexts and horizons.
    noise: standard deviation of white noise on the context, in those of each of its channels. missing: probability of
    a value of the context to be hidden. Targets stay as they are, and errors in units of the clean context.
    rollout_tail: attractor statistics are scored over the largest horizon and over its steps from this one on; none by
    default. quantile_horizon: steps that quantiles are asked for; by default all that are forecast.
    """

    context_length: int = 512
    horizons: tuple[int, ...] = (64, 128, 256, 512)
    num_windows: int = 4
    seed: int = 0
    batch_size: int = 64
    vpt_thresholds: tuple[float, ...] = (0.4, 0.2)
    num_curve_points: int = 16
    num_resamples: int = 2000
    confidence: float = 0.95
    quantile_levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    num_samples: int = 100
    look_back: int | None = None
    look_ahead: int | None = None
    noise: float = 0.0
    missing: float = 0.0
    rollout_tail: int | None = None
    quantile_horizon: int | None = None

    def __post_init__(self) -> None:
        counts = ("context_length", "num_windows", "batch_size", "num_curve_points", "num_resamples", "num_samples")
        wrong = {name: getattr(self, name) for name in counts if getattr(self, name) < 1}
        wrong |= {"horizons": self.horizons} if not self.horizons or min(self.horizons) < 1 else {}
        wrong |= {"vpt_thresholds": self.vpt_thresholds} if any(t <= 0 for t in self.vpt_thresholds) else {}
        wrong |= {"confidence": self.confidence} if not 0 < self.confidence < 1 else {}
        if wrong:
            raise ValueError(
                f"an evaluation protocol must count in positive numbers and have a confidence between 0 and 1, "
                f"found {wrong}; correct these fields."
            )
        if self.quantile_levels:
            check_increasing_levels(self.quantile_levels)
        self._check_bounds()

    def _check_bounds(self) -> None:
        length = self.prediction_length
        tail = 1 if self.rollout_tail is None else self.rollout_tail
        wrong = {
            f"look_back must be at least the context of {self.context_length}": self.origin < self.context_length,
            f"look_ahead must be at least the largest horizon of {length}": self.window_length - self.origin < length,
            "noise must be finite and at least 0": not 0 <= self.noise < np.inf,
            "missing must be at least 0 and below 1": not 0 <= self.missing < 1,
            f"rollout_tail must lie between 1 and {length - 1}": not 0 < tail < max(length, 2),
            f"quantile_horizon must be at least the smallest horizon of {min(self.horizons)}": self.quantile_length
            < min(self.horizons),
        }
        for rule in (rule for rule, broken in wrong.items() if broken):
            raise ValueError(f"{rule}, found {getattr(self, rule.partition(' ')[0])!r}; correct it.")

    @property
    def prediction_length(self) -> int:
        """The largest horizon."""
        return max(self.horizons)

    @property
    def origin(self) -> int:
        """Steps of a window before its forecast."""
        return self.context_length if self.look_back is None else self.look_back

    @property
    def window_length(self) -> int:
        """Steps of a window."""
        return self.origin + (self.prediction_length if self.look_ahead is None else self.look_ahead)

    @property
    def quantile_length(self) -> int:
        """Steps that quantiles are asked for."""
        length = self.prediction_length
        return length if self.quantile_horizon is None else min(self.quantile_horizon, length)

    @property
    def has_floors(self) -> bool:
        """Whether windows hold another stretch of truth, as long as the forecast, to hold attractor statistics to."""
        return self.rollout_tail is not None and self.origin >= self.prediction_length

    def context_of(self, window: HeldOutWindow) -> np.ndarray:
        """Return what a forecaster is shown of a window, (context_length, channels)."""
        options = {name: getattr(self, name) for name in ("origin", "context_length", "noise", "missing", "seed")}
        return draw_context(window, **options)

    @property
    def curve_steps(self) -> list[int]:
        """Steps at which error growth is kept, the first and the last included."""
        steps = np.geomspace(1, self.prediction_length, self.num_curve_points)
        return sorted({int(step) for step in steps.round()})

    def fitted(self, num_steps: int) -> EvaluationProtocol:
        """Return this protocol as far as a series of `num_steps` allows it; itself, where windows fit.

        What lies around a window's context and forecast goes first. Where those two do not fit either, horizons up to
        half of the series stay, that half if there is none, and the context is what is left; attractor statistics of
        so short a stretch say nothing, and are left out.

        Raises: ValueError on fewer than 4 steps.
        """
        if num_steps < 4:
            raise ValueError(f"a series must have at least 4 steps to be forecast, found {num_steps}; leave it out.")
        if num_steps >= self.window_length:
            return self
        spare = num_steps - self.prediction_length
        if spare >= self.context_length:
            return replace(self, look_back=min(self.origin, spare), look_ahead=None)
        horizons = tuple(h for h in self.horizons if 2 * h <= num_steps) or (num_steps // 2,)
        context_length = min(self.context_length, num_steps - max(horizons))
        around = {"look_back": None, "look_ahead": None, "rollout_tail": None}
        return replace(self, horizons=horizons, context_length=context_length, **around)
