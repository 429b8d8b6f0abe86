import html
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import ContextMean, Persistence
from hf_tsdyn.demo.forecasts import study_forecast
from hf_tsdyn.demo.summary import describe, notes, plain_markdown, summary_table
from hf_tsdyn.demo.systems import Trajectory
from hf_tsdyn.metrics import ValidPrediction, normalised_mae, smape


def rows(study):
    lines = [line.strip("| ").split(" | ") for line in summary_table(study).splitlines()[2:]]
    return {name: (value, floor) for name, value, floor in lines}


@pytest.fixture
def study(lorenz, oracle):
    known = oracle(lorenz.values, error=1e-3, growth=1.08)
    return study_forecast(lorenz, known, model="oracle", context_length=400, horizon=300)


def test_the_table_has_the_numbers_of_the_study(study):
    found, unit = rows(study), 0.01 * 0.9056
    step = int(study.valid.steps[0])
    assert found["valid prediction, Lyapunov times"] == (f"{step * unit:.3g}", "-")
    assert found["valid prediction, steps"] == (str(step), "-")
    assert found["median over 8 starts, Lyapunov times"] == (f"{np.median(study.spread.steps) * unit:.3g}", "-")
    past, future, forecast = study.past_values[None], study.future_values[None], study.forecast[None]
    assert found["sMAPE (0-100)"][0] == f"{smape(future, forecast, past_values=past)[0]:.3g}"
    assert found["MAE / context std"][0] == f"{normalised_mae(future, forecast, past_values=past)[0]:.3g}"
    assert np.isinf(study.statistics["state_space_divergence"])
    assert found["state-space divergence, nats"] == ("infinite", f"{study.floor['state_space_divergence']:.3g}")
    distances = (study.statistics["spectrum_distance"], study.floor["spectrum_distance"])
    assert found["spectrum distance"] == tuple(f"{value:.3g}" for value in distances)
    assert not any("coverage" in name or "regions" in name for name in found)


@pytest.mark.parametrize(
    ("steps", "saturated", "said"),
    [
        ([10, 20, 300, 40], [False] * 4, "30"),
        ([10, 300, 300, 40], [False, True, True, False], "at least 170"),
        ([300, 20, 40], [True, False, False], "40"),
        ([300] * 3, [True] * 3, "at least 300"),
    ],
)
def test_a_median_of_forecasts_that_were_valid_to_their_end_is_a_bound(study, waves, steps, saturated, said):
    spread = ValidPrediction(np.array(steps), np.array(saturated))
    changed = replace(study, spread=spread, trajectory=replace(study.trajectory, lyapunov_time=None))
    assert rows(changed)[f"median over {len(steps)} starts, steps"][0] == said
    assert rows(replace(study, valid=spread, spread=None))["valid prediction, steps"][0] == said


def test_the_band_has_a_coverage(study):
    truth = study.future_values[:100]
    band = np.stack([truth - 0.1, truth + 0.1], axis=2)
    band[:30, :, 1] = truth[:30] - 0.05
    covered = replace(study, band=band)
    assert rows(covered)["coverage of the 80 % interval"] == ("0.7", "-")
    assert "10% and 90% quantiles of each of the first 100 steps" in notes(covered)


def test_without_a_lyapunov_time_time_is_in_steps_and_said_so(waves):
    study = study_forecast(waves, Persistence(), model="persistence", context_length=100, horizon=200)
    assert "valid prediction, steps" in rows(study)
    assert not any("Lyapunov times" in name for name in rows(study))
    assert "time is in steps" in notes(study)


def test_a_reader_is_told_where_numbers_are_missing_and_why(waves, study):
    short = study_forecast(waves, Persistence(), model="persistence", context_length=100, horizon=200)
    assert "Too few steps follow" in notes(short)
    assert "dash" in notes(short)
    assert "Too few steps follow" not in notes(study)
    assert "dash" not in notes(study)
    values = waves.values.copy()
    values[400, 0] = np.nan
    gap = Trajectory("mine.csv", values)
    assert "Values are missing" in notes(study_forecast(gap, Persistence(), model="p", context_length=100, horizon=99))
    assert describe(gap).endswith("1 of 1,400 values are missing.")
    assert "missing" not in describe(waves)


def test_a_reader_is_told_what_the_model_saw_and_of_what(study, lorenz):
    assert "the 400 steps before step 400" in notes(study)
    assert "rescaled" in notes(study)
    assert describe(lorenz).startswith("Lorenz-63: 3,500 steps of 3 channels &#40;x, y, z&#41;. Its channels are")


def test_a_model_that_diverges_is_said_to(waves, turning):
    assert "one system" in notes(study_forecast(waves, turning, model="t", context_length=64, horizon=64))
    with torch.no_grad():
        turning.model.W.mul_(40)
    assert "diverges" in notes(study_forecast(waves, turning, model="t", context_length=64, horizon=256))


def test_a_name_is_shown_as_it_is_and_never_as_markup(waves):
    text = "<img src=x onerror=a()>|**b**[c](d)&amp;`$e_f$`.csv"
    escaped = plain_markdown(text)
    assert html.unescape(escaped) == text
    assert not set(escaped) & set("<>|*[]()`$_")
    named = Trajectory(text, waves.values, ("<b>", "v"), remark="<i>")
    study = study_forecast(named, ContextMean(), model="<u>", context_length=64, horizon=64)
    for shown in (describe(named), notes(study), summary_table(study)):
        assert "<" not in shown
    assert len(summary_table(study).splitlines()[0].split("|")) == 5
