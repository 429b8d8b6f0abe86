"""Search for skew products whose response is chaotic and really driven, over generations of mutated couplings.

    python -m data_generation.pair_search --config data_generation/configs/skew.yaml --found found.yaml
    python -m data_generation --config data_generation/configs/skew.yaml --config found.yaml

The first command writes found.yaml, the pairs that were kept with their couplings, and found.json, the numbers of
every pair that was tried. About two seconds a pair, most of it compilation.

Source: Panda's discovery of systems by perturbation, recombination and selection (arXiv:2505.13755).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from joblib import Parallel, delayed

from data_generation.candidates import generate_candidates
from data_generation.config import SPLITS, CandidatesConfig, GenerationConfig
from data_generation.config_loading import load_config
from data_generation.couplings import Coupling, draw_coupling
from data_generation.integration import IntegrationStatus, integrate
from data_generation.lyapunov import conditional_lyapunov_exponents, largest_lyapunov_exponents
from data_generation.plan import PlanItem, draw_pairs, item_generator, system_words
from data_generation.skew_products import build_skew_product, coupling_settings, draw_pair_coupling, driver_rms
from data_generation.systems import load_system, observe, parents_of
from data_generation.writer import to_json

# Per period: from there on motion counts as clearly chaotic.
MIN_EXPONENT = 0.02
# Nats by which the mutual information of driver and response must exceed that with a shifted driver.
MIN_DEPENDENCE = 0.05
NUM_SHIFTS, NUM_BINS = 19, 16
# Of a mutation: of the logarithm of the strength; of the entries of matrices, relative to their spread.
STRENGTH_SCALE, MATRIX_SCALE = 0.5, 0.1


@dataclass(frozen=True)
class TriedPair:
    """One pair with its coupling, and what is known of it; numbers are None where an earlier test failed."""

    driver: str
    response: str
    coupling: Coupling
    generation: int
    rejection: str | None = None
    """The first failure: a reason of the generator, or `not_chaotic`, `not_driven`, `exponent_failed`."""
    dependence: float | None = None
    """Nats of mutual information between driver and response beyond what a shifted driver shows."""
    exponent: float | None = None
    """Largest Lyapunov exponent of driver and response together, times the period."""
    conditional_exponent: float | None = None
    """That of the response with its driver given, times the period: below 0 it follows the driver."""

    @property
    def name(self) -> str:
        return f"{self.driver}->{self.response}"


def search_pairs(
    config: GenerationConfig, *, split: str, population_size: int, num_generations: int
) -> list[TriedPair]:
    """Try random pairs of a split, then, generation by generation, children of the best that were kept.

    A child is a mutation of one coupling, or the driver of one pair with the response of another. What is tried
    depends on the settings and the seed, not on the number of workers.

    Returns: every pair tried, in order; those without `rejection` are kept.
    Raises: ValueError when the split has fewer than `population_size` pairs."""
    counts = replace(CandidatesConfig(), num_pairs=population_size)
    names = draw_pairs(replace(config, splits=replace(config.splits, **{split: counts})), split)
    parents = [pair for name in names if (pair := parents_of(name))]
    population = [TriedPair(*pair, draw_pair_coupling(config, *pair), 0) for pair in parents]
    tried: list[TriedPair] = []
    for generation in range(1, num_generations + 1):
        results = Parallel(n_jobs=config.jobs)([delayed(try_pair)(config, pair) for pair in population])
        tried += cast(list[TriedPair], results)
        best = best_pairs(tried, count=max(2, population_size // 2))
        if not best:
            break
        key = (*system_words(f"pair search of {split}"), generation)
        rngs = [item_generator(config.seed, (*key, child)) for child in range(population_size)]
        population = [replace(_child(config, best, rng), generation=generation) for rng in rngs]
    return tried


def best_pairs(tried: Sequence[TriedPair], *, count: int) -> list[TriedPair]:
    """Return the kept pairs of strongest dependence, each name once."""
    kept = [pair for pair in tried if pair.rejection is None]
    best: dict[str, TriedPair] = {}
    for pair in sorted(kept, key=lambda pair: (-(pair.dependence or 0), pair.name)):
        best.setdefault(pair.name, pair)
    return list(best.values())[:count]


def try_pair(config: GenerationConfig, pair: TriedPair) -> TriedPair:
    """Return a pair with what it is worth at its default parameters.

    It is rejected unless it passes the checks of the generator, the largest exponent is above `MIN_EXPONENT` per
    period, and the response is driven: it shares `MIN_DEPENDENCE` of information with the driver, or it forgets its
    own past (the conditional exponent is below minus `MIN_EXPONENT`)."""
    coupling = pair.coupling.as_json()
    defaults = replace(config.perturbation, include_default_parameters=True, include_default_initial_condition=True)
    skew_products = replace(config.skew_products, couplings={pair.name: coupling})
    settings = replace(config, perturbation=defaults, skew_products=skew_products)
    rejected = generate_candidates(settings, [PlanItem(pair.name, 0, 0)]).rejected
    if rejected:
        return replace(pair, rejection=rejected[0]["reason"])
    rng = item_generator(config.seed, (*system_words(pair.name), *system_words(to_json(coupling))))
    driver, response = _observe_both(config, pair)
    pair = replace(pair, dependence=mutual_dependence(driver, response, rng=rng))
    system = build_skew_product(pair.driver, pair.response, pair.coupling)
    run = (system.vector_field, system.initial_condition, system.parameter_vector)
    common: dict[str, Any] = {"period": system.period, "rng": rng, "unbounded": system.unbounded}
    largest = largest_lyapunov_exponents(*run, **common)
    states = range(load_system(pair.driver).dimension, system.dimension)
    conditional = conditional_lyapunov_exponents(*run, response=states, **common)
    if {*largest.status, *conditional.status} != {IntegrationStatus.COMPLETED}:
        return replace(pair, rejection="exponent_failed")
    exponent, conditional_exponent = (float(result.exponents[0] * system.period) for result in (largest, conditional))
    is_driven = (pair.dependence or 0) > MIN_DEPENDENCE or conditional_exponent < -MIN_EXPONENT
    rejection = "not_chaotic" if exponent <= MIN_EXPONENT else None if is_driven else "not_driven"
    return replace(pair, rejection=rejection, exponent=exponent, conditional_exponent=conditional_exponent)


def mutual_dependence(driver: np.ndarray, response: np.ndarray, *, rng: np.random.Generator) -> float:
    """Return by how many nats the two share more information than the response shares with a shifted driver.

    The strongest pair of channels counts, on `NUM_BINS` equally filled bins; the driver is shifted round by
    `NUM_SHIFTS` lags drawn from the middle three quarters of the series, the largest of which is subtracted.

    Args:
        driver, response: (channels, time)."""
    first, second = _bins(driver), _bins(response)
    length = first.shape[1]
    shifts = rng.integers(length // 8, length - length // 8, size=NUM_SHIFTS)
    chance = max(_information(np.roll(first, shift, axis=1), second) for shift in shifts)
    return _information(first, second) - chance


def _bins(values: np.ndarray) -> np.ndarray:
    ranks = values.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return ranks * NUM_BINS // values.shape[1]


def _information(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest mutual information over pairs of channels, in nats."""
    largest = 0.0
    for one in first:
        for other in second:
            joint = np.bincount(one * NUM_BINS + other, minlength=NUM_BINS**2).reshape(NUM_BINS, NUM_BINS) / one.size
            independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
            seen = joint > 0
            largest = max(largest, float(np.sum(joint[seen] * np.log(joint[seen] / independent[seen]))))
    return largest


