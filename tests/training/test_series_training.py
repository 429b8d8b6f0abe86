import json
import re

import numpy as np
import pytest
from safetensors.torch import load_file

from hf_tsdyn.data.series import SeriesDataset
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.results import EvaluationResults
from training import evaluate_checkpoint, train
from training.run_config import DataConfig

PROTOCOL = ("--evaluation.protocol.num_windows", "6")


@pytest.fixture
def tuned(run_options, start_options, waves, tmp_path):
    """The folder of a run on the waves that began with a model of the oscillators."""
    train.main(run_options(output="start"))
    start = ("--checkpoint", str(tmp_path / "start"), "--data.path", str(waves))
    train.main(start_options(*start, "--data.series.test_share", "0.2", *PROTOCOL, output="tuned"))
    return tmp_path / "tuned"


def test_what_the_path_holds_decides_how_it_is_read(oscillators, waves, tmp_path):
    assert isinstance(DataConfig(str(oscillators)).open("test", 64), TrajectoryDataset)
    assert isinstance(DataConfig(str(waves)).open("test", 64), SeriesDataset)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "ramp.npy", np.arange(500.0))
    np.save(tmp_path / "folder" / "sine.npy", np.sin(np.arange(300.0)))
    opened = DataConfig(str(tmp_path / "folder")).open("validation", 32)
    assert opened.systems == ["ramp", "sine"]
    assert opened.lengths.tolist() == [75 + 32, 45 + 32]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        DataConfig(str(tmp_path / "nowhere.csv")).open("train", 64)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        DataConfig(str(tmp_path / "nowhere")).open("train", 64)


def test_a_run_on_a_series_records_how_it_was_cut(tuned):
    summary = json.loads((tuned / "training_summary.json").read_text())
    assert summary["steps_per_period"] is None
    assert summary["train_systems"] == summary["validation_systems"] == ["waves"]
    assert "test_share: 0.2" in (tuned / "run_config.yaml").read_text()


def test_a_fine_tuned_model_is_scored_beside_its_start(tuned, capsys):
    evaluate_checkpoint.main([str(tuned)])
    results = EvaluationResults.read(tuned / "results.json")
    assert results.header["models"] == ["toy", "before fine-tuning", "persistence", "mean", "parroting"]
    assert results.header["baselines"] == results.header["models"][1:]
    assert results.header["dataset"]["num_windows"] == 6
    assert "less before fine-tuning's" in capsys.readouterr().out
    evaluate_checkpoint.main([str(tuned.parent / "start"), "--data", str(tuned.parent / "waves.csv"), *PROTOCOL,
                              "--series.test_share", "0.2"])  # fmt: skip
    alone = EvaluationResults.read(tuned.parent / "start" / "results.json")
    for row in alone.summary:
        if row.model == "toy":
            assert results.summary_of("before fine-tuning", row.metric, row.horizon).median == row.median


def test_the_card_of_a_series_says_what_it_was_trained_on(tuned):
    evaluate_checkpoint.main([str(tuned)])
    card = (tuned / "README.md").read_text()
    assert f"A dystformer fine-tuned from `{tuned.parent / 'start'}` on the past of waves" in card
    assert "the last 20% are the test, the 15% before them validation" in card
    assert "period" not in card.split("## Limits")[0].replace("Lyapunov", "")
    figures = re.findall(r"\]\((figures/.*?)\)", card)
    assert figures == ["figures/attractors.png", "figures/error_growth.png"]
    assert all((tuned / name).read_bytes().startswith(b"\x89PNG") for name in figures)


def test_adapters_are_on_the_card(run_options, start_options, waves, tmp_path):
    train.main(run_options(output="start"))
    options = ("--checkpoint", str(tmp_path / "start"), "--data.path", str(waves), "--lora.rank", "2", *PROTOCOL)
    train.main(start_options(*options))
    evaluate_checkpoint.main([str(tmp_path / "run")])
    assert "adapters of rank 2 and the head: 1,792 parameters" in (tmp_path / "run" / "README.md").read_text()


def test_one_channel_has_no_attractor_and_a_distribution_has_fans(run_options, waves, tmp_path):
    options = ("--data.path", str(waves), "--data.series.columns", '["v"]', "--model.distribution", "quantiles")
    train.main(run_options(*options, *PROTOCOL))
    assert load_file(tmp_path / "run" / "probe.safetensors")["past_values"].shape == (1, 64, 1)
    evaluate_checkpoint.main([str(tmp_path / "run")])
    card = (tmp_path / "run" / "README.md").read_text()
    figures = re.findall(r"\]\(figures/(.*?)\.png\)", card)
    assert figures == ["fans", "calibration", "error_growth"]
    assert "intervals are not available" not in card
    assert "A dystformer trained on the past of waves" in card


def test_a_masked_model_is_trained_on_a_series(run_options, waves, tmp_path):
    train.main(run_options("--task", "masked_modeling", "--data.path", str(waves)))
    summary = json.loads((tmp_path / "run" / "training_summary.json").read_text())
    assert summary["steps"] == 8


def test_a_start_that_is_gone_is_told_and_left_out(tuned, capsys):
    (tuned.parent / "start").rename(tuned.parent / "elsewhere")
    evaluate_checkpoint.main([str(tuned)])
    assert "is not scored beside it" in capsys.readouterr().out
    assert "before fine-tuning" not in EvaluationResults.read(tuned / "results.json").header["models"]


def test_data_that_changed_since_the_training_are_refused(tuned, waves):
    lines = waves.read_text().splitlines()
    waves.write_text("\n".join(lines[: len(lines) * 3 // 4]))
    with pytest.raises(SystemExit, match="must be scored on the data that it was trained on"):
        evaluate_checkpoint.main([str(tuned)])


@pytest.mark.parametrize("change", ["nothing seen", "nothing varies"])
def test_a_validation_part_without_targets_is_refused_before_training(run_options, tmp_path, change):
    series = np.sin(0.3 * np.arange(2000.0))
    series[1200:1700] = np.nan if change == "nothing seen" else 1.0
    np.save(tmp_path / "series.npy", series)
    options = run_options("--data.path", str(tmp_path / "series.npy"), output="bare")
    with pytest.raises(SystemExit, match="the validation data must have targets that count"):
        train.main(options)
    assert not (tmp_path / "bare").exists()


def test_a_window_without_a_context_is_not_shown(run_options, tmp_path):
    series = np.sin(0.3 * np.arange(3000.0))
    series[2450:2640] = np.nan
    np.save(tmp_path / "series.npy", series)
    train.main(run_options("--data.path", str(tmp_path / "series.npy"), *PROTOCOL, "--model.distribution", "quantiles"))
    evaluate_checkpoint.main([str(tmp_path / "run")])
    assert (tmp_path / "run" / "README.md").is_file()
