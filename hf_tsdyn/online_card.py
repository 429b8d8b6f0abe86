"""Turn the results of an online study into its page: what was measured, what it says, what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .model_card import render_strictly
from .online_results import (
    DELAYED,
    IMMEDIATE,
    PROTOCOL_TITLES,
    PROTOCOLS,
    VALIDATION_USES,
    claims_at,
    entries_at,
    frozen_of,
    gaps_at,
    mean_at,
    methods_at,
    results_at,
    role_of,
    seeds_at,
    title_of,
)
from .online_tables import baseline_table, leave_one_out_table, memory_table, online_table, pairs_table
from .online_verdict import verdict_of
from .series_results import SeriesResults

TEMPLATE = Path(__file__).parent / "templates" / "online_card.md"
ENOUGH_SEEDS = 3
SHOWN_FACTS = ("learner", "learning_rate", "parameters")
"""The columns of the table of methods that come first; others follow in the order in which they are met."""
TOLD_FACTS = ("learns", "validation_rows")
"""Facts that have no column: what learns has a difference, what was done with validation rows is a list of its own."""


def render_online_card(
    results: SeriesResults, *, commands: Sequence[str], figures: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the page as Markdown: equal arguments, equal text.

    Args:
        commands: from a checkout to these results.
        figures: (path beside the page, caption).
    Raises: ValueError if nothing was scored under any protocol.
    """
    _check_scored(results)
    header = results.header
    variables = {
        "name": header["name"],
        "verdicts": [verdict_of(results, *place).text for place in results.scored_on(DELAYED)],
        "percent": f"{100 * header['protocol']['confidence']:g}",
        "dataset_table": _dataset_table(results),
        "sections": [_section(results, protocol) for protocol in PROTOCOLS if results.scored_on(protocol)],
        "method_table": _method_table(results),
        "validation_uses": _validation_uses(results),
        "gaps": _gaps(results),
        "figures": figures,
        "limits": _limits(results),
        "commands": commands,
        "fingerprints": {name: facts["fingerprint"] for name, facts in header["datasets"].items()},
        "revision": f"`{header['git_revision']}`" if header["git_revision"] else "not recorded (installed package)",
        "versions": header["versions"],
        "hardware": header["hardware"],
    }
    return render_strictly(TEMPLATE, variables)


def online_summary(results: SeriesResults) -> str:
    """Return Markdown for another page: the verdict at the first dataset and horizon under delayed feedback.

    Raises: ValueError if nothing was scored under it.
    """
    _check_scored(results, (DELAYED,))
    return f"**{verdict_of(results, *results.scored_on(DELAYED)[0]).text}**"


def _check_scored(results: SeriesResults, protocols: Sequence[str] = PROTOCOLS) -> None:
    if not any(results.scored_on(protocol) for protocol in protocols):
        raise ValueError(
            f"an online study must hold errors under one of {protocols}, found "
            f"{sorted({row.split for row in results.rows})}; run training.run_online."
        )


def _section(results: SeriesResults, protocol: str) -> dict[str, Any]:
    places = []
    for dataset, horizon in results.scored_on(protocol):
        place = (dataset, horizon, protocol)
        found = results_at(results, *place)
        parts = {
            results.label(model): leave_one_out_table(found, model, *place)
            for model in results.header.get("leave_one_out", {})
        }
        places.append(
            {
                "title": title_of(*place),
                "table": online_table(found, *place),
                "baseline_table": baseline_table(found, *place),
                "memory_table": memory_table(found, *place),
                "pairs_table": pairs_table(found, *place),
                "part_tables": {text: table for text, table in parts.items() if table},
            }
        )
    return {
        "title": PROTOCOL_TITLES[protocol].capitalize(),
        "places": places,
        "claims_note": _claims_note(results, protocol),
    }


def _claims_note(results: SeriesResults, protocol: str) -> str:
    places = [place for place in _places(results) if place[-1] == protocol]
    return results.claims_note if any(claims_at(results, *place) for place in places) else ""


def _dataset_table(results: SeriesResults) -> str:
    lines = ["| dataset | horizon | channels | training rows | forecasts |", "|---|---:|---|---:|---:|"]
    for dataset, horizon in results.settings:
        facts = results.header["datasets"][dataset]
        counts = [facts["num_windows"].get(protocol, {}).get(str(horizon)) for protocol in PROTOCOLS]
        count = next((f"{count:,}" for count in counts if count), "-")
        names = ", ".join(facts["channel_names"])
        lines.append(f"| {dataset} | {horizon} | {names} | {facts['num_train_steps']:,} | {count} |")
    return "\n".join(lines)


