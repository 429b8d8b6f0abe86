import numpy as np
import pytest
import torch

from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.data.windows import SequentialWindows
from hf_tsdyn.distributions import QuantileDistribution
from hf_tsdyn.forecasting import ForecastMixin, ForecastOutput
from training.calibration import calibrate


class Standard(ForecastMixin, torch.nn.Module):
    """Forecasts the same normal distribution everywhere: mean 0, spread 1."""

    device = torch.device("cpu")

    def set_spread_factor(self, factor):
        self.distribution = QuantileDistribution((0.1, 0.5, 0.9), factor)

    def forward(self, past_values, past_observed_mask):
        batch, _, channels = past_values.shape
        parameters = self.distribution.parameters(
            torch.zeros(batch, 16, channels, 3), torch.zeros(batch, 1, channels), torch.ones(batch, 1, channels)
        )
        return ForecastOutput(prediction_outputs=self.distribution.point(parameters), distribution_outputs=parameters)


@pytest.fixture
def windows(write_dataset, tmp_path):
    """White noise of spread 3 in nine rows of one system, and of spread 1 in one row of another."""
    rng = np.random.default_rng(0)
    rows = [
        {"target": (spread * rng.normal(size=(2, 400))).astype(np.float32), "system": system, "split": "validation"}
        for system, spread in [("A", 3.0)] * 9 + [("B", 1.0)]
    ]
    rows[0]["target"][:, 100:150] = np.nan
    folder = write_dataset(tmp_path / "data", rows)
    dataset = TrajectoryDataset(folder, "validation")
    return SequentialWindows(dataset, context_length=16, prediction_length=16, stride=16)


def test_intervals_hold_what_they_should_each_system_counting_alike(windows):
    model = Standard()
    model.set_spread_factor(17.0)
    factor = calibrate(model, windows)
    assert model.distribution.spread_factor == factor
    coverage = []
    for system in "AB":
        rows = [row for row in range(10) if windows.trajectories.systems[row] == system]
        targets = np.concatenate([windows.trajectories.values(row)[:, 16:].ravel() for row in rows])
        targets = targets[~np.isnan(targets)]
        coverage.append((np.abs(targets) <= 1.2815516 * factor).mean())
    assert np.mean(coverage) == pytest.approx(0.8, abs=0.01)
    assert coverage[0] < 0.7


def test_a_model_without_a_distribution_is_left_alone(windows):
    model = Standard()
    assert calibrate(model, windows) == 1.0
    assert model.distribution is None


def test_windows_with_nothing_seen_do_not_count(windows, write_dataset, tmp_path):
    rng = np.random.default_rng(1)
    target = rng.normal(size=(1, 400)).astype(np.float32)
    target[:, 150:250] = np.nan
    folder = write_dataset(tmp_path / "gaps", [{"target": target, "split": "validation"}])
    dataset = TrajectoryDataset(folder, "validation")
    sequential = SequentialWindows(dataset, context_length=16, prediction_length=16, stride=16)
    assert calibrate(Standard(), sequential) == 1.0
    model = Standard()
    model.set_spread_factor(1.0)
    assert calibrate(model, sequential) == pytest.approx(1.0, abs=0.15)


def test_channels_that_are_constant_do_not_count(write_dataset, tmp_path):
    rng = np.random.default_rng(2)
    noise = 2 * rng.normal(size=(1, 800)).astype(np.float32)
    factors = []
    for constants in (0, 5):
        target = np.concatenate([noise, np.full((constants, 800), 3.0, np.float32)])
        folder = write_dataset(tmp_path / str(constants), [{"target": target, "split": "validation"}])
        model = Standard()
        model.set_spread_factor(1.0)
        dataset = TrajectoryDataset(folder, "validation")
        windows = SequentialWindows(dataset, context_length=16, prediction_length=16, stride=16)
        factors.append(calibrate(model, windows))
    assert factors[0] == factors[1] == pytest.approx(2.0, abs=0.2)


def test_without_a_target_that_counts_nothing_is_stretched(write_dataset, tmp_path):
    target = np.full((1, 100), 3.0, np.float32)
    folder = write_dataset(tmp_path / "data", [{"target": target, "split": "validation"}])
    model = Standard()
    model.set_spread_factor(1.0)
    dataset = TrajectoryDataset(folder, "validation")
    windows = SequentialWindows(dataset, context_length=16, prediction_length=16, stride=16)
    assert calibrate(model, windows) == 1.0
