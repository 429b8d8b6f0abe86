import html
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_tsdyn import ALRNNConfig, ALRNNForPrediction, DystformerForMaskedModeling
from hf_tsdyn.baselines import BASELINES, ContextMean, Persistence
from hf_tsdyn.demo.checkpoints import find_checkpoints, fitting_models, load_model
from hf_tsdyn.demo.forecasts import THRESHOLD, error_growth, notes, plain_markdown, study_forecast, summary_table
from hf_tsdyn.demo.plots import channel_figure, error_figure, graph_figure, phase_figure, region_figure, run_figure
from hf_tsdyn.demo.systems import SYSTEMS, Trajectory, shipped_trajectory
from hf_tsdyn.metrics import valid_prediction

CARDS = Path(__file__).parents[2] / "model_cards"
FIGURES = (phase_figure, channel_figure, error_figure, run_figure)


class Oracle:
    """Knows the future of one series, but for an error that grows by a factor a step."""

    def __init__(self, values, *, error=0.0, growth=1.0):
        self.values, self.error, self.growth = torch.tensor(values), error, growth

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        start = past_values.shape[1]
        future = self.values[None, start : start + prediction_length]
        return future + self.error * self.growth ** torch.arange(prediction_length)[:, None]


@pytest.fixture(scope="module")
def lorenz():
    return shipped_trajectory("Lorenz-63", num_steps=3500)


@pytest.fixture
def waves():
    """Two channels of an upload, without a known Lyapunov time."""
    return Trajectory("mine.csv", np.sin(np.arange(700)[:, None] * [0.1, 0.17]).astype(np.float32))


