import copy
import math

import pytest
import torch

from hf_tsdyn import DystformerConfig, DystformerForPrediction, DystformerModel
from hf_tsdyn.models.dystformer.embedding import DynamicsEmbedding
from hf_tsdyn.models.dystformer.rotary import rotary_angles, rotate


def tiny(**changes):
    fields = {
        "context_length": 64,
        "prediction_length": 8,
        "d_model": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 48,
        "num_poly_feats": 4,
        "num_rff": 8,
    }
    return DystformerConfig(**(fields | changes))


def build(**changes):
    torch.manual_seed(0)
    model = DystformerForPrediction(tiny(**changes)).eval()
    # Weights of std 0.02 would hide what attention does.
    for name, parameter in model.named_parameters():
        if "proj" in name and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(
    ("layers", "width", "poly", "rff", "millions"), [(8, 512, 120, 256, 21.35), (12, 768, 188, 376, 71.6)]
)
def test_released_sizes_have_the_published_parameter_counts(layers, width, poly, rff, millions):
    config = DystformerConfig(
        num_hidden_layers=layers,
        num_attention_heads=layers,
        d_model=width,
        ffn_dim=width,
        num_poly_feats=poly,
        num_rff=rff,
    )
    with torch.device("meta"):
        model = DystformerForPrediction(config)
    assert model.num_parameters() / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1e308, -1])
@pytest.mark.parametrize(
    "name", ["norm_eps", "scaling_epsilon", "max_wavelength", "huber_delta", "init_std", "rff_scale"]
)
def test_numbers_that_float32_cannot_work_with_are_refused(name, value):
    with pytest.raises(Exception, match=f"{name} must be .*finite"):
        tiny(**{name: value})


@pytest.mark.parametrize("name", ["norm_eps", "scaling_epsilon", "max_wavelength", "huber_delta"])
def test_what_is_divided_by_is_not_0(name):
    with pytest.raises(Exception, match=f"{name} must be positive"):
        tiny(**{name: 0})
    assert tiny(init_std=0, rff_scale=0).init_std == 0


@pytest.mark.parametrize("norm_type", ["rmsnorm", "layernorm", "dyt"])
@pytest.mark.parametrize("embedding", ["dynamics", "linear"])
@pytest.mark.parametrize("pooling_type", ["mean", "max", "last"])
def test_every_variant_trains(generator, norm_type, embedding, pooling_type):
    model = DystformerForPrediction(tiny(norm_type=norm_type, embedding=embedding, pooling_type=pooling_type))
    values = torch.randn(2, 72, 3, generator=generator)
    loss = model(values[:, :64], future_values=values[:, 64:]).loss
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_channels_mix_only_with_channel_attention(generator):
    values = torch.randn(1, 64, 3, generator=generator)
    changed = values.clone()
    changed[..., 2] = torch.randn(64, generator=generator)
    for mixes in (True, False):
        model = build(channel_attention=mixes)
        before, after = model(values).prediction_outputs, model(changed).prediction_outputs
        assert torch.allclose(before[..., :2], after[..., :2], atol=1e-6) is not mixes


def test_channels_have_no_order(generator):
    values, order = torch.randn(2, 64, 4, generator=generator), torch.tensor([2, 0, 3, 1])
    model = build()
    torch.testing.assert_close(
        model(values[..., order]).prediction_outputs, model(values).prediction_outputs[..., order], atol=1e-5, rtol=1e-4
    )
    ordered = build(channel_rope=True)
    assert not torch.allclose(
        ordered(values[..., order]).prediction_outputs, ordered(values).prediction_outputs[..., order], atol=1e-3
    )


def test_masked_channels_are_attended_to_by_none(generator):
    values = torch.randn(2, 64, 3, generator=generator)
    padded = torch.cat([values, torch.randn(2, 64, 2, generator=generator)], dim=-1)
    mask = torch.tensor([True, True, True, False, False]).expand(2, 5)
    for implementation in ("eager", "sdpa"):
        model = build()
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(
            model(padded, channel_mask=mask).prediction_outputs[..., :3], model(values).prediction_outputs
        )


