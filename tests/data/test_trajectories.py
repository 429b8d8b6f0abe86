import hashlib
import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from datasets import load_dataset

from hf_tsdyn.data.trajectories import FEATURES, TrajectoryDataset


def make_row(values, *, item_id, system="Lorenz", split="train", lyapunov_time=1.1):
    return {
        "item_id": item_id,
        "start": 0,
        "freq": "s",
        "target": None if values is None else list(values),
        "system": system,
        "split": split,
        "dt": 0.01,
        "period": 1.5,
        "lyapunov_time": lyapunov_time,
        "parameters": '{"beta": 2.5, "w": [[1.0, 2.0]]}',
        "initial_condition": [1.0, 2.0, 3.0],
        "seed": "0-1",
        "checks": "{}",
        "generation": "{}",
    }


def write_folder(folder, shards):
    """Write `shards`, a list of (split, rows), as the generator does: two rows a record batch, manifest last."""
    (folder / "data").mkdir(parents=True)
    entries = []
    for number, (split, rows) in enumerate(shards):
        file = folder / "data" / f"{split}-{number:05d}.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, FEATURES.arrow_schema) as writer:
            for first in range(0, len(rows), 2):
                part = rows[first : first + 2]
                writer.write_batch(pa.RecordBatch.from_pylist(part, schema=FEATURES.arrow_schema))
        content = file.read_bytes()
        entries.append(
            {
                "file": f"data/{file.name}",
                "split": split,
                "num_rows": len(rows),
                "num_bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    fingerprint = hashlib.sha256("".join(entry["sha256"] for entry in entries).encode()).hexdigest()
    manifest = {"format_version": 1, "fingerprint": fingerprint, "shards": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal((channels, length)).astype(np.float32)
        for channels, length in [(3, 50), (3, 40), (2, 60), (4, 30), (3, 50)]
    ]


@pytest.fixture
def folder(tmp_path, arrays):
    systems = ["Lorenz", "Rossler", "Lorenz", "Chen", "Rossler"]
    rows = [
        make_row(values, item_id=f"{system}-{number}", system=system)
        for number, (values, system) in enumerate(zip(arrays, systems, strict=True))
    ]
    rows[1]["lyapunov_time"] = None
    test_rows = [make_row(arrays[0], item_id="Chua-0", system="Chua", split="test")]
    return write_folder(tmp_path / "flows", [("train", rows[:3]), ("train", rows[3:]), ("test", test_rows)])


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


def test_pickle_refuses_other_data(folder, tmp_path, arrays):
    content = pickle.dumps(TrajectoryDataset(folder, "test"))
    folder.rename(tmp_path / "moved")
    write_folder(folder, [("test", [make_row(arrays[1], item_id="Chua-1", split="test")])])
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
def test_malformed_rows_are_named(tmp_path, target, found):
    rows = [make_row([[0.0, 1.0]], item_id="sound"), make_row(target, item_id="broken")]
    folder = write_folder(tmp_path / "flows", [("train", rows)])
    with pytest.raises(ValueError, match=found) as error:
        TrajectoryDataset(folder, "train")
    assert "'broken'" in str(error.value)


def test_other_schema_is_refused(folder):
    file = folder / "data" / "test-00002.arrow"
    table = pa.table({"item_id": ["a"], "target": [[[1.0]]]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][2]["num_bytes"] = file.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"'target'.*list<item: list<item: double>>"):
        TrajectoryDataset(folder, "test")
