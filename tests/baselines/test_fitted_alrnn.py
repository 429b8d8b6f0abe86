"""AL-RNNs that are fitted to each context."""

import pytest
import torch

from hf_tsdyn.baselines.fitted_alrnn import FittedALRNN
from hf_tsdyn.forecasting import Forecaster
from hf_tsdyn.models.alrnn.fitting import FitOptions

QUICK = FittedALRNN(
    hidden_size=6,
    num_relu_units=2,
    window=30,
    seeds=(0,),
    options=FitOptions(num_epochs=40, batches_per_epoch=20, evaluation_interval=20, discard=0, learning_rate=1e-2),
)


@pytest.fixture(scope="module")
def circle():
    """(1, 200, 2): a circle in 25 steps."""
    angle = 2 * torch.pi * torch.arange(240) / 25
    return torch.stack([angle.sin(), 3 + 2 * angle.cos()], dim=1)[None]


def test_a_circle_goes_on(circle):
    forecast = QUICK.forecast(circle[:, :200], prediction_length=25)
    assert isinstance(QUICK, Forecaster)
    persistence = (circle[:, 199:200] - circle[:, 200:225]).abs().mean()
    assert (forecast - circle[:, 200:225]).abs().mean() < 0.3 * persistence


def test_a_constant_channel_is_held_gaps_are_filled_and_calls_repeat(circle):
    past = torch.cat([circle[:, :100], torch.full((1, 100, 1), 7.0)], dim=2)
    past[0, 40:43, 0] = torch.nan
    before = past.clone()
    forecast = QUICK.forecast(past, prediction_length=9)
    assert forecast.shape == (1, 9, 3)
    assert forecast.isfinite().all()
    assert (forecast[..., 2] == 7.0).all()
    torch.testing.assert_close(past, before, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(QUICK.forecast(past, prediction_length=9), forecast)


def test_short_contexts_are_refused(circle):
    with pytest.raises(ValueError, match="at least 64 steps for FittedALRNN, found 30"):
        QUICK.forecast(circle[:, :30], prediction_length=5)


def test_a_context_at_rest_stays(circle):
    rest = torch.full((1, 80, 2), 2.5)
    assert (QUICK.forecast(rest, prediction_length=4) == 2.5).all()
