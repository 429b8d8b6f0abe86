import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from hf_tsdyn import ALRNNForPrediction, DystformerConfig, DystformerForPrediction
from hf_tsdyn.baselines import Persistence
from hf_tsdyn.data.series import SeriesDataset
from hf_tsdyn.data.windows import SequentialWindows
from hf_tsdyn.series_evaluation import WindowErrors, load_errors, score_windows
from hf_tsdyn.series_results import SeriesResults
from training import evaluate_series, train
from training.series_checkpoint_figures import middle_window

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


def test_without_matplotlib_everything_but_figures_is_written(trained, without_matplotlib, capsys):
    (trained / "figures").mkdir()
    (trained / "figures" / "errors.png").write_bytes(b"of an earlier evaluation")
    evaluate_series.main([str(trained)])
    captured = capsys.readouterr()
    assert "pip install 'hf_tsdyn[plot]'" in captured.err
    assert "figures    none: no matplotlib here" in captured.out
    assert (trained / "window_errors.npz").is_file()
    assert "![" not in (trained / "README.md").read_text()
    assert list((trained / "figures").iterdir()) == []


def test_the_card_loads_the_run_from_its_folder_under_the_licence_that_was_chosen(trained):
    evaluate_series.main([str(trained), "--evaluation.license", "", "--evaluation.data_license", "Not ours."])
    card = (trained / "README.md").read_text()
    assert card.count(f'from_pretrained("{trained}")') == 2
    assert "apache" not in card
    assert "all rights are reserved. Not ours.\n" in card
    evaluate_series.main([str(trained), "--evaluation.license", "mit", "--evaluation.model_id", "acme/toy"])
    card = (trained / "README.md").read_text()
    assert card.count('from_pretrained("acme/toy")') == 2
    assert ModelCard(card).data.license == "mit"
    assert card.endswith("## Licence\n\nmit\n")


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
    summary = json.loads((trained.parent / "start" / "training_summary.json").read_text())
    seconds = results.header["cpu_seconds"]["start"]
    assert seconds == pytest.approx(summary["cpu_seconds_of_last_launch"], abs=0.06)
    assert f" {seconds:.1f} |" in results.table("waves", 8).splitlines()[3]


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


def test_a_series_that_it_was_not_trained_on_is_scored_beside_its_own(trained, waves, tmp_path, capsys):
    evaluate_series.main([str(trained)])
    own = {name: (trained / name).read_bytes() for name in ("README.md", "results.json", "window_errors.npz")}
    frame = pd.read_csv(waves)
    frame[["date", "v", "u"]].to_csv(tmp_path / "tides.csv", index=False)
    options = [str(trained), "--data", str(tmp_path / "tides.csv")]
    for name in ("waves", "../tides"):
        with pytest.raises(SystemExit, match=f"a name of its own, .*found '{name}' for .*tides.csv"):
            evaluate_series.main([*options, "--evaluation.dataset_name", name])
    capsys.readouterr()
    evaluate_series.main([*options, "--evaluation.dataset_name", "tides"])
    assert "card       none: of another series than that of the training" in capsys.readouterr().out
    folder = trained / "scored_on_tides"
    assert sorted(each.name for each in folder.iterdir()) == ["figures", "results.json", "window_errors.npz"]
    assert SeriesResults.read(folder / "results.json").header["datasets"]["tides"]["channel_names"] == ["v", "u"]
    assert {name: (trained / name).read_bytes() for name in own} == own


def test_its_own_series_may_lie_elsewhere(trained, waves, tmp_path):
    (tmp_path / "copy.csv").write_bytes(waves.read_bytes())
    evaluate_series.main([str(trained), "--data", str(tmp_path / "copy.csv")])
    assert (trained / "README.md").is_file()


def test_only_the_test_split_makes_results(trained, capsys):
    with pytest.raises(SystemExit):
        evaluate_series.main([str(trained), "--evaluation.split", "validation"])
    assert "evaluation.split must be 'test', found 'validation'" in capsys.readouterr().err
    assert not (trained / "results.json").exists()


def test_help_names_the_start(capsys):
    with pytest.raises(SystemExit):
        evaluate_series.main(["--help"])
    printed = capsys.readouterr().out
    assert "--start START" in printed
    assert "every window of a series" in printed
    assert "--beside" not in printed


def test_a_gap_in_the_test_split_stops_nothing(start_options, waves, tmp_path):
    """Of 120 test steps 31 in the middle are unseen, and whole contexts of 16 with them."""
    frame = pd.read_csv(waves)
    frame.loc[725:755, ["u", "v"]] = np.nan
    frame.to_csv(waves, index=False)
    small = {"model_type": "dynonet", "num_channels": 2, "context_length": 16, "prediction_length": 8,
             "controller_hidden_size": 4, "controller_patch_length": 8, "worker_hidden_size": 2,
             "worker_context_length": 16, "worker_patch_length": 8}  # fmt: skip
    model = [text for name, value in small.items() for text in (f"--model.{name}", str(value))]
    protocol = ("--evaluation.protocol.context_length", "16", "--evaluation.protocol.horizons", "[8]", *PROTOCOL)
    options = (*model, *protocol, "--data.path", str(waves), "--evaluation.dataset_name", "waves")
    train.main(start_options(*options))
    train.main(start_options(*options, "--training.max_steps", "4", output="start"))
    evaluate_series.main([str(tmp_path / "run"), "--start", str(tmp_path / "start")])
    assert np.isnan(load_errors(tmp_path / "run" / "window_errors.npz")["test-8"].squared).all(axis=1).any()
    shown = {file.stem for file in (tmp_path / "run" / "figures").iterdir()}
    assert shown == {"errors", "forecasts", "difference", "control"}


@pytest.mark.parametrize(("num_seen", "expected"), [(0, None), (1, 4), (2, 3)])
def test_the_window_that_is_shown_is_the_most_seen_and_nearest_the_middle(num_seen, expected):
    """Of the first series' 11 windows 5 to 9 have a gap, 3 and 10 the most channels; others are of another series."""
    squared = np.ones((20, 2))
    squared[5:10] = np.nan
    squared[:, num_seen:] = np.nan
    if num_seen == 2:
        squared[[0, 1, 2, 4], 1] = np.nan
    errors = WindowErrors(squared, squared, np.ones(2), ("u", "v"), 0.0)
    assert middle_window(SimpleNamespace(lengths=np.array([11 + 24 - 1, 90])), errors, 24) == expected
