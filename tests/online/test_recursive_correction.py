"""Promises of the recursive correction: the ridge of all revealed windows, no more and no less."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_tsdyn.baselines.naive import Persistence
from hf_tsdyn.data.time_features import time_features
from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction
from hf_tsdyn.models.fsnet.presets import PRESETS
from hf_tsdyn.online.recursive_correction import RecursiveCorrection
from hf_tsdyn.online.saving import load_learner

LENGTHS = {"context_length": 8, "prediction_length": 3}


def _series(steps: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Values (steps, 2) with a daily course and noise, and the calendar's features of their hours."""
    hours = np.arange(steps)
    course = np.stack([np.sin(2 * np.pi * hours / 24), 10 + 3 * np.cos(4 * np.pi * hours / 24)], axis=1)
    values = course + 0.1 * np.random.default_rng(0).normal(size=course.shape)
    return values.astype(np.float32), time_features(
        np.datetime64("2020-01-01T00", "s") + hours * np.timedelta64(3600, "s")
    )


def _fit(values: np.ndarray, features: np.ndarray, **options) -> RecursiveCorrection:
    known = {"time_features": torch.from_numpy(features), "num_day_harmonics": 2} | LENGTHS | options
    return RecursiveCorrection.fit(Persistence(), torch.from_numpy(values), **known)


def _run(learner: RecursiveCorrection, values: np.ndarray, features: np.ndarray | None = None) -> Tensor:
    forecasts = []
    learner.warm_up(values[:8], None if features is None else features[:8])
    for step in range(8, len(values)):
        forecasts.append(learner.forecast())
        learner.learn_one(values[step], None if features is None else features[step])
    return torch.stack(forecasts)


def _row(z: np.ndarray, day: np.ndarray, end: int) -> np.ndarray:
    """Inputs of the window whose context ends at row `end`."""
    return np.concatenate([z[end - 7 : end] - z[end], day[end], [1.0]])


@pytest.fixture(scope="module")
def network() -> FSNetForPrediction:
    """A small network with a hidden state of 5 numbers."""
    sizes = {"hidden_size": 4, "num_hidden_layers": 2, "representation_size": 5}
    config = FSNetConfig(**PRESETS["tcn"], num_channels=2, **LENGTHS, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FSNetForPrediction(config).eval()


def test_forecast_is_that_of_a_ridge_solved_anew_from_all_revealed_windows() -> None:
    values, features = _series()
    learner = _fit(values[:80], features[:80], forgetting=0.98, penalty=2.0)
    found = _run(learner, values[72:], features[72:])[-1]
    loc, scale = values[:80].astype(float).mean(axis=0), values[:80].astype(float).std(axis=0)
    hours = 2 * np.pi * np.arange(len(values)) / 24
    day = np.column_stack([np.sin(hours), np.sin(2 * hours), np.cos(hours), np.cos(2 * hours)])
    # The forecast was made when row 158 was the latest: windows end there, or within the 80 training rows.
    ends = [*range(7, 77), *range(79, 156)]
    for channel in range(2):
        z = (values[:, channel].astype(float) - loc[channel]) / scale[channel]
        inputs, outputs = (
            np.stack([_row(z, day, end) for end in ends]),
            np.stack([z[end + 1 : end + 4] - z[end] for end in ends]),
        )
        weights = 0.98 ** np.arange(len(ends))[::-1]
        penalty = np.diag([2.0] * (inputs.shape[1] - 1) + [1e-6])
        solved = np.linalg.solve((inputs.T * weights) @ inputs + penalty, (inputs.T * weights) @ outputs)
        expected = (_row(z, day, 158) @ solved + z[158]) * scale[channel] + loc[channel]
        np.testing.assert_allclose(found[:, channel], expected, rtol=1e-5, atol=1e-5)


def test_without_anything_learnt_the_forecast_is_the_forecasters() -> None:
    values, features = _series(20)
    learner = RecursiveCorrection(Persistence(), **LENGTHS, num_channels=2, num_time_features=7, num_day_harmonics=2)
    learner.warm_up(values, features)
    torch.testing.assert_close(learner.forecast(), torch.from_numpy(values[-1:]).expand(3, -1))


def test_a_network_is_corrected_through_its_hidden_state_and_not_changed(network, stream: np.ndarray) -> None:
    before = {name: each.clone() for name, each in network.state_dict().items()}
    learner = RecursiveCorrection.fit(network, torch.from_numpy(stream[:30]), **LENGTHS, penalty=1.0)
    assert learner.weights.shape == (2, 7 + 5 + 1, 3)
    assert (learner.weights[:, 7:12].abs().amax(dim=(0, 2)) > 1e-3).all()
    _run(learner, stream[22:])
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())


