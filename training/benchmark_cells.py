"""The cells of a benchmark: a model's scores on a system under every condition, written once."""

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_tsdyn.data.held_out_windows import HeldOutWindow
from hf_tsdyn.evaluation import EvaluationProtocol, score_truth, score_windows
from hf_tsdyn.results import write_atomically
from hf_tsdyn.scoring import Scores
from training.benchmark_config import FLOOR, BenchmarkConfig
from training.benchmark_models import Guarded, build_model, deciding_of
from training.benchmark_systems import BenchmarkSystem, open_system, system_names
from training.cell_runs import at_work, failure_of
from training.run_config import flatten

SETTINGS_FILE, SCORES_FILE, CELL_FILE = "settings.json", "scores.npz", "cell.json"
ROLLOUT_FILE = "rollout.npy"
"""The forecast of a system's first window, (time, channels), where attractor statistics are scored."""
OF_SUMMARIES = ("num_resamples", "confidence")
"""Fields of a protocol that decide nothing in a cell."""


@dataclass(frozen=True)
class BenchmarkCell:
    """A model on a system; `folder` has a folder of every condition."""

    model: str
    system: str
    folder: Path

    @property
    def name(self) -> str:
        """Model and system; the folder's name below the benchmark's cells."""
        return f"{self.model}/{self.folder.name}"


def build_cells(config: BenchmarkConfig) -> list[BenchmarkCell]:
    """Return every cell in the order of models and systems, those of the floors last."""
    models = [*config.models, *([FLOOR] if any(each.has_floors for each in config.conditions.values()) else [])]
    names = system_names(config)
    root = Path(config.output_dir, "cells")
    return [BenchmarkCell(model, name, root / model / name.replace("->", "_")) for model in models for name in names]


def is_done(cell: BenchmarkCell, condition: str) -> bool:
    """Return whether a cell was scored under a condition."""
    return (cell.folder / condition / CELL_FILE).is_file()


def conditions_of(config: BenchmarkConfig, cell: BenchmarkCell, system: BenchmarkSystem) -> list[str]:
    """Return the conditions under which a cell has something to score."""
    protocols = {name: system.protocol(each) for name, each in config.conditions.items()}
    return [name for name, each in protocols.items() if cell.model != FLOOR or each.has_floors]


def run_benchmark_cell(cell: BenchmarkCell, *, config: BenchmarkConfig) -> str | None:
    """Score what is missing of a cell; return what went wrong, None if nothing did.

    A model that fails does not go wrong: its windows count as failed. Where another process is at work on the same
    cell, it is waited for. What is printed goes to log.txt.
    """

    def work() -> None:
        with at_work(f"cells/{cell.name}", cell.folder, study=Path(config.output_dir)):
            system = open_system(config, cell.system)
            for condition in conditions_of(config, cell, system):
                claim(config, cell, condition, system)
                if not is_done(cell, condition):
                    _score(config, cell, condition, system)

    return failure_of(cell.name, work)


def claim(config: BenchmarkConfig, cell: BenchmarkCell, condition: str, system: BenchmarkSystem) -> None:
    """Write what decides a cell under a condition, or check that its folder holds the same.

    Raises: ValueError naming the settings that differ.
    """
    protocol = dataclasses.asdict(system.protocol(config.conditions[condition]))
    settings = {
        "model": FLOOR if cell.model == FLOOR else deciding_of(config.models[cell.model], cell.model),
        "protocol": {name: value for name, value in protocol.items() if name not in OF_SUMMARIES},
        "data": {"fingerprint": system.source.fingerprint, "split": system.source.split},
    }
    content = json.dumps(settings, indent=1)
    file = cell.folder / condition / SETTINGS_FILE
    if not file.is_file():
        write_atomically(file, content.encode())
        return
    found, wanted = flatten(json.loads(file.read_text())), flatten(json.loads(content))
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        raise ValueError(
            f"{file.parent} must be new or hold this same cell, found one with other settings of {differing[:6]}; "
            "delete it, or choose another --output_dir."
        )


def _score(config: BenchmarkConfig, cell: BenchmarkCell, condition: str, system: BenchmarkSystem) -> None:
    protocol, windows = system.protocol(config.conditions[condition]), system.windows(config.conditions[condition])
    content: dict[str, Any] = {"num_windows": len(windows), "num_parameters": None, "errors": []}
    if cell.model == FLOOR:
        scores = score_truth(windows, protocol)
    else:
        guarded = Guarded(build_model(cell.model, config.models[cell.model]))
        scores = _seeded_scores(cell.model, guarded, windows, protocol)
        content |= {"num_parameters": guarded.num_parameters(), "errors": guarded.errors}
        if protocol.rollout_tail is not None and guarded.first_forecast is not None:
            write_atomically(cell.folder / condition / ROLLOUT_FILE, _npy_bytes(guarded.first_forecast))
    folder = cell.folder / condition
    write_atomically(folder / SCORES_FILE, scores_to_bytes(scores))
    content |= {"failed_windows": len(scores.failed), "seconds": scores.seconds}
    write_atomically(folder / CELL_FILE, json.dumps(content, indent=1).encode())


def _seeded_scores(
    name: str, forecaster: Guarded, windows: list[HeldOutWindow], protocol: EvaluationProtocol
) -> Scores:
    """Score with torch's own generator seeded, which some models draw from; it is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(protocol.seed)
        return score_windows(name, forecaster, windows, protocol)


def _npy_bytes(values: torch.Tensor) -> bytes:
    content = io.BytesIO()
    np.save(content, values.float().cpu().numpy(), allow_pickle=False)
    return content.getvalue()


def scores_to_bytes(scores: Scores) -> bytes:
    """Return what scores hold of each window, as an NPZ file."""
    arrays = {f"values/{metric}/{horizon}": values for (metric, horizon), values in scores.values.items()}
    arrays |= {f"share_below/{horizon}": values for horizon, values in scores.share_below.items()}
    arrays["failed"] = np.array(sorted(scores.failed), dtype=np.int64)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def load_scores(cell: BenchmarkCell, condition: str) -> tuple[Scores, dict[str, Any]]:
    """Return the scores of a cell that is done, and what else is known of it: the content of `cell.json`."""
    folder = cell.folder / condition
    content = json.loads((folder / CELL_FILE).read_text())
    scores = Scores(content["num_windows"], seconds=content["seconds"])
    with np.load(folder / SCORES_FILE, allow_pickle=False) as arrays:
        for key in arrays.files:
            kind, *place = key.split("/")
            if kind == "values":
                scores.values[place[0], int(place[1])] = arrays[key]
            elif kind == "share_below":
                scores.share_below[int(place[0])] = arrays[key]
            else:
                scores.failed = set(arrays[key].tolist())
    return scores, content
