"""What linear regressions read of a window, and the sums over windows that they are solved from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..channel_scaling import channel_statistics
from ..interpolation import fill_linear

WINDOWS_AT_ONCE = 1024
"""Windows whose inputs are in memory at the same time while they are summed up."""


@dataclass(frozen=True)
class LagDesign:
    """What a ridge reads of a window and what it says of it, in z-scores.

    Inputs of a channel are its own last `context_length` values, the time features of those steps, and 1; with `joint`
    those of all channels together. Features of every lag, not of the last step alone, can tell each hour from the
    others where a feature is a ramp over the day. With anchor "last" outputs are changes from the channel's last
    value, so that a large penalty leaves persistence; with "none" it leaves the mean.

    A group is what shares its inputs: each channel alone, or with `joint` all of them.
    Raises: ValueError on lengths or channels below 1, or an unknown anchor.
    """

    context_length: int
    prediction_length: int
    num_channels: int
    num_time_features: int = 0
    joint: bool = False
    anchor: Literal["none", "last"] = "last"

    def __post_init__(self) -> None:
        counts = (self.context_length, self.prediction_length, self.num_channels, self.num_time_features + 1)
        if min(counts) < 1 or self.anchor not in ("none", "last"):
            raise ValueError(
                "context_length, prediction_length and num_channels must be at least 1, num_time_features at least 0 "
                f'and anchor "none" or "last", found {self}; correct them.'
            )

    @property
    def num_groups(self) -> int:
        """Groups G."""
        return 1 if self.joint else self.num_channels

    @property
    def num_inputs(self) -> int:
        """Inputs D of a group, the last of them 1."""
        channels = self.num_channels if self.joint else 1
        return self.context_length * (channels + self.num_time_features) + 1

    @property
    def num_outputs(self) -> int:
        """Outputs O of a group."""
        return self.prediction_length * (self.num_channels if self.joint else 1)

    def inputs(self, past: Tensor, past_time_features: Tensor | None) -> Tensor:
        """Return (G, windows, D) of `past` (windows, L, C) without gaps, and time features (windows, L, F)."""
        lags = past.flatten(1)[None] if self.joint else past.permute(2, 0, 1)
        parts = [lags, torch.ones_like(lags[..., :1])]
        if past_time_features is not None:
            parts.insert(1, past_time_features.to(past).flatten(1).expand(len(lags), -1, -1))
        return torch.cat(parts, dim=2)

    def outputs(self, past: Tensor, future: Tensor) -> Tensor:
        """Return what a ridge should say, (G, windows, O), of `past` (windows, L, C) and `future` (windows, H, C)."""
        changes = future - past[:, -1:] if self.anchor == "last" else future
        return changes.flatten(1)[None] if self.joint else changes.permute(2, 0, 1)

    def forecast(self, past: Tensor, outputs: Tensor) -> Tensor:
        """Return the future (windows, H, C) that `outputs` (G, windows, O) say: the inverse of `outputs`."""
        shape = (self.prediction_length, self.num_channels)
        changes = outputs[0].unflatten(1, shape) if self.joint else outputs.permute(1, 2, 0)
        return changes + past[:, -1:] if self.anchor == "last" else changes

    def learnable(self, past_mask: Tensor, future_mask: Tensor) -> Tensor:
        """Return (G, windows): whether all targets of a group, and something of its context, are seen."""
        targets, context = future_mask.all(dim=1), past_mask.any(dim=1)  # (windows, C)
        if self.joint:
            return (targets.all(dim=1) & context.any(dim=1))[None]
        return (targets & context).T

    def penalties(self, penalty: float) -> Tensor:
        """Return the penalty of each input, (D,) float64, none on the intercept; ValueError unless it is positive."""
        if not 0 < penalty < float("inf"):
            raise ValueError(f"penalty must be above 0 and finite, found {penalty!r}; 1e-6 is as good as none.")
        each = torch.full((self.num_inputs,), penalty, dtype=torch.float64)
        each[-1] = 0.0
        return each


class NormalEquations(NamedTuple):
    """Sums over all windows that can be learnt, of z-scores with `loc` and `scale`, (C,) float64 both.

    gram: (G, D, D), of inputs with inputs. moment: (G, D, O), of inputs with outputs. num_windows: (G,).
    """

    gram: Tensor
    moment: Tensor
    num_windows: Tensor
    loc: Tensor
    scale: Tensor

    def factor(self, penalties: Tensor) -> Tensor:
        """Return the Cholesky factor (G, D, D) of the penalised Gram matrix."""
        return torch.linalg.cholesky(self.gram + torch.diag(penalties))

    def solve(self, penalties: Tensor) -> Tensor:
        """Return the weights (G, D, O) of the least penalised squared error."""
        return torch.cholesky_solve(self.moment, self.factor(penalties)).contiguous()


def normal_equations(
    past_values: Tensor, design: LagDesign, *, past_time_features: Tensor | None = None
) -> NormalEquations:
    """Sum up all windows of some series; z-scores are by their own means and standard deviations.

    Gaps of a context are interpolated within it. Windows without all targets seen are left out.

    Args:
        past_values: (series, time, C), data units; NaN = unseen. past_time_features: (series, time, F).
    Raises: ValueError on other shapes, a channel that is constant, or series without a window to learn.
    """
    if past_values.ndim != 3:
        raise ValueError(
            f"past_values must have shape (series, time, channels), found {tuple(past_values.shape)}; add the missing "
            "axis with unsqueeze."
        )
    loc, scale = channel_statistics(past_values.double().transpose(1, 2).numpy(), design.num_channels)
    gram = torch.zeros(design.num_groups, design.num_inputs, design.num_inputs, dtype=torch.float64)
    moment = torch.zeros(design.num_groups, design.num_inputs, design.num_outputs, dtype=torch.float64)
    count = torch.zeros(design.num_groups, dtype=torch.int64)
    equations = NormalEquations(gram, moment, count, torch.from_numpy(loc), torch.from_numpy(scale))
    for past, features, future in windows_of(past_values, past_time_features, design, equations.loc, equations.scale):
        mask = design.learnable(~past.isnan(), ~future.isnan())
        filled = fill_gaps(past, ~past.isnan())
        inputs = design.inputs(filled, features) * mask[..., None]
        outputs = design.outputs(filled, future).masked_fill(~mask[..., None], 0.0)
        gram += inputs.mT @ inputs
        moment += inputs.mT @ outputs
        count += mask.sum(dim=1)
    if not count.all():
        raise ValueError(
            f"every channel must have a window of {design.context_length} + {design.prediction_length} steps with all "
            f"targets seen, found {count.tolist()} in series of {past_values.shape[1]} steps; give longer ones."
        )
    return equations


def windows_of(
    past_values: Tensor, past_time_features: Tensor | None, design: LagDesign, loc: Tensor, scale: Tensor
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Past (windows, L, C), its time features and future (windows, H, C), z-scores, a few windows of a series at once.

    Of a series shorter than a window there are none.
    """
    check_time_features(past_values, past_time_features, design)
    length = design.context_length + design.prediction_length
    for number, series in enumerate((past_values.double() - loc) / scale):
        for first in range(0, len(series) - length + 1, WINDOWS_AT_ONCE):
            steps = slice(first, first + WINDOWS_AT_ONCE + length - 1)
            window = series[steps].unfold(0, length, 1).mT  # (windows, L + H, C)
            features = None if past_time_features is None else past_time_features[number, steps].unfold(0, length, 1).mT
            past = slice(None, design.context_length)
            yield window[:, past], None if features is None else features[:, past], window[:, design.context_length :]


def fill_gaps(past: Tensor, mask: Tensor) -> Tensor:
    """Return contexts (windows, L, C) with what the mask says is unseen interpolated."""
    return past if mask.all() else fill_linear(past, mask)


def check_time_features(values: Tensor, features: Tensor | None, design: LagDesign) -> None:
    """Refuse time features other than the design's for the steps of `values`, (batch, time, C); ValueError."""
    wanted = (*values.shape[:2], design.num_time_features) if design.num_time_features else None
    found = None if features is None else tuple(features.shape)
    if found != wanted or (features is not None and not features.isfinite().all()):
        raise ValueError(
            f"past_time_features must be finite and have the shape {wanted}, as num_time_features says, found "
            f"{found}; give those of the steps of past_values."
        )