def _observe_both(config: GenerationConfig, pair: TriedPair) -> tuple[np.ndarray, np.ndarray]:
    """Return the observed channels of driver and response over 40 periods, 4096 points."""
    system = build_skew_product(pair.driver, pair.response, replace(pair.coupling, stored_states="both"))
    result = integrate(
        system.vector_field,
        system.initial_condition,
        system.parameter_vector,
        dt=system.period * 40 / 4096,
        num_points=4096,
        transient=system.period * config.integration.transient_periods,
        rtol=1e-7,
        atol=1e-9,
        max_steps=4 * config.integration.max_steps,
        unbounded=system.unbounded,
    )
    channels = np.nan_to_num(observe(system, result.states[0], system.parameter_vector).T)
    num_driver = len(load_system(pair.driver).channel_std)
    return channels[:num_driver], channels[num_driver:]


def _child(config: GenerationConfig, best: Sequence[TriedPair], rng: np.random.Generator) -> TriedPair:
    """Return a mutation of one pair, or a recombination of two where that makes another pair."""
    one, other = (best[int(index)] for index in rng.integers(len(best), size=2))
    if one.driver == other.response or one.response == other.response or rng.random() < 0.5:
        return TriedPair(one.driver, one.response, _mutate(one.coupling, rng), one.generation)
    strengths = [pair.coupling.driver_strength * driver_rms(pair.driver) for pair in (one, other)]
    settings = replace(config.skew_products, strength=float(np.sqrt(np.prod(strengths))))
    coupling = draw_coupling(settings, **coupling_settings(one.driver, other.response), rng=rng)
    return TriedPair(one.driver, other.response, coupling, one.generation)


