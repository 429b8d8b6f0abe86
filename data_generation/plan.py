"""The list of candidates of a dataset, the seed of each, and how they are cut into shards."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from data_generation.config import SPLITS, GenerationConfig
from data_generation.couplings import Coupling
from data_generation.switching import Order
from data_generation.systems import load_system, parents_of, split_of, system_names

# Each ends the spawn key of one kind of draw: four beside an item's initial condition, and a system's first tangent.
NUM_PERIODS_WORD, NOISE_WORD, CHECKS_WORD, TANGENT_WORD, SEQUENCE_WORD = range(5)


@dataclass(frozen=True, order=True)
class PlanItem:
    """One candidate trajectory: its place in the plan, of which every draw is a function.

    Args:
        order: of a stream's regimes; None of a trajectory that keeps its parameters.
        regime: which of the parameter vectors that are drawn for a stream; the first is the trajectory's own."""

    system: str
    parameter_index: int
    initial_condition_index: int
    order: Order | None = None
    regime: int = 0

    @property
    def item_id(self) -> str:
        """Name the row, e.g. `Lorenz-p003-i01`, or of a stream `Lorenz-p003-i01-abrupt`."""
        parts = (f"r{self.regime:03d}" if self.regime else None, self.order)
        place = f"{self.system}-p{self.parameter_index:03d}-i{self.initial_condition_index:02d}"
        return "-".join([place, *filter(None, parts)])

    @property
    def parameter_key(self) -> tuple[int, ...]:
        """Return the spawn key of the parameters, shared by all their initial conditions."""
        key = (*system_words(self.system), self.parameter_index)
        return (*key, 0, 0, self.regime) if self.regime else key  # longer than any other

    @property
    def spawn_key(self) -> tuple[int, ...]:
        """Return the spawn key of the initial condition, which names the item in the dataset."""
        return (*system_words(self.system), self.parameter_index, self.initial_condition_index)

    @property
    def num_periods_key(self) -> tuple[int, ...]:
        """Return the spawn key of the number of periods."""
        return (*self.spawn_key, NUM_PERIODS_WORD)

    @property
    def noise_key(self) -> tuple[int, ...]:
        """Return the spawn key of the observation noise."""
        return (*self.spawn_key, NOISE_WORD)

    @property
    def sequence_key(self) -> tuple[int, ...]:
        """Return the spawn key of the order in which regimes come back."""
        return (*self.spawn_key, SEQUENCE_WORD)


@dataclass(frozen=True)
class Shard:
    """The candidates of one file, in the order in which accepted ones are written."""

    split: str
    index: int
    items: tuple[PlanItem, ...]

    @property
    def name(self) -> str:
        """Name the shard, e.g. `train-00000`."""
        return f"{self.split}-{self.index:05d}"

    def items_by_system(self) -> Iterator[tuple[str, list[PlanItem]]]:
        """Yield each system with its items, in order."""
        for system, items in groupby(self.items, key=lambda item: item.system):
            yield system, list(items)


def system_words(system: str) -> tuple[int, ...]:
    """Return the numbers that stand for a name in a spawn key."""
    # Python's own hash of a string differs between processes.
    digest = hashlib.sha256(system.encode()).digest()
    return tuple(int.from_bytes(digest[start : start + 4], "little") for start in range(0, 16, 4))


def item_generator(seed: int, spawn_key: tuple[int, ...]) -> np.random.Generator:
    """Return the generator of one spawn key: the same whatever else is planned, in whatever order."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=spawn_key))


def plan_items(config: GenerationConfig, split: str) -> list[PlanItem]:
    """List the candidates of one split, ordered by system, parameter index, initial condition index and order.

    Raises: ValueError, naming close matches, on an unknown system, or one asked for in a split it is not of."""
    counts = getattr(config.splits, split)
    names = sorted({*_listed_systems(config, split), *draw_pairs(config, split)})
    for name in names:
        for part in parents_of(name) or (name,):
            load_system(part)
    orders = [None] if config.switching is None else sorted(config.switching.orders)
    return [
        PlanItem(name, parameter_index, initial_condition_index, order)
        for name in names
        for parameter_index in range(counts.num_parameter_sets)
        for initial_condition_index in range(counts.num_initial_conditions)
        for order in orders
    ]


def draw_pairs(config: GenerationConfig, split: str) -> list[str]:
    """Draw the random skew products of a split; asking for more keeps those that fewer gave.

    Both parents belong to the split, differ, and have periods within `max_period_ratio` of each other.

    Raises: ValueError when there are fewer such pairs than asked for."""
    num_pairs, settings = getattr(config.splits, split).num_pairs, config.skew_products
    if not num_pairs:
        return []
    names = system_names() if settings.parents == "all" else settings.parents
    periods = {name: load_system(name).period for name in sorted(names) if split_of(name) == split}
    pairs = [
        f"{driver}->{response}"
        for driver in periods
        for response in periods
        if driver != response
        and max(periods[driver], periods[response])
        <= settings.max_period_ratio * min(periods[driver], periods[response])
    ]
    if len(pairs) < num_pairs:
        raise ValueError(
            f"splits.{split}.num_pairs must be at most the number of pairs that can be drawn, found {num_pairs} of "
            f"{len(pairs)}; add parents of that split or raise max_period_ratio."
        )
    order = item_generator(config.seed, system_words(f"pairs of {split}")).permutation(len(pairs))
    return [pairs[index] for index in order[:num_pairs]]


def _listed_systems(config: GenerationConfig, split: str) -> list[str]:
    """Return the systems of a split that the settings name."""
    own = getattr(config.splits, split).systems
    if own is None:
        names = system_names() if config.systems == "all" else config.systems
        return [name for name in names if split_of(name) == split]
    strangers = {name: split_of(name) for name in own if split_of(name) != split}
    if strangers:
        raise ValueError(
            f"splits.{split}.systems must belong to {split}, found {strangers!r}; a skew product is held out when "
            "either parent is. Move them to their split."
        )
    return own


def plan_shards(config: GenerationConfig) -> list[Shard]:
    """Cut the plan into shards of at most `rows_per_shard` candidates, known before anything is integrated.

    Raises: ValueError when no split has a candidate, or a system, a split or a coupling is wrong."""
    for coupling in config.skew_products.couplings.values():
        Coupling.from_json(coupling)
    shards = []
    for split in SPLITS:
        items = plan_items(config, split)
        starts = range(0, len(items), config.rows_per_shard)
        shards += [
            Shard(split, index, tuple(items[start : start + config.rows_per_shard]))
            for index, start in enumerate(starts)
        ]
    if not shards:
        raise ValueError(
            f"the plan must hold at least one candidate, found none for systems {config.systems!r}; "
            "raise num_parameter_sets and num_initial_conditions of their splits."
        )
    return shards
