"""Fitting ensembles: what a seed becomes, alone or in company, in one go or resumed."""

import numpy as np
import pytest
import torch

from hf_tsdyn import ALRNNConfig
from hf_tsdyn.models.alrnn import ensemble as ensemble_module
from hf_tsdyn.models.alrnn.ensemble import Ensemble
from hf_tsdyn.models.alrnn.fitting import FitOptions, FitStatus, fit_alrnn, fit_ensemble, smooth

CONFIG = ALRNNConfig(num_channels=2, hidden_size=5, num_relu_units=2, prediction_length=12, forcing_interval=4)
OPTIONS = FitOptions(num_epochs=4, batches_per_epoch=3, batch_size=5, evaluation_interval=2, discard=10)


def series(num_steps=600):
    time = np.arange(num_steps) * 0.1
    return np.stack([3 * np.sin(time) + np.sin(2.7 * time), np.cos(time) - 5], axis=1)


def fit(seeds, options=OPTIONS, config=CONFIG, **rest):
    return fit_ensemble(config, options, series()[:400], series()[400:], seeds=seeds, **rest)


def state(result):
    return {name: value.clone() for name, value in result.model.state_dict().items()}


def assert_same(a, b):
    assert a.history == b.history
    assert (a.seed, a.best_epoch, a.best_divergence) == (b.seed, b.best_epoch, b.best_divergence)
    assert all(torch.equal(value, state(b)[name]) for name, value in state(a).items())


@pytest.mark.parametrize("options", [OPTIONS, FitOptions(**vars(OPTIONS) | {"average_decay": 0.5})])
def test_a_seed_becomes_the_same_in_any_company(options):
    together = fit([3, 0, 11], options)
    for result in together:
        assert_same(result, fit([result.seed], options)[0])
    assert not torch.equal(together[0].model.model.W, together[1].model.model.W)


