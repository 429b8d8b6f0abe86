import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_tsdyn.attractor_statistics import attractor_statistics
from hf_tsdyn.baselines import ContextMean, Persistence
from hf_tsdyn.demo import forecasts
from hf_tsdyn.demo.checkpoints import find_checkpoints, load_model
from hf_tsdyn.demo.forecasts import THRESHOLD, error_growth, study_forecast
from hf_tsdyn.demo.systems import Trajectory
from hf_tsdyn.metrics import valid_prediction

CARDS = Path(__file__).parents[2] / "model_cards"


def test_a_perfect_forecast_is_valid_to_its_end_and_has_the_attractor(lorenz, oracle):
    study = study_forecast(lorenz, oracle(lorenz.values), model="oracle", context_length=400, horizon=300)
    assert study.valid.saturated[0]
    assert study.error.max() == 0
    assert study.statistics["spectrum_distance"] == pytest.approx(0, abs=1e-6)
    assert study.floor["state_space_divergence"] > study.statistics["state_space_divergence"]
    assert len(study.attractor) == len(study.run) == 1550


def test_the_error_crosses_the_threshold_at_the_valid_prediction(lorenz, oracle):
    known = oracle(lorenz.values, error=1e-3, growth=1.03)
    study = study_forecast(lorenz, known, model="oracle", context_length=400, horizon=300)
    step = int(study.valid.steps[0])
    assert 1 < step < 300
    assert study.error[step - 2] <= THRESHOLD < study.error[step - 1]
    assert (study.time_unit, study.step_time) == ("Lyapunov times", pytest.approx(0.01 * 0.9056))


def test_error_growth_leaves_unseen_values_out():
    rng = np.random.default_rng(0)
    past, future = rng.normal(size=(50, 2)), rng.normal(size=(30, 2))
    future[3, 0], future[5] = np.nan, np.nan
    forecast = np.nan_to_num(future) + 0.5
    error = error_growth(past, future, forecast)
    spread = np.nanvar(np.concatenate([past, future]), axis=0)
    assert error[0] == pytest.approx(math.sqrt(0.5 / spread.sum()))
    assert error[3] == pytest.approx(math.sqrt(0.25 / spread[1]))
    assert np.isnan(error[5])
    forecast[7, 1] = np.nan
    assert np.isinf(error_growth(past, future, forecast)[7])


def test_the_statistics_are_in_lyapunov_times_of_the_attractors_that_are_drawn(lorenz):
    study = study_forecast(lorenz, Persistence(), model="persistence", context_length=400, horizon=64)
    truth, following = lorenz.values[400:1950], lorenz.values[1950:3500]
    assert np.array_equal(study.attractor, truth)
    options = {"dt": lorenz.dt, "seed": 0, "lyapunov_time": lorenz.lyapunov_time}
    for generated, found in ((study.run, study.statistics), (following, study.floor)):
        expected = attractor_statistics(truth[None], generated[None], **options)
        assert found == {name: float(value[0]) for name, value in expected.items()}
    assert study.floor["lyapunov_error"] > 0


@pytest.mark.parametrize("origin", [400, 1000])
def test_a_forecast_starts_where_it_is_asked_to(lorenz, oracle, origin):
    known = oracle(lorenz.values)
    study = study_forecast(lorenz, known, model="oracle", context_length=400, horizon=300, origin=origin)
    assert np.array_equal(study.past_values, lorenz.values[origin - 400 : origin])
    assert np.array_equal(study.future_values, lorenz.values[origin : origin + 300])
    assert not study.error.any()
    assert study.band is None
    assert known.origins[0] == study.origin == origin


def test_another_context_leaves_the_truth_as_it_is(lorenz):
    short, long = (
        study_forecast(lorenz, ContextMean(), model="mean", context_length=context, horizon=64, origin=1000)
        for context in (32, 1000)
    )
    assert np.array_equal(short.future_values, long.future_values)
    assert np.array_equal(short.attractor, long.attractor)
    assert not np.array_equal(short.forecast, long.forecast)


