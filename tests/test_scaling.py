import pytest
import torch

from hf_tsdyn.scaling import scale, unscale


def test_scaled_values_have_mean_zero_and_variance_one(generator):
    values = 3 + 5 * torch.randn(4, 200, 3, generator=generator)
    z, loc, spread = scale(values, torch.ones_like(values, dtype=torch.bool))
    torch.testing.assert_close(z.mean(1), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var(1, correction=0), torch.ones(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(unscale(z, loc, spread), values)


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e30])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_scaling_commutes_with_a_change_of_units(generator, factor, offset):
    values = torch.randn(2, 100, 3, generator=generator)
    mask = torch.ones_like(values, dtype=torch.bool)
    z, _, _ = scale(values, mask)
    other, _, _ = scale(factor * (values + offset), mask)
    torch.testing.assert_close(other, z, atol=2e-5, rtol=1e-5)


def test_statistics_come_from_seen_values_alone():
    values = torch.tensor([1.0, 3.0, float("nan"), 1e9]).reshape(1, 4, 1)
    mask = torch.tensor([True, True, False, False]).reshape(1, 4, 1)
    z, loc, spread = scale(values, mask)
    assert loc.item() == 2
    assert spread.item() == pytest.approx(1.0)
    assert z.flatten().tolist() == pytest.approx([-1, 1, 0, 0])


def test_a_channel_with_nothing_seen_has_loc_zero_and_scale_one():
    values = torch.full((1, 5, 1), float("nan"))
    z, loc, spread = scale(values, torch.zeros(1, 5, 1, dtype=torch.bool))
    assert (loc.item(), spread.item()) == (0.0, 1.0)
    assert not z.any()


def test_absolute_epsilon_is_added_to_the_variance():
    values = torch.tensor([1.0, 3.0]).reshape(1, 2, 1)
    _, _, spread = scale(values, torch.ones(1, 2, 1, dtype=torch.bool), epsilon=0.5, relative=False)
    assert spread.item() == pytest.approx(1.5**0.5)


@pytest.mark.parametrize("level", [0.0, 7.0, -1e5])
def test_a_constant_channel_comes_back_constant_whatever_is_forecast(level):
    values = torch.full((1, 8, 1), level)
    _, loc, spread = scale(values, torch.ones(1, 8, 1, dtype=torch.bool))
    back = unscale(torch.full((1, 3, 1), 0.5), loc, spread)
    torch.testing.assert_close(back, torch.full((1, 3, 1), level), rtol=1e-6, atol=1e-30)


def test_half_precision_input_is_scaled_in_single_precision():
    values = torch.linspace(0, 1, 600, dtype=torch.bfloat16).reshape(1, 600, 1)
    z, loc, _ = scale(values, torch.ones_like(values, dtype=torch.bool))
    assert z.dtype == loc.dtype == torch.float32
