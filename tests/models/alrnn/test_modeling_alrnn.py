"""What AL-RNN promises beyond every architecture: its equations, forcing, warm-up and scaler."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from hf_tsdyn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.models.alrnn.forcing import draw_parameters, penalty


def build(**fields):
    torch.manual_seed(0)
    options = {"hidden_size": 8, "num_relu_units": 3, "prediction_length": 20, "forcing_interval": 4, "noise_std": 0.0}
    model = ALRNNForPrediction(ALRNNConfig(**(options | fields)))
    with torch.no_grad():
        model.model.h.normal_(0, 0.3)
        model.model.W.normal_(0, 0.2)
    return model.eval()


def step_by_hand(model, state):
    """One step of one state, (units,), unit by unit."""
    A, W, h, _ = (each.detach().double() for each in model.model.stacked)
    units, linear = len(state), len(state) - model.config.num_relu_units
    phi = [state[j] if j < linear else max(state[j], 0.0) for j in range(units)]
    return [A[0, i] * state[i] + sum(W[0, i, j] * phi[j] for j in range(units)) + h[0, i] for i in range(units)]


def start_by_hand(model, observed):
    L = model.model.L.detach().double()
    return [*observed.double(), *(L @ observed.double())]


def loss_by_hand(model, past, future):
    config, total, count = model.config, 0.0, 0
    for x0, targets in zip(past[:, -1], future, strict=True):
        state = start_by_hand(model, x0)
        for t, target in enumerate(targets):
            if t > 0 and t % config.forcing_interval == 0:
                pulled = targets[t - 1].double()
                strength = config.forcing_strength
                state = [strength * x + (1 - strength) * z for x, z in zip(pulled, state, strict=False)] + state[3:]
            state = step_by_hand(model, state)
            total += sum((state[n] - target[n].double()) ** 2 for n in range(3))
            count += 3
    return total / count


@pytest.mark.parametrize("strength", [1.0, 0.4, 0.0])
def test_the_loss_is_that_of_teacher_forced_one_step_predictions(generator, strength):
    model = build(forcing_strength=strength)
    series = torch.randn(2, 21, 3, generator=generator)
    loss = model(series[:, :1], future_values=series[:, 1:]).loss
    torch.testing.assert_close(loss.double(), loss_by_hand(model, series[:, :1], series[:, 1:]), rtol=1e-5, atol=0)


def test_a_forecast_from_one_step_is_the_free_run_from_it(generator):
    model = build()
    x0 = torch.randn(1, 1, 3, generator=generator)
    state, expected = start_by_hand(model, x0[0, 0]), []
    for _ in range(30):
        state = step_by_hand(model, state)
        expected.append(torch.stack(state[:3]))
    forecast = model.forecast(x0, prediction_length=30)
    torch.testing.assert_close(forecast[0].double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x0).prediction_outputs, forecast[:, :20])


def test_a_longer_context_carries_the_hidden_units_and_ends_at_the_last_observation(generator):
    model = build(warmup_length=6)
    past = torch.randn(1, 9, 3, generator=generator)
    state = start_by_hand(model, past[0, 3])
    for x in past[0, 4:]:
        state = [*x.double(), *step_by_hand(model, state)[3:]]
    found = model.initial_state(past)[0].double()
    torch.testing.assert_close(found, torch.stack(state), rtol=1e-5, atol=1e-6)
    assert torch.equal(model.initial_state(past[:, 3:]), model.initial_state(past))


def test_the_model_fills_in_what_is_unseen_in_the_warm_up(generator):
    model = build(warmup_length=3)
    past = torch.randn(1, 3, 3, generator=generator)
    past[0, 1, 2] = past[0, 2, 0] = torch.nan
    state = start_by_hand(model, past[0, 0])
    state = step_by_hand(model, state)
    state[:2] = past[0, 1, :2].double()
    state = step_by_hand(model, state)
    state[1:3] = past[0, 2, 1:].double()
    torch.testing.assert_close(model.initial_state(past)[0].double(), torch.stack(state), rtol=1e-5, atol=1e-6)


def test_an_unseen_start_is_the_latest_value_before_it():
    model = build()
    past = torch.tensor([[1.0, 2.0, 3.0], [4.0, torch.nan, torch.nan]])[None]
    assert torch.equal(model.initial_state(past)[0, :3], torch.tensor([4.0, 2.0, 3.0]))


def test_unseen_targets_neither_count_nor_force(generator):
    model = build(forcing_interval=2)
    series = torch.randn(1, 5, 3, generator=generator)
    hidden = series.clone()
    hidden[0, 2, 1] = torch.nan  # would be put in place before step 2
    state, errors = start_by_hand(model, series[0, 0]), []
    for t in range(4):
        if t == 2:
            state[0], state[2] = series[0, 2, 0].double(), series[0, 2, 2].double()
        state = step_by_hand(model, state)
        errors += [(state[n] - series[0, t + 1, n]) ** 2 for n in range(3) if (t, n) != (1, 1)]
    loss = model(hidden[:, :1], future_values=hidden[:, 1:]).loss
    torch.testing.assert_close(loss.double(), torch.stack(errors).mean(), rtol=1e-5, atol=0)


def test_without_rectified_units_the_model_is_a_linear_map(generator):
    model = build(num_relu_units=0)
    x0 = torch.randn(1, 1, 3, generator=generator)
    matrix = torch.block_diag(torch.zeros(8, 8), torch.zeros(1, 1)).double()
    matrix[:8, :8] = torch.diag(model.model.A.double()) + model.model.W.double()
    matrix[:8, 8], matrix[8, 8] = model.model.h.double(), 1.0
    start = torch.stack([*start_by_hand(model, x0[0, 0]), torch.ones((), dtype=torch.double)])
    expected = torch.linalg.matrix_power(matrix, 17) @ start
    torch.testing.assert_close(
        model.forecast(x0, prediction_length=17)[0, -1].double(), expected[:3], rtol=1e-4, atol=0
    )


def test_a_forecast_that_leaves_the_range_is_nan_from_there_on():
    model = build()
    with torch.no_grad():
        model.model.A.fill_(20.0)
    forecast = model.forecast(torch.ones(1, 1, 3), prediction_length=60)[0]
    finite = forecast.isfinite().all(dim=1)
    first = int((~finite).nonzero()[0])
    assert 20 < first < 35
    assert finite[:first].all()
    assert forecast[first:].isnan().all()


def test_noise_is_for_training_alone(generator):
    model = build(noise_std=0.5)
    series = torch.randn(4, 21, 3, generator=generator)
    losses = [model(series[:, :1], future_values=series[:, 1:]).loss for _ in range(2)]
    assert torch.equal(*losses)
    model.train()
    noisy = [model(series[:, :1], future_values=series[:, 1:]).loss for _ in range(2)]
    assert not torch.equal(*noisy)


def test_the_penalty_is_the_norm_of_what_exceeds_the_threshold():
    config = ALRNNConfig(hidden_size=5, regularization_weight=0.5, regularization_threshold=0.9)
    parameters = draw_parameters(config)
    parameters.A[:] = torch.tensor([0.5, 1.2, 0.9, 1.3, 0.0])
    parameters.W.diagonal(dim1=1, dim2=2)[:] = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(penalty(parameters, config), torch.tensor([0.5 * math.hypot(0.3, 0.4)]))


def test_the_first_parameters_are_those_of_the_paper(generator):
    config = ALRNNConfig(num_channels=4, hidden_size=60)
    A, W, h, L = draw_parameters(config, generator)
    assert 0 < A.min() <= A.max() <= 1
    assert W.std().item() == pytest.approx(0.01, rel=0.05)
    assert not h.any()
    assert 0.45 < L.abs().max() <= 0.5


def test_the_scaler_turns_units_and_is_saved(generator, tmp_path):
    model = build()
    past = torch.randn(2, 1, 3, generator=generator)
    scaled = model.forecast(past, prediction_length=9)
    model.set_scaler([10.0, -5.0, 0.0], [2.0, 0.5, 1e4])
    model.save_pretrained(tmp_path)
    loc, scale = torch.tensor([10.0, -5.0, 0.0]), torch.tensor([2.0, 0.5, 1e4])
    forecast = ALRNNForPrediction.from_pretrained(tmp_path).forecast(past * scale + loc, prediction_length=9)
    torch.testing.assert_close((forecast - loc) / scale, scaled, rtol=1e-4, atol=1e-4)


def test_the_scaler_of_series_leaves_nan_out():
    model = build()
    series = torch.tensor([[1.0, 3.0, torch.nan], [0.0, 4.0, 8.0], [2.0, 2.5, 3.0]])
    model.fit_scaler([series.numpy(), series.numpy()])
    assert model.config.channel_loc == [2.0, 4.0, 2.5]
    assert model.config.channel_scale[0] == 1.0
    with pytest.raises(ValueError, match="constant or unseen ones: \\[1\\]"):
        model.fit_scaler([torch.tensor([[1.0, 2.0], [3.0, 3.0], [0.0, 1.0]]).numpy()])
    with pytest.raises(ValueError, match="the 3 channels"):
        model.fit_scaler([series[:2].numpy()])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_channels": 9, "hidden_size": 8}, "hidden_size must be at least num_channels"),
        ({"num_relu_units": 21}, "num_relu_units must be from 0 to hidden_size"),
        ({"forcing_strength": 1.5}, "forcing_strength must lie between 0 and 1"),
        ({"forcing_interval": 0}, "forcing_interval must be at least 1"),
        ({"context_length": 4}, "warmup_length must be at least context_length"),
        ({"noise_std": -0.1}, "noise_std must be finite and not negative"),
        ({"channel_scale": [1.0, 0.0, 1.0]}, "channel_scale must hold a finite number"),
        ({"channel_loc": [1.0]}, "channel_loc must hold a finite number for each of the 3 channels"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        ALRNNConfig(**fields)


def test_a_refused_scaler_changes_nothing():
    model = build()
    with pytest.raises(ValueError, match="channel_scale must hold"):
        model.set_scaler([0.0, 0.0, 0.0], [1.0, -1.0, 1.0])
    assert model.config.channel_scale is None


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([], "found no series"),
        ([[[1.0, 2.0]] * 2 + [[float("nan")] * 2]], r"unseen ones: \[2\]"),
        ([[[1.0, 2.0]] * 2 + [[float("inf"), 1.0]]], "1 infinite"),
    ],
)
def test_series_that_give_no_scaler_are_refused(series, message):
    with pytest.raises(ValueError, match=message):
        build().fit_scaler(series)


@pytest.mark.parametrize(
    ("past", "mask", "future", "message"),
    [
        (torch.ones(0, 3, 3), None, None, "none of them 0"),
        (torch.ones(2, 0, 3), None, None, "none of them 0"),
        (torch.ones(2, 3, 3), torch.ones(2, 3, 2), None, "past_observed_mask must have the shape"),
        (torch.ones(2, 3, 3), None, torch.ones(2, 0, 3), "at least one step"),
        (torch.ones(2, 3, 3, dtype=torch.long), None, None, "floating-point"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_windows_that_are_none_are_refused(past, mask, future, message, training):
    model = build(noise_std=0.1).train(training)
    with pytest.raises((ValueError, TypeError), match=message):
        model(past, past_observed_mask=mask, future_values=future)