def test_forecasts_from_all_over_the_series_have_a_valid_prediction_each(lorenz, oracle, monkeypatch):
    monkeypatch.setattr(forecasts, "ORIGIN_STEPS", 100)
    known = oracle(lorenz.values, error=1e-3, growth=1.08)
    study = study_forecast(lorenz, known, model="oracle", context_length=400, horizon=300, origin=600)
    origins = known.origins[1:]
    assert origins == [400, 828, 1257, 1685, 2114, 2542, 2971, 3400]
    assert study.spread_steps == 100
    for origin, step in zip(origins, study.spread.steps, strict=True):
        past, future = lorenz.values[None, origin - 400 : origin], lorenz.values[None, origin : origin + 100]
        error = 1e-3 * 1.08 ** np.arange(100)[:, None]
        assert step == valid_prediction(future, future + error, past_values=past).steps[0]
    assert len(set(study.spread.steps)) > 1


def test_starts_without_values_are_left_out_of_the_others(waves):
    values = waves.values.copy()
    values[250:640] = np.nan
    study = study_forecast(Trajectory("gap", values), Persistence(), model="p", context_length=64, horizon=64)
    assert len(study.spread.steps) == 3
    short = Trajectory("short", waves.values[:128])
    assert study_forecast(short, Persistence(), model="p", context_length=64, horizon=64).spread is None


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((16, 64, 16), "context must have 32 to 1,024 steps, found 16"),
        ((64, 4000, 64), "horizon"),
        ((400, 400, 400), "series of 700 steps, found 400 from step 400 on; start earlier"),
        ((64, 64, 637), "found 64 from step 637"),
        ((64, 64, 63), "context of 64 steps, found a start at step 63; start later"),
    ],
)
def test_lengths_out_of_range_are_refused(waves, lengths, message):
    context, horizon, origin = lengths
    with pytest.raises(ValueError, match=message):
        study_forecast(waves, Persistence(), model="mean", context_length=context, horizon=horizon, origin=origin)


@pytest.mark.parametrize(
    ("unseen", "message"),
    [
        (np.s_[100:164], "context must hold values, found none in its 64 steps"),
        (np.s_[164:, 1], "none in the next 536 steps of 'v'"),
    ],
)
def test_nothing_to_see_or_to_compare_with_is_refused(waves, unseen, message):
    values = waves.values.copy()
    values[unseen] = np.nan
    series = Trajectory("mine", values, ("u", "v"))
    with pytest.raises(ValueError, match=message):
        study_forecast(series, Persistence(), model="mean", context_length=64, horizon=64, origin=164)


def test_a_model_with_a_distribution_has_a_band_of_its_first_steps(lorenz, monkeypatch):
    monkeypatch.setattr(forecasts, "BAND_STEPS", 80)
    model = load_model("dystformer-quickstart", find_checkpoints([CARDS]))
    study = study_forecast(lorenz, model, model="dystformer", context_length=256, horizon=96)
    expected = model.forecast_quantiles(
        torch.tensor(study.past_values)[None], prediction_length=80, quantile_levels=(0.1, 0.9), num_samples=33
    )
    assert np.array_equal(study.band, expected[0])


def test_a_band_of_many_channels_is_of_fewer_paths(lorenz, monkeypatch):
    class Sampling(forecasts.ForecastMixin):
        distribution = "known"

        def forecast_quantiles(self, past_values, **asked):
            counts.append(asked["num_samples"])
            return torch.zeros(1, asked["prediction_length"], past_values.shape[2], 2)

    counts = []
    for channels in (1, 3, 16):
        band = forecasts._band(Sampling(), torch.zeros(1, 64, channels), 512)
        assert band.shape == (512, channels, 2)
    assert counts == [100, 33, 10]


def test_an_alrnn_has_symbols_unless_it_diverges_and_others_have_none(waves, turning):
    study = study_forecast(waves, turning, model="turning", context_length=64, horizon=64)
    assert len(study.orbit.regions) == 4
    assert study_forecast(waves, ContextMean(), model="mean", context_length=64, horizon=64).orbit is None
    with torch.no_grad():
        turning.model.W.mul_(40)
    assert study_forecast(waves, turning, model="turning", context_length=64, horizon=256).orbit is None
