"""From plan items to dataset rows: draw, integrate, check, describe."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from data_generation.config import GenerationConfig
from data_generation.exponents import measure_exponents
from data_generation.integration import IntegrationStatus, integrate
from data_generation.perturbation import (
    add_observation_noise,
    draw_num_periods,
    draw_parameters,
    perturb_initial_condition,
    perturb_parameters,
)
from data_generation.plan import CHECKS_WORD, PlanItem, item_generator
from data_generation.skew_products import load_item_system
from data_generation.systems import System, observe, split_of, unflatten_parameters
from data_generation.validity import Rejection, check_trajectory
from data_generation.writer import to_json

# gluonts needs a start and a frequency; `dt` holds the truth.
NOMINAL_START = datetime.datetime(1970, 1, 1)
NOMINAL_FREQUENCY = "s"


@dataclass(frozen=True)
class Candidates:
    """What became of the candidates of one system.

    Args:
        rows: of those accepted, with the columns of the dataset, in the order of the plan.
        rejected: `item_id`, `system`, `reason` and `checks` of the others."""

    rows: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def generate_candidates(config: GenerationConfig, items: Sequence[PlanItem]) -> Candidates:
    """Integrate items of one system in one call, and sort them into rows and rejections.

    An item's outcome depends on the settings and the item alone, not on its neighbours."""
    system = load_item_system(config, items[0].system)
    parameters = np.stack([item_parameters(config, system, item) for item in items])
    integration = config.integration
    dt = system.period * np.array([item_num_periods(config, item) for item in items]) / integration.num_points
    transient = system.period * integration.transient_periods
    result = integrate(
        system.vector_field,
        np.stack([item_initial_condition(config, system, item) for item in items]),
        parameters,
        start_time=-transient,
        dt=dt,
        num_points=integration.num_points,
        transient=transient,
        rtol=integration.rtol,
        atol=integration.atol,
        max_steps=integration.max_steps,
        max_abs=integration.max_abs,
        unbounded=system.unbounded,
    )
    candidates = Candidates(rows=[], rejected=[])
    for item, vector, states, status, interval in zip(
        items, parameters, result.states, result.status, dt.tolist(), strict=True
    ):
        _sort_candidate(candidates, config, system, item, vector, states, status, dt=interval)
    if config.lyapunov.num_periods and candidates.rows:
        vectors = {item.item_id: vector for item, vector in zip(items, parameters, strict=True)}
        return _with_exponents(candidates, config, system, vectors)
    return candidates


def _with_exponents(
    candidates: Candidates, config: GenerationConfig, system: System, vectors: dict[str, np.ndarray]
) -> Candidates:
    """Give every row its Lyapunov time, and reject what is not chaotic, or not as its parent is, where asked for."""
    starts = [*(row["initial_condition"] for row in candidates.rows), system.initial_condition]
    parameters = [*(vectors[row["item_id"]] for row in candidates.rows), system.parameter_vector]
    *exponents, parent = measure_exponents(config, system, np.stack(starts), np.stack(parameters))
    settings, period = config.lyapunov, system.period
    rows, rejected = [], list(candidates.rejected)
    for row, exponent in zip(candidates.rows, exponents, strict=True):
        bifurcated = exponent.has_bifurcated(parent, settings, period)
        statistics = json.loads(row["checks"]) | exponent.statistics() | {"bifurcated": bifurcated}
        reason = None
        if settings.reject_regular and exponent.is_regular(settings, period):
            reason = Rejection.SMALL_EXPONENT
        elif settings.reject_bifurcated and bifurcated:
            reason = Rejection.BIFURCATED
        if reason is None:
            lyapunov_time = exponent.lyapunov_time(settings, period)
            rows.append(row | {"lyapunov_time": lyapunov_time, "checks": to_json(statistics)})
        else:
            entry = {"item_id": row["item_id"], "system": system.name, "reason": reason.name.lower()}
            rejected.append(entry | {"checks": statistics})
    return Candidates(rows, rejected)


