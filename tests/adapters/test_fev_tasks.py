"""Parquet tasks: what a row holds, and which series and options are refused."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

import hf_tsdyn.adapters.fev as adapter
from hf_tsdyn.adapters import fev_tasks
from hf_tsdyn.adapters.fev_tasks import TaskOptions, export_tasks
from hf_tsdyn.baselines import Persistence
from hf_tsdyn.data import SeriesDataset, TrajectoryDataset


def test_a_row_is_a_trajectory_with_a_column_for_each_channel(oscillators: Path, tmp_path: Path):
    dataset = TrajectoryDataset(oscillators, "test")
    files = export_tasks(dataset, tmp_path / "tasks", TaskOptions(16, num_windows=2))
    assert [file.name for file in files] == ["channels-2.parquet", "channels-3.parquet"]
    rows = {row["id"]: row for file in files for row in pq.read_table(file).to_pylist()}
    assert len(rows) == len(dataset)
    times = pd.date_range("1970-01-01", periods=400, freq="s").to_pydatetime().tolist()
    for trajectory in dataset:
        row = rows[trajectory.item_id]
        assert row["system"] == trajectory.system
        assert row["timestamp"] == times
        channels = [row[f"channel_{number}"] for number in range(len(trajectory.values))]
        np.testing.assert_array_equal(np.array(channels, np.float32), trajectory.values)
        assert len(row) == 3 + len(channels)


def test_the_list_of_tasks_says_what_was_asked_for(oscillators: Path, tmp_path: Path):
    options = TaskOptions(
        16, num_windows=3, window_step=8, context_length=64, quantile_levels=(0.1, 0.9), seasonality=4
    )
    export_tasks(TrajectoryDataset(oscillators, "test"), tmp_path, options)
    first, second = yaml.safe_load((tmp_path / "tasks.yaml").read_text())["tasks"]
    assert first["target"] == ["channel_0", "channel_1"]
    assert second["target"] == ["channel_0", "channel_1", "channel_2"]
    assert first["dataset_path"] == "channels-2.parquet"
    assert first["task_name"] == f"{oscillators.name}-test-channels-2"
    named = {"horizon": 16, "num_windows": 3, "window_step_size": 8, "max_context_length": 64, "seasonality": 4}
    for task in (first, second):
        assert {name: task[name] for name in named} == named
        assert task["quantile_levels"] == [0.1, 0.9]


def test_more_than_ten_channels_keep_their_order_when_sorted(write_dataset, tmp_path: Path):
    target = np.arange(12, dtype=np.float32)[:, None] + np.zeros(30, np.float32)
    source = TrajectoryDataset(write_dataset(tmp_path / "data", [{"target": target, "split": "test"}]), "test")
    (file,) = export_tasks(source, tmp_path / "tasks", TaskOptions(4))
    names = [name for name in pq.read_schema(file).names if name.startswith("channel")]
    assert names == sorted(names)
    assert [pq.read_table(file)[name][0][0].as_py() for name in sorted(names)] == list(range(12))


def test_missing_values_stay_nan_and_rows_of_any_length_stand_side_by_side(write_dataset, tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [{"target": rng.normal(size=(2, 20 + n % 7)).astype(np.float32), "split": "test"} for n in range(130)]
    rows[129]["target"][1, 3] = np.nan
    source = TrajectoryDataset(write_dataset(tmp_path / "data", rows), "test")
    (file,) = export_tasks(source, tmp_path / "tasks", TaskOptions(4))
    table = pq.read_table(file)
    assert table["id"].to_pylist() == [each.item_id for each in source]
    for row, each in zip(table.to_pylist(), source, strict=True):
        np.testing.assert_array_equal(np.array([row["channel_0"], row["channel_1"]], np.float32), each.values)
    assert table["channel_1"].combine_chunks().values.null_count == 0


def test_own_series_have_their_own_times(tmp_path: Path):
    np.save(tmp_path / "waves.npy", np.sin(np.arange(200.0)))
    source = SeriesDataset(tmp_path / "waves.npy", "test", context_length=20)
    (file,) = export_tasks(source, tmp_path / "tasks", TaskOptions(8, start="2020-02-28 12:30", freq="30min"))
    (row,) = pq.read_table(file).to_pylist()
    expected = pd.date_range("2020-02-28 12:30", periods=len(row["timestamp"]), freq="30min")
    assert row["timestamp"] == expected.to_pydatetime().tolist()
    np.testing.assert_array_equal(np.array(row["channel_0"], np.float32), source[0].values[0])


def test_the_same_data_give_the_same_bytes_and_replace_what_was_there(oscillators: Path, tmp_path: Path):
    dataset = TrajectoryDataset(oscillators, "test")
    for folder in ("a", "b"):
        export_tasks(dataset, tmp_path / folder, TaskOptions(8))
    export_tasks(dataset, tmp_path / "b", TaskOptions(16))
    assert yaml.safe_load((tmp_path / "b" / "tasks.yaml").read_text())["tasks"][0]["horizon"] == 16
    export_tasks(dataset, tmp_path / "b", TaskOptions(8))
    contents = [{file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()} for folder in ("a", "b")]
    assert contents[0] == contents[1]


def test_an_interrupted_export_leaves_no_list_of_tasks(oscillators: Path, tmp_path: Path, monkeypatch):
    dataset = TrajectoryDataset(oscillators, "test")
    export_tasks(dataset, tmp_path, TaskOptions(8))
    monkeypatch.setattr(fev_tasks, "_write_rows", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export_tasks(dataset, tmp_path, TaskOptions(8))
    assert not (tmp_path / "tasks.yaml").exists()


def test_series_too_short_or_of_one_name_are_named(write_dataset, tmp_path: Path):
    rows = [{"target": np.zeros((1, steps), np.float32), "split": "test", "item_id": "it"} for steps in (30, 29)]
    source = TrajectoryDataset(write_dataset(tmp_path / "data", rows), "test")
    with pytest.raises(ValueError, match=r"at least 30 steps, those of 3 windows.*found 29 in 'it'"):
        export_tasks(source, tmp_path / "tasks", TaskOptions(9, num_windows=3, window_step=10))
    with pytest.raises(ValueError, match="found 'it' twice"):
        export_tasks(source, tmp_path / "tasks", TaskOptions(9, num_windows=2))
    assert not (tmp_path / "tasks").exists()


def test_impossible_options_are_refused():
    for name in ("num_windows", "window_step", "context_length", "seasonality"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, found 0"):
            TaskOptions(8, **{name: 0})
    with pytest.raises(ValueError, match="prediction_length must be an integer of at least 1, found 0"):
        TaskOptions(0)
    with pytest.raises(ValueError, match="quantile_levels must be numbers between 0 and 1"):
        TaskOptions(8, quantile_levels=(0.1, 1.0))


def test_without_fev_the_way_to_install_it_is_named(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(adapter, "fev", None)
    for call in (lambda: adapter.FevModel(Persistence()), lambda: adapter.read_tasks(tmp_path)):
        with pytest.raises(ImportError, match=r"pip install fev==0\.10\.0.*pip install --no-deps hf_tsdyn"):
            call()


def test_the_command_names_the_files(oscillators: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["fev_tasks", str(oscillators), str(tmp_path), "--prediction_length", "16", "--num_windows", "2"]
    )
    fev_tasks.main()
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'channels-2.parquet'}: 2 series, 2 windows each",
        f"{tmp_path / 'channels-3.parquet'}: 1 series, 2 windows each",
    ]