def _method_table(results: SeriesResults) -> str:
    """What the header says of each method, a fact a column; models by their labels."""
    methods = {model: dict(results.header["methods"].get(model, {})) for model in results.header["models"]}
    sizes = results.header.get("num_parameters", {})
    for model, facts in methods.items():
        facts |= {key: results.label(facts[key]) for key in ("frozen", "memory_off") if facts.get(key)}
        facts |= {"parameters": f"{sizes[model]:,}"} if model in sizes else {}
        rates = _chosen_rates(results, model)
        facts |= {"learning_rate": f"chosen: {rates}"} if rates else {}
        facts |= dict.fromkeys(TOLD_FACTS)
    met = {key: None for facts in methods.values() for key, value in facts.items() if value is not None}
    columns = [*(key for key in SHOWN_FACTS if key in met), *(key for key in met if key not in SHOWN_FACTS)]
    titles = ["method", *(key.replace("_", " ") for key in columns)]
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---|" * len(columns)]
    for model, facts in methods.items():
        cells = [results.label(model), *(_cell(facts.get(key)) for key in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _chosen_rates(results: SeriesResults, model: str) -> str:
    """The learning rates that were chosen for a method, by place and seed, and how often 0 was; "" if none was."""
    texts, all_rates = [], []
    for dataset, horizon, protocol in _places(results):
        rates = list(entries_at(results.header, "learning_rates", dataset, horizon, protocol).get(model, {}).values())
        if rates:
            texts.append(f"{', '.join(f'{rate:g}' for rate in rates)} at {dataset} @ {horizon}")
            all_rates += rates
    return f"{'; '.join(texts)}; 0 in {all_rates.count(0)} of {len(all_rates)}" if texts else ""


def _validation_uses(results: SeriesResults) -> dict[str, str]:
    """What methods used the validation rows for, and which of them did."""
    methods = results.header["methods"]
    users = {
        text: [results.label(model) for model in results.header["models"] if use in _uses(methods.get(model, {}))]
        for use, text in VALIDATION_USES.items()
    }
    return {text: "; ".join(labels) for text, labels in users.items() if labels}


def _uses(facts: dict[str, Any]) -> list[str]:
    return facts.get("validation_rows", [])


def _gaps(results: SeriesResults) -> list[str]:
    """Which methods lack seeds, and where."""
    lines = []
    for place in _places(results):
        gaps = [f"{results.label(model)}, {gap}" for model, gap in gaps_at(results, *place).items()]
        lines += [f"{title_of(*place)}: {'; '.join(gaps)}"] if gaps else []
    return lines


def _places(results: SeriesResults) -> list[tuple[str, int, str]]:
    return [(*place, protocol) for protocol in PROTOCOLS for place in results.scored_on(protocol)]


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_cell(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _limits(results: SeriesResults) -> list[str]:
    """What the numbers do not say; what depends on the study is said where it holds."""
    limits = [
        "An interval is about other stretches of the same series, met by the networks that were trained: it does not "
        "tell what other seeds, or other series, would give.",
        "CPU milliseconds are of one stream on the machine named below, and compare methods with each other alone.",
    ]
    if results.scored_on(IMMEDIATE):
        limits.append(
            "No number under immediate feedback is an accuracy of forecasting. MAPE of z-scores depends on how close "
            "to 0 the scaled series comes, and is there to compare with what others published."
        )
    chosen = role_of(results, "chosen")
    if not all(mean_at(results, chosen, "mse", *place, DELAYED) for place in results.scored_on(DELAYED)):
        where = "" if chosen is None else f" where {results.label(chosen)}, chosen beforehand, was not scored"
        limits.append(f"The best learner was picked by its error on the stretch itself{where}, which flatters it.")
    few = _few_seeds(results)
    if few:
        limits.append(f"Learners of fewer than {ENOUGH_SEEDS} seeds, of which no spread can be told: {', '.join(few)}.")
    return limits + list(results.header.get("remarks", ()))


def _few_seeds(results: SeriesResults) -> list[str]:
    """Learners that have seeds, which closed forms have not, but too few."""
    few = {}
    for place in _places(results):
        for model in methods_at(results, *place):
            seeds = set(seeds_at(results, model, "mse", *place))
            if frozen_of(results, model) and None not in seeds and len(seeds) < ENOUGH_SEEDS:
                few[results.label(model)] = None
    return list(few)
