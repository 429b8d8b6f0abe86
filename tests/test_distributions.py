import numpy as np
import pytest
import torch
from scipy import stats

from hf_tsdyn.distributions import (
    QuantileDistribution,
    StudentTDistribution,
    build_distribution,
    check_quantile_levels,
    sample_quantiles,
)

LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
ORIGIN, SCALE = torch.tensor([[[10.0, -3.0]]]), torch.tensor([[[2.0, 0.5]]])


def raw(distribution, generator, spread=3.0):
    return spread * torch.randn(1, 50, 2, distribution.num_parameters, generator=generator)


def test_raw_zeros_are_a_normal_distribution_in_scaled_units():
    distribution = QuantileDistribution(LEVELS)
    (quantiles,) = distribution.parameters(torch.zeros(1, 4, 2, len(LEVELS)), ORIGIN, SCALE)
    expected = ORIGIN[..., None] + SCALE[..., None] * torch.special.ndtri(torch.tensor(LEVELS))
    torch.testing.assert_close(quantiles, expected.expand_as(quantiles))


@pytest.mark.parametrize("spread", [0.1, 10.0, 1e4])
def test_quantiles_cannot_cross(generator, spread):
    distribution = QuantileDistribution(LEVELS)
    parameters = distribution.parameters(raw(distribution, generator, spread), ORIGIN, SCALE)
    assert (parameters[0].diff(dim=-1) >= 0).all()
    torch.testing.assert_close(distribution.point(parameters), parameters[0][..., LEVELS.index(0.5)])


def test_at_the_scores_of_its_levels_a_quantile_distribution_gives_its_quantiles(generator):
    distribution = QuantileDistribution(LEVELS)
    parameters = distribution.parameters(raw(distribution, generator), ORIGIN, SCALE)
    found = distribution.at_scores(parameters, torch.special.ndtri(torch.tensor(LEVELS)))
    torch.testing.assert_close(found, parameters[0], atol=1e-4, rtol=1e-5)


def test_between_and_beyond_its_levels_a_normal_distribution_stays_normal():
    distribution = QuantileDistribution(LEVELS)
    parameters = distribution.parameters(torch.zeros(1, 4, 2, len(LEVELS)), ORIGIN, SCALE)
    scores = torch.linspace(-4, 4, 33)
    expected = ORIGIN[..., None] + SCALE[..., None] * scores
    torch.testing.assert_close(distribution.at_scores(parameters, scores), expected.expand(1, 4, 2, 33))


def test_scores_may_differ_by_series_and_channel(generator):
    for distribution in (QuantileDistribution(LEVELS), StudentTDistribution()):
        parameters = distribution.parameters(raw(distribution, generator), ORIGIN, SCALE)
        scores = torch.tensor([[[[0.3], [-1.2]]]])
        found = distribution.at_scores(parameters, scores)
        for channel in range(2):
            alone = distribution.at_scores(parameters, scores[0, 0, channel])
            torch.testing.assert_close(found[..., channel, :], alone[..., channel, :])


