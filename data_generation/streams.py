"""Streams: trajectories that go on while their parameters switch, with regimes that are valid on their own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple, cast

import numpy as np

from data_generation.candidates import Candidates, generate_candidates
from data_generation.config import GenerationConfig
from data_generation.integration import IntegrationStatus, integrate
from data_generation.perturbation import add_observation_noise
from data_generation.plan import CHECKS_WORD, PlanItem, item_generator
from data_generation.skew_products import load_item_system
from data_generation.switching import Order, SwitchingConfig
from data_generation.systems import System, flatten_parameters, observe
from data_generation.validity import Rejection, check_trajectory
from data_generation.writer import to_json

# Of the checks that can be left out, those that the way from one attractor to the next does not fail.
STRETCH_CHECKS = ("shrinking", "limit_cycle")


def generate_rows(config: GenerationConfig, items: Sequence[PlanItem]) -> Candidates:
    """Make rows of items of one system: streams where parameters switch, else trajectories.

    An item's outcome depends on the settings and the item alone, not on its neighbours."""
    if config.switching is None:
        return generate_candidates(config, items)
    system = load_item_system(config, items[0].system)
    candidates = Candidates(rows=[], rejected=[])
    for _, group in groupby(items, key=lambda item: item.spawn_key):
        sequences = {item: _draw_sequence(config, config.switching, item) for item in group}
        most = max(max(sequence) for sequence in sequences.values()) + 1
        regimes = find_regimes(config, next(iter(sequences)), most)
        for item, sequence in sequences.items():
            if max(sequence) < len(regimes):
                _sort_stream(candidates, config, system, item, regimes, sequence)
            else:
                found = {"num_regimes": len(regimes), "num_draws": config.switching.max_draws}
                candidates.rejected.append(_rejected(item, Rejection.FEW_REGIMES, found))
    return candidates


def _draw_sequence(config: GenerationConfig, switching: SwitchingConfig, item: PlanItem) -> list[int]:
    rng = item_generator(config.seed, item.sequence_key)
    return switching.regime_sequence(cast(Order, item.order), config.integration.num_points, rng=rng)


def find_regimes(config: GenerationConfig, item: PlanItem, count: int) -> list[dict[str, Any]]:
    """Draw parameter vectors until `count` of them pass all checks; return the rows that trajectories of each would be.

    The first vector is that of a trajectory in the item's place. Asking for more keeps those that fewer gave; there are
    fewer than asked for if `switching.max_draws` do not hold as many."""
    alone = replace(config, switching=None)
    limit = 0 if config.switching is None else config.switching.max_draws
    rows: list[dict[str, Any]] = []
    num_drawn = 0
    while len(rows) < count and num_drawn < limit:
        end = min(num_drawn + count - len(rows), limit)
        draws = [replace(item, order=None, regime=regime) for regime in range(num_drawn, end)]
        rows += generate_candidates(alone, draws).rows
        num_drawn = end
    return rows


class _Stretch(NamedTuple):
    """What became of one stretch: `start` is its first state, `reason` why it ends the stream, None if it does not."""

    first_step: int
    regime: int
    start: np.ndarray
    values: np.ndarray
    statistics: dict[str, float]
    reason: Rejection | IntegrationStatus | None


def _sort_stream(
    candidates: Candidates,
    config: GenerationConfig,
    system: System,
    item: PlanItem,
    regimes: Sequence[dict[str, Any]],
    sequence: Sequence[int],
) -> None:
    stretches = list(_integrate_stretches(config, system, item, regimes, sequence))
    last = stretches[-1]
    if last.reason is not None:
        found = {"first_step": last.first_step} | last.statistics
        candidates.rejected.append(_rejected(item, last.reason, found))
        return
    schedule = [
        {"first_step": stretch.first_step, "regime": stretch.regime, "initial_condition": stretch.start.tolist()}
        | {"parameters": json.loads(regimes[stretch.regime]["parameters"])}
        | {"lyapunov_time": regimes[stretch.regime]["lyapunov_time"]}
        for stretch in stretches
    ]
    checks = {
        "regimes": [json.loads(regimes[regime]["checks"]) for regime in sorted(set(sequence))],
        "stretches": [stretch.statistics for stretch in stretches],
    }
    seen = add_observation_noise(
        np.concatenate([stretch.values for stretch in stretches], axis=1),
        scale=config.perturbation.observation_noise,
        rng=item_generator(config.seed, item.noise_key),
    )
    generation = json.loads(regimes[0]["generation"]) | {"order": item.order, "schedule": schedule}
    changed = {
        "item_id": item.item_id,
        "target": np.ascontiguousarray(seen, dtype=np.float32),
        "lyapunov_time": None,
        "checks": to_json(checks),
        "generation": to_json(generation),
    }
    candidates.rows.append(regimes[0] | changed)


def _integrate_stretches(
    config: GenerationConfig,
    system: System,
    item: PlanItem,
    regimes: Sequence[dict[str, Any]],
    sequence: Sequence[int],
) -> Iterator[_Stretch]:
    """Integrate and check one stretch after the other, up to the first that fails."""
    settings, dt, state = config.integration, regimes[0]["dt"], regimes[0]["initial_condition"]
    steps = settings.num_points // len(sequence)
    thresholds = replace(config.validity, checks=[name for name in STRETCH_CHECKS if name in config.validity.checks])
    for place, regime in enumerate(sequence):
        parameters = flatten_parameters(system, json.loads(regimes[regime]["parameters"]))
        result = integrate(
            system.vector_field,
            state,
            parameters,
            start_time=place * steps * dt,
            dt=dt,
            num_points=steps + 1,
            rtol=settings.rtol,
            atol=settings.atol,
            max_steps=settings.max_steps,
            max_abs=settings.max_abs,
            unbounded=system.unbounded,
        )
        values, statistics, reason = result.states[0, :-1].T, {}, result.status[0]
        if reason is IntegrationStatus.COMPLETED:
            values = observe(system, result.states[0, :-1], parameters).T
            rng = item_generator(config.seed, (*item.spawn_key, CHECKS_WORD))
            checked = check_trajectory(
                values, system.channel_std, max_abs=settings.max_abs, thresholds=thresholds, rng=rng
            )
            statistics, reason = checked.statistics, checked.rejection
        yield _Stretch(place * steps, regime, state, values, statistics, reason)
        if reason is not None:
            return
        state = result.states[0, -1]


def _rejected(item: PlanItem, reason: Rejection | IntegrationStatus, checks: dict[str, Any]) -> dict[str, Any]:
    return {"item_id": item.item_id, "system": item.system, "reason": reason.name.lower(), "checks": checks}
