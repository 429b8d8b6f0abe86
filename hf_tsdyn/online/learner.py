"""What every online learner promises: it sees a series step by step, forecasts, and learns what time has revealed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .replay import Ring

Protocol = Literal["delayed", "immediate"]

LEARNERS: dict[str, type[OnlineLearner]] = {}
"""Every learner that can be saved, by the `kind` that it names in its class statement."""


class Window(NamedTuple):
    """Contexts to forecast from, time ascending; views of the learner's memory, valid until the next step is observed.

    past_values: (batch, L, C) float32, data units, NaN = unseen; steps before the first observed one are unseen.
    past_time_features: (batch, L, F) float32, 0 at steps before the first observed one; None without features.
    past_observed_mask: (batch, L, C) boolean, True = seen.
    """

    past_values: Tensor
    past_time_features: Tensor | None
    past_observed_mask: Tensor


class OnlineLearner(ABC):
    """A forecaster of one endless series that goes on learning from it, in bounded memory.

    Subclasses implement `_forecast` and `_learn`; those with state `_state` and `_load_state`; those that can be saved
    name a `kind` in their class statement (`class Mine(OnlineLearner, kind="mine")`) and implement `_describe` and
    `_rebuild`. One that holds other learners, of its own lengths, channels and protocol, puts them into `members`:
    they see all that it sees, learn right after it, and their state is part of its state.

    A window is a context of L steps and the H steps after it. With the "delayed" protocol it is learnt when its last
    target has been observed; with "immediate", the literature's leaky evaluation, as soon as it has been forecast.
    Windows whose context ends before the last warm-up step are never learnt, nor are those without anything seen in
    their context or in their targets.

    Args:
        context_length, prediction_length: L and H, steps.
        num_channels: C of the series; num_time_features: F, known at every step beside its values.
    Raises: ValueError on counts that are too small, or an unknown protocol.
    """

    kind: ClassVar[str | None] = None
    members: Sequence[OnlineLearner] = ()

    def __init_subclass__(cls, *, kind: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        if kind is not None:
            LEARNERS[kind] = cls

    def __init__(
        self,
        *,
        context_length: int,
        prediction_length: int,
        num_channels: int,
        num_time_features: int = 0,
        protocol: Protocol = "delayed",
    ):
        lengths = {
            "context_length": context_length,
            "prediction_length": prediction_length,
            "num_channels": num_channels,
        }
        for name, count in lengths.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, found {count}; it is what the learner's memory holds.")
        if num_time_features < 0:
            raise ValueError(f"num_time_features must be at least 0, found {num_time_features}; 0 stands for none.")
        if protocol not in ("delayed", "immediate"):
            raise ValueError(f'protocol must be "delayed" or "immediate", found {protocol!r}; choose one.')
        self.context_length, self.prediction_length = context_length, prediction_length
        self.num_channels, self.num_time_features = num_channels, num_time_features
        self.protocol: Protocol = protocol
        length = context_length + prediction_length
        self._values = Ring(length, num_channels, empty=np.nan)
        self._time_features = Ring(length, num_time_features, empty=0.0) if num_time_features else None
        self._num_observed = 0
        self._num_warm_up = 0

    @property
    def num_observed(self) -> int:
        """Steps that were observed so far, those of the warm-up included."""
        return self._num_observed

    def warm_up(self, values: ArrayLike, time_features: ArrayLike | None = None) -> None:
        """Observe steps that are never learnt from, as context of what comes after.

        Args:
            values: (steps, C), data units, NaN = unseen. time_features: (steps, F), given if and only if F > 0.
        Raises: ValueError on wrong shapes or infinite values.
        """
        rows, features = self._checked(values, time_features, shape=(None, self.num_channels), what="values")
        for step, row in enumerate(rows):
            self._append(row, None if features is None else features[step])
        self._num_warm_up = self._num_observed
        for member in self.members:
            member.warm_up(rows, features if member.num_time_features else None)

    def learn_one(self, values: ArrayLike, time_features: ArrayLike | None = None) -> None:
        """Observe the next step and, with the delayed protocol, learn the window whose last target it is.

        Args:
            values: (C,), data units, NaN = unseen. time_features: (F,), given if and only if F > 0.
        Raises: ValueError on wrong shapes or infinite values.
        """
        row, features = self._checked(values, time_features, shape=(self.num_channels,), what="values")
        self._append(row, features)
        if self.protocol == "delayed":
            self._learn_delayed()
        for member in self.members:
            member.learn_one(row, features if member.num_time_features else None)

    def forecast(self) -> Tensor:
        """Return the next H steps, (H, C) in data units, from all that was observed; nothing changes.

        Raises: ValueError if nothing was seen in the last L steps.
        """
        window = self._window(0)
        if not window.past_observed_mask.any():
            raise ValueError(
                f"the last {self.context_length} steps must hold a seen value to forecast from, found none after "
                f"{self._num_observed} observed steps; warm up first, or wait until something is seen."
            )
        return self._forecast(window)

    def learn_revealed(self, future_values: ArrayLike) -> None:
        """Learn the window of the forecast that was just made, immediate protocol only.

        Args:
            future_values: (H, C), its targets, data units, NaN = unseen.
        Raises: ValueError with the delayed protocol, where nobody knows them yet; on a wrong shape or infinite values.
        """
        if self.protocol != "immediate":
            raise ValueError(
                f'targets are revealed by learn_revealed with the protocol "immediate" alone, found {self.protocol!r}; '
                "use learn_one, which learns a window once its last target has been observed."
            )
        shape = (self.prediction_length, self.num_channels)
        targets = _finite(future_values, shape=shape, what="future_values")
        if self._num_observed:
            self._learn_if_seen(self._window(0), torch.from_numpy(targets))
        for member in self.members:
            member.learn_revealed(targets)

    def statistics(self) -> dict[str, float]:
        """Return what is worth knowing of the learner's course, by name."""
        return {"num_observed": float(self._num_observed)}

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of everything that moves, contiguous, on the CPU."""
        state = {f"own.{name}": _cpu_copy(tensor) for name, tensor in self._state().items()}
        state["stream.values"] = torch.from_numpy(self._values.rows.copy())
        if self._time_features is not None:
            state["stream.time_features"] = torch.from_numpy(self._time_features.rows.copy())
        state["stream.counts"] = torch.tensor([self._num_observed, self._num_warm_up])
        for number, member in enumerate(self.members):
            state |= {f"members.{number}.{name}": tensor for name, tensor in member.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict` of a learner that was built with the same arguments, to the bit.

        Raises: KeyError or ValueError if it is of another learner.
        """
        self._values.restore(state["stream.values"].numpy())
        if self._time_features is not None:
            self._time_features.restore(state["stream.time_features"].numpy())
        self._num_observed, self._num_warm_up = state["stream.counts"].tolist()
        self._load_state(below("own.", state))
        for number, member in enumerate(self.members):
            member.load_state_dict(below(f"members.{number}.", state))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the learner to `folder`, see `save_learner`; `load_learner` goes on from there, to the bit."""
        from .saving import save_learner

        save_learner(self, folder)

    @abstractmethod
    def _forecast(self, window: Window) -> Tensor:
        """Forecast (H, C), data units, from a batch of one window with something seen; must change nothing."""

    @abstractmethod
    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        """Learn one window, (batch of one), from its targets and which are seen, (H, C) both; NaN where unseen."""

    def _state(self) -> dict[str, Tensor]:
        """What moves beside the stream's memory, by name."""
        return {}

    def _load_state(self, state: dict[str, Tensor]) -> None:
        """Take back, by copying, what `_state` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} must have no state of its own, found {sorted(state)}.")

    def _describe(self, folder: Path) -> dict[str, Any]:
        """Return what builds an equal learner, as JSON; what JSON cannot hold is written to `folder`, state apart."""
        raise NotImplementedError(f"{type(self).__name__} names a kind and so must implement _describe.")

    @classmethod
    def _rebuild(cls, folder: Path, description: dict[str, Any]) -> Self:
        """Build the learner that `_describe` described; its state is loaded after."""
        raise NotImplementedError(f"{cls.__name__} names a kind and so must implement _rebuild.")

    def _learn_delayed(self) -> None:
        """Learn what the latest step has revealed: the window whose last target it is."""
        if self._num_open() == self.prediction_length:
            targets = torch.from_numpy(self._values.latest(self.prediction_length))
            self._learn_if_seen(self._window(self.prediction_length), targets)

    def _num_open(self) -> int:
        """Of the windows that the latest step is a target of, H at most, how many may be learnt: the latest ones."""
        return min(self.prediction_length, self._num_observed - max(self._num_warm_up, 1))

    def _learn_if_seen(self, window: Window, targets: Tensor) -> None:
        seen = ~targets.isnan()
        if seen.any() and window.past_observed_mask.any():
            self._learn(window, targets, seen)

    def _window(self, age: int) -> Window:
        """The window whose context ended `age` steps ago, 0 for the latest."""
        values = torch.from_numpy(self._values.latest(self.context_length, age))[None]
        features = None
        if self._time_features is not None:
            features = torch.from_numpy(self._time_features.latest(self.context_length, age))[None]
        return Window(values, features, ~values.isnan())

    def _windows(self, count: int) -> Window:
        """The windows whose contexts ended `count`, ..., 1 steps ago, at most H, in that order, as one batch."""
        rows = torch.from_numpy(self._values.latest(self.context_length + count - 1, 1))
        values = rows.unfold(0, self.context_length, 1).transpose(1, 2)
        features = None
        if self._time_features is not None:
            rows = torch.from_numpy(self._time_features.latest(self.context_length + count - 1, 1))
            features = rows.unfold(0, self.context_length, 1).transpose(1, 2)
        return Window(values, features, ~values.isnan())

    def _append(self, values: np.ndarray, time_features: np.ndarray | None) -> None:
        self._values.append(values)
        if self._time_features is not None and time_features is not None:
            self._time_features.append(time_features)
        self._num_observed += 1

    def _checked(
        self, values: ArrayLike, time_features: ArrayLike | None, *, shape: tuple[int | None, ...], what: str
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Values and time features as float32 arrays, of fitting shapes."""
        found = _finite(values, shape=shape, what=what)
        if (time_features is None) != (self.num_time_features == 0):
            raise ValueError(
                f"time_features must be given if and only if num_time_features, {self.num_time_features}, is above 0, "
                f"found {'none' if time_features is None else 'some'}; build the learner for what the stream has."
            )
        if time_features is None:
            return found, None
        features = _finite(time_features, shape=(*found.shape[:-1], self.num_time_features), what="time_features")
        if np.isnan(features).any():
            raise ValueError("time_features must be known at every step, found NaN; leave the feature out.")
        return found, features


def _cpu_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _finite(values: ArrayLike, *, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """A float32 copy of `values`, finite or NaN, of the given shape, in which None stands for any length."""
    found = np.array(values, dtype=np.float32)
    if found.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, found.shape, strict=True)):
        wanted = ", ".join("steps" if length is None else str(length) for length in shape)
        raise ValueError(f"{what} must have shape ({wanted}), found {found.shape}; choose channels and steps first.")
    if np.isinf(found).any():
        raise ValueError(f"{what} must be finite or NaN, found infinite ones; NaN stands for unseen.")
    return found


__all__ = ["LEARNERS", "OnlineLearner", "Protocol", "Window"]
