"""Promises of the mixture of learners: honest errors, the best weights, and a state that goes on."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_tsdyn.baselines.naive import ContextMean, Persistence
from hf_tsdyn.online.gradient import FrozenLearner, GradientLearner, GradientOptions
from hf_tsdyn.online.learner import OnlineLearner, Window
from hf_tsdyn.online.mixture import MixtureLearner, simplex_weights
from hf_tsdyn.online.saving import load_learner

LENGTHS = {"context_length": 8, "prediction_length": 3, "num_channels": 2}


class _Offset(OnlineLearner):
    """Forecast the last value plus a fixed number; NaN as a number fails."""

    def __init__(self, offset: float, protocol="delayed"):
        super().__init__(**LENGTHS, protocol=protocol)
        self.offset = offset

    def _forecast(self, window: Window) -> Tensor:
        return window.past_values[0, -1:].expand(3, -1) + self.offset

    def _learn(self, window: Window, future_values: Tensor, future_observed_mask: Tensor) -> None:
        pass


def _run(learner: OnlineLearner, values: np.ndarray) -> Tensor:
    """Forecasts (steps, H, C), each made before its row is observed, the first 8 rows being a warm-up."""
    learner.warm_up(values[:8])
    forecasts = []
    for row in values[8:]:
        forecasts.append(learner.forecast())
        learner.learn_one(row)
    return torch.stack(forecasts)


def _members(tiny_model) -> list[OnlineLearner]:
    members: list[OnlineLearner] = [
        FrozenLearner(Persistence(), **LENGTHS),
        FrozenLearner(ContextMean(), **LENGTHS),
        GradientLearner(tiny_model(), GradientOptions(learning_rate=0.01)),
    ]
    return members


def _noise(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, 2)).astype(np.float32)


def test_weights_minimise_the_penalised_error_over_the_simplex() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        errors = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 3))
        gram = errors.T @ errors
        found = simplex_weights(gram, 30.0, prior=6.0)
        matrix = gram + 6.0 / 30.0 * np.diag(gram).min() * np.eye(3)
        grid = np.stack(np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201)), axis=-1).reshape(-1, 2)
        grid = grid[grid.sum(axis=1) <= 1]
        grid = np.column_stack([grid, 1 - grid.sum(axis=1)])
        best = np.einsum("wi,ij,wj->w", grid, matrix, grid).min()
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1.0)
        assert found @ matrix @ found <= best * (1 + 1e-6)
        assert found @ matrix @ found >= best * 0.995


def test_members_without_any_error_known_weigh_alike() -> None:
    np.testing.assert_array_equal(simplex_weights(np.zeros((4, 4)), 0.0, prior=9.0), np.full(4, 0.25))


def test_errors_of_opposite_sign_cancel_where_each_member_alone_is_wrong() -> None:
    values = np.zeros((40, 2), dtype=np.float32)
    mixture = MixtureLearner([_Offset(1.0), _Offset(-1.0), _Offset(2.0)], prior_windows=0.0)
    forecasts = _run(mixture, values)
    assert forecasts[:3].min() > 0.5  # equal weights at first
    torch.testing.assert_close(forecasts[3:], torch.zeros(29, 3, 2), atol=1e-4, rtol=0)


def test_weight_goes_to_the_member_that_knows_and_comes_back_when_another_does() -> None:
    low, high = np.zeros((60, 2)), np.cumsum(np.ones((100, 2)), axis=0)
    members = [_Offset(0.0), _Offset(2.0)]
    mixture = MixtureLearner(members, forgetting=0.8)
    _run(mixture, low)
    assert mixture.weights[:, 0].min() > 0.95
    for row in high:
        mixture.learn_one(row)
    assert mixture.weights[:, 1].min() > 0.8


def test_channels_have_weights_of_their_own() -> None:
    values = np.stack([np.zeros(60), np.arange(60.0) * 2], axis=1)
    mixture = MixtureLearner([_Offset(0.0), _Offset(4.0)], forgetting=1.0)
    _run(mixture, values)
    assert mixture.weights[0, 0] > 0.9
    assert mixture.weights[1, 1] > 0.9


def test_a_member_that_grows_without_bound_or_fails_disturbs_nothing() -> None:
    values = _noise(60)
    alone = _run(MixtureLearner([_Offset(0.0), _Offset(0.1)]), values)
    grown = _run(MixtureLearner([_Offset(0.0), _Offset(0.1), _Offset(1e30)]), values)
    torch.testing.assert_close(grown[3:], alone[3:])
    failed = MixtureLearner([_Offset(0.5), _Offset(float("nan"))])
    torch.testing.assert_close(_run(failed, values), _run(_Offset(0.5), values))


def test_forecasts_equal_those_of_a_plain_replay_with_the_errors_of_their_time(tiny_model, stream: np.ndarray) -> None:
    forecasts = _run(MixtureLearner(_members(tiny_model), forgetting=0.9), stream)
    each = torch.stack([_run(member, stream) for member in _members(tiny_model)]).double()
    targets = np.lib.stride_tricks.sliding_window_view(stream[8:], 3, axis=0).transpose(0, 2, 1)
    for step, found in enumerate(forecasts):
        for channel in range(2):
            gram, count = np.zeros((3, 3)), 0.0
            for origin in range(step - 3 + 1):  # the target at row `origin + 2` is observed before `step`
                seen = ~np.isnan(targets[origin, :, channel])
                errors = each[:, origin, :, channel].numpy()[:, seen] - targets[origin, seen, channel]
                fading = 0.9 if seen.any() else 1.0
                gram, count = fading * gram + errors @ errors.T, fading * count + seen.sum()
            weights = torch.from_numpy(simplex_weights(gram, count, prior=9.0))
            expected = (weights[:, None] * each[:, step, :, channel]).sum(dim=0)
            torch.testing.assert_close(found[:, channel].double(), expected, atol=1e-6, rtol=1e-5)


def test_what_comes_later_changes_no_forecast(tiny_model, stream: np.ndarray) -> None:
    changed = stream.copy()
    changed[40:] = 50.0
    before, after = (_run(MixtureLearner(_members(tiny_model)), each) for each in (stream, changed))
    assert torch.equal(before[: 40 - 8 + 1], after[: 40 - 8 + 1])
    assert not torch.equal(before[40 - 8 + 4], after[40 - 8 + 4])


def test_error_is_close_to_that_of_the_best_fixed_member_or_below() -> None:
    rng = np.random.default_rng(3)
    values = np.cumsum(rng.normal(size=(300, 2)), axis=0).astype(np.float32)
    targets = np.lib.stride_tricks.sliding_window_view(values[8:], 3, axis=0).transpose(0, 2, 1)

    def error(learner: OnlineLearner) -> float:
        return float((_run(learner, values)[: len(targets)] - torch.from_numpy(targets.copy())).square().mean())

    kinds = [
        lambda: FrozenLearner(Persistence(), **LENGTHS),
        lambda: FrozenLearner(ContextMean(), **LENGTHS),
        lambda: _Offset(3.0),
    ]
    best = min(error(kind()) for kind in kinds)
    assert error(MixtureLearner([kind() for kind in kinds])) < 1.05 * best


def test_a_saved_mixture_goes_on_to_the_bit(tiny_model, stream: np.ndarray, tmp_path) -> None:
    learner = MixtureLearner(_members(tiny_model), forgetting=0.97)
    _run(learner, stream[:40])
    learner.save(tmp_path / "saved")
    resumed = load_learner(tmp_path / "saved")
    for row in stream[40:]:
        assert torch.equal(learner.forecast(), resumed.forecast())
        learner.learn_one(row)
        resumed.learn_one(row)
    torch.testing.assert_close(resumed.state_dict(), learner.state_dict(), rtol=0, atol=0, equal_nan=True)


def test_the_immediate_protocol_learns_the_forecast_just_made() -> None:
    mixture = MixtureLearner([_Offset(0.0, "immediate"), _Offset(1.0, "immediate")], prior_windows=0.0)
    mixture.warm_up(np.zeros((8, 2)))
    assert mixture.weights.tolist() == [[0.5, 0.5]] * 2
    mixture.learn_revealed(np.ones((3, 2)))
    torch.testing.assert_close(mixture.weights[:, 1], torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)


def test_weights_are_among_the_statistics() -> None:
    mixture = MixtureLearner([_Offset(0.0), _Offset(1.0)])
    _run(mixture, np.zeros((30, 2)))
    found = mixture.statistics()
    assert found["weight.0"] > 0.9
    assert found["weight.0"] + found["weight.1"] == pytest.approx(1.0)
    assert found["members.0.num_observed"] == 30


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ([], {}, "at least one learner"),
        ([_Offset(0.0), _Offset(0.0, "immediate")], {}, "same stream"),
        ([_Offset(0.0)], {"forgetting": 0.0}, "forgetting must be above 0"),
        ([_Offset(0.0)], {"prior_windows": -1.0}, "prior_windows finite"),
    ],
)
def test_what_cannot_be_mixed_is_refused(members, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureLearner(members, **options)
