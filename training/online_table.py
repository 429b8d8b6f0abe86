"""What came of an online study, as far as its cells are done: results and tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from hf_tsdyn.online.prequential import PrequentialRun
from hf_tsdyn.online.prequential_scores import cumulative_curve, intervals_of_runs, rows_of_run
from hf_tsdyn.online_results import (
    DELAYED,
    PROTOCOL_TITLES,
    PROTOCOLS,
    methods_at,
    put_entry,
    results_at,
    title_of,
)
from hf_tsdyn.online_tables import baseline_table, leave_one_out_table, memory_table, online_table, pairs_table
from hf_tsdyn.online_verdict import verdict_of
from hf_tsdyn.results import write_atomically
from hf_tsdyn.series_results import SeriesResults
from hf_tsdyn.series_scores import SeriesInterval
from training.cell_runs import failure_of
from training.online_cells import CELL_FILE, RUN_FILE, OnlineCell, claim, is_done, starts_of
from training.online_config import OnlineConfig
from training.online_methods import Method
from training.online_streams import OpenStream, open_stream
from training.series_scoring import provenance
from training.study_cells import cpu_seconds
from training.sweep_folder import from_json

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"

Place = tuple[str, int, str]
"""Dataset, horizon, protocol."""


@dataclass(frozen=True)
class DoneCell:
    """A cell with its run, and what its record says."""

    cell: OnlineCell
    run: PrequentialRun
    record: dict[str, Any]


Found = dict[Place, dict[str, list[DoneCell]]]
"""Cells by place and method."""


def collect_results(config: OnlineConfig, cells: Sequence[OnlineCell]) -> tuple[SeriesResults | None, list[str]]:
    """Return the results of all cells that are done, whatever launch did them, None if none is; and what went wrong.

    Cells that were run with other settings are refused, and leave the rest. Runs whose errors are no numbers where
    others have some, or infinite, have diverged: they are counted, and in no error.
    """
    streams: dict[str, OpenStream] = {}
    found: Found = {}
    failures = []
    for cell in cells:
        if is_done(cell):
            failures.append(failure_of(cell.name, partial(_collect, config, cell, streams, found)))
    failures = [each for each in failures if each is not None]
    if not found:
        return None, failures
    sound = {place: kept for place, methods in found.items() if (kept := _sound(methods))}
    rows = [row for place in sound for name in sound[place] for row in _rows(config, sound, place, name)]
    header = _header(config, sound, streams) | provenance()
    for (dataset, horizon, protocol), methods in found.items():
        for name, seeds in _seeds(config, (dataset, horizon, protocol), methods, sound).items():
            put_entry(header, "seeds", name, seeds, dataset=dataset, horizon=horizon, protocol=protocol)
    intervals = [each for place in sound for each in _intervals(config, place, sound[place])]
    return SeriesResults(header, rows, intervals), failures


def _collect(config: OnlineConfig, cell: OnlineCell, streams: dict[str, OpenStream], found: Found) -> None:
    """Add a cell that is done, and its stream."""
    if cell.dataset not in streams:
        streams[cell.dataset] = open_stream(config, cell.dataset)
    claim(config, cell, streams[cell.dataset])
    record = from_json((cell.folder / CELL_FILE).read_bytes())
    done = DoneCell(cell, PrequentialRun.load(cell.folder / RUN_FILE), record)
    found.setdefault((cell.dataset, cell.horizon, cell.protocol), {}).setdefault(cell.method, []).append(done)


def _sound(methods: dict[str, list[DoneCell]]) -> dict[str, list[DoneCell]]:
    """Those of a place's cells that have as many errors as any of them, none infinite."""
    counts = {done.cell.name: _num_errors(done.run) for each in methods.values() for done in each}
    most = max(counts.values())
    kept = {name: [done for done in each if counts[done.cell.name] == most] for name, each in methods.items()}
    return {name: each for name, each in kept.items() if each}


def _num_errors(run: PrequentialRun) -> int:
    return int(np.isfinite(run.squared).sum() + np.isfinite(run.channel_squared).sum())


def _seeds(
    config: OnlineConfig, place: Place, methods: dict[str, list[DoneCell]], sound: Found
) -> dict[str, dict[str, list[int]]]:
    """By method of a place: the seeds that the study asks for, those that were scored, those that diverged."""
    seeds = {}
    for name, method in config.methods.items():
        if place[2] in method.protocols and place[:2] in config.places_of(method):
            done, kept = ([each.cell.seed for each in where.get(name, [])] for where in (methods, sound.get(place, {})))
            diverged = [seed for seed in done if seed not in kept]
            seeds[name] = {"expected": list(config.seeds_of(method)), "found": kept, "diverged": diverged}
    return seeds


