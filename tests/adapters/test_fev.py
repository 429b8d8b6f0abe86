"""fev models: forecasts in its format, and its scores against sums by hand. They need an environment with fev."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_tsdyn.adapters.fev as adapter
from hf_tsdyn.adapters.fev import FevModel, read_tasks, score_forecasters
from hf_tsdyn.adapters.fev_tasks import TaskOptions, export_tasks
from hf_tsdyn.baselines import ContextMean, Persistence
from hf_tsdyn.data import TrajectoryDataset

pytest.importorskip(
    "fev", reason="fev 0.10 needs datasets < 5: `make test-fev` runs these in an environment of its own"
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what fev loads out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def loaded(folder: Path) -> list[Any]:
    tasks = read_tasks(folder)
    for task in tasks:
        task.load_full_dataset(num_proc=1)  # fev would start a process a core
    return tasks


@pytest.fixture
def tasks(oscillators: Path, tmp_path: Path) -> list[Any]:
    """Two tasks, of two series with two channels and of one with three: three windows of 16 steps after at most 64."""
    options = TaskOptions(16, num_windows=3, window_step=20, context_length=64, quantile_levels=(0.1, 0.5, 0.9))
    export_tasks(TrajectoryDataset(oscillators, "test"), tmp_path / "tasks", options)
    return loaded(tmp_path / "tasks")


def origins(num_steps: int) -> list[int]:
    """First steps of the windows of `tasks`."""
    return [num_steps - 16 - 20 * back for back in (2, 1, 0)]


def test_windows_hold_the_trajectories_that_were_exported(tasks, oscillators: Path):
    values = {each.item_id: each.values for each in TrajectoryDataset(oscillators, "test")}
    for task in tasks:
        assert task.freq.lower() == "s"
        for window, origin in zip(task.iter_windows(), origins(400), strict=True):
            past, _ = window.get_input_data()
            truth = window.get_ground_truth()
            for before, after in zip(past, truth, strict=True):
                for channel, name in enumerate(task.target_columns):
                    series = values[before["id"]][channel]
                    np.testing.assert_array_equal(before[name], series[origin - 64 : origin])
                    np.testing.assert_array_equal(after[name], series[origin : origin + 16])


def test_forecasts_have_fevs_columns_levels_and_length_in_its_order(tasks, oscillators: Path, spreading):
    values = {each.item_id: each.values for each in TrajectoryDataset(oscillators, "test")}
    forecaster = spreading()
    for task in tasks:
        found = FevModel(forecaster).fit_predict(task)
        assert len(found) == 3
        for predictions, window, origin in zip(found, task.iter_windows(), origins(400), strict=True):
            task.clean_and_validate_predictions(predictions)
            assert list(predictions) == task.target_columns
            for channel, name in enumerate(task.target_columns):
                assert predictions[name].column_names == ["predictions", "0.1", "0.5", "0.9"]
                assert predictions[name].features == task.predictions_schema
                for row, item_id in zip(predictions[name], window.get_input_data()[0]["id"], strict=True):
                    last = values[item_id][channel, origin - 1]
                    np.testing.assert_array_equal(row["predictions"], np.full(16, last))
                    np.testing.assert_allclose(row["0.1"], last - 4 * np.arange(1, 17), rtol=1e-5, atol=1e-4)
                    np.testing.assert_allclose(row["0.9"], last + 4 * np.arange(1, 17), rtol=1e-5, atol=1e-4)
    assert {context.shape[1:] for context in forecaster.contexts} == {(64, 2), (64, 3)}


def test_channels_are_forecast_together_and_series_in_batches(tasks, spreading):
    forecaster = spreading()
    model = FevModel(forecaster, context_length=30, batch_size=2, num_samples=7)
    model.fit_predict(tasks[0])
    assert [tuple(context.shape) for context in forecaster.contexts] == [(2, 30, 2)] * 3
    assert forecaster.num_samples == [7] * 3
    assert model.inference_time > 0
    assert (model.model_name, model.has_distribution) == ("SpreadingForecaster", True)


def test_a_point_forecast_stands_at_every_level(tasks):
    model = FevModel(Persistence(), name="last")
    assert (model.model_name, model.has_distribution) == ("last", None)
    for predictions in model.fit_predict(tasks[0]):
        for name in tasks[0].target_columns:
            for row in predictions[name]:
                assert row["0.1"] == row["0.5"] == row["0.9"] == row["predictions"]
    assert model.has_distribution is False


@pytest.mark.parametrize("forecaster", [Persistence(), ContextMean()])
def test_scores_are_those_computed_by_hand(tasks, oscillators: Path, forecaster):
    values = [each.values.astype(float) for each in TrajectoryDataset(oscillators, "test")]
    found = score_forecasters({"it": forecaster}, tasks)
    assert found["model_name"].tolist() == ["it", "it"]
    assert found["num_forecasts"].tolist() == [3 * 2 * 2, 3 * 3]
    for num_channels, row in zip((2, 3), found.to_dict("records"), strict=True):
        series = np.stack([each for each in values if len(each) == num_channels])
        scores = {"MSE": [], "MAE": [], "MASE": [], "SMAPE": [], "WQL": []}
        for origin in origins(400):
            context, truth = series[..., origin - 64 : origin], series[..., origin : origin + 16]
            point = context[..., -1:] if isinstance(forecaster, Persistence) else context.mean(axis=-1, keepdims=True)
            error = np.abs(truth - point)
            by_channel = error.mean(axis=(0, 2))
            scores["MSE"].append((error**2).mean())
            scores["MAE"].append(error.mean())
            scores["MASE"].append((error / np.abs(np.diff(context)).mean(axis=-1, keepdims=True)).mean())
            scores["SMAPE"].append((2 * error / (np.abs(truth) + np.abs(point))).mean())
            # The levels 0.1, 0.5, 0.9 of one forecast: their losses 2 |e| |1(e < 0) - q| are |e| on average.
            scores["WQL"].append((by_channel / np.abs(truth).mean(axis=(0, 2))).mean())
        for name, per_window in scores.items():
            assert row[name] == pytest.approx(np.mean(per_window), rel=1e-5), name
        assert row["test_error"] == row["MASE"]


def test_missing_values_are_unseen_and_a_series_without_any_is_named(write_dataset, tmp_path: Path, spreading):
    target = np.arange(60, dtype=np.float32).reshape(2, 30)
    target[0, 22:26] = np.nan
    rows = [{"target": target, "split": "test", "item_id": "some"}]
    source = TrajectoryDataset(write_dataset(tmp_path / "data", rows), "test")
    export_tasks(source, tmp_path / "tasks", TaskOptions(4, context_length=10, quantile_levels=(0.5,)))
    (task,) = loaded(tmp_path / "tasks")
    forecaster = spreading()
    (predictions,) = FevModel(forecaster).fit_predict(task)
    np.testing.assert_array_equal(forecaster.contexts[0][0].numpy(), target[:, 16:26].T)
    assert predictions["channel_0"][0]["predictions"] == [21.0] * 4
    assert predictions["channel_1"][0]["predictions"] == [55.0] * 4
    single = adapter.fev.Task(**(task.to_dict() | {"target": "channel_0", "max_context_length": 2}))
    single.load_full_dataset(num_proc=1)
    with pytest.raises(ValueError, match=r"1 steps of its context, found none in \['some'\]"):
        FevModel(forecaster, context_length=1).fit_predict(single)


def test_one_target_and_tasks_cut_into_channels_work_alike(oscillators: Path, tasks):
    base = tasks[0].to_dict() | {"quantile_levels": [], "extra_metrics": [], "num_windows": 1, "initial_cutoff": -16}
    one = adapter.fev.Task(**(base | {"target": "channel_1"}))
    cut = adapter.fev.Task(**(base | {"target": "target", "generate_univariate_targets_from": "__ALL__"}))
    both = tasks[0].get_window(2)
    expected = {
        f"{row['id']}_{name}": row[name][-1] for row in both.get_input_data()[0] for name in ("channel_0", "channel_1")
    }
    for task, column in ((one, "channel_1"), (cut, "target")):
        task.load_full_dataset(num_proc=1)
        (predictions,) = FevModel(Persistence()).fit_predict(task)
        assert list(predictions) == [column]
        assert predictions[column].column_names == ["predictions"]
        ids = task.get_window(0).get_input_data()[0]["id"]
        names = [f"{item_id}_channel_1" for item_id in ids] if column == "channel_1" else list(ids)
        assert [row["predictions"] for row in predictions[column]] == [[expected[name]] * 16 for name in names]


def test_tasks_can_be_moved_and_read_by_fev_itself(tasks, tmp_path: Path, monkeypatch):
    shutil.move(tmp_path / "tasks", tmp_path / "moved")
    assert [task.task_name for task in loaded(tmp_path / "moved")] == [task.task_name for task in tasks]
    monkeypatch.chdir(tmp_path / "moved")
    theirs = adapter.fev.Benchmark.from_yaml("tasks.yaml").tasks
    assert [task.load_full_dataset(num_proc=1).num_rows for task in theirs] == [2, 1]
    with pytest.raises(FileNotFoundError, match=r"must hold tasks\.yaml, found none in .*fev_tasks"):
        read_tasks(tmp_path)


def test_the_command_prints_a_line_for_each_forecaster_and_task(tasks, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(adapter, "read_tasks", lambda folder: loaded(folder))
    monkeypatch.setattr(sys, "argv", ["fev", str(tmp_path / "tasks"), "persistence", "mean"])
    adapter.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["model_name", "task_name", "num_forecasts", "MASE", "MSE", "MAE", "SMAPE", "WQL", "SQL"]
    assert [line[0] for line in lines[1:]] == ["persistence", "persistence", "mean", "mean"]
    expected = score_forecasters({"persistence": Persistence()}, tasks)
    assert [float(line[3]) for line in lines[1:3]] == pytest.approx(expected["MASE"].tolist(), rel=1e-3)
