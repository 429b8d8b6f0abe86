"""Learners that forecast together: a convex combination whose weights follow the errors that time reveals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from torch import Tensor

from .learner import OnlineLearner, Window
from .saving import describe_learner, rebuild_learner

UNUSABLE = 1e4
"""A member whose mean squared error is this many times the best one's has no part in a mixture."""


class MixtureLearner(OnlineLearner, kind="mixture"):
    """Forecast each channel by the convex combination of members that would have been best of late.

    With e_i the members' errors at target i of a channel, as they forecast it at its time, a channel's weights minimise

        sum_i f^age(i) (w' e_i)^2 + p |w|^2    over    w >= 0, sum w = 1,

    age in revealed windows and f the forgetting factor. The penalty p, the best member's mean squared error times
    `prior_windows * H`, pulls to equal weights while few windows are known. All steps ahead share the weights: errors
    at far steps, where there is most to lose, decide. A combination can beat every member, and a member that is
    worse than others without being different from them gets weight 0.

    Members' forecasts are made when a step is observed, and kept until their targets are; `forecast` only combines
    them. Of a target at which a member's forecast was not finite nothing is learnt; forecasts leave such members out.

    Args:
        members: of the same lengths, channels and protocol; time features all alike or none. They are held, not copied.
        forgetting: above 0, at most 1; 0.995 remembers 200 windows. Any from 0.99 to 1 did alike on 14 hourly series.
        prior_windows: at least 0; H windows, one span of targets that overlap in nothing, by default.
    Raises: ValueError on no members, members that do not fit together, or numbers out of range.
    Source: optimal combination of forecasts, Bates & Granger (1969), its weights kept positive; as follow-the-leader
        over the simplex it has logarithmic regret against the best fixed combination.
    """

    def __init__(
        self, members: Sequence[OnlineLearner], *, forgetting: float = 0.995, prior_windows: float | None = None
    ):
        lengths = _shared_lengths(members)
        if not 0 < forgetting <= 1 or (prior_windows is not None and not 0 <= prior_windows < np.inf):
            raise ValueError(
                "forgetting must be above 0 and at most 1, and prior_windows finite and at least 0, found "
                f"{forgetting!r} and {prior_windows!r}; leave them out for their defaults."
            )
        super().__init__(**lengths)
        self.members = tuple(members)
        self.forgetting = forgetting
        self.prior_windows = self.prediction_length if prior_windows is None else prior_windows
        size, steps, channels = len(self.members), self.prediction_length, self.num_channels
        self._gram = torch.zeros(channels, size, size, dtype=torch.float64)
        self._num_targets = torch.zeros(channels, dtype=torch.float64)
        self._forecasts = torch.full((steps, size, steps, channels), torch.nan)  # of the latest H steps, oldest first

    @property
    def weights(self) -> Tensor:
        """The weight of each member by channel, (C, members) float64, each row summing to 1."""
        prior = self.prior_windows * self.prediction_length
        pairs = zip(self._gram.numpy(), self._num_targets.tolist(), strict=True)
        return torch.from_numpy(np.stack([simplex_weights(gram, count, prior=prior) for gram, count in pairs]))

    def warm_up(self, values: ArrayLike, time_features: ArrayLike | None = None) -> None:
        """Observe steps that are never learnt from; the members too."""
        super().warm_up(values, time_features)
        self._remember_forecasts()

    def learn_one(self, values: ArrayLike, time_features: ArrayLike | None = None) -> None:
        """Observe the next step, learn the window whose last target it is, then let the members; and forecast anew."""
        super().learn_one(values, time_features)
        self._remember_forecasts()

    def learn_revealed(self, future_values: ArrayLike) -> None:
        """Learn the window of the forecast that was just made, then let the members; immediate protocol only."""
        super().learn_revealed(future_values)
        self._forecasts[-1] = self._forecast_of_members()

    def statistics(self) -> dict[str, float]:
        """Return counts, each member's weight (mean over channels), and what each member says of itself."""
        found = super().statistics()
        for number, (member, weight) in enumerate(zip(self.members, self.weights.mean(dim=0).tolist(), strict=True)):
            found[f"weight.{number}"] = weight
            found |= {f"members.{number}.{name}": value for name, value in member.statistics().items()}
        return found

    def _forecast(self, window: Window) -> Tensor:
        forecasts = self._forecasts[-1].double()  # (members, H, C)
        finite = forecasts.isfinite()
        weights = self.weights.T[:, None] * finite
        # Where only members without weight are finite, they count alike.
        weights = torch.where(weights.sum(dim=0) > 0, weights, finite.double())
        combined = (weights * forecasts.masked_fill(~finite, 0.0)).sum(dim=0) / weights.sum(dim=0)
        return combined.float()

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        forecasts = self._forecasts[0 if self.protocol == "delayed" else -1].double()
        errors = forecasts - future_values.double()
        counted = future_observed_mask & errors.isfinite().all(dim=0)  # (H, C)
        errors = errors.masked_fill(~counted, 0.0)
        fading = torch.where(counted.any(dim=0), self.forgetting, 1.0).double()
        self._gram = fading[:, None, None] * self._gram + torch.einsum("mhc,nhc->cmn", errors, errors)
        self._num_targets = fading * self._num_targets + counted.sum(dim=0)

    def _remember_forecasts(self) -> None:
        self._forecasts = self._forecasts.roll(-1, dims=0)
        self._forecasts[-1] = self._forecast_of_members()

    def _forecast_of_members(self) -> Tensor:
        """What the members forecast now, (members, H, C); NaN while nothing is seen in the context."""
        if not self._window(0).past_observed_mask.any():
            return torch.full_like(self._forecasts[-1], torch.nan)
        return torch.stack([member.forecast().detach().float().cpu() for member in self.members])

    def _state(self) -> dict[str, Tensor]:
        return {"gram": self._gram, "num_targets": self._num_targets, "forecasts": self._forecasts}

    def _load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self._state().items():
            tensor.copy_(state[name])

    def _describe(self, folder: Path) -> dict[str, Any]:
        for number, member in enumerate(self.members):
            describe_learner(member, _member_folder(folder, number))
        options = {"forgetting": self.forgetting, "prior_windows": self.prior_windows}
        return {"num_members": len(self.members), "options": options}

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        numbers = range(description["num_members"])
        return cls([rebuild_learner(_member_folder(folder, each)) for each in numbers], **description["options"])


