"""Every architecture behind `ForecastPipeline` and the Auto classes: what loading passes on, and what it refuses."""

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForTimeSeriesPrediction, BitsAndBytesConfig

from hf_tsdyn import ForecastPipeline


@pytest.fixture
def folder(model, tmp_path):
    """A checkpoint of the model."""
    model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"device_map": "cpu"},
        {"device_map": "auto", "dtype": "auto"},
        {"low_cpu_mem_usage": True},
        {"revision": "main"},
        {"attn_implementation": "eager"},
        {"quantization_config": None},
        {"use_safetensors": True, "local_files_only": True},
    ],
    ids=lambda options: "-".join(options) or "none",
)
def test_options_that_change_no_number_change_no_forecast(model, windows, folder, options):
    pipeline = ForecastPipeline.from_pretrained(folder, **options)
    assert pipeline.forecaster.dtype == torch.float32
    expected = ForecastPipeline(model).predict(windows["past_values"], prediction_length=9)
    found = pipeline.predict(windows["past_values"], prediction_length=9)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_pipeline_in_half_precision_forecasts_nearly_the_same_in_float32(model, windows, folder, dtype):
    pipeline = ForecastPipeline.from_pretrained(folder, dtype=dtype)
    assert pipeline.forecaster.dtype == getattr(torch, dtype)
    expected = ForecastPipeline(model).predict(windows["past_values"], prediction_length=9)
    found = pipeline.predict(windows["past_values"], prediction_length=9)
    assert found.dtype == expected.dtype == "float32"
    assert abs(found - expected).max() < 0.1 * windows["past_values"].std()


def test_attention_by_sdpa_is_for_those_who_attend(model, folder):
    if model._supports_sdpa:
        pipeline = ForecastPipeline.from_pretrained(folder, attn_implementation="sdpa")
        assert pipeline.forecaster.config._attn_implementation == "sdpa"
        return
    with pytest.raises(ValueError, match=f"{type(model).__name__} does not support an attention implementation"):
        ForecastPipeline.from_pretrained(folder, attn_implementation="sdpa")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attn_implementation": "fast"}, ValueError, "fast"),
        ({"device_map": "moon"}, ValueError, "moon"),
        ({"dtype": torch.int8}, ValueError, "not a floating-point dtype"),
        ({"dtpye": "bfloat16"}, TypeError, "dtpye"),
        ({"load_in_8bit": True}, TypeError, "load_in_8bit"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_no_architecture_can_do_is_refused_by_its_name(folder, options, error, message):
    with pytest.raises(error, match=message):
        ForecastPipeline.from_pretrained(folder, **options)


def test_quantizing_at_loading_is_refused(folder):
    """Without the quantizer's package by transformers, which names it."""
    with pytest.raises((ImportError, ValueError), match=r"bitsandbytes|quantiz"):
        ForecastPipeline.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


def test_a_checkpoint_says_nothing_of_quantization_or_remote_code(folder):
    config = json.loads((folder / "config.json").read_text())
    assert not {"quantization_config", "auto_map", "trust_remote_code"} & config.keys()


def test_the_auto_classes_load_head_and_backbone(model, folder):
    head = AutoModelForTimeSeriesPrediction.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    backbone = AutoModel.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
    assert type(head) is type(model)
    assert type(backbone) is type(getattr(model, model.base_model_prefix))
    assert head.dtype == backbone.dtype == torch.bfloat16
    for name, value in backbone.state_dict().items():
        assert torch.equal(head.state_dict()[f"{model.base_model_prefix}.{name}"], value)
