"""One cell of an online study: a method that meets a stream, saved on its way, so that a stopped one goes on."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_tsdyn.online.learner import OnlineLearner
from hf_tsdyn.online.learning_rate import choose_learning_rate
from hf_tsdyn.online.prequential import PrequentialRun, run_prequential
from hf_tsdyn.online.saving import load_learner
from hf_tsdyn.results import write_atomically
from training.cell_runs import at_work, failure_of
from training.online_config import OnlineConfig
from training.online_learners import Place, build_learner
from training.online_methods import FIXED, Method, Protocol
from training.online_starts import digest_of, start_cell
from training.online_streams import OpenStream, open_stream
from training.run_config import flatten
from training.study_config import Cell
from training.sweep_folder import SweepFolder, from_json, to_json

SETTINGS_FILE = "settings.json"
RATES_FILE = "learning_rates.json"
RUN_FILE = "run.npz"
CELL_FILE = "cell.json"
PARTS, LEARNER, PART_FILE = "parts", "learner", "part.json"


@dataclass(frozen=True)
class OnlineCell:
    """A method under a protocol on a dataset at a horizon with a seed, in a folder of its own."""

    method: str
    protocol: Protocol
    dataset: str
    horizon: int
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Method, protocol, place and seed; the folder's name below the study's cells."""
        return f"{self.method}/{self.protocol}/{self.dataset}-{self.horizon}/seed-{self.seed}"


def build_cells(config: OnlineConfig) -> list[OnlineCell]:
    """Return every cell of a study, in the order of methods, protocols, places and seeds."""
    found = (
        OnlineCell(name, protocol, dataset, horizon, seed, Path())
        for name, method in config.methods.items()
        for protocol in method.protocols
        for dataset, horizon in config.places_of(method)
        for seed in config.seeds_of(method)
    )
    return [dataclasses.replace(cell, folder=Path(config.output_dir, "cells", cell.name)) for cell in found]


def is_done(cell: OnlineCell) -> bool:
    """Return whether a cell was run to its end."""
    return (cell.folder / CELL_FILE).is_file()


def starts_of(config: OnlineConfig, cell: OnlineCell) -> dict[str, Cell]:
    """Return the runs that pre-train what a cell's method and its members start from, by the network's name."""
    starts = [method.start for method in config.team_of(cell.method).values() if method.start is not None]
    place: dict[str, Any] = {"dataset": cell.dataset, "horizon": cell.horizon, "seed": cell.seed}
    return {start: start_cell(config, start, **place) for start in starts}


def run_online_cell(cell: OnlineCell, *, config: OnlineConfig) -> str | None:
    """Run what is missing of a cell; return what went wrong, None if nothing did.

    Where another process is at work on the same cell, it is waited for. What is printed goes to log.txt.
    """

    def work() -> None:
        opened = open_stream(config, cell.dataset)
        with at_work(f"cells/{cell.name}", cell.folder, study=Path(config.output_dir)):
            claim(config, cell, opened)
            if not is_done(cell):
                _run(config, cell, opened)

    return failure_of(cell.name, work)


def claim(config: OnlineConfig, cell: OnlineCell, opened: OpenStream) -> None:
    """Write what decides a cell, or check that its folder holds the same, to be resumed or read.

    Raises: ValueError naming the settings that differ; FileNotFoundError if a network was not trained.
    """
    settings = json.loads(json.dumps(_deciding(config, cell, opened)))
    file = cell.folder / SETTINGS_FILE
    if not file.is_file():
        write_atomically(file, json.dumps(settings, indent=1).encode())
        return
    found, wanted = flatten(json.loads(file.read_text())), flatten(settings)
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        raise ValueError(
            f"{cell.folder} must be new or hold this same cell, found one with other settings of {differing[:6]}; "
            "delete it, or choose another --output_dir."
        )


def _deciding(config: OnlineConfig, cell: OnlineCell, opened: OpenStream) -> dict[str, Any]:
    team = config.team_of(cell.method)
    settings: dict[str, Any] = {
        "methods": {name: _deciding_of(method) for name, method in team.items()},
        "stream": opened.fingerprint,
        "context_length": config.streams[cell.dataset].context_length,
        "starts": {name: digest_of(start) for name, start in starts_of(config, cell).items()},
    }
    if any(method.is_rate_chosen for method in team.values()):
        settings["candidates"] = config.candidates
    return settings


def _deciding_of(method: Method) -> dict[str, Any]:
    deciding = {"learner": dataclasses.asdict(method.learner), "start": method.start, "model": method.model}
    return deciding | {"run_in": method.run_in}


def _run(config: OnlineConfig, cell: OnlineCell, opened: OpenStream) -> None:
    place = Place(config, opened, cell.dataset, cell.horizon, cell.protocol, cell.seed)
    chosen = _chosen_rates(config, cell, place)
    place = dataclasses.replace(place, rates={name: each["rate"] for name, each in chosen.items()})
    parts = _run_parts(config, cell, place)
    facts = [json.loads((part / PART_FILE).read_text()) for part in parts]
    run = joined([PrequentialRun.load(part / RUN_FILE) for part in parts])
    run.save(cell.folder / RUN_FILE)
    content = {
        "method": cell.method,
        "protocol": cell.protocol,
        "dataset": cell.dataset,
        "horizon": cell.horizon,
        "seed": cell.seed,
        "learning_rates": chosen,
        "num_parameters": facts[-1]["num_parameters"],
        "statistics": run.statistics,
        "heat": heat_of(facts),
    }
    write_atomically(cell.folder / CELL_FILE, to_json(content))
    shutil.rmtree(cell.folder / PARTS)


