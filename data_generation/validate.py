"""Check a finished dataset against its manifest, and its rows against the equations.

    python -m data_generation.validate DIR
    python -m data_generation.validate DIR --rows 100

The exit status is 0 if every check passed, 1 if one failed."""

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_generation.config import SPLITS, GenerationConfig
from data_generation.config_loading import config_from_settings
from data_generation.generate import dataset_settings
from data_generation.plan import PlanItem, plan_shards
from data_generation.streams import generate_rows
from data_generation.systems import TEST_SYSTEMS, VALIDATION_SYSTEMS
from data_generation.writer import hash_file
from hf_tsdyn.data.trajectories import FEATURES, load_manifest

# Between the two parents of a skew product.
ARROW = "->"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        failures: what is wrong, one line each; empty where the check passed.
        note: what was checked."""

    name: str
    failures: list[str]
    note: str


class StoredDataset:
    """The files of a dataset as they are, whatever is wrong with them."""

    def __init__(self, path: Path):
        self.path = path
        self.manifest = load_manifest(path)

    @cached_property
    def tables(self) -> dict[str, pa.Table]:
        """The readable shards, by file."""
        tables = {}
        for entry in self.manifest["shards"]:
            try:
                with pa.ipc.open_stream(pa.memory_map(str(self.path / entry["file"]))) as reader:
                    tables[entry["file"]] = reader.read_all()
            except (OSError, pa.ArrowInvalid):
                continue
        return tables

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield the split of the file, and split, system and item_id of each row whose file has these columns."""
        for entry in self.manifest["shards"]:
            table = self.tables.get(entry["file"])
            if table is not None and {"split", "system", "item_id"} <= set(table.column_names):
                columns = (table.column(name).to_pylist() for name in ("split", "system", "item_id"))
                for split, system, item_id in zip(*columns, strict=True):
                    yield entry["split"], split, system, item_id


def check_hashes(dataset: StoredDataset) -> Finding:
    """Every file has the size and hash of its manifest, the fingerprint is theirs, and no other file lies there."""
    failures = []
    shards = dataset.manifest["shards"]
    for entry in shards:
        file = dataset.path / entry["file"]
        if not file.is_file():
            failures.append(f"{entry['file']} is gone")
        elif file.stat().st_size != entry["num_bytes"]:
            failures.append(f"{entry['file']} has {file.stat().st_size} bytes, recorded are {entry['num_bytes']}")
        elif hash_file(file) != entry["sha256"]:
            failures.append(f"{entry['file']} has other bytes than recorded")
    fingerprint = hashlib.sha256("".join(entry["sha256"] for entry in shards).encode()).hexdigest()
    if fingerprint != dataset.manifest["fingerprint"]:
        failures.append(f"the fingerprint {dataset.manifest['fingerprint']!r} is not that of the recorded hashes")
    known = {entry["file"] for entry in shards}
    found = {f"data/{file.name}" for file in (dataset.path / "data").glob("*")}
    failures += [f"{name} is not in the manifest" for name in sorted(found - known)]
    return Finding("hashes", failures, f"{len(shards)} files, fingerprint {fingerprint[:16]}")


def check_schema(dataset: StoredDataset) -> Finding:
    """Every file can be read and has the columns of the dataset."""
    failures = []
    for entry in dataset.manifest["shards"]:
        table = dataset.tables.get(entry["file"])
        if table is None:
            failures.append(f"{entry['file']} cannot be read as an Arrow stream")
        elif not table.schema.equals(FEATURES.arrow_schema, check_metadata=True):
            failures.append(f"{entry['file']} has the columns {table.schema.names}, or others of their types differ")
    return Finding("schema", failures, f"{len(FEATURES)} columns")


def check_counts(dataset: StoredDataset) -> Finding:
    """Files hold as many rows as recorded, of the recorded split, each row under a name of its own."""
    failures = []
    for entry in dataset.manifest["shards"]:
        table = dataset.tables.get(entry["file"])
        if table is not None and table.num_rows != entry["num_rows"]:
            failures.append(f"{entry['file']} holds {table.num_rows} rows, recorded are {entry['num_rows']}")
    rows = list(dataset.rows())
    recorded = dataset.manifest.get("counts", {}).get("accepted", len(rows))
    if recorded != len(rows):
        failures.append(f"the dataset holds {len(rows)} rows, recorded are {recorded}")
    failures += [f"{item_id} says {said!r} in a file of {split!r}" for split, said, _, item_id in rows if said != split]
    repeated = [name for name, count in Counter(item_id for *_, item_id in rows).items() if count > 1]
    failures += [f"{name} is there more than once" for name in repeated]
    numbers = Counter(split for split, *_ in rows)
    return Finding("counts", failures, ", ".join(f"{split} {numbers[split]}" for split in SPLITS) + " rows")


