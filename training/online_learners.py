"""Learners of an online study, built from the settings of their methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_tsdyn.baselines.naive import Persistence, SeasonalNaive
from hf_tsdyn.baselines.ridge import LagDesign, Ridge, choose_penalty
from hf_tsdyn.forecasting import Forecaster
from hf_tsdyn.online.copy_last_revealed import CopyLastRevealed
from hf_tsdyn.online.feature_adaptation import FeatureAdaptation, FeatureAdaptationOptions
from hf_tsdyn.online.gradient import FrozenLearner, GradientLearner, GradientOptions
from hf_tsdyn.online.learner import OnlineLearner
from hf_tsdyn.online.mixture import MixtureLearner
from hf_tsdyn.online.recursive_correction import RecursiveCorrection
from hf_tsdyn.online.recursive_least_squares import RecursiveLeastSquares
from training.online_config import OnlineConfig
from training.online_methods import CHOSEN, Protocol
from training.online_starts import load_network, start_cell
from training.online_streams import OpenStream


@dataclass(frozen=True)
class RidgeOptions:
    """Of the ridge that `hf_tsdyn.baselines.ridge.LagDesign` describes.

    penalty: None chooses it on the validation rows.
    refit: fit all rows before the stretch in the end, those of validation too.
    """

    penalty: float | None = None
    refit: bool = False
    joint: bool = False
    anchor: str = "last"
    time_features: bool = False


@dataclass(frozen=True)
class RecursiveOptions(RidgeOptions):
    """Of recursive least squares, which begin as that ridge."""

    forgetting: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where a learner learns: a stream, steps ahead, the protocol, the seed, learning rates chosen there by method."""

    config: OnlineConfig
    opened: OpenStream
    dataset: str
    horizon: int
    protocol: Protocol
    seed: int
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def lengths(self) -> dict[str, Any]:
        """What learners without a network are told of their windows; time features are given to few of them."""
        return {
            "context_length": self.config.streams[self.dataset].context_length,
            "prediction_length": self.horizon,
            "num_channels": self.opened.stream.num_channels,
            "protocol": self.protocol,
        }


