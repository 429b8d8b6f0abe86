import pytest
import torch

from hf_tsdyn.losses import loss_targets, mean_over, point_loss


def forecast_loss(prediction, target, mask, *, loc, scale, kind, huber_delta, normalize, known=True):
    known = torch.full_like(loc, known, dtype=torch.bool)
    targets = loss_targets(prediction, target, mask, loc=loc, scale=scale, known=known, normalize=normalize)
    return mean_over(point_loss(prediction, targets, kind=kind, huber_delta=huber_delta), targets.counted)


@pytest.mark.parametrize(
    ("kind", "normalize", "expected"),
    [
        ("mse", False, (1 + 9) / 2),
        ("mae", False, (1 + 3) / 2),
        ("huber", False, (0.5 + 2.5) / 2),
        ("mse", True, (0.25 + 2.25) / 2),
        ("mae", True, (0.5 + 1.5) / 2),
    ],
)
def test_loss_has_its_closed_form(kind, normalize, expected):
    prediction = torch.tensor([1.0, 3.0, 100.0]).reshape(1, 3, 1)
    target = torch.tensor([0.0, 0.0, float("nan")]).reshape(1, 3, 1)
    loc, scale = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
    loss = forecast_loss(
        prediction, target, None, loc=loc, scale=scale, kind=kind, huber_delta=1.0, normalize=normalize
    )
    assert loss.item() == pytest.approx(expected)


def test_a_channel_constant_in_the_context_has_no_normalised_loss():
    prediction, target = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    loc, scale = torch.tensor([[[5.0, 5.0]]]), torch.tensor([[[2.0, 5e-6]]])
    loss = forecast_loss(prediction, target, None, loc=loc, scale=scale, kind="mse", huber_delta=1.0, normalize=True)
    assert loss.item() == pytest.approx(0.25)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="future_values must have shape"):
        forecast_loss(
            torch.zeros(1, 4, 2),
            torch.zeros(1, 5, 2),
            None,
            loc=torch.zeros(1, 1, 2),
            scale=torch.ones(1, 1, 2),
            kind="mse",
            huber_delta=1.0,
            normalize=True,
        )


def test_a_channel_that_wakes_up_counts_for_no_more_than_ten_deviations():
    loc, scale = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 1e-3)
    arguments = {"loc": loc, "scale": scale, "huber_delta": 1.0, "normalize": True}
    target = torch.full((1, 4, 1), 5.0)
    loss = forecast_loss(torch.zeros(1, 4, 1), target, None, kind="mse", **arguments)
    assert loss.item() == pytest.approx(100.0, rel=1e-5)
    small = forecast_loss(torch.zeros(1, 4, 1), 1e-3 * target, None, kind="mse", **arguments)
    assert small.item() == pytest.approx(25.0, rel=1e-5)


def test_target_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="future_observed_mask must have the shape"):
        forecast_loss(
            torch.zeros(1, 4, 2),
            torch.zeros(1, 4, 2),
            torch.ones(1, 1, 2, dtype=torch.bool),
            loc=torch.zeros(1, 1, 2),
            scale=torch.ones(1, 1, 2),
            kind="mse",
            huber_delta=1.0,
            normalize=True,
        )


def test_a_channel_of_which_nothing_was_seen_has_no_normalised_loss():
    arguments = {"loc": torch.zeros(1, 1, 1), "scale": torch.ones(1, 1, 1), "kind": "mae", "huber_delta": 1.0}
    prediction, target = torch.zeros(1, 2, 1), torch.full((1, 2, 1), 7.0)
    assert forecast_loss(prediction, target, None, **arguments, normalize=True, known=False).item() == 0
    assert forecast_loss(prediction, target, None, **arguments, normalize=False, known=False).item() == 7


@pytest.mark.parametrize("size", [1e-10, 1.0])
def test_targets_far_beyond_a_tiny_scale_count_as_ten_deviations(size):
    arguments = {"loc": torch.zeros(1, 1, 1), "scale": torch.full((1, 1, 1), 1e-31), "huber_delta": 1.0}
    target = torch.full((1, 4, 1), size)
    loss = forecast_loss(torch.zeros(1, 4, 1), target, None, kind="mse", **arguments, normalize=True)
    assert loss.item() == pytest.approx(100.0, rel=1e-4)
