"""What dystformer's encoder gives beside its heads: representations, a start for other models."""

import copy

import pytest
import torch

from hf_tsdyn import (
    DystformerConfig,
    DystformerForMaskedModeling,
    DystformerForPrediction,
    DystformerModel,
    ForecastPipeline,
)

FIELDS = {
    "context_length": 64,
    "prediction_length": 8,
    "patch_length": 8,
    "d_model": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 48,
    "num_poly_feats": 4,
    "num_rff": 16,
}


def build(model_class=DystformerForPrediction, **changes):
    torch.manual_seed(0)
    model = model_class(DystformerConfig(**(FIELDS | changes))).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def values(generator):
    return torch.randn(3, 70, 4, generator=generator).cumsum(1)


@pytest.mark.parametrize("model_class", [DystformerForPrediction, DystformerForMaskedModeling, DystformerModel])
def test_every_model_embeds_series(values, model_class):
    model = build(model_class)
    output = model.embed(values)
    assert output.patches.shape == (3, 4, 8, 32)
    torch.testing.assert_close(output.patches, model.base_model(values).last_hidden_state)
    torch.testing.assert_close(output.channels, output.patches.mean(dim=2))
    torch.testing.assert_close(output.pooled, output.patches.mean(dim=(1, 2)))
    assert output.channel_attentions is None


def test_representations_depend_on_neither_level_nor_unit(values):
    model = build()
    torch.testing.assert_close(model.embed(1e4 * values + 3e4).pooled, model.embed(values).pooled, atol=2e-3, rtol=2e-3)


def test_means_leave_out_what_is_not_seen(values):
    model = build()
    hidden = values.clone()
    hidden[:, :22, 1] = float("nan")  # the remainder of 6 steps and two patches
    hidden[0, :, 2] = float("nan")
    output = model.embed(hidden)
    torch.testing.assert_close(output.channels[:, 1], output.patches[:, 1, 2:].mean(dim=1))
    assert (output.channels[0, 2] == 0).all()
    torch.testing.assert_close(output.pooled[0], output.channels[0, [0, 1, 3]].mean(dim=0))
    masked = model.embed(values, channel_mask=torch.tensor([[True, True, False, True]]).expand(3, 4))
    torch.testing.assert_close(masked.pooled, masked.channels[:, [0, 1, 3]].mean(dim=1))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_channel_attention_maps_come_on_request(values, implementation):
    model = build().train()
    model.set_attn_implementation(implementation)
    output = model.embed(values, output_channel_attentions=True)
    assert model.config._attn_implementation == implementation
    assert model.training
    assert [tuple(each.shape) for each in output.channel_attentions] == [(3, 8, 2, 4, 4)] * 2
    for maps in output.channel_attentions:
        torch.testing.assert_close(maps.sum(-1), torch.ones(3, 8, 2, 4))
    torch.testing.assert_close(output.patches, model.eval().embed(values).patches, atol=1e-5, rtol=1e-4)


def test_nothing_attends_to_a_channel_that_is_not_seen(values):
    hidden = values.clone()
    hidden[..., 2] = float("nan")
    maps = build().embed(hidden, output_channel_attentions=True).channel_attentions
    for each in maps:
        assert (each[..., [0, 1, 3], 2] == 0).all()
    for model in (build(), build(gap_fill="hermite", embed_unseen=True)):
        with_it = model.forecast(hidden, prediction_length=20)
        without = model.forecast(values[..., [0, 1, 3]], prediction_length=20)
        torch.testing.assert_close(with_it[..., [0, 1, 3]], without, atol=1e-4, rtol=1e-4)
        assert with_it.isfinite().all()


def test_maps_of_a_model_without_channel_attention_are_refused(values):
    with pytest.raises(ValueError, match="need a model with channel_attention"):
        build(channel_attention=False).embed(values, output_channel_attentions=True)


