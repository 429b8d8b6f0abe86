"""A forecaster whose forecasts say what it was given."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hf_tsdyn.observations import check_past_values, last_observed


class SpreadingForecaster:
    """Last seen values; the quantile of level q at step h (from 1) lies h (q - 0.5) x 10 above them.

    `contexts` and `num_samples` record what each call was given.
    """

    def __init__(self, max_context_length: int | None = None):
        self.max_context_length = max_context_length
        self.contexts: list[Tensor] = []
        self.num_samples: list[int] = []

    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        self.contexts.append(past_values.clone())
        values, mask = check_past_values(past_values, past_observed_mask)
        return last_observed(values, mask).repeat(1, prediction_length, 1)

    def forecast_quantiles(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        quantile_levels: Sequence[float],
        past_observed_mask: Tensor | None = None,
        num_samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        self.num_samples.append(num_samples)
        values, mask = check_past_values(past_values, past_observed_mask)
        steps = torch.arange(1, prediction_length + 1)[:, None, None]
        spread = steps * (torch.tensor(quantile_levels) - 0.5) * 10
        return last_observed(values, mask)[..., None] + spread

    def forecast_samples(
        self,
        past_values: Tensor,
        *,
        prediction_length: int,
        past_observed_mask: Tensor | None = None,
        num_samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sample n rises by n a step."""
        self.num_samples.append(num_samples)
        values, mask = check_past_values(past_values, past_observed_mask)
        steps = torch.arange(1, prediction_length + 1)[:, None, None]
        return last_observed(values, mask)[..., None] + steps * torch.arange(num_samples)


@pytest.fixture
def spreading() -> type[SpreadingForecaster]:
    """The class of a forecaster with quantiles, that records what it is given."""
    return SpreadingForecaster