def check_options(config: OnlineConfig, name: str) -> None:
    """Raise ValueError, naming the method, if its learner does not take its options."""
    learner = config.methods[name].learner
    options = {key: 0.0 if value == CHOSEN else value for key, value in learner.options.items()}
    try:
        _OPTIONS[learner.kind](**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {name}: {error}") from error


def build_learner(name: str, place: Place) -> OnlineLearner:
    """Return the learner of a method, which has seen nothing yet; what is fitted is fitted to the training rows."""
    return _BUILDERS[place.config.methods[name].learner.kind](name, place)


def _network(name: str, place: Place) -> Any:
    method = place.config.methods[name]
    start = start_cell(place.config, str(method.start), dataset=place.dataset, horizon=place.horizon, seed=place.seed)
    return load_network(start, method.model)


def _gradient(name: str, place: Place) -> OnlineLearner:
    options = _rated(name, place)
    if options.get("learning_rate") == 0.0:
        return _frozen_network(name, place)
    learns = GradientOptions(**options)
    return GradientLearner(_network(name, place), learns, place.protocol, num_channels=place.lengths["num_channels"])


def _adapted_features(name: str, place: Place) -> OnlineLearner:
    options = _rated(name, place)
    if options.get("learning_rate") == 0.0:
        return _frozen_network(name, place)
    return FeatureAdaptation(_network(name, place), FeatureAdaptationOptions(**options), place.protocol)


def _rated(name: str, place: Place) -> dict[str, Any]:
    """A method's options with the place's seed, and the learning rate that was chosen there if one was."""
    options: dict[str, Any] = place.config.methods[name].learner.options | {"seed": place.seed}
    return options | ({"learning_rate": place.rates[name]} if name in place.rates else {})


def _frozen_network(name: str, place: Place) -> OnlineLearner:
    network = _network(name, place)
    return _frozen(network, place, num_time_features=getattr(network.config, "num_time_features", 0))


def _frozen(forecaster: Forecaster, place: Place, *, num_time_features: int = 0) -> FrozenLearner:
    return FrozenLearner(forecaster, **place.lengths, num_time_features=num_time_features)


def _ridge(name: str, place: Place) -> OnlineLearner:
    options = RidgeOptions(**place.config.methods[name].learner.options)
    fitted = _ridge_arguments(options, place)
    return _frozen(Ridge.fit(**fitted), place, num_time_features=fitted["design"].num_time_features)


def _recursive(name: str, place: Place) -> OnlineLearner:
    options = RecursiveOptions(**place.config.methods[name].learner.options)
    fitted = _ridge_arguments(options, place)
    return RecursiveLeastSquares.fit(**fitted, forgetting=options.forgetting, protocol=place.protocol)


def _ridge_arguments(options: RidgeOptions, place: Place) -> dict[str, Any]:
    """Of a fit to the training rows."""
    stream, validation, start = place.opened.stream, place.opened.validation, place.opened.start
    lengths = {key: value for key, value in place.lengths.items() if key != "protocol"}
    design = LagDesign(
        **lengths,
        num_time_features=stream.num_time_features if options.time_features else 0,
        joint=options.joint,
        anchor=options.anchor,  # pyright: ignore[reportArgumentType]
    )
    values = torch.tensor(stream.values[None, :start])
    features = None
    if design.num_time_features and stream.time_features is not None:
        features = torch.tensor(stream.time_features[None, :start])
    penalty = options.penalty
    if penalty is None:
        penalty = choose_penalty(values, design, num_train_steps=validation, past_time_features=features).penalty
    end = start if options.refit else validation
    train = None if features is None else features[:, :end]
    return {
        "past_values": values[:, :end],
        "design": design,
        "penalty": penalty,
        "past_time_features": train,
    }


def _copy_last(name: str, place: Place) -> OnlineLearner:
    return CopyLastRevealed(**{key: value for key, value in place.lengths.items() if key != "protocol"})


def _correction(name: str, place: Place) -> OnlineLearner:
    method, opened = place.config.methods[name], place.opened
    base = Persistence() if method.start is None else _network(name, place)
    options = place.lengths | method.learner.options
    del options["num_channels"]  # those of the rows
    end = opened.start if options.pop("refit", False) else opened.validation
    features = opened.stream.time_features
    return RecursiveCorrection.fit(
        base,
        torch.tensor(opened.stream.values[:end]),
        time_features=None if features is None else torch.tensor(features[:end]),
        **options,
    )


def _mixture(name: str, place: Place) -> OnlineLearner:
    learner = place.config.methods[name].learner
    return MixtureLearner([build_learner(member, place) for member in learner.members], **learner.options)


@dataclass(frozen=True)
class CorrectionOptions:
    """Of `hf_tsdyn.online.recursive_correction.RecursiveCorrection`; refit: as for ridge."""

    num_day_harmonics: int = 0
    penalty: float = 10.0
    forgetting: float = 0.999
    learns: bool = True
    refit: bool = False


def _check_mixture(**options: Any) -> None:
    lengths: dict[str, Any] = {"context_length": 1, "prediction_length": 1, "num_channels": 1}
    MixtureLearner([FrozenLearner(Persistence(), **lengths)], **options)


@dataclass(frozen=True)
class _NoOptions:
    """Of what takes none."""


_OPTIONS: dict[str, Callable[..., Any]] = {
    "frozen": _NoOptions,
    "gradient": GradientOptions,
    "feature_adaptation": FeatureAdaptationOptions,
    "recursive_correction": CorrectionOptions,
    "mixture": _check_mixture,
    "ridge": RidgeOptions,
    "recursive_least_squares": RecursiveOptions,
    "persistence": Persistence,
    "seasonal": SeasonalNaive,
    "copy_last": _NoOptions,
}
_BUILDERS: dict[str, Callable[[str, Place], OnlineLearner]] = {
    "frozen": _frozen_network,
    "gradient": _gradient,
    "feature_adaptation": _adapted_features,
    "recursive_correction": _correction,
    "mixture": _mixture,
    "ridge": _ridge,
    "recursive_least_squares": _recursive,
    "persistence": lambda name, place: _frozen(Persistence(), place),
    "seasonal": lambda name, place: _frozen(SeasonalNaive(**place.config.methods[name].learner.options), place),
    "copy_last": _copy_last,
}
