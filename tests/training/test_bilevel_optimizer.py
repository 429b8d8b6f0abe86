import copy

import pytest
import torch

from training.bilevel_optimizer import ChannelAdamW, ChannelRates

RATES = ChannelRates(step=torch.tensor([1.0, 2.0, 0.0]), decay=torch.tensor([1.0, 3.0, 0.0]))


@pytest.fixture
def weights(generator):
    """Two parameters with three channels first."""
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((3, 4, 2), (3,))]


def adamw(parameters, **changes):
    group = {"params": parameters, "per_channel": True, "weight_decay": 0.1} | changes
    return ChannelAdamW([group], lr=0.01, eps=1e-8)


def descend(optimizers, parameters, generator, steps=5):
    for _ in range(steps):
        gradients = [torch.randn(each.shape, generator=generator) for each in parameters[0]]
        for optimizer, owned in zip(optimizers, parameters, strict=True):
            for parameter, gradient in zip(owned, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()


def test_without_rates_it_is_adamw(weights, generator):
    others = copy.deepcopy(weights)
    reference = torch.optim.AdamW(others, lr=0.01, weight_decay=0.1, eps=1e-8)
    descend([adamw(weights), reference], [weights, others], generator)
    for found, expected in zip(weights, others, strict=True):
        torch.testing.assert_close(found, expected)


def test_each_channel_moves_and_decays_at_its_own_rates(weights, generator):
    start = [each.detach().clone() for each in weights]
    others, undecayed = copy.deepcopy(weights), copy.deepcopy(weights)
    optimizer = adamw(weights)
    optimizer.channel_rates = RATES
    descend([optimizer, adamw(others), adamw(undecayed, weight_decay=0.0)], [weights, others, undecayed], generator, 1)
    for found, plain, step_alone, before in zip(weights, others, undecayed, start, strict=True):
        assert torch.equal(found[2], before[2])
        assert torch.equal(found[0], plain[0])
        step, decay = step_alone - before, -0.01 * 0.1 * before
        torch.testing.assert_close((found - before)[1], (2 * step + 3 * decay)[1])


def test_only_groups_that_ask_for_it_have_rates(weights, generator):
    others = copy.deepcopy(weights)
    optimizer = adamw(weights, per_channel=False)
    optimizer.channel_rates = RATES
    descend([optimizer, adamw(others)], [weights, others], generator)
    assert all(torch.equal(found, expected) for found, expected in zip(weights, others, strict=True))


def test_a_step_can_be_foreseen(weights, generator):
    optimizer = adamw(weights)
    optimizer.channel_rates = RATES
    descend([optimizer], [weights], generator, 3)
    for parameter in weights:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    (group,) = optimizer.param_groups
    foreseen = [optimizer.preview(group, each).move(each.detach(), each.grad, RATES) for each in weights]
    optimizer.step()
    assert all(torch.equal(found, expected) for found, expected in zip(weights, foreseen, strict=True))


def test_what_has_no_gradient_stays(weights):
    start = [each.detach().clone() for each in weights]
    weights[0].grad = torch.ones_like(weights[0])
    adamw(weights).step()
    assert not torch.equal(weights[0], start[0])
    assert torch.equal(weights[1], start[1])


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-22, 1e-12])
def test_gradients_whose_squares_vanish_make_finite_steps(size):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = ChannelAdamW([{"params": [parameter], "eps": 1e-15}], lr=0.01, eps=1e-8)
    for _ in range(5):
        parameter.grad = torch.tensor([size, -size, size])
        optimizer.step()
    moved = 1 - parameter.detach()
    assert moved.isfinite().all()
    assert moved.abs().max() <= 0.05 * 1.001
    assert (moved.abs() > 0.045).all().item() is (size == 1e-12)


def test_its_state_can_be_saved_and_resumed(weights, generator, tmp_path):
    optimizer = adamw(weights)
    descend([optimizer], [weights], generator)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    others = copy.deepcopy(weights)
    resumed = adamw(others)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    descend([optimizer, resumed], [weights, others], generator)
    assert all(torch.equal(found, expected) for found, expected in zip(others, weights, strict=True))
