"""Ridge regression that takes in one window after the other: exact, without a learning rate."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..baselines.lag_design import LagDesign, normal_equations
from ..baselines.ridge import Ridge
from .learner import OnlineLearner, Protocol, Window


class RecursiveLeastSquares(OnlineLearner, kind="recursive_least_squares"):
    """Start as the ridge of some training rows and learn every window that is revealed, at the cost of D^2.

    With forgetting factor f, penalty p and the inputs x_i and outputs y_i of window i, the weights W minimise

        sum_i f^(t - i) |y_i - W' x_i|^2 + p |W|^2,

    all training windows being as old as the stream. With f = 1 that is the ridge of all windows so far, those of
    training and of the stream alike. One matrix P, the inverse of the penalised and weighted Gram matrix, serves all
    steps ahead of a channel (of all channels in a joint design):

        P <- P / f,   k = P x / (1 + x' P x),   W <- W + k (y - W' x)',   P <- P - k x' P.

    In directions that the inputs do not visit P / f would grow without bound, and the weights with it. So what is
    forgotten of the penalty is given back, to one weight at each step in turn (a window with x = sqrt(p (1 - f^n)) e_j
    and y = 0, n the number of penalised weights): the penalty of a weight stays between f^n p and p, and P bounded,
    however long the stream. P is in double precision and symmetric to the bit.

    Windows are learnt by the channels of which all targets are seen; gaps of a context are interpolated.

    Args:
        ridge: of the training rows; it is copied.
        inverse: (G, D, D), the inverse of its penalised Gram matrix. `fit` brings both.
    Raises: ValueError on a forgetting factor outside (0, 1], or a matrix of another shape.
    Source: Ljung & Söderström, Theory and Practice of Recursive Identification (1983); that a penalty is given back one
    weight at a time is as in Gay, "Dynamically regularized fast RLS with application to echo cancellation" (1996),
    that it is the ridge's is ours.
    """

    def __init__(
        self,
        ridge: Ridge,
        inverse: Tensor,
        *,
        penalty: float,
        forgetting: float = 1.0,
        protocol: Protocol = "delayed",
    ):
        design = ridge.design
        shape = (design.num_groups, design.num_inputs, design.num_inputs)
        if not 0 < forgetting <= 1 or tuple(inverse.shape) != shape:
            raise ValueError(
                f"forgetting must be above 0 and at most 1, and inverse have the shape {shape} of the ridge's inputs, "
                f"found {forgetting!r} and {tuple(inverse.shape)}; build the learner with fit."
            )
        super().__init__(
            context_length=design.context_length,
            prediction_length=design.prediction_length,
            num_channels=design.num_channels,
            num_time_features=design.num_time_features,
            protocol=protocol,
        )
        self.penalty = penalty
        self.forgetting = forgetting
        # Row after row in memory, as they come back from disk: products round by the order.
        weights, self._inverse = (
            each.clone(memory_format=torch.contiguous_format) for each in (ridge.weights, inverse)
        )
        self._ridge = replace(ridge, weights=weights, loc=ridge.loc.clone(), scale=ridge.scale.clone())
        self._num_updates = torch.zeros(design.num_groups, dtype=torch.int64)
        num_penalised = design.num_inputs - 1
        self._returned = float(design.penalties(penalty)[0]) * (1 - forgetting**num_penalised)

    @classmethod
    def fit(
        cls,
        past_values: Tensor,
        design: LagDesign,
        *,
        penalty: float,
        past_time_features: Tensor | None = None,
        forgetting: float = 1.0,
        protocol: Protocol = "delayed",
    ) -> Self:
        """Start from `Ridge.fit` of the same arguments."""
        equations = normal_equations(past_values, design, past_time_features=past_time_features)
        penalties = design.penalties(penalty)
        ridge = Ridge(design, equations.solve(penalties), equations.loc, equations.scale)
        inverse = torch.cholesky_inverse(equations.factor(penalties))
        inverse = (inverse + inverse.mT) / 2
        return cls(ridge, inverse, penalty=penalty, forgetting=forgetting, protocol=protocol)

    @property
    def ridge(self) -> Ridge:
        """The regression as it stands, a copy."""
        return replace(self._ridge, weights=self._ridge.weights.clone())

    def statistics(self) -> dict[str, float]:
        """Return counts, and the mean of P's diagonal, which tells how fast the weights still move."""
        diagonal = self._inverse.diagonal(dim1=1, dim2=2)
        own = {"num_updates": float(self._num_updates.sum()), "mean_inverse": float(diagonal.mean())}
        return super().statistics() | own

    def _forecast(self, window: Window) -> Tensor:
        return self._ridge.forecast(
            window.past_values,
            prediction_length=self.prediction_length,
            past_observed_mask=window.past_observed_mask,
            past_time_features=window.past_time_features,
        )[0]

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        ridge, design = self._ridge, self._ridge.design
        groups = design.learnable(window.past_observed_mask, future_observed_mask[None])[:, 0].nonzero()[:, 0]
        past, features = ridge.context(window.past_values, window.past_observed_mask, window.past_time_features)
        future = (future_values.double()[None] - ridge.loc) / ridge.scale
        inputs, outputs = design.inputs(past, features)[:, 0], design.outputs(past, future)[:, 0]
        for group in groups.tolist():
            if self.forgetting < 1:
                self._forget(group)
            x, inverse = inputs[group], self._inverse[group]
            error = outputs[group] - x @ ridge.weights[group]
            seen = inverse @ x
            # Rounding could take x' P x below 0, which it cannot be.
            self._take_in(group, seen, 1 + float((x @ seen).clamp(min=0)), error)
            self._num_updates[group] += 1

    def _forget(self, group: int) -> None:
        """Forget a little of all windows, and give one weight its penalty back."""
        turn = int(self._num_updates[group]) % (self._inverse.shape[1] - 1)
        size = self._returned**0.5
        seen = self._inverse[group, turn] * (size / self.forgetting)
        error = -size * self._ridge.weights[group, turn]
        self._take_in(group, seen, 1 + size * float(seen[turn]), error, growth=1 / self.forgetting)

    def _take_in(self, group: int, seen: Tensor, size: float, error: Tensor, *, growth: float = 1.0) -> None:
        """Take in one window x of which `seen` is P x, (D,), `size` 1 + x' P x and `error` y - W' x, (O,)."""
        self._ridge.weights[group].addr_(seen, error, alpha=1 / size)
        root = seen / size**0.5  # its product with itself is symmetric to the bit, k x' P is not
        self._inverse[group].addr_(root, root, beta=growth, alpha=-1)

    def _state(self) -> dict[str, Tensor]:
        return {
            "weights": self._ridge.weights,
            "loc": self._ridge.loc,
            "scale": self._ridge.scale,
            "inverse": self._inverse,
            "num_updates": self._num_updates,
        }

    def _load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self._state().items():
            tensor.copy_(state[name])

    def _describe(self, folder: Path) -> dict[str, Any]:
        own = {"penalty": self.penalty, "forgetting": self.forgetting, "protocol": self.protocol}
        return {"design": asdict(self._ridge.design)} | own

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        design = LagDesign(**description["design"])
        groups, size = design.num_groups, design.num_inputs
        weights = torch.zeros(groups, size, design.num_outputs).double()
        ridge = Ridge(design, weights, *torch.ones(2, design.num_channels).double())
        settings = {name: description[name] for name in ("penalty", "forgetting", "protocol")}
        return cls(ridge, torch.zeros(groups, size, size).double(), **settings)
