"""Generation of a whole dataset: shards on as many workers as asked for, then card and manifest."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from tqdm import tqdm

from data_generation.config import GenerationConfig, data_settings
from data_generation.dataset_card import card_text
from data_generation.folder import DatasetFolder, ShardRecord, build_manifest
from data_generation.gallery import GALLERY_FILE, gallery_image
from data_generation.plan import Shard, plan_shards
from data_generation.repair import finished_manifest
from data_generation.streams import generate_rows
from data_generation.writer import to_json, write_shard
from hf_tsdyn.parallel import joblib_backend

# Packages whose code has a part in the bytes.
VERSIONED = ("dysts", "hf_tsdyn", "numba", "numpy", "pyarrow", "scipy")


@dataclass(frozen=True)
class Outcome:
    """What a run has left behind.

    Args:
        manifest: of the finished dataset; None where other runs of an array have shards left.
        was_complete: nothing was left to do.
        num_missing: shards that are not done."""

    manifest: dict[str, Any] | None
    was_complete: bool = False
    num_missing: int = 0


def generate_dataset(config: GenerationConfig, *, show_progress: bool = False) -> Outcome:
    """Generate the dataset that `config` describes, or what is missing of it.

    Shards that an interrupted run finished are kept. The files do not depend on workers, backend, restarts, or how
    many runs share the work; the one that finds all shards done writes card and manifest.

    Raises:
        ValueError: an unknown system, an output folder that holds something else, or no row accepted.
        OSError: the folder cannot be written."""
    shards = plan_shards(config)
    folder = DatasetFolder(config.output, dataset_settings(config))
    manifest = finished_manifest(folder, shards)
    if manifest is not None:
        return Outcome(manifest, was_complete=True)
    try:
        with joblib_backend(config.backend, jobs=config.jobs):
            folder.start()
            _generate_missing(config, _share(config, shards), folder, show_progress=show_progress)
        num_missing = sum(not folder.has_record(shard) for shard in shards)
        if config.shard and num_missing and not folder.manifest_file.is_file():
            return Outcome(None, num_missing=num_missing)
        return Outcome(_finish(folder, shards))
    except (FileNotFoundError, ValueError):
        # Another run may have finished the dataset, and dropped the records that this one was reading.
        manifest = finished_manifest(folder, shards) if folder.manifest_file.is_file() else None
        if manifest is None:
            raise
        return Outcome(manifest)


def dataset_settings(config: GenerationConfig) -> dict[str, Any]:
    """Return what decides the bytes: the settings of the data, and the versions of the packages behind them."""
    return {"config": data_settings(config), "versions": {name: version(name) for name in VERSIONED}}


def _share(config: GenerationConfig, shards: Sequence[Shard]) -> Sequence[Shard]:
    # Every n-th, so that the slow systems, which lie together, are spread over the runs.
    index, count = map(int, (config.shard or "0/1").split("/"))
    return shards[index::count]


def _finish(folder: DatasetFolder, shards: Sequence[Shard]) -> dict[str, Any]:
    records = folder.load_records(shards)
    manifest = build_manifest(folder.settings, records)
    if not manifest["counts"]["accepted"]:
        raise ValueError(
            f"a dataset must hold at least one trajectory, found {manifest['counts']}; "
            "loosen the validity thresholds or lower perturbation.parameter_scale."
        )
    rejected = [to_json(failure) + "\n" for record in records for failure in record.rejected]
    folder.write(folder.path / "rejected.jsonl", "".join(rejected))
    image = gallery_image([folder.path / record.file for record in records])
    if image is not None:
        folder.write(folder.path / GALLERY_FILE, image)
    folder.write(folder.path / "README.md", card_text(folder.path, manifest))
    folder.finish(manifest)
    return manifest


def _generate_missing(
    config: GenerationConfig, shards: Sequence[Shard], folder: DatasetFolder, *, show_progress: bool
) -> None:
    missing = [shard for shard in shards if folder.load_record(shard) is None]
    num_candidates = sum(len(shard.items) for shard in shards)
    num_missing = sum(len(shard.items) for shard in missing)
    tasks = [delayed(generate_shard)(config, shard, folder) for shard in missing]
    # Ray's pool hands over its results at the end alone.
    streams = cast(Any, get_active_backend()[0]).supports_return_generator
    parallel = Parallel(n_jobs=config.jobs, return_as="generator_unordered" if streams else "list")
    done = cast(Iterable[ShardRecord], parallel(tasks))
    reasons: Counter[str] = Counter()
    with tqdm(
        total=num_candidates,
        initial=num_candidates - num_missing,
        unit="trajectory",
        mininterval=0.2 if sys.stderr.isatty() else 30.0,
        disable=not show_progress,
    ) as bar:
        for record in done:
            reasons.update(failure["reason"] for failure in record.rejected)
            bar.set_postfix_str(_rejection_text(reasons), refresh=False)
            bar.update(record.num_rows + len(record.rejected))


def _rejection_text(reasons: Counter[str]) -> str:
    """Return the number of rejections and their commonest reasons, e.g. `rejected 12: limit_cycle 9, diverged 3`."""
    common = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common(2))
    return f"rejected {reasons.total()}" + (f": {common}" if common else "")


def generate_shard(config: GenerationConfig, shard: Shard, folder: DatasetFolder) -> ShardRecord:
    """Generate and write one shard and its record.

    A pure function of its arguments: whoever runs it, whenever, writes the same bytes."""
    accepted: dict[str, int] = {}
    rejected: list[dict[str, Any]] = []

    def batches() -> Iterator[list[dict[str, Any]]]:
        for system, items in shard.items_by_system():
            candidates = generate_rows(config, items)
            accepted[system] = len(candidates.rows)
            rejected.extend(candidates.rejected)
            yield candidates.rows

    file = Path("data") / f"{shard.name}.arrow"
    written = write_shard(folder.path / file, batches(), scratch_folder=folder.progress)
    record = ShardRecord(
        file=file.as_posix(),
        split=shard.split,
        **asdict(written),
        accepted=accepted,
        rejected=rejected,
    )
    folder.save_record(shard, record)
    return record