def _chosen_rates(config: OnlineConfig, cell: OnlineCell, place: Place) -> dict[str, dict[str, Any]]:
    """By method: the rate that a delayed replay of the validation rows chooses, and the errors of all.

    They are kept as soon as they are known.
    """
    file, opened = cell.folder / RATES_FILE, place.opened
    if file.is_file():
        return from_json(file.read_bytes())
    chosen = {}
    for name, method in config.team_of(cell.method).items():
        if not method.is_rate_chosen:
            continue

        def build(rate: float, name: str = name) -> OnlineLearner:
            return build_learner(name, dataclasses.replace(place, rates={name: rate}))

        found = choose_learning_rate(
            build, opened.stream, start=opened.validation, stop=opened.start, candidates=config.candidates
        )
        chosen[name] = {"rate": found.rate, "errors": {str(rate): error for rate, error in found.errors.items()}}
    write_atomically(file, to_json(chosen))
    return chosen


def _run_parts(config: OnlineConfig, cell: OnlineCell, place: Place) -> list[Path]:
    """Run the stretch, `checkpoint_every` forecasts at a time, from the last part that is whole; return all parts."""
    opened, folder = place.opened, SweepFolder(config.output_dir)
    parts = sorted((cell.folder / PARTS).glob("*"))
    row = int(parts[-1].name) if parts else opened.start
    learner = _learner_at(config, cell, place, parts)
    last = opened.stop - cell.horizon + 1  # the first row that no forecast begins at
    while row < last:
        count = min(config.checkpoint_every, last - row)
        run = run_prequential(
            learner,
            opened.stream,
            start=row,
            stop=row + count + cell.horizon - 1,
            loc=opened.loc,
            scale=opened.scale,
            show_progress=False,
            warm_up=not learner.num_observed,
        )
        row += count
        part = cell.folder / PARTS / f"{row:09d}"
        with folder.complete_folder(part) as scratch:
            run.save(scratch / RUN_FILE)
            write_atomically(scratch / PART_FILE, json.dumps(_facts(learner, count)).encode())
            if row < last and config.methods[cell.method].learner.kind not in FIXED:
                learner.save(scratch / LEARNER)
        if parts:
            shutil.rmtree(parts[-1] / LEARNER, ignore_errors=True)
        parts.append(part)
    return parts


def _learner_at(config: OnlineConfig, cell: OnlineCell, place: Place, parts: Sequence[Path]) -> OnlineLearner:
    """The learner after the last of the parts; a new one where there is none, or the stretch is over."""
    if parts and (parts[-1] / LEARNER).is_dir():
        return load_learner(parts[-1] / LEARNER)
    learner = build_learner(cell.method, place)
    if config.methods[cell.method].run_in:
        _run_in(learner, place.opened)
    return learner


def _run_in(learner: OnlineLearner, opened: OpenStream) -> None:
    """Let a learner observe all rows before the stretch, and learn the windows of the validation rows."""
    values, features = opened.stream.values, opened.stream.time_features
    if not learner.num_time_features:
        features = None
    before = opened.validation
    learner.warm_up(values[:before], None if features is None else features[:before])
    for row in range(before, opened.start):
        learner.learn_one(values[row], None if features is None else features[row])


def joined(runs: Sequence[PrequentialRun]) -> PrequentialRun:
    """Return runs that follow one another as one; statistics are those at the end."""
    first, last = runs[0], runs[-1]
    names = ("squared", "absolute", "channel_squared", "channel_absolute", "percentage")
    arrays = {name: np.concatenate([getattr(run, name) for run in runs]) for name in names}
    seconds = {name: sum(getattr(run, name) for run in runs) for name in ("forecast_seconds", "learn_seconds")}
    return dataclasses.replace(first, statistics=last.statistics, **arrays, **seconds)


def _facts(learner: OnlineLearner, count: int) -> dict[str, Any]:
    """What is known of a learner after a part of `count` forecasts, beside the run."""
    network: Any = getattr(learner, "forecaster", None)
    facts: dict[str, Any] = {"count": count, "num_parameters": None}
    if hasattr(network, "num_parameters"):
        facts["num_parameters"] = network.num_parameters()
    triggers = getattr(learner, "num_triggers", None)
    if triggers is not None and len(triggers):
        facts["num_triggers"] = triggers.tolist()
        slots = [each for name, each in network.named_buffers() if name.endswith("memory.slots")]
        facts["slot_norms"] = [layer for each in slots for layer in each.norm(dim=1).tolist()]
    return facts


def heat_of(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how often each layer asked its memory in each part, and the slots' norms at the end; {} without memory."""
    if "num_triggers" not in facts[-1]:
        return {}
    totals = np.array([each["num_triggers"] for each in facts], dtype=float)
    counts = np.array([each["count"] for each in facts], dtype=float)
    rates = np.diff(totals, axis=0, prepend=np.zeros_like(totals[:1])) / counts[:, None]
    edges = [0, *np.cumsum(counts, dtype=int).tolist()]
    return {"triggers": rates.tolist(), "bin_edges": edges, "slot_norms": facts[-1]["slot_norms"]}
