"""The specialists: what they can represent, that the closed form finds it, and how options are checked."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_tsdyn.models.dynonet import DynoNetConfig
from hf_tsdyn.models.dynonet.closed_form import fit_specialists, ridge_solution, window_moments
from hf_tsdyn.models.dynonet.specialists import Specialist, build_specialist

C, L, H = 3, 20, 8

OPTIONS = [
    {"kind": "periodic", "period": 5},
    {"kind": "periodic", "period": 3, "level_length": 6, "input_length": 16},
    {"kind": "low_rank", "rank": 2},
    {"kind": "low_rank", "rank": 3, "period": 4, "level_length": 4, "input_length": 18},
    {"kind": "low_rank", "rank": 2, "pooling": None, "level_length": 1},
]

Batch = tuple[Tensor, Tensor, Tensor | float]


def make(options: dict) -> Specialist:
    config = DynoNetConfig(num_channels=C, context_length=L, prediction_length=H, worker_context_length=L)
    return build_specialist(config, options).double()


def draw(generator: torch.Generator, count: int = 60) -> Batch:
    past, future = (torch.randn(count, steps, C, generator=generator, dtype=torch.float64) for steps in (L, H))
    return past, future, torch.rand(count, 1, C, generator=generator, dtype=torch.float64) + 0.1


def split(batch: Batch, size: int) -> Iterator[Batch]:
    return zip(*(part.split(size) for part in batch), strict=True)


def loss(specialist: Specialist, batch: Batch) -> Tensor:
    past, future, weight = batch
    return (weight * (specialist(past) - future).square()).sum(dim=(1, 2)).mean()


@pytest.mark.parametrize("options", OPTIONS)
def test_an_untrained_specialist_forecasts_the_level(options, generator):
    past, _, _ = draw(generator)
    specialist = make(options)
    level = past[:, -specialist.level_length :].mean(dim=1, keepdim=True)
    torch.testing.assert_close(specialist(past), level.expand(-1, H, -1))


@pytest.mark.parametrize("options", OPTIONS)
def test_forecasts_follow_shift_and_scale_of_the_window(options, generator):
    batch = draw(generator)
    specialist = make(options)
    fit_specialists([specialist], [batch])
    torch.testing.assert_close(specialist(3 * batch[0] + 2), 3 * specialist(batch[0]) + 2)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_reach_every_parameter(options, generator):
    batch = draw(generator)
    specialist = make(options)
    fit_specialists([specialist], [batch])
    loss(specialist, batch).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in specialist.parameters())


@pytest.mark.parametrize("options", OPTIONS)
def test_batches_give_what_all_windows_at_once_give(options, generator):
    batch = draw(generator)
    whole, streamed = make(options), make(options)
    fit_specialists([whole], [batch])
    fit_specialists([streamed], split(batch, 7))
    torch.testing.assert_close(streamed(batch[0]), whole(batch[0]))


@pytest.mark.parametrize("options", [{"kind": "periodic", "period": 3}, {"kind": "low_rank", "pooling": None}])
def test_without_a_penalty_no_weight_can_be_improved(options, generator):
    batch = draw(generator)
    specialist = make(options | {"ridge": 0.0})
    fit_specialists([specialist], [batch])
    gradients = torch.autograd.grad(loss(specialist, batch), list(specialist.parameters()))
    assert max(gradient.abs().max() for gradient in gradients) < 1e-7


def test_low_rank_recovers_a_map_of_that_rank(generator):
    encoder = torch.randn(3, L, generator=generator, dtype=torch.float64)
    decoder = torch.randn(C, H, 3, generator=generator, dtype=torch.float64)
    past, _, weight = draw(generator, 200)
    departure = past - past.mean(dim=1, keepdim=True)
    future = past.mean(dim=1, keepdim=True) + torch.einsum("chr,rl,blc->bhc", decoder, encoder, departure)
    specialist = make({"kind": "low_rank", "rank": 3, "ridge": 0.0, "pooling": 0.0})
    fit_specialists([specialist], [(past, future, weight)])
    torch.testing.assert_close(specialist(past), future, rtol=1e-6, atol=1e-6)


def test_a_shared_read_out_recovers_a_shared_map(generator):
    matrix = torch.randn(H, 2, generator=generator, dtype=torch.float64) @ torch.randn(
        2, L, generator=generator, dtype=torch.float64
    )
    past, _, weight = draw(generator, 200)
    future = past[:, -1:] + torch.einsum("hl,blc->bhc", matrix, past - past[:, -1:])
    specialist = make({"kind": "low_rank", "rank": 2, "ridge": 0.0, "pooling": None, "level_length": 1})
    fit_specialists([specialist], [(past, future, weight)])
    assert specialist.decoder.shape == (1, H, 2)
    torch.testing.assert_close(specialist(past), future, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("period", [3, 4, 5])
def test_periodic_continues_a_periodic_series(period, generator):
    shape = torch.randn(50, period, C, generator=generator, dtype=torch.float64)
    series = shape.repeat(1, -(-(L + H) // period), 1)[:, : L + H]
    past, future = series[:, :L], series[:, L:]
    specialist = make({"kind": "periodic", "period": period, "ridge": 0.0, "level_length": period})
    fit_specialists([specialist], [(past, future, 1.0)])
    torch.testing.assert_close(specialist(past), future, rtol=1e-6, atol=1e-6)


def test_full_rank_is_the_weighted_ridge_regression_of_each_channel(generator):
    past, future, weight = draw(generator)
    specialist = make({"kind": "low_rank", "rank": L, "ridge": 0.5, "pooling": 0.0, "level_length": 4})
    fit_specialists([specialist], [(past, future, weight)])
    level = past[:, -4:].mean(dim=1, keepdim=True)
    for channel in range(C):
        root = weight[:, :, channel].sqrt()
        x, y = (((part - level)[..., channel] * root).numpy() for part in (past, future))
        lag = np.arange(L, 0, -1)
        penalty = 0.5 * np.sqrt(lag / L) * np.square(x).sum(axis=0).mean()
        rows, targets = np.vstack([x, np.diag(np.sqrt(penalty))]), np.vstack([y, np.zeros((L, H))])
        solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
        expected = (past - level)[..., channel].numpy() @ solution + level[..., channel].numpy()
        np.testing.assert_allclose(specialist(past)[..., channel].detach(), expected, rtol=1e-6, atol=1e-6)


def test_periodic_is_the_least_squares_of_stacked_phases(generator):
    past, future, weight = draw(generator)
    specialist = make({"kind": "periodic", "period": 4, "ridge": 0.0, "level_length": 4})
    fit_specialists([specialist], [(past, future, weight)])
    level, root = past[:, -4:].mean(dim=1, keepdim=True), weight.sqrt()
    rows, targets = (
        ((part - level) * root).unflatten(1, (-1, 4)).permute(0, 2, 3, 1).flatten(0, 2).numpy()
        for part in (past, future)
    )
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(specialist.weight.detach(), solution.T, rtol=1e-6, atol=1e-8)


def test_low_rank_with_a_period_forecasts_what_the_period_leaves(generator):
    batch = draw(generator)
    options = {"kind": "low_rank", "rank": 2, "period": 4, "period_ridge": 0.2, "level_length": 4}
    anchored, alone = make(options), make({"kind": "periodic", "period": 4, "ridge": 0.2, "level_length": 4})
    fit_specialists([anchored, alone], [batch])
    torch.testing.assert_close(anchored.periodic.weight, alone.weight)
    rest = make({"kind": "low_rank", "rank": 2, "level_length": 4})
    level = batch[0][:, -4:].mean(dim=1, keepdim=True)
    fit_specialists([rest], [(batch[0], batch[1] - alone(batch[0]).detach() + level, batch[2])])
    torch.testing.assert_close(anchored(batch[0]), rest(batch[0]) + alone(batch[0]) - level)


def test_constant_windows_leave_the_level(generator):
    specialist = make({"kind": "low_rank", "rank": 2, "period": 4})
    fit_specialists([specialist], [(torch.zeros(5, L, C), torch.zeros(5, H, C), 1.0)])
    past, _, _ = draw(generator)
    torch.testing.assert_close(specialist(past), past.mean(dim=1, keepdim=True).expand(-1, H, -1))


def test_features_are_uncorrelated_with_mean_square_one(generator):
    past, future, _ = draw(generator, 200)
    specialist = make({"kind": "low_rank", "rank": 3})
    fit_specialists([specialist], [(past, future, 1.0)])
    features = torch.einsum("rl,blc->bcr", specialist.encoder, past - past.mean(dim=1, keepdim=True)).flatten(0, 1)
    torch.testing.assert_close(features.T @ features / len(features), torch.eye(3, dtype=torch.float64))


def test_single_precision_windows_are_summed_in_double(generator):
    past, future, _ = draw(generator)
    moments = window_moments([(past.float(), future.float(), 1.0)])
    expected = torch.einsum("blc,bnc->cln", past, torch.cat([past, future], dim=1)) / len(past)
    assert moments.dtype == torch.float64
    torch.testing.assert_close(moments, expected, rtol=1e-6, atol=1e-6)


def test_ridge_shrinks_towards_zero(generator):
    inputs = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    gram, cross = inputs.T @ inputs, inputs.T @ inputs[:, :1]
    sizes = [ridge_solution(gram, cross, penalty).norm() for penalty in (0.0, 1.0, 10.0)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2}, "kind of a specialist must be one of .*'low_rank', 'periodic'"),
        ({"kind": "periodic", "rank": 2}, r"takes .*'period'.* found \['rank'\]"),
        ({"kind": "periodic", "period": L + 1}, "period of a specialist must lie in"),
        ({"kind": "low_rank", "input_length": L + 1}, "input_length of a specialist must lie in"),
        ({"kind": "low_rank", "level_length": 0}, "level_length of a specialist must lie in"),
        ({"kind": "low_rank", "rank": H + 1, "pooling": None}, "rank of a specialist must lie in"),
        ({"kind": "low_rank", "ridge": -1.0}, "ridge of a specialist must be finite and not negative"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(options)


def test_impossible_windows_are_named(generator):
    past, future, _ = draw(generator)
    specialist = make({"kind": "periodic", "period": 4})
    with pytest.raises(ValueError, match="found none; fill the gaps"):
        fit_specialists([specialist], [])
    with pytest.raises(ValueError, match=r"must have .*\(3, 20, 8\), found \(3, 19, 8\)"):
        fit_specialists([specialist], [(past[:, 1:], future, 1.0)])
    past[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        fit_specialists([specialist], [(past, future, 1.0)])
