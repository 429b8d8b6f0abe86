"""What masked modelling promises: masks, losses, and gap filling."""

import pytest
import torch

from hf_tsdyn import DystformerConfig, DystformerForMaskedModeling
from hf_tsdyn.interpolation import fill_hermite, fill_linear
from hf_tsdyn.models.dystformer.masking import draw_mask


def build(**changes):
    fields = {
        "context_length": 64,
        "patch_length": 8,
        "d_model": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 48,
        "num_poly_feats": 4,
        "num_rff": 16,
    }
    torch.manual_seed(0)
    model = DystformerForMaskedModeling(DystformerConfig(**(fields | changes))).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
        if "unseen" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def values(generator):
    return torch.randn(3, 64, 2, generator=generator).cumsum(1) + 20


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("time", [64, 69])
def test_random_masks_hide_the_asked_share_of_whole_patches(generator, ratio, time):
    config = build(mask_ratio=ratio).config
    mask = draw_mask(config, torch.zeros(50, time, 3), generator)
    assert not mask[:, : time - 64].any()
    patches = mask[:, time - 64 :].unflatten(1, (8, 8))
    assert (patches.any(dim=2) == patches.all(dim=2)).all()
    assert (patches.all(dim=2).sum(dim=1) == round(ratio * 8)).all()
    assert not torch.equal(mask[..., 0], mask[..., 1])


def test_channel_consistent_masks_are_the_same_in_all_channels(generator):
    config = build(channel_consistent_masking=True).config
    mask = draw_mask(config, torch.zeros(20, 64, 3), generator)
    assert (mask == mask[..., :1]).all()
    assert not (mask == mask[:1]).all()


def test_shifted_masks_hide_as_much_but_begin_anywhere(generator):
    config = build(mask_shift_rate=1.0).config
    mask = draw_mask(config, torch.zeros(200, 69, 2), generator)
    assert (mask.sum(dim=1) == 32).all()
    starts = (mask[:, 1:] & ~mask[:, :-1]).nonzero()[:, 1]
    assert set(((starts + 1 - 5) % 8).tolist()) == set(range(8))


def test_a_share_of_the_windows_has_shifted_masks(generator):
    config = build(mask_shift_rate=0.25).config
    mask = draw_mask(config, torch.zeros(2000, 64, 1), generator)[..., 0].unflatten(1, (8, 8))
    aligned = (mask.any(dim=2) == mask.all(dim=2)).all(dim=1)
    assert aligned.float().mean().item() == pytest.approx(1 - 0.25 * 7 / 8, abs=0.04)


def test_masks_come_from_the_generator_that_is_given(values):
    model = build()
    masks = [model(values, generator=torch.Generator().manual_seed(seed)).mask for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("changes", [{}, {"gap_fill": "hermite", "embed_unseen": True}])
def test_what_is_masked_changes_nothing_but_the_loss(values, changes):
    model, mask = build(**changes), draw_mask(build().config, values, torch.Generator().manual_seed(0))
    output = model(values, mask=mask)
    other = model(values.masked_fill(mask, 1e4), mask=mask)
    assert torch.equal(output.prediction_outputs, other.prediction_outputs)
    assert output.loss != other.loss
    reference = build(**changes, scale_masked_values=True)
    assert not torch.equal(reference(values, mask=mask).scale, reference(values.masked_fill(mask, 0), mask=mask).scale)


def test_masks_of_patches_and_of_values_mean_the_same(values):
    model = build()
    patches = torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(3)) > 0.5
    steps = patches.repeat_interleave(8, dim=2).transpose(1, 2)
    outputs = [model(values, mask=mask) for mask in (patches, steps)]
    assert torch.equal(outputs[0].prediction_outputs, outputs[1].prediction_outputs)
    assert torch.equal(outputs[0].mask, steps)
    with pytest.raises(ValueError, match="True = hidden"):
        model(values, mask=patches[:, :1])


def test_the_loss_is_the_mean_over_what_is_masked_and_seen(values):
    model = build()
    mask = draw_mask(model.config, values, torch.Generator().manual_seed(0))
    seen = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) > 0.2
    output = model(values, past_observed_mask=seen, mask=mask)
    error = ((output.prediction_outputs - values) / output.scale)[mask & seen]
    torch.testing.assert_close(output.loss, error.square().mean())
    assert torch.equal(output.mask, mask & seen)