def _mutate(coupling: Coupling, rng: np.random.Generator) -> Coupling:
    """Return a coupling of another strength, with two driver indices exchanged or its matrices moved."""
    strength = coupling.driver_strength * float(np.exp(STRENGTH_SCALE * rng.standard_normal()))
    if coupling.driver_indices is not None:
        indices = list(coupling.driver_indices)
        first, second = rng.integers(len(indices), size=2)
        indices[first], indices[second] = indices[second], indices[first]
        return replace(coupling, driver_strength=strength, driver_indices=tuple(indices))
    moved = {}
    for name in ("driver_matrix", "response_matrix"):
        matrix = np.array(getattr(coupling, name))
        noise = MATRIX_SCALE * rng.standard_normal(matrix.shape) / np.sqrt(sum(matrix.shape))
        moved[name] = tuple(map(tuple, (matrix + noise).tolist()))
    return replace(coupling, driver_strength=strength, **moved)


def settings_of(pairs: Sequence[TriedPair], split: str) -> dict[str, Any]:
    """Return, as sections of a config, the pairs as systems of their split, with their couplings."""
    couplings = {pair.name: pair.coupling.as_json() for pair in sorted(pairs, key=lambda pair: pair.name)}
    return {
        "splits": {split: {"systems": sorted(couplings), "num_pairs": 0}},
        "skew_products": {"couplings": couplings},
    }


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_generation.pair_search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="settings of a dataset; its seed and couplings are used")
    parser.add_argument("--found", required=True, type=Path, help="the YAML file to write; a JSON file goes beside it")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--population", type=int, default=32, help="pairs per generation")
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--kept", type=int, default=32, help="most pairs to keep")
    return parser.parse_args()


def main() -> None:
    options = _parse_options()
    config = load_config(["--config", options.config])
    try:
        tried = search_pairs(
            config, split=options.split, population_size=options.population, num_generations=options.generations
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    best = best_pairs(tried, count=options.kept)
    if not best:
        reasons = dict(Counter(pair.rejection for pair in tried))
        sys.exit(f"error: a search must keep at least one pair, found {reasons}; raise --population.")
    options.found.write_text(yaml.safe_dump(yaml.safe_load(to_json(settings_of(best, options.split)))))
    options.found.with_suffix(".json").write_text(
        to_json([{"name": pair.name, **asdict(pair)} for pair in tried], indent=1) + "\n"
    )
    print(f"kept {len(best)} pairs of {len(tried)} tried; {options.found}")


if __name__ == "__main__":
    main()