def reason_text(reason: str) -> str:
    """Return what a `reason` of a rejected candidate means."""
    name = reason.upper()
    return Rejection[name].value if name in Rejection.__members__ else IntegrationStatus[name].message


def item_parameters(config: GenerationConfig, system: System, item: PlanItem) -> np.ndarray:
    """Return the (num_parameters,) parameters of an item: the defaults at index 0 where they are included."""
    perturbation = config.perturbation
    if perturbation.include_default_parameters and item.parameter_index == item.regime == 0:
        return system.parameter_vector
    draw = draw_parameters(
        len(system.parameter_vector),
        sign_match=perturbation.sign_match,
        ignore_probability=perturbation.ignore_probability,
        rng=item_generator(config.seed, item.parameter_key),
    )
    return perturb_parameters(system.parameter_vector, draw, scale=perturbation.parameter_scale)


def item_initial_condition(config: GenerationConfig, system: System, item: PlanItem) -> np.ndarray:
    """Return the (dimension,) state from which the item starts: the stored one for the first where included."""
    perturbation = config.perturbation
    is_first = item.parameter_index == 0 and item.initial_condition_index == 0
    if perturbation.include_default_initial_condition and is_first:
        return system.initial_condition
    return perturb_initial_condition(
        system.initial_condition,
        system.state_std,
        scale=perturbation.initial_condition_scale,
        rng=item_generator(config.seed, item.spawn_key),
    )


def item_num_periods(config: GenerationConfig, item: PlanItem) -> float:
    """Return how many periods the stored points of an item cover."""
    return draw_num_periods(config.integration.num_periods, rng=item_generator(config.seed, item.num_periods_key))


def _sort_candidate(
    candidates: Candidates,
    config: GenerationConfig,
    system: System,
    item: PlanItem,
    parameters: np.ndarray,
    states: np.ndarray,
    status: IntegrationStatus,
    *,
    dt: float,
) -> None:
    rejection, statistics, values = status, {}, states
    if status is IntegrationStatus.COMPLETED:
        values = observe(system, states, parameters).T
        checked = check_trajectory(
            values,
            system.channel_std,
            max_abs=config.integration.max_abs,
            thresholds=config.validity,
            rng=item_generator(config.seed, (*item.spawn_key, CHECKS_WORD)),
        )
        rejection, statistics = checked.rejection, checked.statistics
    if rejection is None:
        row = _row(config, system, item, parameters, dt=dt)
        seen = add_observation_noise(
            values, scale=config.perturbation.observation_noise, rng=item_generator(config.seed, item.noise_key)
        )
        row |= {"target": np.ascontiguousarray(seen, dtype=np.float32), "checks": to_json(statistics)}
        candidates.rows.append(row | {"initial_condition": states[0]})
    else:
        entry = {"item_id": item.item_id, "system": item.system, "reason": rejection.name.lower(), "checks": statistics}
        candidates.rejected.append(entry)


def _row(
    config: GenerationConfig, system: System, item: PlanItem, parameters: np.ndarray, *, dt: float
) -> dict[str, Any]:
    is_default = np.array_equal(parameters, system.parameter_vector)
    integration = config.integration
    return {
        "item_id": item.item_id,
        "start": NOMINAL_START,
        "freq": NOMINAL_FREQUENCY,
        "system": system.name,
        "split": split_of(system.name),
        "dt": dt,
        "period": system.period,
        # dysts' exponent is that of the default parameters; measured ones replace it.
        "lyapunov_time": system.lyapunov_time if is_default else None,
        "parameters": to_json(unflatten_parameters(system, parameters)),
        "seed": to_json({"entropy": config.seed, "spawn_key": item.spawn_key}),
        "generation": to_json(
            {
                "atol": integration.atol,
                **({"coupling": system.coupling.as_json()} if system.coupling else {}),
                "default_parameters": is_default,
                "num_points": integration.num_points,
                "observation_noise": config.perturbation.observation_noise,
                "rtol": integration.rtol,
                "start_time": 0.0,
                "transient_time": system.period * integration.transient_periods,
                "versions": {"dysts": version("dysts")},
            }
        ),
    }
