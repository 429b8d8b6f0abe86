"""The probe of a model that reads the calendar too: its context's features are kept beside its values."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.data import SequentialWindows, SeriesDataset, SeriesOptions
from training.probe import PROBE_FILE, save_probe, verify_reload


class Clock(torch.nn.Module):
    """Forecasts one block: the last value plus the sum of the last step's time features."""

    device = torch.device("cpu")

    def __init__(self, num_time_features):
        super().__init__()
        self.config = SimpleNamespace(num_time_features=num_time_features, prediction_length=4)

    def forecast(self, past_values, *, prediction_length, past_time_features=None):
        places = 0.0 if past_time_features is None else past_time_features[:, -1:].sum(dim=2, keepdim=True)
        return (past_values[:, -1:] + places).repeat(1, prediction_length, 1)


@pytest.fixture
def windows(tmp_path):
    dates = pd.date_range("2016-07-01", periods=200, freq="1h")
    pd.DataFrame({"date": dates, "a": np.arange(200.0)}).to_csv(tmp_path / "series.csv", index=False)
    data = SeriesDataset(
        tmp_path / "series.csv", "validation", context_length=6, options=SeriesOptions(time_features=True)
    )
    return SequentialWindows(data, context_length=6, prediction_length=4, stride=1)


@pytest.mark.parametrize(("num_time_features", "length"), [(7, 4), (0, 10)])
def test_the_probe_is_repeated_with_the_features_that_the_model_takes(windows, tmp_path, num_time_features, length):
    model = Clock(num_time_features)
    save_probe(model, windows, tmp_path / PROBE_FILE)
    probe = load_file(tmp_path / PROBE_FILE)
    assert ("past_time_features" in probe) == bool(num_time_features)
    assert probe["forecast"].shape == (1, length, 1)
    assert "bit-equal" in verify_reload(model, tmp_path, {})


def test_other_features_are_noticed(windows, tmp_path):
    model = Clock(7)
    save_probe(model, windows, tmp_path / PROBE_FILE)
    probe = load_file(tmp_path / PROBE_FILE)
    save_file(probe | {"past_time_features": probe["past_time_features"] + 1}, tmp_path / PROBE_FILE)
    assert "differ by up to 7" in verify_reload(model, tmp_path, {})
