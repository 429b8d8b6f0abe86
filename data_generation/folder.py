"""The dataset's folder while it is made: what is done, what is left, and the manifest that says it is complete.

Below `.progress` lie the settings, and a record for every shard that is done; both are kept when a run is killed,
so that the same command continues. The manifest is written last: its presence means that nothing is missing."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_generation.plan import Shard
from data_generation.writer import hash_file, to_json, write_text
from hf_tsdyn.data.trajectories import FORMAT_VERSION


@dataclass(frozen=True)
class ShardRecord:
    """What is known of one finished shard."""

    file: str
    """Path below the dataset's folder."""
    split: str
    num_rows: int
    num_bytes: int
    sha256: str
    accepted: dict[str, int]
    """Rows by system."""
    rejected: list[dict[str, Any]]
    """`item_id`, `system`, `reason` and `checks` of every candidate that is not stored."""


class DatasetFolder:
    """A folder that holds, or will hold, the dataset of given settings.

    Args:
        settings: `config` and `versions`, as the manifest stores them; equal settings give equal bytes."""

    def __init__(self, path: str | Path, settings: dict[str, Any]):
        self.path = Path(path)
        self.progress = self.path / ".progress"
        self.settings = settings
        self._manifest_file = self.path / "manifest.json"
        self._settings_file = self.progress / "settings.json"

    def load_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the finished dataset, None where it is not finished.

        A manifest of which a shard is gone or cut short does not count, and is removed.

        Raises: ValueError, naming the differing settings, if the folder holds another dataset."""
        if not self._manifest_file.is_file():
            return None
        manifest = json.loads(self._manifest_file.read_text(encoding="utf-8"))
        self._check_settings(manifest)
        shards = [(self.path / shard["file"], shard["num_bytes"]) for shard in manifest["shards"]]
        if all(file.is_file() and file.stat().st_size == num_bytes for file, num_bytes in shards):
            shutil.rmtree(self.progress, ignore_errors=True)
            return manifest
        self._note_settings()
        self._manifest_file.unlink()
        return None

    def start(self) -> None:
        """Make the folder ready for shards.

        Raises: ValueError if it was begun with other settings, naming them, or holds something else."""
        if self._settings_file.is_file():
            self._check_settings(json.loads(self._settings_file.read_text(encoding="utf-8")))
        elif self.path.exists() and {entry.name for entry in self.path.iterdir()} - {self.progress.name}:
            raise ValueError(
                f"output must be a new folder or one that this command began, found other files in "
                f"{str(self.path)!r}; name another folder, or empty this one."
            )
        self._note_settings()
        (self.path / "data").mkdir(exist_ok=True)

    def save_record(self, shard: Shard, record: ShardRecord) -> None:
        """Note that a shard is done."""
        self.write(self.progress / f"{shard.name}.json", to_json(asdict(record)))

    def load_record(self, shard: Shard) -> ShardRecord | None:
        """Return the record of a shard, None where it is not done or its file is not what was written."""
        file = self.progress / f"{shard.name}.json"
        if not file.is_file():
            return None
        record = ShardRecord(**json.loads(file.read_text(encoding="utf-8")))
        data = self.path / record.file
        return record if data.is_file() and hash_file(data) == record.sha256 else None

    def load_records(self, shards: Sequence[Shard]) -> list[ShardRecord]:
        """Return the records of all shards.

        Raises: ValueError, naming the shards that were removed or changed since they were written."""
        records = {shard.name: self.load_record(shard) for shard in shards}
        lost = [name for name, record in records.items() if record is None]
        if lost:
            raise ValueError(
                f"every shard must stay as it was written, found {lost} gone or changed in {str(self.path)!r}; "
                "run the same command again to write them anew."
            )
        return [record for record in records.values() if record is not None]

    def write(self, file: Path, text: str) -> None:
        """Write a text file that is either whole or not there."""
        write_text(file, text, scratch_folder=self.progress)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, which makes the dataset complete, and drop the records."""
        self.write(self._manifest_file, to_json(manifest, indent=1) + "\n")
        shutil.rmtree(self.progress, ignore_errors=True)

    def _note_settings(self) -> None:
        self.progress.mkdir(parents=True, exist_ok=True)
        self.write(self._settings_file, to_json(self.settings))

    def _check_settings(self, found: dict[str, Any]) -> None:
        # Through JSON, as what was found went through it.
        wanted = _leaves(json.loads(to_json(self.settings)))
        present = _leaves({name: found.get(name) for name in self.settings})
        differing = sorted(key for key in wanted | present if wanted.get(key) != present.get(key))
        if differing:
            changes = "; ".join(f"{key}: {present.get(key)!r} there, {wanted.get(key)!r} now" for key in differing)
            raise ValueError(
                f"output must be a new folder or one made with the same settings, found a dataset with others in "
                f"{str(self.path)!r} ({changes}); name another folder, or remove that one."
            )


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def build_manifest(settings: dict[str, Any], records: Sequence[ShardRecord]) -> dict[str, Any]:
    """Return the manifest of a finished dataset; its fingerprint hashes the shards' hashes, in order."""
    systems: dict[str, dict[str, Any]] = {}
    for record in records:
        reasons = Counter((failure["system"], failure["reason"]) for failure in record.rejected)
        for name in record.accepted.keys() | {system for system, _ in reasons}:
            systems.setdefault(name, {"split": record.split, "accepted": 0, "rejected": Counter()})
            systems[name]["accepted"] += record.accepted.get(name, 0)
        for (name, reason), count in reasons.items():
            systems[name]["rejected"][reason] += count
    rejected = sum((entry["rejected"] for entry in systems.values()), Counter())
    accepted = sum(record.num_rows for record in records)
    hashes = "".join(record.sha256 for record in records)
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": hashlib.sha256(hashes.encode()).hexdigest(),
        **settings,
        "shards": [
            {name: getattr(record, name) for name in ("file", "split", "num_rows", "num_bytes", "sha256")}
            for record in records
        ],
        "counts": {"candidates": accepted + rejected.total(), "accepted": accepted, "rejected": dict(rejected)},
        "systems": {
            name: {**entry, "candidates": entry["accepted"] + entry["rejected"].total()}
            for name, entry in systems.items()
        },
    }
