"""How fast the baselines and metrics are; run with `make bench`."""

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import ContextMean, ContextParroting, Persistence
from hf_tsdyn.metrics import smape, valid_prediction

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def past_values():
    return torch.randn(64, 512, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("baseline", [Persistence(), ContextMean(), ContextParroting()], ids=lambda b: type(b).__name__)
def test_forecast_of_64_windows_of_512_steps(benchmark, baseline, past_values):
    benchmark(baseline.forecast, past_values, prediction_length=512)


@pytest.mark.parametrize("metric", [smape, valid_prediction], ids=lambda m: m.__name__)
def test_score_of_64_windows_of_512_steps(benchmark, metric, past_values):
    values = past_values.numpy()
    benchmark(metric, values, np.flip(values, axis=1), past_values=values)
