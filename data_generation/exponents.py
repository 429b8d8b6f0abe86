"""The largest Lyapunov exponent of every accepted trajectory, from the very equations that made it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_generation.config import GenerationConfig, LyapunovConfig
from data_generation.integration import IntegrationStatus
from data_generation.lyapunov import largest_lyapunov_exponents
from data_generation.plan import TANGENT_WORD, item_generator, system_words
from data_generation.systems import System

# The second attempt, for equations that the loose tolerance carries out of their domain.
TOLERANCES = ((1e-6, 1e-8), (1e-9, 1e-11))


@dataclass(frozen=True)
class Exponent:
    """A largest Lyapunov exponent per unit of the system's time, or why there is none.

    Args:
        value: NaN unless `status` is COMPLETED, like `standard_error`."""

    value: float
    standard_error: float
    status: IntegrationStatus

    def lyapunov_time(self, config: LyapunovConfig, period: float) -> float | None:
        """Return 1 / exponent where the trajectory is clearly chaotic, else None."""
        is_clear = self.value * period > config.min_rate and self.value > 3 * self.standard_error
        return 1 / self.value if is_clear else None

    def is_regular(self, config: LyapunovConfig, period: float) -> bool:
        """Whether the exponent, errors allowed for, lies below that of clear chaos; unknown ones do not."""
        return (self.value + 2 * self.standard_error) * period < config.min_rate

    def has_bifurcated(self, parent: "Exponent", config: LyapunovConfig, period: float) -> bool:
        """Whether of a trajectory and its unperturbed parent one is clearly chaotic and the other is not at all."""
        pairs = ((self, parent), (parent, self))
        return any(a.lyapunov_time(config, period) is not None and b.is_regular(config, period) for a, b in pairs)

    def statistics(self) -> dict[str, Any]:
        """Return what a row's `checks` say of it."""
        if self.status is not IntegrationStatus.COMPLETED:
            return {"lyapunov_status": self.status.name.lower()}
        return {"lyapunov_exponent": self.value, "lyapunov_standard_error": self.standard_error}


def measure_exponents(
    config: GenerationConfig, system: System, starts: np.ndarray, parameters: np.ndarray
) -> list[Exponent]:
    """Return the exponent of each trajectory, which depends on its own row of the arguments and the seed alone.

    Args:
        starts: (num_trajectories, dimension) states. parameters: (num_trajectories, num_parameters)."""
    exponents: dict[int, Exponent] = {}
    missing = list(range(len(starts)))
    for rtol, atol in TOLERANCES:
        result = largest_lyapunov_exponents(
            system.vector_field,
            starts[missing],
            parameters[missing],
            period=system.period,
            rng=item_generator(config.seed, (*system_words(system.name), TANGENT_WORD)),
            num_periods=config.lyapunov.num_periods,
            transient_periods=config.lyapunov.transient_periods,
            max_abs=config.integration.max_abs,
            unbounded=system.unbounded,
            rtol=rtol,
            atol=atol,
        )
        for place, index in enumerate(missing):
            exponents[index] = Exponent(
                float(result.exponents[place]), float(result.standard_errors[place]), result.status[place]
            )
        missing = [index for index in missing if exponents[index].status is not IntegrationStatus.COMPLETED]
        if not missing:
            break
    return [exponents[index] for index in range(len(starts))]
