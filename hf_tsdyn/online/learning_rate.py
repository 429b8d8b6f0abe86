"""Choice of an online learning rate by replaying a stretch that comes before the one that counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..channel_scaling import channel_statistics
from .learner import OnlineLearner
from .prequential import ForecastNotFiniteError, run_prequential
from .stream import Stream


class ChosenRate(NamedTuple):
    """The learning rate of the smallest mean squared error, the lowest of equals, and the errors of all.

    errors: by rate, of z-scores; infinite where a forecast was not finite.
    """

    rate: float
    errors: dict[float, float]


def choose_learning_rate(
    build: Callable[[float], OnlineLearner],
    stream: Stream,
    *,
    start: int,
    stop: int,
    candidates: Sequence[float],
    show_progress: bool = False,
) -> ChosenRate:
    """Run a fresh learner of each rate along a stretch, with delayed feedback, and return the best one.

    Rate 0, to learn nothing, is always among them: where learning does not pay on the stretch, 0 is what comes back.
    Z-scores are by the rows before the stretch.

    Args:
        build: the learner of a rate, equal but for it; called once for each.
        start, stop: rows of the stretch, [start, stop), such as those of validation.
        candidates: rates, at least 0.
    Raises: ValueError on a negative rate, a learner of another protocol, or if no rate gives finite forecasts or no
        target is seen; and as `run_prequential`.
    """
    rates = sorted({0.0, *map(float, candidates)})
    if not rates[0] >= 0:
        raise ValueError(f"candidates must be at least 0, found {rates[0]}; leave it out.")
    loc, scale = channel_statistics([stream.values[:start].T], stream.num_channels)
    settings = {"start": start, "stop": stop, "loc": loc, "scale": scale, "show_progress": show_progress}
    errors = {rate: _error(build(rate), stream, settings) for rate in rates}
    if not min(errors.values()) < float("inf"):
        raise ValueError(
            f"some rate must give finite forecasts and the stretch targets that are seen, found errors of {errors}; "
            "train the forecaster first, or choose another stretch."
        )
    return ChosenRate(min(errors, key=lambda rate: errors[rate]), errors)


def _error(learner: OnlineLearner, stream: Stream, settings: dict[str, Any]) -> float:
    """The mean squared error of a learner along the stretch, infinite where a forecast was not finite."""
    if learner.protocol != "delayed":
        raise ValueError(
            f'a learning rate must be chosen with the protocol "delayed", found {learner.protocol!r}; build the '
            "learner with it: under the other one the fastest learner wins, by what leaks."
        )
    try:
        return run_prequential(learner, stream, **settings).errors.mse
    except ForecastNotFiniteError:
        return float("inf")