def check_held_out(dataset: StoredDataset) -> Finding:
    """No split holds a system, or a skew product with a parent, that is held out for a later one."""
    held_out = {"train": {*VALIDATION_SYSTEMS, *TEST_SYSTEMS}, "validation": set(TEST_SYSTEMS)}
    failures = []
    splits_of: dict[str, set[str]] = {}
    for split, _, system, item_id in dataset.rows():
        splits_of.setdefault(system, set()).add(split)
        leaked = sorted(set(system.split(ARROW)) & held_out.get(split, set()))
        if leaked:
            failures.append(f"{item_id} in {split} comes from {', '.join(leaked)}, which is held out")
    failures += [f"{name} is in {sorted(splits)}" for name, splits in sorted(splits_of.items()) if len(splits) > 1]
    return Finding("held out", failures, f"{len(splits_of)} systems")


def check_reproduction(dataset: StoredDataset, *, num_rows: int) -> Finding:
    """Rows spread over the dataset, integrated again from its settings, have the same bits."""
    try:
        config = config_from_settings(dataset.manifest["config"], output=str(dataset.path))
    except ValueError as error:
        return Finding("reproduction", [str(error)], "no row integrated again")
    items = {item.item_id: item for shard in plan_shards(config) for item in shard.items}
    tables = {file: table for file, table in dataset.tables.items() if table.schema.equals(FEATURES.arrow_schema)}
    places = [(file, row) for file, table in tables.items() for row in range(table.num_rows)]
    indices = np.unique(np.linspace(0, len(places) - 1, min(num_rows, len(places))).astype(int))
    failures = []
    for file, row in (places[index] for index in indices):
        stored = tables[file].slice(row, 1).to_pylist()[0]
        difference = _difference(stored, config, items.get(stored["item_id"]))
        failures += [f"{stored['item_id']} in {file}: {difference}"] if difference else []
    versions = dataset_settings(config)["versions"]
    recorded = dataset.manifest.get("versions")
    if failures and recorded != versions:
        failures.append(f"made with {recorded}, found {versions}: with others, bits may differ")
    elif failures:
        failures.append("on another type of processor the last bits may differ, and chaos makes them grow")
    return Finding("reproduction", failures, f"{len(indices)} rows integrated again")


def _difference(stored: dict[str, Any], config: GenerationConfig, item: PlanItem | None) -> str | None:
    if item is None:
        return "not in the plan of the recorded settings"
    rows = generate_rows(config, [item]).rows
    if not rows:
        return "rejected when made again"
    values, again = np.array(stored["target"], dtype=np.float32), rows[0]["target"]
    if values.shape != again.shape:
        return f"shape {values.shape}, made again {again.shape}"
    differing = np.flatnonzero((values.view(np.uint32) != again.view(np.uint32)).any(axis=0))
    if differing.size:
        return f"other bits in {differing.size} of {values.shape[1]} points, the first at {differing[0]}"
    names = ("system", "dt", "period", "lyapunov_time", "parameters", "seed", "checks", "generation")
    columns = [name for name in names if stored[name] != rows[0][name]]
    if not np.array_equal(stored["initial_condition"], rows[0]["initial_condition"]):
        columns.append("initial_condition")
    return f"other values in {columns}" if columns else None


def validate_dataset(path: str | Path, *, num_rows: int = 8) -> list[Finding]:
    """Run all checks, even after a failure.

    Args:
        num_rows: rows to integrate again; 0 leaves that check out.
    Raises: FileNotFoundError without a folder or a manifest; ValueError on a manifest that is not whole."""
    dataset = StoredDataset(Path(path))
    checks: list[Callable[[StoredDataset], Finding]] = [check_hashes, check_schema, check_counts, check_held_out]
    findings = [check(dataset) for check in checks]
    if num_rows and "config" in dataset.manifest:
        findings.append(check_reproduction(dataset, num_rows=num_rows))
    return findings


def report(findings: list[Finding], *, max_failures: int = 5) -> str:
    """Return a line per check, and the first failures of each."""
    lines = []
    for finding in findings:
        lines.append(f"{'FAILED' if finding.failures else 'ok':<8}{finding.name:<14}{finding.note}")
        lines += [f"        {failure}" for failure in finding.failures[:max_failures]]
        if len(finding.failures) > max_failures:
            lines.append(f"        and {len(finding.failures) - max_failures} more")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the report of one folder and exit with 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m data_generation.validate", description="Check a dataset.")
    parser.add_argument("path", metavar="DIR", help="a folder written by python -m data_generation")
    parser.add_argument("--rows", type=int, default=8, help="rows to integrate again (default 8; 0 = none)")
    options = parser.parse_args(arguments)
    try:
        findings = validate_dataset(options.path, num_rows=options.rows)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(report(findings))
    sys.exit(any(finding.failures for finding in findings))


if __name__ == "__main__":
    main()