@pytest.fixture
def turning():
    """An AL-RNN that turns two channels around the origin for ever, and rectifies a copy of each."""
    model = ALRNNForPrediction(ALRNNConfig(num_channels=2, hidden_size=4, num_relu_units=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        turn = torch.tensor([[math.cos(0.2), -math.sin(0.2)], [math.sin(0.2), math.cos(0.2)]])
        model.model.W[:2, :2] = model.model.W[2:, :2] = turn
        model.model.L.copy_(torch.eye(2))
    return model


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_shipped_series_has_the_units_and_the_lyapunov_time_of_its_system(name):
    system, series = SYSTEMS[name], shipped_trajectory(name, num_steps=500)
    np.testing.assert_allclose(series.values.mean(axis=0), system.loc, atol=1e-4)
    np.testing.assert_allclose(series.values.std(axis=0), system.scale, atol=1e-4)
    assert series.lyapunov_time * system.lyapunov_exponent == pytest.approx(1)
    assert series.dt == system.dt


def test_the_shipped_lorenz_series_follows_its_equations(lorenz):
    """With s the channels' scales, the first equation says s_x x' / dt = 10 (s_y y - s_x x) + constant."""
    x, y, _ = lorenz.values.astype(np.float64).T
    slope = (x[2:] - x[:-2]) / (2 * lorenz.dt)
    design = np.stack([x, y, np.ones_like(x)], axis=1)[1:-1]
    (from_x, from_y, _), (left,), *_ = np.linalg.lstsq(design, slope, rcond=None)
    assert left / len(slope) < 1e-3 * slope.var()
    assert from_x == pytest.approx(-10, rel=0.02)
    assert from_y == pytest.approx(10, rel=0.2)


def test_each_exponent_is_the_rate_at_which_close_orbits_part(monkeypatch):
    """Two orbits of Lorenz-63, a millionth apart; the mean over starts is the exponent but for its fluctuations."""
    from hf_tsdyn.demo import systems

    rates = []
    long = systems._integrate(SYSTEMS["Lorenz-63"], 4000)
    for start in range(1000, 4000, 150):
        pair = []
        for shift in (0.0, 1e-6):
            monkeypatch.setattr(systems, "START", tuple(long[start] + shift))
            pair.append(systems._integrate(SYSTEMS["Lorenz-63"], 1001))
        apart = np.linalg.norm(pair[1] - pair[0], axis=1)
        rates.append(np.log(apart[1000] / apart[100]) / 9)
    assert np.mean(rates) == pytest.approx(SYSTEMS["Lorenz-63"].lyapunov_exponent, abs=0.15)


def test_a_perfect_forecast_is_valid_to_its_end_and_has_the_attractor(lorenz):
    study = study_forecast(lorenz, Oracle(lorenz.values), model="oracle", context_length=400, horizon=300)
    assert study.valid.saturated[0]
    assert study.error.max() == 0
    assert study.statistics["spectrum_distance"] == pytest.approx(0, abs=1e-6)
    assert study.floor["state_space_divergence"] > study.statistics["state_space_divergence"]
    assert len(study.attractor) == len(study.run) == 1550
    row = next(line for line in summary_table(study).splitlines() if "Lyapunov times" in line)
    assert f"at least {300 * 0.01 * 0.9056:.3g}" in row


def test_the_error_crosses_the_threshold_at_the_valid_prediction(lorenz):
    oracle = Oracle(lorenz.values, error=1e-3, growth=1.03)
    study = study_forecast(lorenz, oracle, model="oracle", context_length=400, horizon=300)
    step = int(study.valid.steps[0])
    assert 1 < step < 300
    assert study.error[step - 2] <= THRESHOLD < study.error[step - 1]
    assert study.time_unit == "Lyapunov times"
    assert f"| valid prediction, steps | {step} | - |" in summary_table(study)


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


def test_without_a_lyapunov_time_time_is_in_steps_and_said_so(waves):
    study = study_forecast(waves, Persistence(), model="persistence", context_length=100, horizon=200)
    expected = valid_prediction(study.future_values[None], study.forecast[None], past_values=study.past_values[None])
    assert (study.time_unit, study.step_time) == ("steps", 1.0)
    assert f"| valid prediction, steps | {expected.steps[0]} | - |" in summary_table(study)
    assert "time is in steps" in notes(study)
    assert study.floor is None


def test_an_alrnn_is_shown_with_its_symbols_and_others_are_not(waves, turning):
    study = study_forecast(waves, turning, model="turning", context_length=64, horizon=64)
    assert len(study.orbit.regions) == 4
    assert "linear regions visited | 4 |" in summary_table(study)
    assert "one system" in notes(study)
    assert graph_figure(study).axes
    assert region_figure(study).axes
    other = study_forecast(waves, ContextMean(), model="mean", context_length=64, horizon=64)
    assert (graph_figure(other), region_figure(other)) == (None, None)


def test_an_alrnn_that_diverges_is_shown_without_symbols_and_says_so(waves, turning):
    with torch.no_grad():
        turning.model.W.mul_(40)
    study = study_forecast(waves, turning, model="turning", context_length=64, horizon=256)
    assert study.orbit is None
    assert "diverges" in notes(study)
    assert [figure(study).axes != [] for figure in FIGURES] == [True] * 4


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_figures_are_drawn_for_any_number_of_channels(channels, tmp_path):
    values = np.sin(np.arange(400)[:, None] * 0.1 + np.arange(channels)).astype(np.float32)
    values[70:75] = np.nan
    study = study_forecast(Trajectory("mine", values), ContextMean(), model="mean", context_length=128, horizon=128)
    for figure in FIGURES:
        figure(study).savefig(tmp_path / "figure.png", dpi=30)
    assert len(channel_figure(study).axes) == min(channels, 4)


def test_a_name_is_shown_as_it_is_and_never_as_markup():
    text = "<img src=x onerror=a()>|**b**[c](d)&amp;`$e_f$`.csv"
    escaped = plain_markdown(text)
    assert html.unescape(escaped) == text
    assert not set(escaped) & set("<>|*[]()`$_")


def test_a_slow_channel_is_drawn_against_itself_even_over_a_short_horizon():
    slow = Trajectory("mine", np.sin(np.arange(1100)[:, None] * 0.004).astype(np.float32))
    study = study_forecast(slow, Oracle(slow.values), model="oracle", context_length=1024, horizon=32)
    axes = phase_figure(study).axes[0]
    assert min(len(line.get_xdata()) for line in axes.get_lines()) >= 2
    assert "steps later" in axes.get_ylabel() or "step later" in axes.get_ylabel()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((16, 64, 0), "context"),
        ((64, 4000, 0), "horizon"),
        ((400, 400, 0), "700 steps, found 0, 400 and 400"),
        ((64, 64, 573), "700 steps, found 573, 64 and 64; start earlier"),
        ((64, 64, -1), "found -1"),
    ],
)
def test_lengths_out_of_range_are_refused(waves, lengths, message):
    context, horizon, start = lengths
    with pytest.raises(ValueError, match=message):
        study_forecast(waves, Persistence(), model="mean", context_length=context, horizon=horizon, start=start)


