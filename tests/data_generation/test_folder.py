"""The folder of an unfinished dataset: what counts as done, and what is never touched."""

import json
from pathlib import Path

import pytest

from data_generation.folder import DamagedManifest, DatasetFolder, ShardRecord, build_manifest
from data_generation.plan import Shard
from data_generation.writer import hash_file

SETTINGS = {"config": {"seed": 1, "systems": ("Lorenz",)}, "versions": {"dysts": "0.96"}}
SHARD = Shard("test", 0, ())


def begin(path: Path, settings: dict = SETTINGS) -> DatasetFolder:
    folder = DatasetFolder(path, settings)
    folder.start()
    return folder


def finish_shard(folder: DatasetFolder, shard: Shard = SHARD, content: bytes = b"rows") -> ShardRecord:
    file = folder.path / "data" / f"{shard.name}.arrow"
    file.write_bytes(content)
    rejected = [{"item_id": "Lorenz-p001-i00", "system": "Lorenz", "reason": "diverged", "checks": {}}]
    record = ShardRecord(
        file=f"data/{shard.name}.arrow",
        split=shard.split,
        num_rows=2,
        num_bytes=len(content),
        sha256=hash_file(file),
        accepted={"Lorenz": 2},
        rejected=rejected,
    )
    folder.save_record(shard, record)
    return record


def test_a_record_survives_a_restart(tmp_path: Path):
    record = finish_shard(begin(tmp_path / "new"))
    assert begin(tmp_path / "new").load_records([SHARD]) == [record]


def test_a_record_counts_only_while_its_shard_is_unchanged(tmp_path: Path):
    folder = begin(tmp_path)
    assert folder.load_record(SHARD) is None
    record = finish_shard(folder)
    (folder.path / record.file).write_bytes(b"rowt")
    assert folder.load_record(SHARD) is None
    (folder.path / record.file).unlink()
    assert folder.load_record(SHARD) is None
    with pytest.raises(FileNotFoundError, match=r"found \['test-00000'\] gone or changed"):
        folder.load_records([SHARD])


def test_finishing_leaves_the_manifest_and_no_progress(tmp_path: Path):
    folder = begin(tmp_path)
    manifest = build_manifest(SETTINGS, [finish_shard(folder)])
    assert folder.load_manifest() is None
    folder.finish(manifest)
    assert folder.load_manifest() == json.loads(json.dumps(manifest))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "manifest.json"]


@pytest.mark.parametrize(
    "damage",
    [lambda file: file.unlink(), lambda file: file.write_bytes(b"ro"), lambda file: file.write_bytes(b"rowt")],
    ids=["gone", "cut", "changed"],
)
def test_a_manifest_without_its_shards_does_not_count(tmp_path: Path, damage):
    folder = begin(tmp_path)
    record = finish_shard(folder)
    manifest = build_manifest(SETTINGS, [record])
    folder.finish(manifest)
    (tmp_path / "README.md").touch()
    assert folder.holds_all_of(manifest)
    damage(tmp_path / record.file)
    assert not folder.holds_all_of(manifest)


@pytest.mark.parametrize("content", ['{"config": ', "[]", "{}", ""], ids=["cut", "a list", "no fields", "empty"])
def test_a_manifest_that_is_not_whole_is_named(tmp_path: Path, content: str):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DamagedManifest, match=r"manifest\.json must be a whole manifest.* run the generation command"):
        DatasetFolder(tmp_path, SETTINGS).load_manifest()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="output must be a folder, found a file at"):
        DatasetFolder(tmp_path / "file", SETTINGS).load_manifest()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "config": {"seed": 2, "systems": ("Lorenz",)}}, r"\(config\.seed: 1 there, 2 now\)"),
        ({**SETTINGS, "versions": {"dysts": "1.0"}}, r"\(versions\.dysts: '0\.96' there, '1\.0' now\)"),
        ({**SETTINGS, "config": {"systems": ("Lorenz",)}}, r"\(config\.seed: 1 there, None now\)"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, settings: dict, message: str):
    folder = begin(tmp_path)
    with pytest.raises(ValueError, match=message):
        begin(tmp_path, settings)
    folder.finish(build_manifest(SETTINGS, [finish_shard(folder)]))
    with pytest.raises(ValueError, match=message):
        DatasetFolder(tmp_path, settings).load_manifest()


def test_a_folder_with_other_files_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="found other files"):
        begin(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_manifest_counts_by_system_and_reason(tmp_path: Path):
    folder = begin(tmp_path)
    records = [finish_shard(folder, Shard("test", index, ())) for index in range(2)]
    manifest = build_manifest(SETTINGS, records)
    assert manifest["counts"] == {"candidates": 6, "accepted": 4, "rejected": {"diverged": 2}}
    assert manifest["systems"] == {
        "Lorenz": {"split": "test", "candidates": 6, "accepted": 4, "rejected": {"diverged": 2}}
    }
    assert [shard["file"] for shard in manifest["shards"]] == ["data/test-00000.arrow", "data/test-00001.arrow"]
    assert manifest["fingerprint"] != build_manifest(SETTINGS, records[:1])["fingerprint"]