def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path):
    file = tmp_path / "state.safetensors"

    def kill(epochs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit([0, 1], state_file=file, progress=kill)
    epochs = []
    resumed = fit([0, 1], state_file=file, progress=epochs.append)
    assert epochs == [2]
    for one, other in zip(resumed, fit([0, 1]), strict=True):
        assert_same(one, other)
    assert [each.name for each in tmp_path.iterdir()] == ["state.safetensors"]


def test_seeds_may_be_numpy_numbers(tmp_path):
    (one,) = fit(np.arange(3)[2:], state_file=tmp_path / "state.safetensors")
    assert_same(one, fit([2])[0])


def test_the_state_of_another_fit_is_refused(tmp_path):
    file = tmp_path / "state.safetensors"
    fit([0], state_file=file)
    with pytest.raises(ValueError, match="of this same fit"):
        fit([1], state_file=file)
    with pytest.raises(ValueError, match="of this same fit"):
        fit([0], FitOptions(**vars(OPTIONS) | {"learning_rate": 0.1}), state_file=file)


def test_a_step_of_an_ensemble_has_the_gradients_of_its_models():
    values = series()
    config = ALRNNConfig(**CONFIG_FIELDS | {"noise_std": 0.0, "regularization_weight": 0.1})
    ensemble = Ensemble(config, OPTIONS, values, values, [0, 1])
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    starts = ensemble._draw_starts(generators)[:, 0]
    before = [each.detach().clone() for each in ensemble.parameters]
    ensemble._step(starts, generators)
    for member in range(2):
        ensemble.best_divergence[member] = 0.0
        for kept, value in zip(ensemble.best, before, strict=True):
            kept[member] = value[member]
        model = ensemble.best_model(member)
        assert model is not None
        windows = torch.stack([torch.from_numpy(values[start : start + 13]).float() for start in starts[member]])
        model(windows[:, :1], future_values=windows[:, 1:]).loss.backward()
        for name, value in ensemble.parameters._asdict().items():
            torch.testing.assert_close(
                value.grad[member], getattr(model.model, name).grad, rtol=1e-4, atol=1e-5, msg=name
            )


CONFIG_FIELDS = {name: getattr(CONFIG, name) for name in ALRNNConfig.__annotations__ if name != "model_type"}


def test_a_linear_network_learns_a_rotation():
    time = np.arange(3000) * 0.2
    circle = np.stack([np.cos(time), np.sin(time)], axis=1)
    options = FitOptions(num_epochs=30, batches_per_epoch=20, learning_rate=2e-2, evaluation_interval=10, discard=0)
    fields = {"hidden_size": 2, "num_relu_units": 0, "prediction_length": 20, "forcing_interval": 5, "noise_std": 0.0}
    model = fit_alrnn(circle, seeds=[0], options=options, **fields)
    weights = model.model
    eigenvalues = torch.linalg.eigvals(torch.diag(weights.A) + weights.W)
    torch.testing.assert_close(eigenvalues.abs(), torch.ones(2), atol=0.003, rtol=0)
    assert eigenvalues.angle().abs().max().item() == pytest.approx(0.2, abs=0.003)
    past, future = torch.tensor(circle[None, :1]).float(), torch.tensor(circle[None, 1:26]).float()
    assert (model.forecast(past, prediction_length=25) - future).abs().max() < 0.1


class Divergences:
    """Stands in for the divergence: falls and rises again with the calls for one member."""

    def __init__(self, *values):
        self.values = iter(values)

    def __call__(self, truth, generated, options, *, rng):
        return next(self.values)


def test_the_epoch_of_least_divergence_is_kept(monkeypatch):
    options = FitOptions(**vars(OPTIONS) | {"evaluation_interval": 1})
    monkeypatch.setattr(ensemble_module, "state_space_divergence", Divergences(3.0, 1.0, 2.0, 5.0))
    (kept,) = fit([0], options)
    assert (kept.best_epoch, kept.best_divergence) == (2, 1.0)
    assert [row["state_space_divergence"] for row in kept.history] == [3.0, 1.0, 2.0, 5.0]
    ensemble = Ensemble(CONFIG, options, series()[:400], series()[400:], [0])
    ensemble.train_until(2)
    assert torch.equal(kept.model.model.W, ensemble.parameters.W[0])


def test_running_means_of_the_weights_are_kept(monkeypatch):
    monkeypatch.setattr(ensemble_module, "state_space_divergence", Divergences(1.0))
    options = FitOptions(num_epochs=1, batches_per_epoch=4, average_decay=0.5, evaluation_interval=1, discard=0)
    (kept,) = fit([0], options)
    ensemble = Ensemble(CONFIG, options, series()[:400], series()[400:], [0])
    mean = ensemble.parameters.W.detach().clone()
    step = ensemble.optimizer.step

    def follow():
        step()
        mean.mul_(0.5).add_(ensemble.parameters.W.detach(), alpha=0.5)

    ensemble.optimizer.step = follow
    ensemble.train_until(1)
    torch.testing.assert_close(kept.model.model.W, mean[0])
    assert not torch.equal(kept.model.model.W, ensemble.parameters.W[0])


def test_free_runs_start_with_the_validation_series_and_discard_their_beginning(monkeypatch):
    seen = []

    def record(truth, generated, options, *, rng):
        seen.append((truth, generated))
        return 1.0

    monkeypatch.setattr(ensemble_module, "state_space_divergence", record)
    options = FitOptions(num_epochs=1, batches_per_epoch=1, evaluation_interval=1, discard=7, free_run_length=30)
    (result,) = fit([0], options)
    truth, generated = seen[0]
    loc, scale = (np.array(each) for each in (result.model.config.channel_loc, result.model.config.channel_scale))
    np.testing.assert_allclose(truth, (series()[400:] - loc) / scale)
    start = torch.from_numpy(series()[None, 400:401]).float()
    forecast = result.model.forecast(start, prediction_length=37)[0].numpy()
    np.testing.assert_allclose(generated, (forecast[7:] - loc) / scale, atol=1e-4)


def test_the_learning_rate_falls_from_first_to_final():
    options = FitOptions(num_epochs=10, learning_rate=1e-2, final_learning_rate=1e-4)
    rates = [options.learning_rate_of(epoch) for epoch in range(11)]
    assert rates[0] == 1e-2
    assert rates[10] == pytest.approx(1e-4)
    assert rates[5] == pytest.approx(1e-3)
    ensemble = Ensemble(CONFIG, options, series(), series(), [0])
    ensemble.train_until(3)
    assert ensemble.optimizer.param_groups[0]["lr"] == rates[2]


def test_noise_is_added_to_the_windows():
    losses = []
    for std in (0.0, 0.5):
        config = ALRNNConfig(**CONFIG_FIELDS | {"noise_std": std})
        losses.append(fit([0], config=config)[0].history[0]["loss"])
    assert losses[1] > losses[0] + 0.2


def test_the_seed_of_least_divergence_on_the_last_part_is_returned():
    fields = {"hidden_size": 5, "num_relu_units": 2, "prediction_length": 12, "forcing_interval": 4}
    options = FitOptions(num_epochs=8, batches_per_epoch=20, learning_rate=1e-2, evaluation_interval=8, discard=0)
    model = fit_alrnn(series(), seeds=[0, 1, 2], validation_share=0.3, options=options, **fields)
    results = fit_ensemble(CONFIG, options, series()[:420], series()[420:], seeds=[0, 1, 2])
    best = min(results, key=lambda result: result.best_divergence)
    assert len({result.best_divergence for result in results}) == 3
    assert torch.equal(model.model.W, best.model.model.W)


def test_the_mode_for_subnormal_numbers_is_left_as_it_was():
    for flush in (True, False):
        torch.set_flush_denormal(flush)
        try:
            fit([0])
            assert bool(torch.tensor([torch.finfo(torch.float32).tiny]) / 2 == 0) is flush
        finally:
            torch.set_flush_denormal(False)


def test_a_damaged_state_file_is_named(tmp_path):
    file = tmp_path / "new" / "state.safetensors"
    fit([0], state_file=file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="damaged"):
        fit([0], state_file=file)


def test_the_scaler_is_that_of_the_training_part():
    config = fit([0])[0].model.config
    assert config.channel_loc == pytest.approx(series()[:400].mean(axis=0).tolist())
    assert config.channel_scale == pytest.approx(series()[:400].std(axis=0).tolist())


def test_an_explosion_is_a_named_status():
    options = FitOptions(**vars(OPTIONS) | {"learning_rate": 1e9, "final_learning_rate": 1e9, "evaluation_interval": 1})
    (result,) = fit([0], options)
    assert result.status is FitStatus.EXPLODED
    assert "learning_rate" in result.status.value


def test_a_model_whose_free_runs_all_leave_the_range_is_named(monkeypatch):
    monkeypatch.setattr(ensemble_module, "state_space_divergence", Divergences(np.inf, np.inf))
    (result,) = fit([0])
    assert result.status is FitStatus.DIVERGED
    assert result.model is None


def test_smoothing_keeps_the_mean_and_takes_noise():
    noise = np.random.default_rng(0).normal(size=(5000, 2))
    assert smooth(noise, 5).std() == pytest.approx((2 * 5 * np.pi**0.5) ** -0.5, rel=0.1)
    assert np.array_equal(smooth(noise, 0), noise)


def with_value(value):
    values = series()
    values[7, 1] = value
    return values


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (with_value(np.nan), "must be finite, found 1 values"),
        (series()[:12], "at least 13 steps"),
        (np.column_stack([series(), series()]), r"shape \(time, 2\)"),
        (series()[:1], "at least 2 steps"),
        (series() * [1, 0], r"constant ones: \[1\]"),
    ],
)
def test_bad_series_are_refused(train, message):
    with pytest.raises(ValueError, match=message):
        fit_ensemble(CONFIG, OPTIONS, train, series(), seeds=[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1"),
        ({"final_learning_rate": 1.0}, "final_learning_rate must be above 0 and at most"),
        ({"learning_rate": float("inf")}, "which must be finite"),
        ({"average_decay": 1.0}, "average_decay must lie in"),
        ({"discard": -1}, "discard must be at least 0"),
        ({"free_run_length": 1}, "free_run_length at least 2"),
    ],
)
def test_impossible_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FitOptions(**fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 5}, r"found \['hiden_size'\]"),
        ({"num_channels": 2}, r"found \['num_channels'\]"),
        ({"validation_share": 0.0}, "validation_share must lie between 0 and 1"),
        ({"validation_smoothing": -1.0}, "must be finite and not negative"),
        ({"seeds": []}, "at least one number"),
        ({"past_values": np.zeros((0, 2))}, r"shape \(time, channels\)"),
    ],
)
def test_bad_requests_for_one_model_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fit_alrnn(**{"past_values": series(), "prediction_length": 12, "options": OPTIONS} | changes)
