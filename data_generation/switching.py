"""Settings of streams whose parameters switch, and the order in which their regimes come."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from data_generation.rules import require, require_unique

Order = Literal["abrupt", "recurring"]


@dataclass(frozen=True)
class SwitchingConfig:
    """Streams: the parameters jump from regime to regime, and the trajectory goes on from where it is.

    A regime is a parameter vector that is drawn as those of other rows are, and with which a trajectory of its own
    passes all checks.

    Args:
        orders: streams that each candidate gets. "abrupt" takes a new regime at every switch; "recurring" shows
            `num_regimes` once each, then all of them again and again, each time in another drawn order. Both have the
            same regimes, and are the same series until the first one comes back.
        steps_per_regime: stored points from one switch to the next.
        num_regimes: of a recurring stream.
        max_draws: parameter vectors that are tried before a stream is given up."""

    orders: list[Order] = field(default_factory=lambda: ["abrupt", "recurring"])
    steps_per_regime: int = 1000
    num_regimes: int = 3
    max_draws: int = 100

    def __post_init__(self) -> None:
        require(bool(self.orders), "orders must name at least one order", self.orders, "give [abrupt, recurring]")
        require_unique("orders must name each order", self.orders)
        require(self.steps_per_regime >= 64, "steps_per_regime must be at least 64", self.steps_per_regime, "raise it")
        require(self.num_regimes >= 2, "num_regimes must be at least 2", self.num_regimes, "give 3")
        require(self.max_draws >= 1, "max_draws must be at least 1", self.max_draws, "give 100")

    def check_length(self, num_points: int) -> None:
        """Refuse streams that are no whole stretches, or in which nothing switches or comes back.

        Raises: ValueError."""
        steps = self.steps_per_regime
        least = self.num_regimes + 1 if "recurring" in self.orders else 2
        require(
            num_points % steps == 0 and num_points >= least * steps,
            f"integration.num_points must be a multiple of switching.steps_per_regime, {steps}, and {least} times as "
            "many at least",
            num_points,
            f"give {max(round(num_points / steps), least) * steps}, for example",
        )

    def regime_sequence(self, order: Order, num_points: int, *, rng: np.random.Generator) -> list[int]:
        """Return the regime of each stretch of a stream, from 0 on; neighbours differ.

        The regimes of a recurring stream come in blocks that hold each once: the first in order, all others drawn; a
        block that would begin as the one before ended is turned by one place. Only such a stream draws from `rng`."""
        num_stretches = num_points // self.steps_per_regime
        sequence = list(range(num_stretches if order == "abrupt" else self.num_regimes))
        while len(sequence) < num_stretches:
            block = rng.permutation(self.num_regimes)
            sequence += np.roll(block, -1 if block[0] == sequence[-1] else 0).tolist()
        return sequence[:num_stretches]
