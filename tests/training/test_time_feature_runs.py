"""A model that reads the calendar: trained, validated, reloaded and scored with the time features of its series."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from hf_tsdyn.models import ARCHITECTURES
from hf_tsdyn.series_results import SeriesResults
from training import evaluate_series, train
from training.sweep_data import SweepData

MODEL = ("--model.model_type", "fsnet", "--model.num_channels", "2", "--model.num_time_features", "7",
         "--model.context_length", "24", "--model.prediction_length", "20", "--model.hidden_size", "4",
         "--model.num_hidden_layers", "2")  # fmt: skip
PROTOCOL = ("--evaluation.protocol.num_resamples", "50", "--evaluation.protocol.context_length", "24",
            "--evaluation.baselines", '["persistence"]', "--evaluation.dataset_name", "hours")  # fmt: skip


@pytest.fixture
def hours(tmp_path):
    """A CSV of 600 hours with two channels."""
    rng, step = np.random.default_rng(0), np.arange(600)
    frame = {"date": pd.date_range("2016-07-01", periods=600, freq="1h"), "u": np.sin(2 * np.pi * step / 24)}
    pd.DataFrame(frame | {"v": rng.normal(size=600)}).to_csv(tmp_path / "hours.csv", index=False)
    return tmp_path / "hours.csv"


def test_a_model_with_time_features_is_trained_and_scored_with_them(start_options, hours, tmp_path, capsys):
    with_dates = ("--data.path", str(hours), "--data.series.time_features", "true")
    train.main(start_options(*MODEL, *with_dates, *PROTOCOL))
    probe = load_file(tmp_path / "run" / "probe.safetensors")
    assert probe["past_time_features"].shape == (1, 24, 7)
    model = ARCHITECTURES["fsnet"].from_pretrained(tmp_path / "run")
    late = model.forecast(
        probe["past_values"], prediction_length=20, past_time_features=probe["past_time_features"] + 1
    )
    assert not torch.equal(late, probe["forecast"])
    evaluate_series.main([str(tmp_path / "run")])
    assert "bit-equal" in capsys.readouterr().out
    results = SeriesResults.read(tmp_path / "run" / "results.json")
    assert results.header["models"] == ["toy", "persistence"]
    assert (tmp_path / "run" / "figures" / "forecasts.png").is_file()


@pytest.mark.parametrize(
    ("number", "dates", "message"),
    [("7", "false", "found 0 in the data, and 7 that the model takes; switch time_features of the series on"),
     ("0", "true", "found 7 in the data, and 0 that the model takes; switch time_features of the series off")],
)  # fmt: skip
def test_a_model_and_data_that_disagree_are_refused(start_options, hours, number, dates, message):
    options = ("--model.num_time_features", number, "--data.path", str(hours), "--data.series.time_features", dates)
    with pytest.raises(SystemExit, match=message):
        train.main(start_options(*MODEL, *options))


def test_a_sweep_whose_models_read_no_dates_refuses_them():
    with pytest.raises(ValueError, match=r"found data\.time_features; leave it out"):
        SweepData(path="series.csv", time_features=True)
