import re
import subprocess
import sys

import pytest
import torch
from chronos import BaseChronosPipeline
from transformers import T5Config

from hf_tsdyn.baselines.chronos import ChronosForecaster, family_of
from hf_tsdyn.forecasting import Forecaster

SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "relu"}
SIZES |= {"pad_token_id": 0, "initializer_factor": 0.5}
PATCHES = {"context_length": 64, "input_patch_size": 8, "input_patch_stride": 8, "use_reg_token": True}
DECILES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
FAMILIES = ("chronos_t5", "chronos_bolt", "chronos_2")


def _new_model(family):
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5ForConditionalGeneration

    torch.manual_seed(0)
    if family == "chronos_t5":
        special = {"n_tokens": 64, "n_special_tokens": 2, "pad_token_id": 0, "eos_token_id": 1, "use_eos_token": True}
        sampling = {"num_samples": 20, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
        bins = {"tokenizer_class": "MeanScaleUniformBins", "tokenizer_kwargs": {"low_limit": -15, "high_limit": 15}}
        chronos = {"context_length": 64, "prediction_length": 8, "model_type": "seq2seq"} | special | sampling | bins
        config = T5Config(**SIZES, vocab_size=64, eos_token_id=1, decoder_start_token_id=0, chronos_config=chronos)
        return T5ForConditionalGeneration(config)
    if family == "chronos_bolt":
        chronos = PATCHES | {"prediction_length": 8, "quantiles": DECILES}
        names = {"chronos_pipeline_class": "ChronosBoltPipeline", "decoder_start_token_id": 0}
        return ChronosBoltModelForForecasting(T5Config(**SIZES, **names, chronos_config=chronos))
    chronos = PATCHES | {"output_patch_size": 8, "max_output_patches": 1, "use_arcsinh": True}
    chronos |= {"quantiles": [0.01, 0.05, *DECILES, 0.95, 0.99]}
    return Chronos2Model(Chronos2CoreConfig(**SIZES, chronos_pipeline_class="Chronos2Pipeline", chronos_config=chronos))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of untrained models of every family, 8 steps at once from up to 64."""
    folders = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in folders.items():
        _new_model(family).save_pretrained(folder)
    return folders


@pytest.fixture
def load(checkpoints):
    """A function (family, **options) that loads the forecaster of such a checkpoint."""
    return lambda family, **options: ChronosForecaster.from_pretrained(checkpoints[family], **options)


@pytest.fixture
def waves():
    """Three series of two channels, 50 steps, of different levels."""
    phases = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).reshape(3, 1, 2)
    return torch.sin(0.4 * torch.arange(50.0)[:, None] + phases) + torch.tensor([2.0, -1.0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prediction_length", [5, 8, 21])
@pytest.mark.filterwarnings("ignore:We recommend keeping prediction length")
def test_a_channel_gets_the_forecast_of_the_official_pipeline(load, checkpoints, waves, family, prediction_length):
    rows = waves[..., 0].contiguous()  # sums over strides round otherwise
    forecaster = load(family, multivariate=False)
    assert isinstance(forecaster, Forecaster)
    # Between its levels Bolt's pipeline sorts all of them first, which changes crossing quantiles of any level.
    levels = [0.2, 0.5, 0.8 if family == "chronos_bolt" else 0.82]
    options = {"prediction_length": prediction_length, "quantile_levels": levels}
    generator = torch.Generator().manual_seed(3)
    found = forecaster.forecast_quantiles(rows[..., None], **options, generator=generator)
    official = BaseChronosPipeline.from_pretrained(checkpoints[family])
    if family == "chronos_t5":
        options["num_samples"] = 20
    with torch.random.fork_rng():
        torch.manual_seed(torch.randint(1 << 62, (), generator=torch.Generator().manual_seed(3)).item())
        expected, _ = official.predict_quantiles(rows[:, None] if family == "chronos_2" else rows, **options)
    expected = torch.cat(list(expected)) if family == "chronos_2" else expected
    assert torch.equal(found[:, :, 0], expected)
    point = forecaster.forecast(
        rows[..., None], prediction_length=prediction_length, generator=generator.manual_seed(3)
    )
    assert torch.equal(point[..., 0], expected[..., 1])


def test_the_channels_of_chronos_2_are_variates_of_one_group(load, checkpoints, waves):
    found = load("chronos_2").forecast(waves, prediction_length=8)
    official = BaseChronosPipeline.from_pretrained(checkpoints["chronos_2"])
    expected = torch.stack(official.predict(waves.transpose(1, 2), prediction_length=8))
    assert torch.equal(found, expected[:, :, official.quantiles.index(0.5)].transpose(1, 2))
    alone = load("chronos_2", multivariate=False).forecast(waves, prediction_length=8)
    assert (found - alone).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_horizon_dtype_and_inputs_are_as_every_forecaster_has_them(load, waves, family):
    before = waves.double()
    given = before.clone()
    found = load(family, num_samples=3).forecast(given, prediction_length=19)
    assert found.shape == (3, 19, 2)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert torch.equal(given, before)


@pytest.mark.parametrize("family", ["chronos_bolt", "chronos_2"])
def test_a_series_gets_the_same_forecast_alone_and_in_any_batch(load, waves, family):
    forecaster = load(family)
    together = forecaster.forecast(waves, prediction_length=20)
    alone = torch.cat([forecaster.forecast(each[None], prediction_length=20) for each in waves])
    small = load(family, batch_size=1).forecast(waves, prediction_length=20)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(alone, small) or family == "chronos_bolt"  # its channels go through the network one by one
    torch.testing.assert_close(small, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_another_unit_gives_the_same_forecast_in_that_unit(load, waves, family, factor):
    forecaster = load(family, num_samples=3)
    plain = forecaster.forecast(waves, prediction_length=12)
    assert torch.equal(forecaster.forecast(factor * waves, prediction_length=12), factor * plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_unseen_values_are_hidden_from_the_model(load, waves, family):
    forecaster = load(family, num_samples=3)
    mask = torch.ones_like(waves, dtype=torch.bool)
    mask[:, 10:20] = mask[1, 30:, 0] = False
    with_nan = forecaster.forecast(waves.masked_fill(~mask, torch.nan), prediction_length=8)
    masked = forecaster.forecast(waves.masked_fill(~mask, 1e6), prediction_length=8, past_observed_mask=mask)
    assert torch.equal(with_nan, masked)
    assert with_nan.isfinite().all()
    assert not torch.equal(with_nan, forecaster.forecast(waves, prediction_length=8))


@pytest.mark.parametrize("family", ["chronos_bolt", "chronos_2"])
def test_a_channel_with_nothing_seen_stays_where_it_was_and_informs_no_other(load, waves, family):
    forecaster = load(family, context_length=40)
    waves[0, 10:, 1] = torch.nan  # seen before the context alone
    waves[1, :, 0] = torch.nan
    found = forecaster.forecast(waves, prediction_length=8)
    assert (found[0, :, 1] == waves[0, 9, 1]).all()
    assert (found[1, :, 0] == 0).all()
    torch.testing.assert_close(found[:1, :, :1], forecaster.forecast(waves[:1, :, :1], prediction_length=8))
    torch.testing.assert_close(found[1:2, :, 1:], forecaster.forecast(waves[1:2, :, 1:], prediction_length=8))


@pytest.mark.parametrize("family", ["chronos_bolt", "chronos_2"])
def test_old_steps_beyond_the_context_change_nothing(load, waves, family):
    older = torch.cat([100 + waves, waves], dim=1)
    expected = load(family).forecast(waves[:, -32:], prediction_length=8)
    assert torch.equal(load(family, context_length=32).forecast(older, prediction_length=8), expected)
    assert not torch.equal(load(family).forecast(older, prediction_length=8), expected)


def test_one_generator_gives_one_set_of_samples_and_leaves_the_global_one_alone(load, waves):
    forecaster = load("chronos_t5", num_samples=5)

    def samples(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return forecaster.forecast(waves, prediction_length=8, generator=generator)

    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert torch.equal(samples(1), samples(1))
    assert not torch.equal(samples(1), samples(2))
    assert torch.equal(samples(None), samples(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_more_samples_widen_what_can_be_said_of_quantiles(load, waves):
    forecaster = load("chronos_t5")
    options = {"prediction_length": 8, "quantile_levels": [0.5, 0.01, 0.99]}
    one = forecaster.forecast_quantiles(waves, num_samples=1, **options)
    assert torch.equal(one[..., 1], one[..., 2])
    many = forecaster.forecast_quantiles(waves, num_samples=50, **options)
    assert (many[..., 1] < many[..., 0]).all()
    assert (many[..., 0] < many[..., 2]).all()


def test_levels_between_the_models_own_are_interpolated(load, waves):
    forecaster = load("chronos_bolt")
    found = forecaster.forecast_quantiles(waves, prediction_length=20, quantile_levels=[0.3, 0.375, 0.4])
    torch.testing.assert_close(found[..., 1], 0.25 * found[..., 0] + 0.75 * found[..., 2])


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("chronos_bolt", {"multivariate": True}, "must be False for all but Chronos-2"),
        ("chronos_t5", {"context_length": 65}, "between 1 and the model's 64, found 65"),
        ("chronos_t5", {"num_samples": 0}, "num_samples must be an integer of at least 1"),
        ("chronos_2", {"batch_size": 0}, "batch_size must be at least 1, found 0"),
    ],
)
def test_options_that_the_model_cannot_serve_are_refused(load, family, options, message):
    with pytest.raises(ValueError, match=message):
        load(family, **options)


@pytest.mark.parametrize(("family", "level"), [("chronos_bolt", 0.05), ("chronos_2", 0.995)])
def test_levels_outside_those_of_the_model_are_refused(load, waves, family, level):
    with pytest.raises(ValueError, match=f"must lie within the model's, .* found .*{level}"):
        load(family).forecast_quantiles(waves, prediction_length=8, quantile_levels=[0.5, level])


def test_what_is_no_checkpoint_of_chronos_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a folder with config\.json"):
        ChronosForecaster.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="found 'ChronosPipeline' in a configuration without chronos_config"):
        family_of(T5Config(**SIZES))


def test_weights_that_are_not_safetensors_are_not_read(checkpoints, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoints["chronos_bolt"] / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"must hold model\.safetensors, found pytorch_model\.bin, which may run code"):
        ChronosForecaster.from_pretrained(tmp_path)


def test_the_weights_can_be_halved(load, waves):
    forecaster = load("chronos_bolt", dtype=torch.bfloat16)
    assert forecaster.pipeline.inner_model.dtype == torch.bfloat16
    found = forecaster.forecast(waves, prediction_length=8)
    assert found.dtype == torch.float32
    full = load("chronos_bolt")
    torch.testing.assert_close(found, full.forecast(waves, prediction_length=8), rtol=0.1, atol=0.1)
    assert forecaster.num_parameters() == full.num_parameters() > 1000


def test_without_the_package_the_error_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "chronos", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'hf_tsdyn[chronos]'")):
        ChronosForecaster.from_pretrained(tmp_path)


@pytest.mark.slow
def test_importing_the_wrapper_imports_no_extra():
    code = "import sys, hf_tsdyn.baselines.chronos; assert 'chronos' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
