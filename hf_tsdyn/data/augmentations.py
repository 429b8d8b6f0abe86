"""Augmentations of training windows: which transform a window gets, drawn from (seed, index) alone."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Protocol

import numpy as np

from hf_tsdyn.data.draws import generator, uniforms
from hf_tsdyn.data.missing import MissingChannels, MissingPoints, MissingSpans
from hf_tsdyn.data.series import TrajectorySource
from hf_tsdyn.data.transforms import (
    Affine,
    ChannelSubset,
    ConvexCombination,
    FourierSeries,
    ObservationNoise,
    PhaseSurrogate,
    ProjectedSkew,
    Resampling,
    Takens,
    TimeReversal,
    Transform,
    WindowShape,
    context_statistics,
)

_PARTNER = 1 << 62
"""The second series of window n is window n + 2^62, an index that no sampler reaches."""


class WindowSource(Protocol):
    """What an augmentation asks of the windows it augments."""

    trajectories: TrajectorySource
    seed: int
    context_length: int
    window_length: int

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def cut(self, row: int, start: int, length: int) -> np.ndarray: ...


def _default_weights() -> dict[str, float]:
    return {name: float(name != "time_reversal") for name in TRANSFORM_NAMES}


@dataclass(frozen=True)
class Augmentations:
    """Give a share of the windows one transform each, chosen by weight.

    Draws depend on the seed and the window's index, never on a worker. A transform that changes the number of channels
    takes a whole batch (drawn by its first index, with other parameters for each window), so that batches stay of one
    channel count; the others take single windows. Either way a window is transformed with probability `rate`.

    Transforms that mix channels (affine, convex_combination, projected_skew) work on, and put out, channels
    standardised by the seen part of their own context; the others keep the data's units. No past value depends on
    a future one, except in phase_surrogate and time_reversal, whose windows are other series as a whole.
    Takens and resampling take more steps of the trajectory where it has them, and shift the window where it
    touches an end.

    Args:
        rate: share of the windows that is transformed.
        weights: relative frequency by name; a name that is left out has weight 0.
    Raises: ValueError on an unknown name, a negative weight, no positive weight, or a rate outside [0, 1].
    """

    rate: float = 0.2
    weights: dict[str, float] = field(default_factory=_default_weights)
    affine: Affine = field(default_factory=Affine)
    convex_combination: ConvexCombination = field(default_factory=ConvexCombination)
    takens: Takens = field(default_factory=Takens)
    projected_skew: ProjectedSkew = field(default_factory=ProjectedSkew)
    phase_surrogate: PhaseSurrogate = field(default_factory=PhaseSurrogate)
    fourier_series: FourierSeries = field(default_factory=FourierSeries)
    channel_subset: ChannelSubset = field(default_factory=ChannelSubset)
    observation_noise: ObservationNoise = field(default_factory=ObservationNoise)
    missing_spans: MissingSpans = field(default_factory=MissingSpans)
    missing_points: MissingPoints = field(default_factory=MissingPoints)
    missing_channels: MissingChannels = field(default_factory=MissingChannels)
    resampling: Resampling = field(default_factory=Resampling)
    time_reversal: TimeReversal = field(default_factory=TimeReversal)

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must lie in [0, 1], found {self.rate!r}; change it.")
        unknown = sorted(set(self.weights) - set(TRANSFORM_NAMES))
        if unknown:
            raise ValueError(f"weights must name augmentations, found {unknown}; choose from {TRANSFORM_NAMES}.")
        if min(self.weights.values(), default=0) < 0 or sum(self.weights.values()) <= 0:
            raise ValueError(
                f"weights must be at least 0, and one of them positive, found {self.weights!r}; change them."
            )

    def check_surplus(self, surplus: int) -> None:
        """Refuse delay embedding where the shortest trajectory has too few steps beyond a window.

        Raises: ValueError."""
        needed = self.takens.max_channels - 1
        if self.weights.get("takens", 0) > 0 and surplus < needed:
            raise ValueError(
                f"takens needs trajectories with {needed} steps more than a window, found {surplus}; "
                "shorten the window, lower takens.max_channels, or give takens weight 0."
            )

    def augment(
        self,
        values: np.ndarray,
        source: WindowSource,
        indices: np.ndarray,
        rows: np.ndarray,
        starts: np.ndarray,
    ) -> np.ndarray:
        """Return the batch with some windows transformed: `values` changed in place, or another array.

        Args:
            values: (batch, channels, time) of the windows `indices`, which begin at `starts` of `rows`.
        """
        places = list(zip(indices.tolist(), rows.tolist(), starts.tolist(), strict=True))
        batch_names, batch_shares, names, shares = self._shares
        batch_choice = _choose(uniforms(source.seed, "batch", indices[:1]), batch_shares)[0]
        if batch_choice >= 0:
            transform: Transform = getattr(self, batch_names[batch_choice])
            draw = uniforms(source.seed, "outputs", indices[:1]).item()
            num_outputs = transform.draw_num_outputs(draw, values.shape[1])
            return np.stack([_transform(transform, source, place, num_outputs) for place in places])
        choices = _choose(uniforms(source.seed, "window", indices), shares)
        for sample in np.flatnonzero(choices >= 0).tolist():
            transform = getattr(self, names[choices[sample]])
            values[sample] = _transform(transform, source, places[sample], values.shape[1])
        return values

    @cached_property
    def _shares(self) -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
        """Names and cumulated probabilities, by batch and, if the batch has none, by window."""
        total = sum(self.weights.values())
        by_batch = {n: w for n, w in self.weights.items() if getattr(self, n).changes_channels}
        by_window = {n: w for n, w in self.weights.items() if n not in by_batch}
        batch_shares = self.rate * np.cumsum([*by_batch.values(), 0.0])[:-1] / total
        left = 1 - batch_shares[-1] if by_batch else 1.0
        shares = self.rate * np.cumsum([*by_window.values(), 0.0])[:-1] / total / max(left, 1e-9)
        return list(by_batch), batch_shares, list(by_window), shares


TRANSFORM_NAMES = tuple(part.name for part in fields(Augmentations) if part.name not in ("rate", "weights"))
"""The names that `Augmentations.weights` knows."""


def _choose(draws: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return which of the cumulated `shares` each draw falls into, -1 beyond the last."""
    choices = np.searchsorted(shares, draws, side="right")
    return np.where(choices < len(shares), choices, -1)