def test_reconstructions_of_masked_values_start_from_the_gaps_filling(values):
    model = build(gap_fill="hermite")
    torch.nn.init.zeros_(model.reconstruction.projection.weight)
    torch.nn.init.zeros_(model.reconstruction.projection.bias)
    mask = draw_mask(model.config, values, torch.Generator().manual_seed(0))
    found = model.complete(values, mask)
    torch.testing.assert_close(found, fill_hermite(values, ~mask), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("time", [8, 50, 64, 100, 200])
def test_completion_is_exact_at_visible_values_and_finite_elsewhere(generator, time):
    model = build(gap_fill="hermite", embed_unseen=True)
    values = torch.randn(2, time, 3, generator=generator).cumsum(1)
    mask = torch.rand(values.shape, generator=generator) > 0.6
    mask[:, 0] = False
    hidden = values.masked_fill(mask, float("nan"))
    before = hidden.clone()
    completed = model.complete(hidden)
    assert completed.shape == values.shape
    assert torch.equal(completed[~mask], values[~mask])
    assert completed.isfinite().all()
    assert torch.equal(model.complete(values, mask), completed)
    assert torch.equal(hidden.isnan(), before.isnan())


def test_completion_of_a_short_series_is_one_forward_pass(values):
    model = build()
    mask = draw_mask(model.config, values, torch.Generator().manual_seed(0))
    expected = model(values, past_observed_mask=~mask, mask=torch.zeros_like(mask)).prediction_outputs
    torch.testing.assert_close(model.complete(values, mask)[mask], expected[mask])


def test_completion_of_a_long_series_blends_windows_a_quarter_apart(generator):
    model = build()
    values = torch.randn(1, 90, 2, generator=generator).cumsum(1)
    mask = draw_mask(model.config, values, generator)
    total, weights = torch.zeros_like(values), torch.zeros(1, 90, 1)
    nearness = torch.minimum(torch.arange(1, 65), torch.arange(64, 0, -1))[None, :, None]
    for start in (0, 16, 26):
        inside = slice(start, start + 64)
        total[:, inside] += nearness * model.complete(values[:, inside], mask[:, inside])
        weights[:, inside] += nearness
    torch.testing.assert_close(model.complete(values, mask), total / weights)


def test_completion_has_the_units_dtype_and_mode_of_its_input(values):
    model = build().train()
    mask = draw_mask(model.config, values, torch.Generator().manual_seed(0))
    completed = model.complete(values.double(), mask)
    assert completed.dtype == torch.float64
    assert model.training
    moved = model.complete(1e4 * values.double() - 7e4, mask)
    torch.testing.assert_close((moved + 7e4) / 1e4, completed, atol=1e-3, rtol=1e-3)


def test_a_gap_longer_than_the_window_is_bridged_by_a_line(generator):
    model = build()
    values = torch.randn(1, 300, 2, generator=generator)
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[:, 40:260, 0] = True
    mask[:, 150, 0] = False  # less than a patch in any window
    completed = model.complete(values, mask)
    lines = fill_linear(values, ~mask)
    torch.testing.assert_close(completed[:, 110:190], lines[:, 110:190], atol=1e-5, rtol=1e-5)


def test_series_that_cannot_be_completed_are_refused(values):
    model = build()
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[1, :, 0] = True
    with pytest.raises(ValueError, match=r"every channel must have a visible value.*\[\[1, 0\]\]"):
        model.complete(values, mask)
    with pytest.raises(ValueError, match="at least one patch of 8 steps, found 5"):
        model.complete(values[:, :5])
    with pytest.raises(ValueError, match="mask must be a tensor of the shape of values"):
        model.complete(values, torch.zeros(3, 64, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must be a tensor of the shape of values.*ndarray"):
        model.complete(values, mask.numpy())


def test_a_channel_hidden_as_a_whole_has_no_loss(values):
    model = build()
    mask = draw_mask(model.config, values, torch.Generator().manual_seed(0))
    mask[..., 1] = True
    scaled = values * torch.tensor([1.0, 1e6])
    torch.testing.assert_close(model(scaled, mask=mask).loss, model(values, mask=mask).loss)


def test_reload_completes_bit_equal(values, tmp_path):
    model = build(gap_fill="hermite", embed_unseen=True, mask_shift_rate=0.5)
    model.save_pretrained(tmp_path)
    reloaded = DystformerForMaskedModeling.from_pretrained(tmp_path)
    mask = draw_mask(model.config, values, torch.Generator().manual_seed(0))
    assert torch.equal(reloaded.complete(values, mask), model.complete(values, mask))
    assert reloaded.config.to_diff_dict() == model.config.to_diff_dict()


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_a_few_steps_of_pre_training_lower_the_loss(loss):
    torch.manual_seed(0)
    model = build(loss=loss, gap_fill="hermite", embed_unseen=True).train()
    time = torch.arange(64)[None, :, None]
    waves = torch.sin(0.3 * time + torch.rand(16, 1, 2) * 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        value = model(waves).loss
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert model.model.unseen_embedding.weight.abs().sum() > 0
