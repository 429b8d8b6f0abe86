"""Tables of an online study: the methods at a place, and their differences to what never learns and to each other.

Titles of columns under the immediate protocol say leaky. Errors are means ± standard deviation over (n) seeds, "n of m
seeds" where some are missing or diverged; what has no seeds has no brackets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .online_results import (
    IMMEDIATE,
    METRIC_LABELS,
    claims_at,
    difference_to,
    entries_at,
    frozen_of,
    gaps_at,
    learns,
    mean_at,
    methods_at,
    nothing_scored,
    role_of,
    shown_metrics,
    skill_of,
    three_digits,
)
from .series_results import SeriesResults, claim_label
from .series_scores import SeriesInterval

OTHERS = "others"
"""Title of the methods that are in no group."""


def online_table(
    results: SeriesResults, dataset: str, horizon: int, protocol: str, *, models: Sequence[str] | None = None
) -> str:
    """Render a Markdown table: a method a row, in the header's order, below the titles of their groups.

    The difference is that of the MSE to the method's own frozen network, with its interval: below 0 learning helps.
    Claims of the protocol come last.

    Args:
        models: those to show, without titles of groups; all by default.
    Raises: ValueError if nothing was scored there.
    """
    place = (dataset, horizon, protocol)
    scored = methods_at(results, *place)
    if not scored:
        raise nothing_scored(results, "a table", *place)
    metrics = shown_metrics(results, *place)
    metrics += ["mase"] if any(mean_at(results, model, "mase", *place) for model in scored) else []
    titles = [*(METRIC_LABELS.get(metric, metric.upper()) for metric in metrics), "skill", "less own frozen network"]
    lines = _head(["method"], titles, protocol, ["says", "CPU ms a step", "triggers, %"], align="---:")
    if models is not None:
        lines += [_method_line(results, model, metrics, place) for model in scored if model in models]
    for title, members in [] if models is not None else _grouped(results, scored):
        lines += [_line([f"**{title}**", *[""] * (len(titles) + 3)])] if title else []
        lines += [_method_line(results, model, metrics, place) for model in members]
    return "\n".join([*lines, *_claim_lines(results, metrics, place)])


def _method_line(results: SeriesResults, model: str, metrics: Sequence[str], place: tuple[str, int, str]) -> str:
    skill = skill_of(results, model, *place)
    cells = [results.label(model), *(_error(results, model, metric, place) for metric in metrics)]
    cells.append("-" if skill is None else f"{skill:+.3f}")
    cells += _difference(difference_to(results, model, frozen_of(results, model), *place))
    cells.append(_optional(entries_at(results.header, "cpu_ms", *place).get(model)))
    return _line([*cells, _optional(entries_at(results.header, "trigger_rates", *place).get(model), 100)])


def _claim_lines(results: SeriesResults, metrics: Sequence[str], place: tuple[str, int, str]) -> list[str]:
    lines, persistence = [], mean_at(results, role_of(results, "persistence"), "mse", *place)
    for name, claim in claims_at(results, *place).items():
        errors = [_optional(claim.get(metric)) for metric in metrics]
        skill = f"{1 - claim['mse'] / persistence.mean:+.3f}" if persistence and claim.get("mse") is not None else "-"
        lines.append(_line([claim_label(name, claim, source=True), *errors, skill, "-", "-", "-", "-"]))
    return lines


def _grouped(results: SeriesResults, models: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Models by group, those of none last; without groups all of them below no title."""
    groups = results.header.get("groups", {})
    if not groups:
        return [("", list(models))]
    named = {name for each in groups.values() for name in each}
    sections = [(title, [model for model in models if model in each]) for title, each in groups.items()]
    sections.append((OTHERS, [model for model in models if model not in named]))
    return [(title, members) for title, members in sections if members]