@pytest.mark.parametrize("length", [64, 70, 79])
def test_the_last_patch_ends_at_the_present_and_scaling_sees_the_whole_context(generator, length):
    model = build().model
    values = torch.randn(1, length, 2, generator=generator)
    output = model(values)
    assert output.last_hidden_state.shape == (1, 2, 4, 32)
    torch.testing.assert_close(output.loc, values.mean(1, keepdim=True))
    z = (values - output.loc) / output.scale
    patches = z[:, -64:].reshape(1, 4, 16, 2).permute(0, 3, 1, 2)
    hidden = model(values, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(hidden, model.embedding(patches))


def test_rotary_positions_turn_the_fastest_three_quarters():
    config = tiny(d_model=64, num_attention_heads=4, num_poly_feats=8, num_rff=32)  # head width 16
    cos, sin = rotary_angles(config, 5, torch.device("cpu"))
    for k in range(8):
        angle = 3 / 500 ** (2 * k / 16) if k < 6 else 0.0
        assert cos[3, k].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert sin[3, k + 8].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_rotated_products_depend_on_the_distance_alone(generator):
    config = tiny(d_model=64, num_attention_heads=4, num_poly_feats=8, num_rff=32)
    query, key = torch.randn(2, 16, generator=generator)
    cos, sin = rotary_angles(config, 300, torch.device("cpu"))
    queries, keys = rotate(query.expand(300, 16), cos, sin), rotate(key.expand(300, 16), cos, sin)
    torch.testing.assert_close((queries[7] * keys[2]).sum(), (queries[297] * keys[292]).sum(), atol=1e-4, rtol=1e-4)


def test_positions_are_counted_in_single_precision_in_half_precision_models():
    cos, _ = rotary_angles(tiny(), 600, torch.device("cpu"))
    assert cos.dtype == torch.float32
    assert len(torch.unique(cos[:, 0])) > 590


def test_dynamics_embedding_is_its_formula(generator):
    torch.manual_seed(0)
    config = tiny()
    embedding = DynamicsEmbedding(config)
    embedding.draw_features()
    patch = torch.randn(16, generator=generator)
    pairs, triples = embedding.indices_degree_2, embedding.indices_degree_3
    features = [patch]
    features.append(torch.stack([patch[i] * patch[j] for i, j in pairs.tolist()]))
    features.append(torch.stack([patch[i] * patch[j] * patch[k] for i, j, k in triples.tolist()]))
    angles = patch @ embedding.frequencies + embedding.phases
    features += [torch.sin(angles), torch.cos(angles)]
    torch.testing.assert_close(embedding(patch), torch.cat(features) @ embedding.projection.weight.T)


def test_random_features_are_drawn_once_and_kept(tmp_path, generator):
    first, second = build(), build()
    assert torch.equal(first.model.embedding.frequencies, second.model.embedding.frequencies)
    assert first.model.embedding.frequencies.std() == pytest.approx(1.0, rel=0.3)
    assert first.model.embedding.indices_degree_2.unique().numel() > 3
    first.save_pretrained(tmp_path)
    torch.manual_seed(123)
    reloaded = DystformerModel.from_pretrained(tmp_path)
    for name, value in first.model.embedding.state_dict().items():
        assert torch.equal(value, reloaded.embedding.state_dict()[name])


@pytest.mark.parametrize("trainable", [True, False])
def test_random_features_are_trained_only_when_asked(trainable, generator):
    model = DystformerForPrediction(tiny(rff_trainable=trainable))
    names = {name for name, _ in model.named_parameters()}
    assert ("model.embedding.frequencies" in names) is trainable


def test_temporal_attention_maps_come_on_request(generator):
    model = build()
    model.set_attn_implementation("eager")
    attentions = model(torch.randn(2, 64, 3, generator=generator), output_attentions=True).attentions
    assert [tuple(each.shape) for each in attentions] == [(6, 2, 4, 4)] * 2
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(6, 2, 4))