def _rows(config: OnlineConfig, found: Found, place: Place, name: str) -> Iterator[Any]:
    dataset, _, protocol = place
    persistence = found[place].get(config.roles.persistence or "", [])
    options: dict[str, Any] = {"model": name, "dataset": dataset, "protocol": protocol}
    options["persistence"] = persistence[0].run if persistence else None
    for done in found[place][name]:
        yield from rows_of_run(done.run, seed=done.cell.seed if config.has_draws(name) else None, **options)


def _header(config: OnlineConfig, found: Found, streams: dict[str, OpenStream]) -> dict[str, Any]:
    first = {name: each for methods in reversed(found.values()) for name, each in methods.items()}
    parameters = {name: each[0].record["num_parameters"] for name, each in first.items()}
    seconds = {name: _pretraining_seconds(config, each) for name, each in first.items()}
    header: dict[str, Any] = {
        "name": config.name,
        "models": [name for name in config.methods if name in first],
        "labels": {name: each.label for name, each in config.methods.items() if each.label is not None},
        "num_parameters": {name: each for name, each in parameters.items() if each is not None},
        "cpu_seconds": {name: each for name, each in seconds.items() if each is not None},
        "claims": {name: asdict(each) for name, each in config.claims.items()},
        "protocol": _bootstrap_options(config),
        "datasets": {name: _dataset_facts(found, name, each) for name, each in streams.items()},
        "methods": {name: _method_facts(config, name) for name in config.methods if name in first},
        "roles": {name: role for name, role in asdict(config.roles).items() if role},
        "groups": {name: list(each) for name, each in config.groups.items()},
        "leave_one_out": config.leave_one_out,
        "compare": [list(pair) for pair in config.compare],
        "remarks": list(config.remarks),
    }
    for (dataset, horizon, protocol), methods in found.items():
        for name, done in methods.items():
            for entry, value in _entries(done):
                put_entry(header, entry, name, value, dataset=dataset, horizon=horizon, protocol=protocol)
    return header


def _entries(done: Sequence[DoneCell]) -> Iterator[tuple[str, Any]]:
    """What the header says of a method at a place; heat is that of its first seed."""
    yield "curves", cumulative_curve([each.run for each in done])
    yield "cpu_ms", round(mean(each.run.cpu_ms for each in done), 4)
    rates = [each.run.statistics["trigger_rate"] for each in done if "trigger_rate" in each.run.statistics]
    if rates:
        yield "trigger_rates", mean(rates)
    rates = {str(each.cell.seed): each.record["learning_rates"].get(each.cell.method) for each in done}
    if all(rates.values()):
        yield "learning_rates", {seed: chosen["rate"] for seed, chosen in rates.items() if chosen}
    heat = dict(done[0].record["heat"])
    if "bin_steps" in heat:  # an older record
        count, steps = len(done[0].run), heat.pop("bin_steps")
        heat["bin_edges"] = [*range(0, count, steps), count]
    if heat:
        yield "heat", heat


def _pretraining_seconds(config: OnlineConfig, done: Sequence[DoneCell]) -> float | None:
    starts = [starts_of(config, each.cell).values() for each in done]
    return round(mean(sum(map(cpu_seconds, each)) for each in starts), 1) if any(starts) else None


def _method_facts(config: OnlineConfig, name: str) -> dict[str, Any]:
    method = config.methods[name]
    facts: dict[str, Any] = {"learner": method.learner.kind, "learns": method.learns}
    facts |= {"learning_rate": method.learner.options.get("learning_rate"), "start": method.start}
    facts |= {"members": [config.methods[each].label or each for each in method.learner.members] or None}
    facts |= {"frozen": config.frozen_of(name), "memory_off": method.memory_off}
    facts |= {"validation_rows": _validation_uses(config.team_of(name), name)}
    return {key: value for key, value in facts.items() if value is not None}


def _validation_uses(team: Mapping[str, Method], name: str) -> list[str]:
    """What a method, or a member of it, used the validation rows for, of `VALIDATION_USES`."""
    uses = {
        "run_in": team[name].run_in,
        "refit": any(method.learner.options.get("refit") for method in team.values()),
        "learning_rate": any(method.is_rate_chosen for method in team.values()),
        "penalty": any(method.is_penalty_chosen for method in team.values()),
    }
    return [use for use, used in uses.items() if used]