def leave_one_out_table(results: SeriesResults, model: str, dataset: str, horizon: int, protocol: str) -> str:
    """Render a Markdown table: what the error of a model becomes without each of its parts; "" if none was scored.

    A difference above 0 means that the part helps.
    """
    place = (dataset, horizon, protocol)
    lines = _head(["without"], ["MSE", "less the whole"], protocol, ["says of leaving it out"], align="---:")
    for variant, part in results.header.get("leave_one_out", {}).get(model, {}).items():
        if mean_at(results, variant, "mse", *place):
            difference = _difference(difference_to(results, variant, model, *place))
            lines.append(_line([part, _error(results, variant, "mse", place), *difference]))
    return _unless_empty(lines)


def memory_table(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> str:
    """Render a Markdown table: each method beside the same start with its memory off; "" if none was scored.

    A difference below 0 means that the memory helps.
    """
    place = (dataset, horizon, protocol)
    lines = _head(["method"], ["MSE", "MSE with its memory off", "difference"], protocol, ["says"], align="---:")
    for model in methods_at(results, *place):
        control = results.header["methods"].get(model, {}).get("memory_off")
        if mean_at(results, control, "mse", *place):
            errors = [_error(results, name, "mse", place) for name in (model, control)]
            difference = _difference(difference_to(results, model, control, *place))
            lines.append(_line([results.label(model), *errors, *difference]))
    return _unless_empty(lines)


def baseline_table(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> str:
    """Render a Markdown table: differences of each learner's MSE to what does not learn.

    "" if none is to persistence or ridge: `online_table` has the others.
    """
    place = (dataset, horizon, protocol)
    titles = [f"MSE less that of {name}" for name in ("its own frozen network", "persistence", "frozen ridge")]
    lines = _head(["method"], titles, protocol, [], align="---")
    for model in methods_at(results, *place):
        baselines = (frozen_of(results, model), *(role_of(results, role) for role in ("persistence", "ridge")))
        rows = [difference_to(results, model, baseline, *place) for baseline in baselines]
        if learns(results, model) and any(rows[1:]):
            texts = ["-" if row is None else f"{row.text}, {row.verdict}" for row in rows]
            lines.append(_line([results.label(model), *texts]))
    return _unless_empty(lines)


def pairs_table(results: SeriesResults, dataset: str, horizon: int, protocol: str) -> str:
    """Render a Markdown table of the pairs that the study was asked to compare; "" if none was scored."""
    place = (dataset, horizon, protocol)
    lines = _head(["method", "less"], ["difference of MSE"], protocol, ["says"], align="---:")
    for model, baseline in results.header.get("compare", ()):
        found = difference_to(results, model, baseline, *place)
        if found is not None:
            lines.append(_line([results.label(model), results.label(baseline), *_difference(found)]))
    return _unless_empty(lines)


def _head(
    names: Sequence[str], errors: Sequence[str], protocol: str, others: Sequence[str], *, align: str
) -> list[str]:
    """The first two lines of a table: columns of names, of errors, leaky or not, and others."""
    leaky = ", leaky" if protocol == IMMEDIATE else ""
    rules = ["---"] * len(names) + [align] * len(errors)
    rules += ["---" if each.startswith("says") else "---:" for each in others]
    return [_line([*names, *(each + leaky for each in errors), *others]), f"|{'|'.join(rules)}|"]


def _unless_empty(lines: Sequence[str]) -> str:
    return "\n".join(lines) if len(lines) > 2 else ""


def _difference(interval: SeriesInterval | None) -> list[str]:
    return ["-", "-"] if interval is None else [interval.text, interval.verdict]


def _error(results: SeriesResults, model: str, metric: str, place: tuple[str, int, str]) -> str:
    found = mean_at(results, model, metric, *place)
    if found is None:
        return "-"
    digits, gap = 2 if metric == "mape" else 4, gaps_at(results, *place).get(model)
    spread = f" ± {found.std:.{digits}f}" if found.num_seeds > 1 else ""
    seeds = f" ({gap})" if gap else f" ({found.num_seeds})" if found.num_seeds > 1 else ""
    return f"{found.mean:.{digits}f}{spread}{seeds}"


def _optional(value: float | None, factor: float = 1) -> str:
    return "-" if value is None else three_digits(factor * value)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
