"""Ridge regression of a window's targets on its lags: the closed form that trained forecasters have to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ..forecasting import check_prediction_length
from ..observations import check_past_values
from .lag_design import LagDesign, check_time_features, fill_gaps, normal_equations, windows_of
from .naive import PointBaseline

PENALTIES = tuple(10.0**power for power in range(-2, 7))
"""Candidates of `choose_penalty`: from hardly any to where little but the intercept and the anchor is left."""


@dataclass(frozen=True, eq=False)
class Ridge(PointBaseline):
    """Linear regression with a squared penalty on its weights, one for each step ahead; see `LagDesign`.

    weights: (G, D, O) float64, for z-scores by loc and scale, (C,) float64 both, data units.
    """

    design: LagDesign
    weights: Tensor
    loc: Tensor
    scale: Tensor

    @classmethod
    def fit(
        cls, past_values: Tensor, design: LagDesign, *, penalty: float, past_time_features: Tensor | None = None
    ) -> Self:
        """Fit all windows of some series in closed form, in double precision.

        Args:
            past_values: (series, time, C), data units; NaN = unseen. past_time_features: (series, time, F).
            penalty: of squared weights, in windows: inputs and outputs are z-scores; above 0. The intercept has none.
        Raises: ValueError on a penalty that is not positive, and as `normal_equations`.
        """
        equations = normal_equations(past_values, design, past_time_features=past_time_features)
        # Row after row in memory, as they come back from disk: products round by the order.
        weights = equations.solve(design.penalties(penalty)).contiguous()
        return cls(design, weights, equations.loc, equations.scale)

    @property
    def num_time_features(self) -> int:
        """Time features F that `forecast` needs beside the values."""
        return self.design.num_time_features

    @torch.no_grad()
    def forecast(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        past_observed_mask: Tensor | None = None,
        past_time_features: Tensor | None = None,
    ) -> Tensor:
        """Continue `past_values` (batch, time, C) as `hf_tsdyn.Forecaster` says, block after block beyond H steps.

        Of longer contexts the latest L steps are read, shorter ones are padded in front as unseen. Gaps are
        interpolated; a channel with nothing seen stands at its mean.

        Args:
            past_time_features: (batch, time, F), needed if and only if the design has any.
        Raises: ValueError on other channels or time features, or with time features on more than H steps.
        """
        steps = check_prediction_length(prediction_length)
        values, mask = check_past_values(past_values, past_observed_mask)
        design = self.design
        if values.shape[2] != design.num_channels or (design.num_time_features and steps > design.prediction_length):
            raise ValueError(
                f"{type(self).__name__} must have {design.num_channels} channels, and with time features at most "
                f"{design.prediction_length} steps to forecast, found {values.shape[2]} and {steps}; fit another one."
            )
        check_time_features(values, past_time_features, design)
        z, features = self.context(values, mask, past_time_features)
        blocks = []
        for _ in range(0, steps, design.prediction_length):
            blocks.append(design.forecast(z, design.inputs(z, features) @ self.weights))
            z = torch.cat([z, blocks[-1]], dim=1)[:, -design.context_length :]
        forecast = torch.cat(blocks, dim=1)[:, :steps] * self.scale + self.loc
        return forecast.to(past_values)

    def context(self, values: Tensor, mask: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the latest L steps as z-scores without gaps, (batch, L, C) on the CPU, and their time features."""
        length = self.design.context_length
        missing = max(length - values.shape[1], 0)
        z = ((values.double().cpu() - self.loc) / self.scale)[:, -length:]
        z, mask = (torch.nn.functional.pad(each, (0, 0, missing, 0)) for each in (z, mask[:, -length:].cpu()))
        if features is not None:
            features = torch.nn.functional.pad(features[:, -length:].cpu(), (0, 0, missing, 0))
        return fill_gaps(z, mask), features


class ChosenPenalty(NamedTuple):
    """The penalty of the smallest mean squared error, and the errors of all, z-scores of the training steps."""

    penalty: float
    errors: dict[float, float]


def choose_penalty(
    past_values: Tensor,
    design: LagDesign,
    *,
    num_train_steps: int,
    past_time_features: Tensor | None = None,
    candidates: Sequence[float] = PENALTIES,
) -> ChosenPenalty:
    """Fit the first steps of some series with every penalty, and score the windows with all targets after them.

    Args:
        past_values: (series, time, C), as `Ridge.fit` takes it: training steps, and validation steps after them.
        num_train_steps: of each series, at least L.
    Raises: ValueError if the later steps hold no target that is seen, and as `Ridge.fit`.
    """
    first = num_train_steps - design.context_length
    train = None if past_time_features is None else past_time_features[:, :num_train_steps]
    later = None if past_time_features is None else past_time_features[:, max(first, 0) :]
    equations = normal_equations(past_values[:, :num_train_steps], design, past_time_features=train)
    weights = {each: equations.solve(design.penalties(each)) for each in candidates}
    totals, count = dict.fromkeys(weights, 0.0), 0
    for past, features, future in windows_of(past_values[:, first:], later, design, equations.loc, equations.scale):
        filled = fill_gaps(past, ~past.isnan())
        inputs = design.inputs(filled, features)
        for each, solution in weights.items():
            squares = (design.forecast(filled, inputs @ solution) - future).square()
            totals[each] += float(squares.nansum())
        count += int((~future.isnan()).sum())
    if not count:
        raise ValueError(
            f"steps after the {num_train_steps} of training must hold the targets of a window, found none in series of "
            f"{past_values.shape[1]} steps; give longer ones, or train on fewer steps."
        )
    errors = {each: total / count for each, total in totals.items()}
    return ChosenPenalty(min(errors, key=lambda each: errors[each]), errors)
