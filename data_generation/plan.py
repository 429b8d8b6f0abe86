"""The list of candidates of a dataset, the seed of each, and how they are cut into shards."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from data_generation.config import SPLITS, GenerationConfig
from data_generation.systems import load_system, split_of, system_names


@dataclass(frozen=True, order=True)
class PlanItem:
    """One candidate trajectory: its place in the plan, of which every draw is a function."""

    system: str
    parameter_index: int
    initial_condition_index: int

    @property
    def item_id(self) -> str:
        """Name the row, e.g. `Lorenz-p003-i01`."""
        return f"{self.system}-p{self.parameter_index:03d}-i{self.initial_condition_index:02d}"

    @property
    def parameter_key(self) -> tuple[int, ...]:
        """Return the spawn key of the parameters, shared by all their initial conditions."""
        return (*_system_words(self.system), self.parameter_index)

    @property
    def spawn_key(self) -> tuple[int, ...]:
        """Return the spawn key of the initial condition, which names the item in the dataset."""
        return (*self.parameter_key, self.initial_condition_index)


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


def _system_words(system: str) -> tuple[int, ...]:
    # Python's own hash of a string differs between processes.
    digest = hashlib.sha256(system.encode()).digest()
    return tuple(int.from_bytes(digest[start : start + 4], "little") for start in range(0, 16, 4))


def item_generator(seed: int, spawn_key: tuple[int, ...]) -> np.random.Generator:
    """Return the generator of one spawn key: the same whatever else is planned, in whatever order."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=spawn_key))


def plan_items(config: GenerationConfig, split: str) -> list[PlanItem]:
    """List the candidates of one split, ordered by system, parameter index and initial condition index.

    Raises: ValueError, naming close matches, on an unknown system."""
    names = system_names() if config.systems == "all" else config.systems
    counts = getattr(config.splits, split)
    return [
        PlanItem(name, parameter_index, initial_condition_index)
        for name in sorted(load_system(name).name for name in names)
        if split_of(name) == split
        for parameter_index in range(counts.num_parameter_sets)
        for initial_condition_index in range(counts.num_initial_conditions)
    ]


def plan_shards(config: GenerationConfig) -> list[Shard]:
    """Cut the plan into shards of at most `rows_per_shard` candidates, known before anything is integrated.

    Raises: ValueError when no split has a candidate."""
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
