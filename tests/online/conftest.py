"""Tiny forecasters, learners and a stream for the tests of online learning."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from hf_tsdyn.baselines import Persistence
from hf_tsdyn.models import DynoNetConfig, DynoNetForPrediction, FSNetConfig, FSNetForPrediction
from hf_tsdyn.online.feature_adaptation import FeatureAdaptation, FeatureAdaptationOptions
from hf_tsdyn.online.gradient import FrozenLearner, GradientLearner, GradientOptions
from hf_tsdyn.online.learner import OnlineLearner

LENGTHS = {"num_channels": 2, "context_length": 8, "prediction_length": 3}
SCALER = {"channel_loc": [0.5, 0.5], "channel_scale": [2.0, 2.0]}

OPTIONS: dict[str, dict[str, Any]] = {
    "ogd": {},
    "er": {"rehearsal": "er"},
    "der++": {"rehearsal": "der++"},
    "partial": {"feedback": "partial"},
    "partial_er": {"feedback": "partial", "rehearsal": "er"},
    "three_updates": {"updates_per_step": 3},
    "one_part": {"trainable": ("model.trend_head.*",), "max_grad_norm": 0.1},
}


def _tiny_model(**lengths: int) -> DynoNetForPrediction:
    """A linear forecaster of the moving average."""
    options = {"controller": False, "num_worker_layers": 0, "trend_window": 3}
    return _seeded(DynoNetForPrediction, DynoNetConfig(**LENGTHS | SCALER | options | lengths))


def _tiny_fsnet(**fields: Any) -> FSNetForPrediction:
    """One whose memory is asked after almost every step."""
    sizes = {"hidden_size": 4, "representation_size": 8, "num_hidden_layers": 2, "controller_size": 4}
    memory = {"memory": "fixed", "trigger_threshold": 0.999, "num_memory_slots": 8}
    return _seeded(FSNetForPrediction, FSNetConfig(**LENGTHS | SCALER | sizes | memory | fields))


def _seeded(kind: type[Any], config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def _build_learner(name: str, model: PreTrainedModel | None = None, protocol: Any = "delayed") -> OnlineLearner:
    if name in ("frozen", "persistence"):
        forecaster = Persistence() if name == "persistence" else _tiny_model()
        return FrozenLearner(forecaster, protocol=protocol, **LENGTHS)
    if name == "features":
        return FeatureAdaptation(model or _tiny_fsnet(), FeatureAdaptationOptions(learning_rate=1e-2), protocol)
    if name.startswith("fsnet_"):
        model, name = model or _tiny_fsnet(), name.removeprefix("fsnet_")
    shared = {"learning_rate": 1e-2, "buffer_size": 6, "num_replayed": 4}
    return GradientLearner(model or _tiny_model(), GradientOptions(**shared | OPTIONS[name]), protocol)


def _run_learner(learner: OnlineLearner, values: np.ndarray, *, warm_up: int, stop: int | None = None) -> torch.Tensor:
    """Feed a stream and return all forecasts made from row `warm_up` on."""
    learner.warm_up(values[:warm_up])
    forecasts = [learner.forecast()]
    for step in range(warm_up, stop or len(values)):
        if learner.protocol == "immediate":
            learner.learn_revealed(values[step : step + learner.prediction_length])
        learner.learn_one(values[step])
        forecasts.append(learner.forecast())
    return torch.stack(forecasts)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., DynoNetForPrediction]:
    """A function (**lengths) that builds a linear forecaster: 2 channels, context 8, prediction 3."""
    return _tiny_model


@pytest.fixture(scope="session")
def tiny_fsnet() -> Callable[..., FSNetForPrediction]:
    """A function (**fields) that builds an FSNet of the same lengths, whose memory is asked almost always."""
    return _tiny_fsnet


@pytest.fixture(scope="session")
def build_learner() -> Callable[..., OnlineLearner]:
    """A function (name, model=None, protocol) that builds one of `learner_name`'s learners."""
    return _build_learner


@pytest.fixture(scope="session")
def run_learner() -> Callable[..., torch.Tensor]:
    """A function (learner, values, *, warm_up, stop=None) that feeds a stream and returns all forecasts."""
    return _run_learner


@pytest.fixture(params=["persistence", "frozen", *OPTIONS, "fsnet_ogd", "fsnet_der++", "fsnet_partial", "features"])
def learner_name(request: pytest.FixtureRequest) -> str:
    """Every way of learning in turn."""
    return request.param


@pytest.fixture(scope="session")
def stream() -> np.ndarray:
    """50 steps of two noisy oscillations, (50, 2) float32, with gaps."""
    rng = np.random.default_rng(1)
    values = np.sin(0.3 * np.arange(50)[:, None] + [0.0, 1.0]) + 0.1 * rng.normal(size=(50, 2))
    values[rng.random(values.shape) < 0.05] = np.nan
    return values.astype(np.float32)