def _transform(transform: Transform, source: WindowSource, place: tuple[int, int, int], num_outputs: int) -> np.ndarray:
    """Return (num_outputs, window_length) of one window, given its index, row and first step."""
    index, row, start = place
    partner = None
    if transform.takes_partner:
        partner_rows, partner_starts = source.locate(np.array([index + _PARTNER]))
        partner = source.cut(partner_rows.item(), partner_starts.item(), source.window_length)
        partner = _standardise(partner, source.context_length)
    length = source.trajectories.lengths.item(row)
    shape = WindowShape(
        num_inputs=source.trajectories.num_channels.item(row) + (0 if partner is None else len(partner)),
        num_outputs=num_outputs,
        context_length=source.context_length,
        length=source.window_length,
        surplus=length - source.window_length,
    )
    params = transform.draw(generator(source.seed, index), shape)
    before, after = params.get("before", 0), params.get("after", 0)
    needed = before + source.window_length + after
    values = source.cut(row, min(max(start - before, 0), length - needed), needed)
    if transform.standardises:
        values = _standardise(values, source.context_length)
    return transform.apply(values if partner is None else np.concatenate([values, partner]), params)


def _standardise(values: np.ndarray, context_length: int) -> np.ndarray:
    loc, scale = context_statistics(values, context_length)
    return (values - loc) / scale