@pytest.mark.parametrize("source", [DystformerForMaskedModeling, DystformerForPrediction, DystformerModel])
@pytest.mark.parametrize("target", [DystformerForMaskedModeling, DystformerForPrediction])
def test_an_encoder_moves_into_a_new_model_unchanged(values, tmp_path, source, target):
    donor = build(source, gap_fill="hermite", embed_unseen=True)
    donor.save_pretrained(tmp_path)
    model = target.from_encoder(tmp_path, prediction_length=24, distribution="quantiles", pooling_type="last")
    assert type(model) is target
    assert model.config.prediction_length == 24
    assert (model.config.gap_fill, model.config.embed_unseen) == ("hermite", True)
    expected = donor.base_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.model.state_dict().items())
    assert torch.equal(model.embed(values).patches, donor.embed(values).patches)
    assert model.train()(values[:, :64], **_targets(target)).loss.isfinite()


def _targets(model_class):
    return {"future_values": torch.zeros(3, 24, 4)} if model_class is DystformerForPrediction else {}


def test_a_head_and_its_calibration_stay_behind(tmp_path):
    donor = build(distribution="quantiles", spread_factor=1.7)
    donor.save_pretrained(tmp_path)
    model = DystformerForPrediction.from_encoder(tmp_path)
    assert model.config.spread_factor == 1.0
    assert not torch.equal(model.head.projection.weight, donor.head.projection.weight)
    assert isinstance(DystformerModel.from_encoder(tmp_path), DystformerModel)


def test_an_encoder_in_half_precision_makes_a_model_of_one_precision(values, tmp_path):
    build().bfloat16().save_pretrained(tmp_path)
    model = DystformerForPrediction.from_encoder(tmp_path)
    assert len({parameter.dtype for parameter in model.parameters()}) == 1
    assert model.forecast(values, prediction_length=9).isfinite().all()


def test_misspelt_fields_are_refused(tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="predicton_length"):
        DystformerForPrediction.from_encoder(tmp_path, predicton_length=4)


def test_a_masked_checkpoint_is_no_forecaster(values, tmp_path):
    build(DystformerForMaskedModeling).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="from_encoder"):
        ForecastPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_class", [DystformerForPrediction, DystformerForMaskedModeling])
def test_replicas_of_data_parallel_run(values, model_class):
    model = build(model_class, gap_fill="hermite", embed_unseen=True)
    replica = copy.copy(model)
    modules = {id(module): copy.copy(module) for module in model.modules()}
    for module in modules.values():
        parameters, module._parameters = module._parameters, {}
        for name, parameter in parameters.items():
            object.__setattr__(module, name, parameter)  # as torch.nn.parallel.replicate does
        module._modules = {
            name: child if child is None else modules[id(child)] for name, child in module._modules.items()
        }
    replica = modules[id(model)]
    arguments = {"generator": torch.Generator().manual_seed(0)} if model_class is DystformerForMaskedModeling else {}
    found = replica(values, **arguments).prediction_outputs
    arguments = {"generator": torch.Generator().manual_seed(0)} if arguments else {}
    assert torch.equal(found, model(values, **arguments).prediction_outputs)


def test_tuples_as_the_configured_output_break_no_method(values):
    model = build(distribution="quantiles", return_dict=False)
    assert isinstance(model(values), tuple)
    assert model.embed(values).pooled.shape == (3, 32)
    masked = build(DystformerForMaskedModeling, return_dict=False)
    assert isinstance(masked(values), tuple)
    assert masked.complete(values.masked_fill(values > 2, torch.nan)).isfinite().all()


def test_an_encoder_of_other_shapes_is_refused_by_name(tmp_path):
    build().save_pretrained(tmp_path)
    for fields in ({"ffn_dim": 64}, {"num_hidden_layers": 3}, {"embedding": "linear"}, {"num_hidden_layers": 1}):
        with pytest.raises(ValueError, match=r"an encoder must have the weights.*'(layers|embedding)\."):
            DystformerForPrediction.from_encoder(tmp_path, **fields)
    with pytest.raises(ValueError, match="unseen_embedding"):
        DystformerForPrediction.from_encoder(tmp_path, embed_unseen=True)