def _dataset_facts(found: Found, dataset: str, opened: OpenStream) -> dict[str, Any]:
    num_windows: dict[str, dict[str, int]] = {}
    for (name, horizon, protocol), methods in found.items():
        if name == dataset:
            num_windows.setdefault(protocol, {})[str(horizon)] = len(next(iter(methods.values()))[0].run)
    return {
        "fingerprint": opened.fingerprint,
        "channel_names": list(opened.stream.channel_names),
        "num_train_steps": opened.validation,
        "num_windows": num_windows,
    }


def _bootstrap_options(config: OnlineConfig) -> dict[str, Any]:
    return {"num_resamples": config.num_resamples, "confidence": config.confidence, "seed": config.bootstrap_seed}


def _intervals(config: OnlineConfig, place: Place, methods: dict[str, list[DoneCell]]) -> Iterator[SeriesInterval]:
    dataset, _, protocol = place
    options: dict[str, Any] = {"dataset": dataset, "protocol": protocol} | _bootstrap_options(config)
    for name, done in methods.items():
        yield from intervals_of_runs([each.run for each in done], model=name, **options)
    for name, other in dict.fromkeys(_pairs(config, protocol)):
        runs, others = _paired(config, (name, methods.get(name, [])), (other, methods.get(other, [])))
        if runs and others:
            yield from intervals_of_runs(runs, others, model=name, baseline=other, **options)


def _pairs(config: OnlineConfig, protocol: str) -> Iterator[tuple[str, str]]:
    """Methods, and what each is compared with under a protocol."""
    for name, method in config.methods.items():
        baselines = [config.frozen_of(name), method.memory_off]
        if protocol == DELAYED:
            baselines += [config.roles.persistence, config.roles.ridge]
        yield from ((name, other) for other in baselines if other is not None and other != name)
    yield from ((variant, full) for full, without in config.leave_one_out.items() for variant in without)
    yield from config.compare


def _paired(
    config: OnlineConfig, one: tuple[str, list[DoneCell]], other: tuple[str, list[DoneCell]]
) -> tuple[list[PrequentialRun], list[PrequentialRun]]:
    """The runs of two methods; where seeds make a difference to both, those of the seeds that both have."""
    seeds = [{done.cell.seed for done in each} for _, each in (one, other)]
    shared = seeds[0] & seeds[1] if config.has_draws(one[0]) and config.has_draws(other[0]) else seeds[0] | seeds[1]
    kept = [[done.run for done in each if done.cell.seed in shared] for _, each in (one, other)]
    return kept[0], kept[1]


def render_page(results: SeriesResults) -> str:
    """Return the results as a Markdown page: the delayed protocol, then the immediate one, labelled leaky."""
    parts = [f"# {results.header['name']}"]
    for protocol in PROTOCOLS:
        places = results.scored_on(protocol)
        if places:
            parts.append(f"## {PROTOCOL_TITLES[protocol].capitalize()}")
        for dataset, horizon in places:
            parts += _render_place(results_at(results, dataset, horizon, protocol), (dataset, horizon, protocol))
    return "\n\n".join([*parts, f"{_notes(results)} {results.claims_note}".rstrip()]) + "\n"


def _render_place(results: SeriesResults, place: Place) -> list[str]:
    dataset, horizon, protocol = place
    count = results.header["datasets"][dataset]["num_windows"][protocol][str(horizon)]
    parts = [f"### {title_of(*place)}, {count:,} forecasts"]
    if methods_at(results, *place):
        parts.append(online_table(results, *place))
    titled = {"Against what does not learn": baseline_table(results, *place)}
    titled["Memory on and off"] = memory_table(results, *place)
    for full in results.header["leave_one_out"]:
        titled[f"{results.label(full)}, one part less at a time"] = leave_one_out_table(results, full, *place)
    titled["Differences"] = pairs_table(results, *place)
    parts += [text for title, table in titled.items() if table for text in (f"#### {title}", table)]
    return [*parts, verdict_of(results, dataset, horizon).text] if protocol == DELAYED else parts


def _notes(results: SeriesResults) -> str:
    confidence = results.header["protocol"]["confidence"]
    return (
        "Errors are in units of the training rows' standard deviations, over all forecasts of the stretch: mean ± "
        f"standard deviation over (n) seeds, without those that are missing or diverged. "
        f"Intervals ({100 * confidence:g} %) are of a bootstrap over blocks of "
        "consecutive forecasts of errors averaged over seeds. Skill is 1 - MSE / MSE of persistence. CPU time is "
        "that of one thread, forecast and learning."
    )


def write_results(results: SeriesResults, folder: Path) -> None:
    """Write results.json and results.md."""
    results.write(folder / RESULTS_FILE)
    write_atomically(folder / TABLE_FILE, render_page(results).encode())
