"""What a study says of learning online, from its intervals alone."""

from __future__ import annotations

from typing import NamedTuple

from .online_results import (
    DELAYED,
    difference_to,
    frozen_of,
    gaps_at,
    mean_at,
    methods_at,
    role_of,
    seeds_at,
    title_of,
)
from .series_results import SeriesResults
from .series_scores import SeriesInterval

FROZEN, PERSISTENCE, RIDGE = "its own frozen network", "persistence", "frozen ridge"


class Verdict(NamedTuple):
    """Whether a learner is better than all that do not learn, and the sentences that say so.

    learner: the best one, None if none was scored. differences: its MSE less that of each of the three, None where
    they were not compared.
    """

    learner: str | None
    differences: dict[str, SeriesInterval | None]
    is_gain: bool
    text: str


def verdict_of(results: SeriesResults, dataset: str, horizon: int) -> Verdict:
    """Return the verdict on the learners at a place under delayed feedback.

    The best learner is the one that was `chosen` beforehand if it was scored, else, as the text then says, that of the
    lowest MSE among those that beat all three (the interval of each difference below 0), else that of the lowest MSE.
    """
    place = (dataset, horizon, DELAYED)
    learners = [model for model in methods_at(results, *place) if frozen_of(results, model)]
    title = title_of(*place)
    if not learners:
        return Verdict(None, {}, False, f"{title}: no measurable gain, as no learner was scored.")
    learners.sort(key=lambda model: results.mean_of(model, "mse", dataset, horizon, split=DELAYED) or (0.0,))
    compared = {model: _differences(results, model, dataset, horizon) for model in learners}
    winners = [model for model in learners if _beats_all(compared[model])]
    chosen = role_of(results, "chosen")
    best = chosen if chosen in compared else (winners or learners)[0]
    is_gain = best in winners
    who = "the learner that was chosen beforehand" if best == chosen else "the best learner"
    name = f"{who} ({results.label(best)}, {_error(results, best, place)})"
    text = f"{title}: " + (_gain(name, compared[best]) if is_gain else _no_gain(name, compared[best]))
    text += _seeds(results, best, dataset, horizon)
    if chosen not in (None, best):
        text += (
            f" The learner that was chosen beforehand ({results.label(chosen)}) was not scored here: the best one was "
            "picked by its error on the stretch itself, which flatters it."
        )
    text += f" Of {len(learners)} learners, {len(winners)} beat{'s' if len(winners) == 1 else ''} all three."
    return Verdict(best, compared[best], is_gain, text)


def _error(results: SeriesResults, model: str, place: tuple[str, int, str]) -> str:
    found = mean_at(results, model, "mse", *place)
    assert found is not None  # methods_at lists none without
    spread = f" ± {found.std:.4f} over {found.num_seeds} seeds" if found.num_seeds > 1 else ""
    if set(seeds_at(results, model, "mse", *place)) - {None} and found.num_seeds == 1:
        spread = " of a single seed"
    gap = gaps_at(results, *place).get(model)
    return f"MSE {found.mean:.4f}{spread}" + (f", {gap}" if gap else "")


def _differences(results: SeriesResults, model: str, dataset: str, horizon: int) -> dict[str, SeriesInterval | None]:
    baselines = {
        FROZEN: frozen_of(results, model),
        PERSISTENCE: role_of(results, "persistence"),
        RIDGE: role_of(results, "ridge"),
    }
    return {
        name: difference_to(results, model, baseline, dataset, horizon, DELAYED) for name, baseline in baselines.items()
    }


def _beats_all(differences: dict[str, SeriesInterval | None]) -> bool:
    return all(interval is not None and interval.verdict == "better" for interval in differences.values())


def _gain(name: str, differences: dict[str, SeriesInterval | None]) -> str:
    return (
        f"{name} beats {FROZEN}, {PERSISTENCE} and {RIDGE}; the intervals of the differences exclude zero: "
        f"{_listed(differences)}."
    )


def _no_gain(name: str, differences: dict[str, SeriesInterval | None]) -> str:
    return f"no measurable gain: {name} does not beat all of them: {_listed(differences)}."


def _listed(differences: dict[str, SeriesInterval | None]) -> str:
    texts = {name: "not compared" if row is None else f"{row.text}, {row.verdict}" for name, row in differences.items()}
    return "; ".join(f"less {name} {text}" for name, text in texts.items())


def _seeds(results: SeriesResults, model: str, dataset: str, horizon: int) -> str:
    """In how many seeds it is below its own frozen network of the same seed; the intervals do not tell."""
    place, frozen = (dataset, horizon, DELAYED), frozen_of(results, model)
    own, other = (seeds_at(results, name, "mse", *place) for name in (model, str(frozen)))
    shared = [seed for seed in own if seed is not None and seed in other]
    below = sum(own[seed] < other[seed] for seed in shared)
    return f" In {below} of {len(shared)} seeds it is below {FROZEN}." if shared else ""
