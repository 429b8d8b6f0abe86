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
from data_generation.writer import hash_file, remove_abandoned, to_json, write_bytes
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


class DamagedManifest(ValueError):
    """A manifest that was cut short or changed."""

    def __init__(self, file: Path, error: Exception):
        super().__init__(
            f"{file} must be a whole manifest, found one that cannot be read ({type(error).__name__}: {error}); "
            "copy it again, or run the generation command again, which writes it anew."
        )


class DatasetFolder:
    """A folder that holds, or will hold, the dataset of given settings.

    Args:
        settings: `config` and `versions`, as the manifest stores them; equal settings give equal bytes."""

    def __init__(self, path: str | Path, settings: dict[str, Any]):
        self.path = Path(path)
        self.progress = self.path / ".progress"
        self.settings = settings
        self.manifest_file = self.path / "manifest.json"
        self._settings_file = self.progress / "settings.json"

    def load_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of the dataset, None where there is none.

        Raises:
            DamagedManifest: the file is not whole.
            ValueError: the folder holds another dataset, with the settings that differ, or is a file."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output must be a folder, found a file at {str(self.path)!r}; name another place.")
        if not self.manifest_file.is_file():
            return None
        try:
            manifest = json.loads(self.manifest_file.read_text(encoding="utf-8"))
            parts = [manifest[name] for name in ("config", "versions", "shards", "counts", "systems", "fingerprint")]
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedManifest(self.manifest_file, error) from error
        self._check_settings(dict(zip(("config", "versions"), parts, strict=False)))
        return manifest

    def holds_all_of(self, manifest: dict[str, Any]) -> bool:
        """Return whether the card is there, and every shard with the bytes that the manifest records."""
        return (self.path / "README.md").is_file() and all(self.is_intact(entry) for entry in manifest["shards"])

    def is_intact(self, entry: dict[str, Any]) -> bool:
        """Return whether a shard has the size and the hash of its entry in a manifest."""
        file = self.path / entry["file"]
        return file.is_file() and file.stat().st_size == entry["num_bytes"] and hash_file(file) == entry["sha256"]

    def start(self) -> None:
        """Make the folder ready for shards; several runs may do so at once.

        Raises: ValueError if it was begun with other settings, naming them, or holds something else."""
        found = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        # In this order: another run writes its settings before anything else.
        if not self.check_begun() and found - {self.progress.name}:
            raise ValueError(
                f"output must be a new folder or one that this command began, found other files in "
                f"{str(self.path)!r}; name another folder, or empty this one."
            )
        remove_abandoned(self.progress)
        self.note_settings()
        (self.path / "data").mkdir(exist_ok=True)

    def check_begun(self) -> bool:
        """Return whether a run of the same settings began the folder; ValueError if they were others."""
        if not self._settings_file.is_file():
            return False
        self._check_settings(json.loads(self._settings_file.read_text(encoding="utf-8")))
        return True

    def note_settings(self) -> None:
        """Write down the settings of the dataset that is begun here."""
        self.progress.mkdir(parents=True, exist_ok=True)
        self.write(self._settings_file, to_json(self.settings))

    def has_record(self, shard: Shard) -> bool:
        """Return whether a shard was noted as done, without reading it."""
        return (self.progress / f"{shard.name}.json").is_file()

    def save_record(self, shard: Shard, record: ShardRecord) -> None:
        """Note that a shard is done."""
        self.write(self.progress / f"{shard.name}.json", to_json(asdict(record)))

    def load_record(self, shard: Shard) -> ShardRecord | None:
        """Return the record of a shard, None where it is not done or its file is not what was written."""
        file = self.progress / f"{shard.name}.json"
        if not file.is_file():
            return None
        record = ShardRecord(**json.loads(file.read_text(encoding="utf-8")))
        return record if self.is_intact(asdict(record)) else None

    def load_records(self, shards: Sequence[Shard]) -> list[ShardRecord]:
        """Return the records of all shards.

        Raises: FileNotFoundError, naming the shards that were removed or changed since they were written."""
        records = {shard.name: self.load_record(shard) for shard in shards}
        lost = [name for name, record in records.items() if record is None]
        if lost:
            raise FileNotFoundError(
                f"every shard must stay as it was written, found {lost} gone or changed in {str(self.path)!r}; "
                "run the same command again, without --shard, to write them anew."
            )
        return [record for record in records.values() if record is not None]

    def write(self, file: Path, content: str | bytes) -> None:
        """Write a small file that is either whole or not there; text as UTF-8."""
        content = content.encode() if isinstance(content, str) else content
        write_bytes(file, content, scratch_folder=self.progress)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, which makes the dataset complete, and drop the records."""
        self.write(self.manifest_file, to_json(manifest, indent=1) + "\n")
        self.drop_progress()

    def drop_progress(self) -> None:
        """Remove what only an unfinished dataset needs."""
        shutil.rmtree(self.progress, ignore_errors=True)

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
