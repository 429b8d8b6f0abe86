import pytest
import torch

from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction
from hf_tsdyn.models.fsnet.presets import ADVANCED_CHANGES, PRESETS, ULTRA_CHANGES, ultra_without

SIZES = {
    "num_channels": 2,
    "context_length": 12,
    "hidden_size": 4,
    "num_hidden_layers": 3,
    "representation_size": 8,
    "num_memory_slots": 6,
}


ADVANCED = {
    "memory": "fixed",
    "chunk_by": "output",
    "adaptive_fusion": True,
    "num_retrieved": 3,
    "dynamic_temperature": True,
    "controller_dropout": 0.1,
}
ULTRA = ADVANCED | {
    "num_memory_heads": 4,
    "controller": "gated_residual",
    "num_memory_slots": 64,
    "track_second_moment": True,
    "adaptive_trigger": True,
    "memory_diversity": 1e-3,
}
DIFFERENCES = {
    "tcn": {"adaptive": False, "memory": "none"},
    "nomem": {"memory": "none"},
    "published": {},
    "fixed": {"memory": "fixed"},
    "advanced": ADVANCED,
    "ultra": ULTRA,
}
"""What each member changes of the published network."""


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_what_it_says_and_nothing_else(preset):
    fields, defaults = FSNetConfig.from_preset(preset).to_dict(), FSNetConfig().to_dict()
    assert {name: value for name, value in fields.items() if value != defaults[name]} == DIFFERENCES[preset]
    other = FSNetConfig.from_preset(preset, num_channels=4, num_memory_slots=9).to_dict()
    assert {name for name in other if other[name] != fields[name]} == {"num_channels", "num_memory_slots"}


@pytest.mark.parametrize("change", ADVANCED_CHANGES | ULTRA_CHANGES)
def test_each_of_the_ten_changes_can_be_taken_back_by_itself(change):
    ultra, without, published = PRESETS["ultra"], ultra_without(change), FSNetConfig().to_dict()
    fields = {name for name in ultra if ultra[name] != without[name]}
    assert fields == set((ADVANCED_CHANGES | ULTRA_CHANGES)[change])
    assert all(without[name] == published[name] for name in fields)


def test_presets_and_changes_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"preset must be one of .*'ultra'.* found 'super'"):
        FSNetConfig.from_preset("super")
    with pytest.raises(KeyError, match="colour"):
        ultra_without("colour")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, found 4"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, found 0"),
        ({"num_time_features": -1}, "num_time_features must be at least 0, found -1"),
        ({"num_retrieved": 7}, "num_retrieved must be at most num_memory_slots, 6, found 7"),
        ({"head_dropout": 1.0}, r"head_dropout must lie in \[0, 1\), found 1.0"),
        ({"slow_decay": -0.1}, r"slow_decay must lie in \[0, 1\), found -0.1"),
        ({"trigger_threshold": -1.5}, "trigger_threshold must be a cosine, found -1.5"),
        ({"memory_diversity": -1.0}, "memory_diversity must be at least 0 and finite"),
        ({"representation_size": 9}, "multiple of hidden_size .* found 9 and 4"),
        ({"num_memory_heads": 3}, "num_memory_heads must divide the sizes of all queries, one of which is 20, found 3"),
        ({"memory": "broken"}, "broken"),
        ({"chunk_by": "layer"}, "layer"),
        ({"channel_loc": [0.0]}, "channel_loc must hold a finite number for each of the 2 channels"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, message):
    with pytest.raises(Exception, match=message):
        FSNetConfig(**SIZES | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"representation_size": 9, "chunk_by": "output"},
        {"representation_size": 9, "adaptive": False},
        {"num_memory_heads": 3, "memory": "none"},
    ],
)
def test_rules_of_parts_that_are_not_there_do_not_bind(fields):
    model = FSNetForPrediction(FSNetConfig(**SIZES | fields)).eval()
    assert model.forecast(torch.zeros(3, 12, 2), prediction_length=4).shape == (3, 4, 2)
