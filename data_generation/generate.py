"""Generation of a whole dataset: shards on as many workers as asked for, then card and manifest."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from data_generation.candidates import generate_candidates
from data_generation.config import GenerationConfig, data_settings
from data_generation.dataset_card import render_card
from data_generation.folder import DatasetFolder, ShardRecord, build_manifest
from data_generation.plan import Shard, plan_shards
from data_generation.writer import to_json, write_shard

# Packages whose code has a part in the bytes.
VERSIONED = ("dysts", "hf_tsdyn", "numba", "numpy", "pyarrow", "scipy")


def generate_dataset(config: GenerationConfig, *, show_progress: bool = False) -> tuple[dict[str, Any], bool]:
    """Generate the dataset that `config` describes, or what is missing of it.

    Shards that an interrupted run finished are kept. The files do not depend on workers, backend or restarts.

    Returns: the manifest, and whether the dataset was complete already, in which case nothing was done.
    Raises: ValueError on an unknown system, an output folder that holds something else, or no row accepted."""
    shards = plan_shards(config)
    settings = {"config": data_settings(config), "versions": {name: version(name) for name in VERSIONED}}
    folder = DatasetFolder(config.output, settings)
    manifest = folder.load_manifest()
    if manifest is not None:
        return manifest, True
    with parallel_config(backend=config.backend) if config.backend else nullcontext():
        folder.start()
        _generate_missing(config, shards, folder, show_progress=show_progress)
    records = folder.load_records(shards)
    manifest = build_manifest(settings, records)
    if not manifest["counts"]["accepted"]:
        raise ValueError(
            f"a dataset must hold at least one trajectory, found {manifest['counts']}; "
            "loosen the validity thresholds or lower perturbation.parameter_scale."
        )
    rejected = [to_json(failure) + "\n" for record in records for failure in record.rejected]
    folder.write(folder.path / "rejected.jsonl", "".join(rejected))
    folder.write(folder.path / "README.md", render_card(manifest))
    folder.finish(manifest)
    return manifest, False


def _generate_missing(
    config: GenerationConfig, shards: Sequence[Shard], folder: DatasetFolder, *, show_progress: bool
) -> None:
    missing = [shard for shard in shards if folder.load_record(shard) is None]
    num_candidates = sum(len(shard.items) for shard in shards)
    num_missing = sum(len(shard.items) for shard in missing)
    tasks = [delayed(generate_shard)(config, shard, folder) for shard in missing]
    done = cast(Iterator[int], Parallel(n_jobs=config.jobs, return_as="generator_unordered")(tasks))
    with tqdm(
        total=num_candidates,
        initial=num_candidates - num_missing,
        unit="trajectory",
        disable=not show_progress,
    ) as bar:
        for num_done in done:
            bar.update(num_done)


def generate_shard(config: GenerationConfig, shard: Shard, folder: DatasetFolder) -> int:
    """Generate and write one shard and its record, and return the number of its candidates.

    A pure function of its arguments: whoever runs it, whenever, writes the same bytes."""
    accepted: dict[str, int] = {}
    rejected: list[dict[str, Any]] = []

    def batches() -> Iterator[list[dict[str, Any]]]:
        for system, items in shard.items_by_system():
            candidates = generate_candidates(config, items)
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
    return len(shard.items)
