"""Turn the boards of a benchmark into its page, and the first of them into a README's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .comparisons import is_larger_better
from .leaderboard import Board, reference_of
from .leaderboard_criteria import criteria, of_systems, overall_ranks, paired_tests_by_criterion
from .leaderboard_tables import (
    cost_table,
    difference_table,
    failures_note,
    leader_table,
    main_table,
    metric_tables,
    rank_table,
    short_table,
    wins_table,
)
from .model_card import render_strictly

TEMPLATE = Path(__file__).parent / "templates" / "leaderboard.md"
NUM_IN_SUMMARY = 5


def render_leaderboard(boards: Sequence[Board], *, figures: Mapping[str, Sequence[tuple[str, str]]] = {}) -> str:
    """Return the page as Markdown: equal arguments, equal text.

    figures: by condition (path beside the page, caption).
    """
    variables = {
        "criterion": _criterion(boards[0]),
        "boards": [_section(board, boards, figures.get(board.condition, ())) for board in boards],
        "num_models": len({model for board in boards for model in board.models}),
        "percent": _percent(boards[0]),
        "clocks": _clocks(boards),
        "limits": list(_limits(boards)),
        "file_table": _file_table(boards),
    }
    return render_strictly(TEMPLATE, variables)


def leaderboard_summary(boards: Sequence[Board], *, page: str) -> str:
    """Return Markdown for a README: the first models of the first condition, the names of the others, a link.

    page: path of the page beside the README.
    """
    board = boards[0]
    labels = [board.label(model) for model in overall_ranks(board)]
    shown, others = labels[:NUM_IN_SUMMARY], labels[NUM_IN_SUMMARY:]
    text = (
        f"{_description(board)} Medians over systems with {_percent(board)} % bootstrap intervals. The overall rank is "
        f"the mean of a model's ranks by the other columns; the first {len(shown)} of {len(labels)} models:"
    )
    rest = f"Then, in this order: {', '.join(others)}. " if others else ""
    link = f"[The leaderboard]({page}) has all of them, the other conditions, paired tests, costs and figures."
    return "\n\n".join([text, short_table(board, NUM_IN_SUMMARY), rest + link])


def _percent(board: Board) -> str:
    return f"{100 * board.protocol['confidence']:g}"


def _criterion(board: Board) -> str:
    """How the models are ordered, in a sentence."""
    titles = [
        f"{column.title} ({'more' if is_larger_better(column.metric) else 'less'} is better)"
        for column in criteria(board)
    ]
    return (
        "Models are ordered by their overall rank: within each system they are ranked by each of "
        f"{'; '.join(titles)}; ranks are averaged over systems, then over these {len(titles)} criteria, which count "
        "alike. Neither cost nor training data enter."
    )


def _description(board: Board) -> str:
    """The systems and the protocol, in two sentences."""
    protocol = board.protocol
    counted = ", ".join(f"{len(names)} {title[:1].lower()}{title[1:]}" for title, names in board.groups.items())
    count = sum(facts["num_windows"] for facts in board.systems.values())
    asked = f"contexts of {protocol['context_length']} steps, forecasts of {max(protocol['horizons'])}"
    disturbed = []
    if protocol.get("noise"):
        disturbed.append(f"white noise of {protocol['noise']:g} standard deviations on the context")
    if protocol.get("missing"):
        disturbed.append(f"{100 * protocol['missing']:g} % of the context hidden")
    return f"`{board.condition}`: {counted}; {count:,} windows with {'; '.join([asked, *disturbed])}."


def _section(board: Board, boards: Sequence[Board], figures: Sequence[tuple[str, str]]) -> dict[str, Any]:
    groups = [(board, *group) for group in board.groups.items() if len(board.groups) > 1]
    if board.series:
        groups += [(board.series, *group) for group in board.series.groups.items()]
    reference = reference_of(board, boards)
    several = len(board.models) > 1
    tests = paired_tests_by_criterion(board) if board.is_clean and several else {}
    return {
        "condition": board.condition,
        "description": _description(board),
        "criterion": _criterion(board),
        "table": main_table(board),
        "failures": failures_note(board),
        "group_tables": {
            f"{title} ({len(systems)})": main_table(of_systems(part, systems)) for part, title, systems in groups
        },
        "rank_table": rank_table(board) if several else "",
        "leader_table": leader_table(board, tests) if tests else "",
        "wins_tables": {column.title: wins_table(board, column, found) for column, found in tests.items()},
        "reference": reference.condition if reference else "",
        "difference_table": difference_table(board, reference) if reference else "",
        "metric_tables": metric_tables(board),
        "cost_table": cost_table(board),
        "figures": figures,
    }


def _clocks(boards: Sequence[Board]) -> list[str]:
    """The machines that times were measured on."""
    machines = [header["hardware"] for board in boards for header in board.files.values()]
    texts = [
        f"{each['cpu']} ({each['num_cores']} cores)" + (f" with {each['accelerator']}" if each["accelerator"] else "")
        for each in machines
    ]
    return list(dict.fromkeys(texts))


def _limits(boards: Sequence[Board]) -> Iterator[str]:
    """What these results do not let one compare."""
    first = boards[0]
    yield (
        "Conditions: only where they share their forecast origins are they compared, window by window; all others "
        "merely stand on the same page."
    )
    yield (
        "Ranks depend on who else is in the table: a new model can change the order of two others where both beat it "
        "on different systems. What two models win of each other does not, nor an effect; a corrected p-value grows."
    )
    yield (
        "Zero-shot models, models fitted to each context, and models trained on systems like these are ranked "
        "together: what each was trained on, and for how long, is in the tables of costs."
    )
    machines = _clocks(boards)
    if len(machines) > 1:
        yield f"Times were measured on {len(machines)} kinds of machines, {'; '.join(machines)}: compare within one."
    else:
        yield "Times are those of one machine, shared with other work: CPU time, not wall time, is what to compare."
    unknown = [name for name, facts in first.systems.items() if not facts.get("lyapunov_times_per_period")]
    if unknown:
        yield (
            f"{len(unknown)} of {len(first.systems)} systems of `{first.condition}` have no known Lyapunov time: "
            "medians of valid times in Lyapunov times are over the others."
        )
    if any(board.series for board in boards):
        yield (
            "Series are forecast as far as their lengths allow, with contexts and horizons of their own; no median, "
            "rank or test over systems has them. Values of each series are in the results files."
        )
    if any(row.metric == "normalised_crps" for row in first.summary):
        yield (
            "CRPS is that of models with a distribution; those that forecast points have none, not a worse one. It is "
            "no criterion of the order."
        )
    yield (
        "Scores of attractors fall to their floor, not to 0: differences between models at the floor say nothing, "
        "though ranks count them."
    )


def _file_table(boards: Sequence[Board]) -> str:
    """Where every number came from."""
    lines = [
        "| file | benchmark | models | dataset | hardware | revision | versions |",
        "|---|---|---|---|---|---|---|",
    ]
    for board in boards:
        for file, header in board.files.items():
            benchmark, hardware = header["benchmark"], header["hardware"]
            cells = [f"`{file}`", benchmark.get("name", "-"), ", ".join(map(board.label, benchmark["models"]))]
            cells += [f"`{header['dataset']['fingerprint'][:12]}`, {header['dataset']['split']}"]
            cells += [f"{hardware['cpu']}, {hardware['num_cores']} cores"]
            cells += [f"`{header['git_revision'][:12]}`" if header["git_revision"] else "not recorded"]
            cells += [", ".join(f"{package} {version}" for package, version in header["versions"].items())]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
