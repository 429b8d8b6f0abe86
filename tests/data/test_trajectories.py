import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from datasets import load_dataset

from hf_tsdyn.data.trajectories import FEATURES, TrajectoryDataset


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal((channels, length)).astype(np.float32)
        for channels, length in [(3, 50), (3, 40), (2, 60), (4, 30), (3, 50)]
    ]


@pytest.fixture
def folder(tmp_path, arrays, write_dataset):
    """Two shards to train, of three and two rows, and one to test."""
    systems = ["Lorenz", "Rossler", "Lorenz", "Chen", "Rossler"]
    rows = [{"target": values, "system": system} for values, system in zip(arrays, systems, strict=True)]
    rows[1]["lyapunov_time"] = None
    rows.append({"target": arrays[0], "system": "Chua", "split": "test"})
    return write_dataset(tmp_path / "flows", rows, rows_per_shard=3)


def test_rows_come_back_as_written(folder, arrays):
    dataset = TrajectoryDataset(folder, "train")
    assert len(dataset) == 5
    for trajectory, values in zip(dataset, arrays, strict=True):
        np.testing.assert_array_equal(trajectory.values, values)
    assert dataset.num_channels.tolist() == [3, 3, 2, 4, 3]
    assert dataset.lengths.tolist() == [50, 40, 60, 30, 50]
    assert dataset.systems == ["Lorenz", "Rossler", "Lorenz", "Chen", "Rossler"]
    np.testing.assert_array_equal(dataset.values(-1), arrays[-1])


def test_trajectory_carries_its_metadata(folder):
    first, second = (TrajectoryDataset(folder, "train")[row] for row in (0, 1))
    assert (first.item_id, first.system, first.split) == ("Lorenz-0", "Lorenz", "train")
    assert (first.dt, first.period, first.lyapunov_time) == (0.01, 1.5, 1.1)
    assert first.parameters == {"beta": 2.5, "w": [[1.0, 2.0]]}
    np.testing.assert_array_equal(first.initial_condition, [1.0, 2.0, 3.0])
    assert second.lyapunov_time is None


def test_values_are_views_of_the_mapped_file(folder):
    allocated = pa.total_allocated_bytes()
    dataset = TrajectoryDataset(folder, "train")
    values = dataset.values(3)
    assert pa.total_allocated_bytes() == allocated
    assert values.dtype == np.float32
    assert not values.flags.owndata
    assert not values.flags.writeable
    assert np.shares_memory(values, dataset.values(3))
    assert np.shares_memory(values, dataset[3].values)


def test_systems_are_filtered(folder, arrays):
    dataset = TrajectoryDataset(folder, "train", systems=["Rossler"])
    assert dataset.systems == ["Rossler", "Rossler"]
    np.testing.assert_array_equal(dataset.values(1), arrays[4])
    assert dataset[0].item_id == "Rossler-1"


def test_pickle_holds_no_data(folder, arrays):
    dataset = TrajectoryDataset(folder, "train", systems=["Rossler", "Chen"])
    content = pickle.dumps(dataset)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert again.systems == dataset.systems
    np.testing.assert_array_equal(again.values(1), arrays[3])


def test_pickle_refuses_other_data(folder, tmp_path, arrays, write_dataset):
    content = pickle.dumps(TrajectoryDataset(folder, "test"))
    folder.rename(tmp_path / "moved")
    write_dataset(folder, [{"target": arrays[1], "split": "test"}])
    with pytest.raises(ValueError, match="fingerprint"):
        pickle.loads(content)


def test_the_folder_also_loads_with_datasets(folder, arrays, tmp_path):
    table = load_dataset(
        "arrow", data_files=str(folder / "data" / "train-*.arrow"), split="train", cache_dir=str(tmp_path)
    )
    assert table.features == FEATURES
    np.testing.assert_array_equal(np.array(table[2]["target"], dtype=np.float32), arrays[2])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.*data_generation"):
        TrajectoryDataset(tmp_path / "absent", "train")


def test_missing_manifest_means_interrupted(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="run the same command again to finish it"):
        TrajectoryDataset(folder, "train")


@pytest.mark.parametrize("content", ['{"format_version": 1, "sha', "", "[]"], ids=["cut", "empty", "a list"])
def test_a_damaged_manifest_is_named(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json must .* run the same generation command"):
        TrajectoryDataset(folder, "train")


def test_other_format_version_is_refused(folder):
    (folder / "manifest.json").write_text('{"format_version": 7}')
    with pytest.raises(ValueError, match="format_version 1, found 7"):
        TrajectoryDataset(folder, "train")


def test_half_written_shard_is_refused(folder):
    shard = folder / "data" / "train-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"train-00001.arrow must have the \d+ bytes.*half-written"):
        TrajectoryDataset(folder, "train")


def test_lost_shard_is_named(folder):
    (folder / "data" / "train-00001.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"no 'data/train-00001.arrow'"):
        TrajectoryDataset(folder, "train")


def test_unknown_split_lists_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"\['test', 'train'\], found 'validation'"):
        TrajectoryDataset(folder, "validation")


def test_unknown_system_names_close_ones(folder):
    with pytest.raises(ValueError, match=r"found 'Lorentz'; did you mean \['Lorenz'\]"):
        TrajectoryDataset(folder, "train", systems=["Lorentz"])


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ([[1.0, 2.0], [1.0]], r"lengths \[2, 1\]"),
        ([], "at least one channel"),
        (None, "a null"),
        ([[1.0, 2.0], None], "a null"),
        ([[1.0, None], [1.0, 2.0]], "a null"),
    ],
)
def test_malformed_rows_are_named(tmp_path, write_dataset, target, found):
    rows = [{"target": [[0.0, 1.0]], "item_id": "sound"}, {"target": target, "item_id": "broken"}]
    folder = write_dataset(tmp_path / "flows", rows)
    with pytest.raises(ValueError, match=found) as error:
        TrajectoryDataset(folder, "train")
    assert "'broken'" in str(error.value)


def test_other_schema_is_refused(folder):
    file = folder / "data" / "test-00000.arrow"
    table = pa.table({"item_id": ["a"], "target": [[[1.0]]]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][2]["num_bytes"] = file.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"'target'.*list<item: list<item: double>>"):
        TrajectoryDataset(folder, "test")
