"""Generation end to end: the same bytes however it runs, nothing lost or overwritten, read by every reader."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import yaml
from datasets import Dataset, load_dataset

from data_generation import generate
from data_generation.__main__ import outcome_text, summary
from data_generation.config import CandidatesConfig, GenerationConfig, IntegrationConfig, SplitsConfig, ValidityConfig
from data_generation.config_loading import load_config
from data_generation.folder import DatasetFolder, ShardRecord
from data_generation.generate import generate_dataset, generate_shard
from data_generation.integration import integrate
from data_generation.plan import Shard, plan_shards
from data_generation.systems import load_system, observe
from hf_tsdyn.data.trajectories import TrajectoryDataset

ROOT = Path(__file__).parents[2]

# Rossler is driven out of its chaotic regime by some perturbations; the long transients give time to kill a run.
SETTINGS = {
    "seed": 5,
    "systems": ["Lorenz", "Rossler", "Chen", "SprottB", "DoubleGyre"],
    "splits": {
        "train": {"num_parameter_sets": 3},
        "validation": {"num_parameter_sets": 2},
        "test": {"num_parameter_sets": 3, "num_initial_conditions": 2},
    },
    "integration": {"num_points": 256, "num_periods": 10, "transient_periods": 300, "max_steps": 1_000_000},
    "rows_per_shard": 2,
    "jobs": 1,
}


def config_for(output: Path, *options: str) -> GenerationConfig:
    file = output.parent / f"{output.name}.yaml"
    file.write_text(yaml.safe_dump(SETTINGS))
    return load_config(["--config", str(file), "--output", str(output), *options], exit_on_error=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def loaded_rows(folder: Path, cache: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of every split, as `datasets.load_dataset` gives them."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for name, rows in load_dataset(str(folder), cache_dir=str(cache)).items():
        assert isinstance(rows, Dataset)
        splits[str(name)] = rows.to_list()
    return splits


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "dataset"
    generate_dataset(config_for(folder))
    return folder


@pytest.fixture(scope="module")
def manifest(dataset: Path) -> dict:
    return json.loads((dataset / "manifest.json").read_text())


def test_the_folder_holds_card_manifest_rejections_and_shards(dataset: Path, manifest: dict):
    shards = [f"data/{shard.name}.arrow" for shard in plan_shards(config_for(dataset))]
    assert sorted(files_of(dataset)) == sorted(
        ["README.md", "attractors.png", "manifest.json", "rejected.jsonl", *shards]
    )
    assert [shard["file"] for shard in manifest["shards"]] == shards


def test_counts_agree_with_the_files(dataset: Path, manifest: dict):
    counts, systems = manifest["counts"], manifest["systems"]
    rows = [len(TrajectoryDataset(dataset, split)) for split in ("train", "validation", "test")]
    rejected = [json.loads(line) for line in (dataset / "rejected.jsonl").read_text().splitlines()]
    assert counts["accepted"] == sum(rows) == sum(shard["num_rows"] for shard in manifest["shards"])
    assert counts["candidates"] == 3 * 2 + 2 + 3 * 2 * 2 == sum(rows) + len(rejected)
    assert rejected
    for reason, number in counts["rejected"].items():
        assert number == sum(entry["reason"] == reason for entry in rejected)
    for name, entry in systems.items():
        lost = [failure for failure in rejected if failure["system"] == name]
        assert entry["candidates"] == entry["accepted"] + len(lost)
        assert sum(entry["rejected"].values()) == len(lost)


def test_a_row_is_reproduced_by_its_own_columns(dataset: Path, tmp_path: Path):
    for row in chain.from_iterable(loaded_rows(dataset, tmp_path).values()):
        system = load_system(row["system"])
        values = json.loads(row["parameters"])
        parameters = np.concatenate([np.zeros(0), *(np.ravel(values[name]) for name in system.parameters)])
        settings = json.loads(row["generation"])
        result = integrate(
            system.vector_field,
            np.array(row["initial_condition"]),
            parameters,
            start_time=settings["start_time"],
            dt=row["dt"],
            num_points=settings["num_points"],
            rtol=settings["rtol"],
            atol=settings["atol"],
            unbounded=system.unbounded,
        )
        expected = observe(system, result.states[0], parameters).T.astype(np.float32)
        np.testing.assert_array_equal(np.array(row["target"], dtype=np.float32), expected)
        assert row["item_id"].startswith(row["system"])
        assert json.loads(row["seed"])["entropy"] == SETTINGS["seed"]
        assert json.loads(row["checks"])["finite_share"] == 1.0


def test_parameters_are_the_defaults_at_index_zero_alone(dataset: Path):
    for trajectory in TrajectoryDataset(dataset, "test"):
        is_default = "-p000-" in trajectory.item_id
        assert (trajectory.parameters == load_system(trajectory.system).parameters) == is_default


def test_splits_hold_different_systems(dataset: Path):
    systems = [set(TrajectoryDataset(dataset, split).systems) for split in ("train", "validation", "test")]
    assert systems == [{"SprottB", "DoubleGyre"}, {"Chen"}, {"Lorenz", "Rossler"}]


def test_load_dataset_reads_the_folder(dataset: Path, manifest: dict, tmp_path: Path):
    loaded = loaded_rows(dataset, tmp_path)
    assert sum(len(rows) for rows in loaded.values()) == manifest["counts"]["accepted"]
    for split, rows in loaded.items():
        for row, trajectory in zip(rows, TrajectoryDataset(dataset, split), strict=True):
            assert row["item_id"] == trajectory.item_id
            np.testing.assert_array_equal(np.array(row["target"], np.float32), trajectory.values)


@pytest.mark.filterwarnings("ignore:Using `json`-module")
def test_gluonts_reads_the_folder(dataset: Path, manifest: dict):
    from gluonts.dataset.common import FileDataset

    entries = list(FileDataset(dataset / "data", freq="s", one_dim_target=False))
    assert len(entries) == manifest["counts"]["accepted"]
    ours = {t.item_id: t.values for split in ("train", "validation", "test") for t in TrajectoryDataset(dataset, split)}
    for entry in entries:
        np.testing.assert_array_equal(entry["target"], ours[entry["item_id"]])


def test_a_killed_run_continues_to_the_same_bytes(dataset: Path, tmp_path: Path):
    config = config_for(tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "data_generation", "--config", f"{config.output}.yaml", "--output", config.output],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    progress = Path(config.output) / ".progress"
    deadline = time.monotonic() + 120
    while len(list(progress.glob("t*-*.json"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (Path(config.output) / "manifest.json").exists()
    assert 2 <= len(list(progress.glob("t*-*.json"))) < len(plan_shards(config))
    with joblib.parallel_config(backend="threading"):
        generate_dataset(replace(config, jobs=2))
    assert files_of(Path(config.output)) == files_of(dataset)


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(dataset: Path, tmp_path: Path):
    config = config_for(tmp_path / "workers", "--jobs", "2", "--backend", "loky")
    generate_dataset(config)
    assert files_of(Path(config.output)) == files_of(dataset)


def test_finished_shards_are_kept_and_damaged_ones_written_again(dataset: Path, tmp_path: Path):
    config = config_for(tmp_path / "other")
    generate_dataset(config)
    folder = Path(config.output)
    damaged, kept = folder / "data" / "train-00000.arrow", folder / "data" / "train-00001.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(ValueError, match="half-written"):
        TrajectoryDataset(folder, "train")
    generate_dataset(config)
    assert files_of(folder) == files_of(dataset)
    times = [file.stat().st_mtime_ns for file in (damaged, kept)]
    assert generate_dataset(config).was_complete
    assert times == [file.stat().st_mtime_ns for file in (damaged, kept)]


def damage_shard(folder: Path) -> None:
    file = folder / "data" / "train-00001.arrow"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def cut_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "num_made"),
    [
        (damage_shard, 1),
        (cut_manifest, 0),
        (lambda folder: (folder / "README.md").unlink(), 0),
    ],
    ids=["one bit", "manifest", "card"],
)
def test_a_damaged_dataset_is_mended_from_what_is_whole(
    dataset: Path, tmp_path: Path, damage: Callable[[Path], None], num_made: int, monkeypatch: pytest.MonkeyPatch
):
    config = config_for(tmp_path / "copy")
    folder = Path(config.output)
    shutil.copytree(dataset, folder)
    damage(folder)
    made = record_made_shards(monkeypatch)
    assert not generate_dataset(config).was_complete
    assert len(made) == num_made
    assert files_of(folder) == files_of(dataset)


def test_without_its_rejections_a_shard_is_made_again(
    dataset: Path, manifest: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = config_for(tmp_path / "copy")
    folder = Path(config.output)
    shutil.copytree(dataset, folder)
    damage_shard(folder)
    (folder / "rejected.jsonl").unlink()
    made = record_made_shards(monkeypatch)
    generate_dataset(config)
    num_rows = {Path(entry["file"]).stem: entry["num_rows"] for entry in manifest["shards"]}
    incomplete = {shard.name for shard in plan_shards(config) if num_rows[shard.name] < len(shard.items)}
    assert set(made) == incomplete | {"train-00001"}
    assert files_of(folder) == files_of(dataset)


def record_made_shards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def recorded(config: GenerationConfig, shard: Shard, folder: DatasetFolder) -> ShardRecord:
        made.append(shard.name)
        return generate_shard(config, shard, folder)

    monkeypatch.setattr(generate, "generate_shard", recorded)
    return made


@pytest.mark.parametrize("option", ["--seed", "--perturbation.parameter_scale"])
def test_a_cut_manifest_never_lets_other_settings_in(dataset: Path, tmp_path: Path, option: str):
    folder = tmp_path / "copy"
    shutil.copytree(dataset, folder)
    cut_manifest(folder)
    before = files_of(folder)
    with pytest.raises(ValueError, match=r"manifest\.json must be .* do not belong to these settings"):
        generate_dataset(config_for(folder, option, "7"))
    assert files_of(folder) == before


def test_shares_of_an_array_add_up_to_the_same_bytes(dataset: Path, tmp_path: Path):
    config = config_for(tmp_path / "array")
    num_shards = len(plan_shards(config))
    for index in (2, 0):
        outcome = generate_dataset(replace(config, shard=f"{index}/3"))
        assert outcome.manifest is None
        num_shards -= len(plan_shards(config)[index::3])
        assert outcome.num_missing == num_shards
        assert "the command without --shard" in outcome_text(outcome, replace(config, shard=f"{index}/3"))
    assert generate_dataset(replace(config, shard="1/3")).manifest is not None
    assert files_of(Path(config.output)) == files_of(dataset)
    assert generate_dataset(replace(config, shard="0/3")).was_complete


def test_runs_that_share_a_folder_do_not_disturb_one_another(dataset: Path, tmp_path: Path):
    config = config_for(tmp_path / "shared")
    configs = [replace(config, shard=f"{index}/2") for index in range(2)] + [config, config]
    with ThreadPoolExecutor(len(configs)) as pool:
        outcomes = list(pool.map(generate_dataset, configs))
    assert all(outcome.manifest is not None for outcome in outcomes[2:])
    generate_dataset(config)
    assert files_of(Path(config.output)) == files_of(dataset)


@pytest.mark.parametrize("shard", [None, "0/1"])
def test_a_run_that_is_overtaken_reports_the_finished_dataset(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str | None
):
    config = config_for(tmp_path / "overtaken")

    def overtaken(*arguments: Any, **options: Any) -> None:
        monkeypatch.undo()
        generate_dataset(config)

    monkeypatch.setattr(generate, "_generate_missing", overtaken)
    assert generate_dataset(replace(config, shard=shard)).manifest is not None
    assert files_of(Path(config.output)) == files_of(dataset)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_two_workers_of_a_cluster_give_the_same_bytes(dataset: Path, tmp_path: Path, backend: str, package: str):
    # A process of its own: these packages warn, and leave threads behind.
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'hf_tsdyn[cluster]'")
    config = config_for(tmp_path / backend)
    command = ["--config", f"{config.output}.yaml", "--output", config.output, "--backend", backend, "--jobs", "2"]
    subprocess.run([sys.executable, "-m", "data_generation", *command], cwd=ROOT, check=True, timeout=300)
    assert files_of(Path(config.output)) == files_of(dataset)


@pytest.mark.parametrize(("backend", "module"), [("dask", "dask.distributed"), ("ray", "ray")])
def test_a_missing_cluster_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, module: str):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf_tsdyn\[cluster\]'"):
        generate_dataset(config_for(tmp_path / "new", "--backend", backend))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["--seed", "--integration.num_points"])
def test_another_dataset_is_never_overwritten(dataset: Path, option: str):
    before = files_of(dataset)
    name = f"config.{option[2:]}"
    with pytest.raises(ValueError, match=rf"{name}: \d+ there, 99 now"):
        generate_dataset(config_for(dataset, option, "99"))
    assert files_of(dataset) == before


def test_an_unknown_system_or_backend_stops_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="Lorenz"):
        generate_dataset(config_for(tmp_path / "new", "--systems", "[Lorens]"))
    with pytest.raises(ValueError, match="nosuch"):
        generate_dataset(config_for(tmp_path / "new", "--backend", "nosuch"))
    assert not (tmp_path / "new").exists()


def test_a_shard_or_a_split_without_rows_does_not_break_readers(tmp_path: Path):
    # Only Lorenz keeps its extremes below three standard deviations.
    config = replace(
        config_for(tmp_path / "sparse", "--systems", "[Rossler, Lorenz, DequanLi]", "--validity.max_z", "3"),
        integration=IntegrationConfig(num_points=256, num_periods=10),
        splits=SplitsConfig(CandidatesConfig(0), CandidatesConfig(1), CandidatesConfig(1)),
        rows_per_shard=1,
    )
    manifest = generate_dataset(config).manifest
    assert manifest is not None
    num_rows = {shard["file"]: shard["num_rows"] for shard in manifest["shards"]}
    assert num_rows == {"data/validation-00000.arrow": 0, "data/test-00000.arrow": 1, "data/test-00001.arrow": 0}
    assert {split: len(rows) for split, rows in loaded_rows(Path(config.output), tmp_path / "cache").items()} == {
        "test": 1
    }
    assert len(TrajectoryDataset(config.output, "test")) == 1


def test_nothing_accepted_is_an_error(tmp_path: Path):
    config = replace(
        config_for(tmp_path / "none", "--systems", "[Lorenz]"),
        validity=ValidityConfig(max_z=0.0),
        integration=IntegrationConfig(num_points=128, num_periods=10),
    )
    with pytest.raises(ValueError, match=r"at least one trajectory, found .*'outlier': 6"):
        generate_dataset(config)


def test_the_card_names_the_data_files_and_regenerates_the_dataset(dataset: Path, manifest: dict):
    card = (dataset / "README.md").read_text()
    front_matter = yaml.safe_load(card.split("---\n")[1])
    assert front_matter["license"] == "apache-2.0"
    assert front_matter["configs"][0]["data_files"] == [
        {"split": split, "path": f"data/{split}-*.arrow"} for split in ("train", "validation", "test")
    ]
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert settings == manifest["config"]
    assert f"{manifest['counts']['accepted']} of {manifest['counts']['candidates']} candidates" in card


def test_the_summary_names_reasons_and_places(manifest: dict):
    text = summary(manifest, "some/folder")
    assert "some/folder/manifest.json" in text
    for reason, number in manifest["counts"]["rejected"].items():
        assert any(line.split()[:2] == [reason, str(number)] for line in text.splitlines())
