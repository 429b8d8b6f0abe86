import json
import re

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from hf_tsdyn import ALRNNForPrediction, DystformerConfig, DystformerForPrediction
from hf_tsdyn.baselines import Persistence
from hf_tsdyn.data.series import SeriesDataset
from hf_tsdyn.data.windows import SequentialWindows
from hf_tsdyn.series_evaluation import load_errors, score_windows
from hf_tsdyn.series_results import SeriesResults
from training import evaluate_series, train

MODEL = ("--model.model_type", "alrnn", "--model.num_channels", "2", "--model.hidden_size", "4",
         "--model.num_relu_units", "1", "--model.prediction_length", "16")  # fmt: skip
PROTOCOL = ("--evaluation.protocol.num_resamples", "50", "--evaluation.baselines", '["persistence"]')


@pytest.fixture
def trained(start_options, waves, tmp_path):
    """The folder of a run on the waves, scored at 8 and 20 steps."""
    train.main(start_options(*MODEL, "--data.path", str(waves), "--evaluation.dataset_name", "waves", *PROTOCOL))
    return tmp_path / "run"


def test_every_window_is_scored_and_the_card_says_so(trained, waves, capsys):
    evaluate_series.main([str(trained)])
    printed = capsys.readouterr().out
    results = SeriesResults.read(trained / "results.json")
    assert "bit-equal" in printed
    assert results.overview() in printed
    assert results.header["models"] == ["toy", "persistence"]
    windows = results.header["datasets"]["waves"]["num_windows"]
    assert windows == {split: {"8": 120 - 7, "20": 120 - 19} for split in ("validation", "test")}
    errors = load_errors(trained / "window_errors.npz")
    assert sorted(errors) == ["test-20", "test-8", "validation-20", "validation-8"]
    for name, each in errors.items():
        split, horizon = name.split("-")
        found = results.mean_of("toy", "mse/v", "waves", int(horizon), split=split)
        assert found.mean == pytest.approx(each.mean("mse/v"), rel=1e-5)
    card = (trained / "README.md").read_text()
    assert results.table("waves", 8) in card
    figures = re.findall(r"\]\((figures/.*?)\)", card)
    assert figures
    assert all((trained / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    assert {row.seed for row in results.rows if row.model == "toy"} == {42}
    assert {row.seed for row in results.rows if row.model == "persistence"} == {None}
    assert results.header["num_parameters"] == {"toy": ALRNNForPrediction.from_pretrained(trained).num_parameters()}


def test_errors_are_in_units_of_the_training_rows(trained, waves):
    results = evaluate_series.evaluate_series(evaluate_series.load_request([str(trained)]))
    scale = pd.read_csv(waves)[["u", "v"]].to_numpy()[:560].std(axis=0)
    windows = SequentialWindows(
        SeriesDataset(waves, "test", context_length=64), context_length=64, prediction_length=8, stride=1
    )
    expected = score_windows(Persistence(), windows, scale=scale, show_progress=False)
    for metric in ("mse", "raw_mae/u"):
        found = results.mean_of("persistence", metric, "waves", 8)
        assert found.mean == pytest.approx(expected.mean(metric), rel=1e-5)
    paired = results.interval_of("toy", "persistence", "mse", "waves", 8)
    difference = results.mean_of("toy", "mse", "waves", 8).mean - expected.mse
    assert paired.mean == pytest.approx(difference, rel=1e-4)


def test_a_start_is_compared_with_by_window(trained, start_options, waves, capsys):
    train.main(start_options(*MODEL, "--data.path", str(waves), "--training.max_steps", "4", output="start"))
    evaluate_series.main([str(trained), "--start", str(trained.parent / "start")])
    results = SeriesResults.read(trained / "results.json")
    assert results.header["models"] == ["toy", "start", "persistence"]
    paired = results.interval_of("toy", "start", "mse", "waves", 20)
    errors = load_errors(trained / "window_errors.npz")["test-20"]
    assert paired.mean == pytest.approx(errors.mse - results.mean_of("start", "mse", "waves", 20).mean, rel=1e-3)
    assert paired.low < paired.mean < paired.high
    assert "| toy | start | waves @ 20 | MSE |" in capsys.readouterr().out


def test_a_checkpoint_that_forecasts_otherwise_than_in_training_is_refused(trained):
    probe = load_file(trained / "probe.safetensors")
    probe["forecast"][0, 0, 0] += 1e-3
    save_file(probe, trained / "probe.safetensors")
    with pytest.raises(SystemExit, match=r"bit-equal, found differences up to 0\.001"):
        evaluate_series.main([str(trained)])
    assert not (trained / "results.json").exists()


def test_data_that_changed_since_the_training_are_refused(trained, waves):
    lines = waves.read_text().splitlines()
    waves.write_text("\n".join(lines[:700]))
    with pytest.raises(SystemExit, match="must be scored on the data that it was trained on"):
        evaluate_series.main([str(trained)])


def test_a_checkpoint_of_another_origin_is_scored_on_other_data(tmp_path, capsys):
    model = DystformerForPrediction(DystformerConfig(num_poly_feats=4, num_rff=8, d_model=32, num_attention_heads=2))
    model.save_pretrained(tmp_path / "plain")
    np.save(tmp_path / "tone.npy", np.sin(0.3 * np.arange(700.0)))
    protocol = ["--evaluation.protocol.context_length", "64", "--evaluation.protocol.horizons", "[4]"]
    evaluate_series.main([str(tmp_path / "plain"), "--data", str(tmp_path / "tone.npy"), *protocol])
    results = SeriesResults.read(tmp_path / "plain" / "results.json")
    assert results.header["models"] == ["plain", "persistence", "mean", "parroting"]
    assert results.header["cpu_seconds"] == {}
    assert "no record of its training" in capsys.readouterr().out
    assert not (tmp_path / "plain" / "README.md").exists()


def test_a_start_that_is_none_is_refused(trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate_series.load_request([str(trained), "--start", str(tmp_path)])
    assert "--start must be a folder with config.json" in capsys.readouterr().err
    request = evaluate_series.load_request([str(trained), "--evaluation.protocol.batch_size", "7"])
    assert request.start is None
    assert request.evaluation.protocol.batch_size == 7
    assert request.summary == json.loads((trained / "training_summary.json").read_text())