def simplex_weights(gram: np.ndarray, num_targets: float, *, prior: float) -> np.ndarray:
    """Return the convex weights w, (members,), of the least w' A w, A being the penalised Gram matrix of errors.

    Args:
        gram: (members, members), sums of products of errors. num_targets: how many were summed up, 0 at the start.
        prior: A is `gram` plus this many times the best member's mean squared error on the diagonal.

    Up to their sum they are the u >= 0 of least u' A u / 2 - 1' u, whose optimality conditions are the same; that is a
    non-negative least squares problem in A's Cholesky factor. Members that are `UNUSABLE` are left out: a little of one
    that grows without bound would correct the others' bias in the past, and ruin the next forecast.
    """
    squares = np.diag(gram)
    positive = squares[squares > 0]
    if not len(positive):
        return np.full(len(gram), 1 / len(gram))
    # The share of 1e-9 stands in for members that are perfect, or equal to each other where there is no prior.
    best = max(squares.min(), 1e-9 * positive.min())
    used = squares <= UNUSABLE * best
    matrix = (gram / best)[np.ix_(used, used)]
    factor = np.linalg.cholesky(matrix + (prior / num_targets + 1e-9) * np.eye(len(matrix)))
    found, _ = nnls(factor.T, solve_triangular(factor, np.ones(len(factor)), lower=True), maxiter=100 * len(gram))
    weights = np.zeros(len(gram))
    weights[used] = found / found.sum()
    return weights


def _shared_lengths(members: Sequence[OnlineLearner]) -> dict[str, Any]:
    if not members:
        raise ValueError("a mixture must have members, found none; give it at least one learner.")
    names = ("context_length", "prediction_length", "num_channels", "protocol")
    found = [{name: getattr(member, name) for name in names} for member in members]
    features = {member.num_time_features for member in members} - {0}
    if any(each != found[0] for each in found) or len(features) > 1:
        raise ValueError(
            f"members must have equal {', '.join(names)}, and the same number of time features or none, found {found} "
            f"and {sorted(features)} time features; build them for the same stream."
        )
    return found[0] | {"num_time_features": max(features, default=0)}


def _member_folder(folder: Path, number: int) -> Path:
    return folder / f"member-{number}"


__all__ = ["MixtureLearner", "simplex_weights"]