def test_a_network_in_train_mode_is_asked_without_dropout(network, stream: np.ndarray) -> None:
    before = [module.training for module in network.modules()]
    network.config.head_dropout = 0.5
    runs = []
    for mode in (False, True):
        learner = RecursiveCorrection.fit(network.train(mode), torch.from_numpy(stream[:30]), **LENGTHS)
        runs.append(_run(learner, stream[22:]))
        assert network.training == mode
    network.eval()
    assert before == [module.training for module in network.modules()]
    assert torch.equal(*runs)


def test_a_network_without_a_hidden_state_is_corrected_by_lags(tiny_model, stream: np.ndarray) -> None:
    learner = RecursiveCorrection.fit(tiny_model(), torch.from_numpy(stream[:30]), **LENGTHS)
    assert learner.weights.shape == (2, 7 + 1, 3)


def test_a_linear_recurrence_is_forecast_exactly() -> None:
    angles = 0.3 * np.arange(200)
    values = np.stack([np.sin(angles), 5 + np.cos(2 * angles)], axis=1).astype(np.float32)
    learner = RecursiveCorrection.fit(Persistence(), torch.from_numpy(values[:100]), **LENGTHS, penalty=1e-6)
    forecasts = _run(learner, values[92:])
    targets = np.lib.stride_tricks.sliding_window_view(values[100:], 3, axis=0).transpose(0, 2, 1)
    np.testing.assert_allclose(forecasts[: len(targets)], targets, atol=1e-3)


def test_what_comes_later_changes_no_forecast(network, stream: np.ndarray) -> None:
    changed = stream.copy()
    changed[42:] = 50.0
    runs = []
    for each in (stream, changed):
        learner = RecursiveCorrection.fit(network, torch.from_numpy(each[:30]), **LENGTHS)
        runs.append(_run(learner, each[22:]))
    assert torch.equal(runs[0][: 42 - 30 + 1], runs[1][: 42 - 30 + 1])
    assert not torch.equal(runs[0][-1], runs[1][-1])


def test_gaps_in_targets_teach_only_the_other_channels() -> None:
    values, features = _series()
    learner = _fit(values[:80], features[:80])
    before = learner.weights
    values[100:, 1] = np.nan
    learner.warm_up(values[92:100], features[92:100])
    for step in range(100, 110):
        learner.learn_one(values[step], features[step])
    assert torch.equal(learner.weights[1], before[1])
    assert not torch.equal(learner.weights[0], before[0])


def test_a_saved_learner_goes_on_to_the_bit(network, stream: np.ndarray, tmp_path) -> None:
    learner = RecursiveCorrection.fit(network, torch.from_numpy(stream[:30]), **LENGTHS, forgetting=0.99)
    _run(learner, stream[22:40])
    learner.save(tmp_path / "saved")
    resumed = load_learner(tmp_path / "saved")
    for row in stream[40:]:
        assert torch.equal(learner.forecast(), resumed.forecast())
        learner.learn_one(row)
        resumed.learn_one(row)
    torch.testing.assert_close(resumed.state_dict(), learner.state_dict(), rtol=0, atol=0, equal_nan=True)


def test_statistics_count_what_was_learnt() -> None:
    values, features = _series()
    learner = _fit(values[:80], features[:80])
    assert learner.statistics()["num_learnt"] == 2 * 70
    _run(learner, values[72:], features[72:])
    assert learner.statistics()["num_learnt"] == 2 * (70 + 78)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 0.0}, "penalty finite and above 0"),
        ({"forgetting": 1.5}, "forgetting must be above 0"),
        ({"time_features": None}, "time features on"),
        ({"context_length": 100}, "training rows"),
    ],
)
def test_what_cannot_be_learnt_is_refused(options, message) -> None:
    values, features = _series(60)
    with pytest.raises(ValueError, match=message):
        _fit(values, features, **options)


def test_the_control_keeps_the_regression_of_the_training_rows() -> None:
    values, features = _series()
    control = _fit(values[:80], features[:80], learns=False)
    weights = control.weights.clone()
    found = _run(control, values[72:], features[72:])
    assert torch.equal(control.weights, weights)
    assert not torch.equal(found, _run(_fit(values[:80], features[:80]), values[72:], features[72:]))