def test_the_pinball_loss_of_a_normal_distribution_approximates_its_crps(generator):
    levels = [(k + 0.5) / 100 for k in range(100)]
    levels[49:51] = [0.5]
    distribution = QuantileDistribution(levels)
    parameters = distribution.parameters(torch.zeros(1, 1, 1, len(levels)), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    for target in (0.0, 0.7, -2.0):
        y = torch.full((1, 1, 1), target)
        found = distribution.loss(parameters, y, torch.ones(1, 1, 1)).item()
        crps = target * (2 * stats.norm.cdf(target) - 1) + 2 * stats.norm.pdf(target) - 1 / np.sqrt(np.pi)
        assert found == pytest.approx(crps, abs=0.01)


def test_the_pinball_loss_is_lowest_at_the_quantiles_of_the_targets(generator):
    distribution = QuantileDistribution((0.1, 0.5, 0.9))
    targets = torch.randn(1, 20000, 1, generator=generator)
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    parameters = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = distribution.loss(
            distribution.parameters(parameters.expand(1, 1, 1, 3), zero, one), targets, one
        ).mean()
        value.backward()
        return value

    optimizer.step(loss)
    found = distribution.parameters(parameters.detach().expand(1, 1, 1, 3), zero, one)[0].flatten()
    np.testing.assert_allclose(found, np.quantile(targets.numpy(), [0.1, 0.5, 0.9]), atol=0.03)


def test_student_t_has_scipys_quantiles_and_likelihood(generator):
    distribution = StudentTDistribution()
    parameters = distribution.parameters(raw(distribution, generator), ORIGIN, SCALE)
    df, loc, spread = (each.numpy().astype(float) for each in parameters)
    assert (df > 2).all()
    assert (spread > 0).all()
    torch.testing.assert_close(distribution.point(parameters), parameters[1])
    scores = torch.tensor([-2.0, 0.0, 1.0])
    expected = stats.t.ppf(stats.norm.cdf(scores.numpy())[None], df[..., None], loc[..., None], spread[..., None])
    np.testing.assert_allclose(distribution.at_scores(parameters, scores), expected, rtol=1e-4)
    targets = ORIGIN + 3 * SCALE * torch.randn(1, 50, 2, generator=generator)
    found = distribution.loss(parameters, targets, SCALE)
    expected = -stats.t.logpdf(targets.numpy(), df, loc, spread) - np.log(SCALE.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distribution", [QuantileDistribution(LEVELS), StudentTDistribution()])
def test_losses_of_impossible_units_have_finite_gradients(distribution):
    parameters = torch.zeros(1, 2, 1, distribution.num_parameters, requires_grad=True)
    for unit, target in ((torch.finfo().tiny, 5.0), (float("inf"), 5.0), (1.0, 1e30)):
        values = distribution.parameters(parameters, torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        loss = distribution.loss(values, torch.full((1, 2, 1), target), torch.full((1, 1, 1), unit))
        (gradient,) = torch.autograd.grad(
            loss.masked_fill(torch.ones_like(loss, dtype=torch.bool), 0).sum(), parameters
        )
        assert gradient.isfinite().all()


def test_sample_quantiles_are_numpys(generator):
    samples = torch.randn(2, 37, 5, 3, generator=generator, dtype=torch.float64)
    levels = check_quantile_levels([0.1, 0.5, 0.77, 0.99])
    expected = np.moveaxis(np.quantile(samples.numpy(), levels.numpy(), axis=1, method="weibull"), 0, -1)
    np.testing.assert_allclose(sample_quantiles(samples, levels), expected)


@pytest.mark.parametrize("name", ["quantiles", "student_t"])
def test_a_spread_factor_stretches_a_distribution_around_its_median(generator, name):
    plain, stretched = (build_distribution(name, LEVELS, factor) for factor in (1.0, 1.5))
    raws = raw(plain, generator)
    scores = torch.linspace(-2, 2, 7)
    found = [each.at_scores(each.parameters(raws, ORIGIN, SCALE), scores) for each in (plain, stretched)]
    median = plain.point(plain.parameters(raws, ORIGIN, SCALE))[..., None]
    torch.testing.assert_close(found[1] - median, 1.5 * (found[0] - median), atol=1e-4, rtol=1e-4)


def test_intervals_of_few_samples_hold_what_they_should(generator):
    samples = torch.randn(4000, 21, 1, 1, generator=generator)
    low, high = sample_quantiles(samples[:, :20], check_quantile_levels([0.1, 0.9])).unbind(-1)
    held = (samples[:, 20] >= low[:, 0]) & (samples[:, 20] <= high[:, 0])
    assert held.float().mean().item() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_spread_factors_are_refused(factor):
    with pytest.raises(ValueError, match="spread_factor must be positive and finite"):
        build_distribution("quantiles", LEVELS, factor)


def test_distributions_go_by_name():
    assert build_distribution("point", LEVELS, 1.0) is None
    assert build_distribution("quantiles", LEVELS, 1.0).num_parameters == 11
    assert isinstance(build_distribution("student_t", LEVELS, 1.0), StudentTDistribution)