def test_dropout_acts_in_training_alone(generator):
    model = build(attention_dropout=0.5, ff_dropout=0.5, head_dropout=0.5)
    values = torch.randn(1, 64, 2, generator=generator)
    assert torch.equal(model(values).prediction_outputs, model(values).prediction_outputs)
    model.train()
    assert not torch.equal(model(values).prediction_outputs, model(values).prediction_outputs)
    assert torch.equal(model.forecast(values, prediction_length=4), model.forecast(values, prediction_length=4))


def test_wrong_shapes_are_refused_with_what_was_found():
    model = build()
    with pytest.raises(ValueError, match=r"\(batch, time, channels\), found \(64, 3\)"):
        model(torch.randn(64, 3))
    with pytest.raises(ValueError, match="one patch of 16 steps, found 15"):
        model(torch.randn(1, 15, 3))
    with pytest.raises(ValueError, match=r"future_values must have shape"):
        model(torch.randn(1, 64, 3), future_values=torch.randn(1, 8, 2))
    with pytest.raises(ValueError, match=r"past_observed_mask must have shape \(1, 64, 3\).*found \(64, 3\)"):
        model(torch.randn(1, 64, 3), past_observed_mask=torch.ones(64, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"channel_mask must have shape \(1, 3\)"):
        model(torch.randn(1, 64, 3), channel_mask=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"no arguments \['observed_mask'\]"):
        model(torch.randn(1, 64, 3), observed_mask=torch.ones(1, 64, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_rff": 10}, "must equal d_model, found 16 \\+ 2 \\* 4 \\+ 10 = 34"),
        ({"num_rff": 9}, "num_rff must be even"),
        ({"num_attention_heads": 5}, "even multiple of num_attention_heads"),
        ({"context_length": 8}, "at least one patch of 16 steps, found 8"),
        ({"prediction_length": 0}, "prediction_length must be at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ({"ffn_dim": 0}, "ffn_dim must be at least 1"),
        ({"poly_degrees": -1, "num_poly_feats": -8}, "num_poly_feats must not be negative"),
        ({"ff_dropout": 1.0}, r"ff_dropout must lie in \[0, 1\)"),
        ({"rope_percent": 1.5}, "rope_percent must lie between 0 and 1"),
        ({"norm_type": "batchnorm"}, "norm_type"),
        ({"d_model": "32"}, "d_model"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        tiny(**changes)


def test_configuration_survives_a_round_trip(tmp_path):
    config = tiny(norm_type="dyt", loss="huber", scaling_epsilon=1e-5)
    config.save_pretrained(tmp_path)
    assert DystformerConfig.from_pretrained(tmp_path).to_dict() == copy.deepcopy(config).to_dict()


def test_a_forecast_from_the_last_value_starts_there(generator):
    model = build(forecast_origin="last")
    torch.nn.init.zeros_(model.head.projection.weight)
    values = torch.randn(2, 64, 3, generator=generator)
    values[0, 60:, 1] = float("nan")
    forecast = model.forecast(values, prediction_length=20)
    last = values[:, -1:].clone()
    last[0, 0, 1] = values[0, 59, 1]
    torch.testing.assert_close(forecast, last.expand(2, 20, 3))


def test_pooling_is_over_patches(generator):
    values = torch.randn(1, 64, 2, generator=generator)
    for pooling_type, pool in {
        "mean": lambda states: states.mean(2),
        "max": lambda states: states.max(2).values,
        "last": lambda states: states[:, :, -1],
    }.items():
        model = build(pooling_type=pooling_type)
        output = model(values)
        expected = model.head.projection(pool(model.model(values).last_hidden_state)).transpose(1, 2)
        torch.testing.assert_close(
            (output.prediction_outputs - output.loc) / output.scale, expected, atol=1e-4, rtol=1e-4
        )
