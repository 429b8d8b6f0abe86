"""A finished dataset that was damaged: what is still whole becomes the start of the run that mends it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_generation.dataset_card import card_text
from data_generation.folder import DamagedManifest, DatasetFolder, ShardRecord, build_manifest
from data_generation.plan import Shard
from data_generation.writer import hash_file


def finished_manifest(folder: DatasetFolder, shards: Sequence[Shard]) -> dict[str, Any] | None:
    """Return the manifest of a dataset of which every byte is there, None where something is left to do.

    A manifest whose files are gone or changed, or that is itself cut short, is removed; whole shards are kept.

    Raises: ValueError on another dataset, or on a damaged manifest where nothing tells what the folder holds."""
    try:
        manifest = folder.load_manifest()
    except DamagedManifest as damage:
        if not folder.check_begun():
            _keep_described_shards(folder, shards, damage)
        folder.manifest_file.unlink(missing_ok=True)
        return None
    if manifest is None:
        return None
    if folder.holds_all_of(manifest):
        folder.drop_progress()
        return manifest
    intact = {entry["file"] for entry in manifest["shards"] if folder.is_intact(entry)}
    kept = [(shard, record) for shard, record in restore_records(folder, shards) if record.file in intact]
    _keep(folder, kept)
    folder.manifest_file.unlink(missing_ok=True)
    return None


def restore_records(folder: DatasetFolder, shards: Sequence[Shard]) -> Iterator[tuple[Shard, ShardRecord]]:
    """Yield the records of the shards whose rows and rejections together are their candidates."""
    rejected = _read_rejections(folder.path / "rejected.jsonl")
    for shard in shards:
        file = Path("data") / f"{shard.name}.arrow"
        item_ids, systems = _read_names(folder.path / file)
        planned = [item.item_id for item in shard.items]
        failures = [rejected[item_id] for item_id in planned if item_id in rejected]
        if sorted([*item_ids, *(failure["item_id"] for failure in failures)]) != sorted(planned):
            continue
        yield (
            shard,
            ShardRecord(
                file=file.as_posix(),
                split=shard.split,
                num_rows=len(item_ids),
                num_bytes=(folder.path / file).stat().st_size,
                sha256=hash_file(folder.path / file),
                accepted={name: systems.count(name) for name, _ in shard.items_by_system()},
                rejected=failures,
            ),
        )


def _keep_described_shards(folder: DatasetFolder, shards: Sequence[Shard], damage: DamagedManifest) -> None:
    """Keep all shards if the card, which names settings and fingerprint, is the one of these settings and bytes."""
    kept = list(restore_records(folder, shards))
    card = folder.path / "README.md"
    if len(kept) == len(shards) and card.is_file():
        manifest = build_manifest(folder.settings, [record for _, record in kept])
        if card.read_bytes() == card_text(folder.path, manifest).encode():
            return _keep(folder, kept)
    raise ValueError(
        f"{damage} Here that is not possible: README.md and the shards do not belong to these settings, so that "
        "nothing tells what the folder holds; give the settings it was made with, or remove it."
    )


def _keep(folder: DatasetFolder, kept: Sequence[tuple[Shard, ShardRecord]]) -> None:
    folder.note_settings()
    for shard, record in kept:
        folder.save_record(shard, record)


def _read_rejections(file: Path) -> dict[str, dict[str, Any]]:
    try:
        failures = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {failure["item_id"]: failure for failure in failures}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _read_names(file: Path) -> tuple[list[str], list[str]]:
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as reader:
            table = reader.read_all().select(["item_id", "system"])
            return table.column("item_id").to_pylist(), table.column("system").to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError):
        return [], []