def test_a_forecast_starts_where_it_is_asked_to(lorenz):
    oracle = Oracle(lorenz.values[1000:])
    study = study_forecast(lorenz, oracle, model="oracle", context_length=400, horizon=300, start=1000)
    assert np.array_equal(study.past_values, lorenz.values[1000:1400])
    assert np.array_equal(study.future_values, lorenz.values[1400:1700])
    assert not study.error.any()
    assert study.band is None
    assert "saw 400 steps, from step 1,000 on" in notes(study)


def test_a_model_with_a_distribution_has_a_band_and_it_is_drawn(lorenz):
    model = load_model("dystformer-quickstart", find_checkpoints([CARDS]))
    study = study_forecast(lorenz, model, model="dystformer", context_length=256, horizon=96)
    expected = model.forecast_quantiles(
        torch.tensor(study.past_values)[None], prediction_length=96, quantile_levels=(0.1, 0.9), num_samples=50
    )
    assert np.array_equal(study.band, expected[0])
    assert "10% and 90% quantiles" in notes(study)
    bands = channel_figure(study).axes[1].collections
    (low, high) = bands[0].get_datalim(channel_figure(study).axes[1].transData).intervaly
    assert low == pytest.approx(study.band[:, 1, 0].min(), abs=1e-5)
    assert high == pytest.approx(study.band[:, 1, 1].max(), abs=1e-5)


def test_checkpoints_are_found_and_those_that_fit_are_offered():
    found = find_checkpoints([CARDS])
    assert {"dystformer-quickstart", "alrnn-lorenz63-p2", "alrnn-rossler"} <= found.keys()
    completer = json.loads((CARDS / "dystformer-completion" / "config.json").read_text())
    assert completer["architectures"] == [DystformerForMaskedModeling.__name__]
    assert "dystformer-completion" not in found
    assert "alrnn-ecg" not in found  # without weights
    three, seven = (fitting_models(found, num_channels=channels) for channels in (3, 7))
    assert "alrnn-rossler" in three
    assert "alrnn-rossler" not in seven
    assert "dystformer-quickstart" in seven
    assert three[-len(BASELINES) :] == list(BASELINES)


def test_a_checkpoint_is_found_by_its_own_folder_and_loaded(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    found = find_checkpoints([tmp_path / "mine"])
    loaded = load_model("mine", found)
    past = torch.randn(1, 10, 2)
    assert torch.equal(loaded.forecast(past, prediction_length=5), turning.forecast(past, prediction_length=5))
    assert isinstance(load_model("mean", found), ContextMean)


def test_only_what_was_found_is_opened(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    for name in (str(tmp_path / "mine"), "../mine", "someone/model"):
        with pytest.raises(ValueError, match="choose one"):
            load_model(name, {})


def test_a_checkpoint_that_does_not_load_is_called_by_its_name_alone(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    found = find_checkpoints([tmp_path])
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config | {"architectures": ["XForMaskedModeling"]}))
    with pytest.raises(ValueError, match="in mine;") as caught:
        load_model("mine", found)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "bert", "architectures": ["BertModel"]}'])
def test_folders_of_other_things_are_no_checkpoints(tmp_path, turning, content):
    turning.save_pretrained(tmp_path / "mine")
    shutil.copytree(tmp_path / "mine", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(content)
    assert list(find_checkpoints([tmp_path])) == ["mine"]


def test_weights_that_are_pickles_are_no_checkpoint(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").rename(tmp_path / "mine" / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        find_checkpoints([tmp_path / "mine"])


def test_a_missing_folder_and_a_name_that_repeats_are_errors(tmp_path, turning):
    turning.save_pretrained(tmp_path / "a" / "mine")
    turning.save_pretrained(tmp_path / "b" / "mine")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_checkpoints([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="'mine' twice"):
        find_checkpoints([tmp_path / "a", tmp_path / "b"])


@pytest.mark.slow
def test_without_gradio_the_command_says_what_to_install():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "import hf_tsdyn, hf_tsdyn.demo\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from hf_tsdyn.demo.__main__ import main; main([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'hf_tsdyn[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
