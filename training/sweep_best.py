"""The checkpoint of a cell: the model of the seed that was chosen, how it came about, what a reload must repeat."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from hf_tsdyn.models.alrnn import ALRNNForPrediction
from hf_tsdyn.provenance import git_revision, hardware_class, package_versions
from hf_tsdyn.results import write_atomically
from training.probe import PROBE_FILE
from training.run_config import CONFIG_FILE
from training.run_summary import SUMMARY_FILE
from training.sweep_config import Cell
from training.sweep_data import SweepSeries
from training.sweep_folder import BEST, Member, SweepFolder, load_model, to_json
from training.sweep_table import choose_best

FILES = ("config.json", "model.safetensors", CONFIG_FILE, PROBE_FILE, SUMMARY_FILE)


def write_best(
    cell: Cell, record: dict[str, Any], series: SweepSeries, seeds: Sequence[int], folder: SweepFolder
) -> None:
    """Write what is missing of the checkpoint of a cell whose seeds are all done, unless every seed failed.

    Of one that is there the settings are those of the last launch: it may forbid to ship weights, or find series moved.
    """
    target = folder.path / cell.name / BEST
    members = folder.load_members(cell.name, seeds)
    best = choose_best(members)
    if best is None:
        return
    settings = yaml.safe_dump(cell_settings(cell, record, best.seed), sort_keys=False).encode()
    if all((target / name).is_file() for name in FILES):
        if (target / CONFIG_FILE).read_bytes() != settings:
            write_atomically(target / CONFIG_FILE, settings)
        return
    source = folder.of_seed(cell.name, best.seed)
    model = load_model(source)
    with folder.complete_folder(target) as scratch:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(source / name, scratch / name)
        write_atomically(scratch / CONFIG_FILE, settings)
        _save_probe(model, series, scratch / PROBE_FILE)
        write_atomically(scratch / SUMMARY_FILE, to_json(_summary(model, best, members, series)))


def cell_settings(cell: Cell, record: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the settings of one model, as plain values."""
    sections = {name: record[name] for name in ("data", "dataset", "evaluation")}
    model = {"model_type": cell.model.model_type, "num_channels": cell.model.num_channels} | record.get("model", {})
    for dotted, value in cell.values.items():
        section, _, name = dotted.partition(".")
        if section == "model":
            model[name] = value
    fit = {name: value for name, value in asdict(cell.fit).items() if name != "invariants"}
    return {"name": record["name"], "cell": cell.name, "seed": seed, "model": model, "fit": fit, **sections}


def _save_probe(model: ALRNNForPrediction, series: SweepSeries, file: Path) -> None:
    """Save a forecast from the first steps of the series, two and a half windows long."""
    steps = torch.from_numpy(series.train[: model.config.warmup_length])
    past_values = steps.to(torch.float32)[None].contiguous()
    forecast = model.forecast(past_values, prediction_length=model.config.prediction_length * 5 // 2)
    save_file({"past_values": past_values, "forecast": forecast.contiguous()}, file)


def _summary(model: ALRNNForPrediction, best: Member, members: Sequence[Member], series: SweepSeries) -> dict[str, Any]:
    return {
        "model_type": model.config.model_type,
        "num_parameters": model.num_parameters(),
        "seed": best.seed,
        "seeds": [member.seed for member in members],
        "best_epoch": best.best_epoch,
        "best_validation_divergence": best.best_divergence,
        "cpu_seconds": best.cpu_seconds,
        "cpu_seconds_of_all_seeds": round(sum(member.cpu_seconds for member in members), 2),
        "dataset_fingerprint": series.fingerprint,
        "hardware": hardware_class(model.device),
        "versions": package_versions(),
        "git_revision": git_revision(),
    }
