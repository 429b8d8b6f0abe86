import numpy as np
import pandas as pd
import pytest
import torch

from hf_tsdyn import DystformerConfig, DystformerForPrediction, ForecastPipeline


class LastPlusStep:
    """Continues every channel by its last value plus 1, 2, 3, ..."""

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        steps = torch.arange(1, prediction_length + 1, dtype=past_values.dtype).reshape(1, -1, 1)
        return past_values.nan_to_num()[:, -1:] + steps


class WithQuantiles(LastPlusStep):
    def forecast_quantiles(self, past_values, *, prediction_length, quantile_levels, num_samples=100, generator=None):
        forecast = self.forecast(past_values, prediction_length=prediction_length)
        return forecast[..., None] + torch.tensor(list(quantile_levels))


class WithSamples(LastPlusStep):
    def forecast_quantiles(self, past_values, *, prediction_length, quantile_levels, num_samples=100, generator=None):
        forecast = self.forecast(past_values, prediction_length=prediction_length)
        samples = torch.randn(*forecast.shape, num_samples, generator=generator)
        quantiles = torch.quantile(samples, torch.tensor(list(quantile_levels)), dim=-1)
        return forecast[..., None] + quantiles.movedim(0, -1)


class Encoder:
    """Patches of two steps; a patch's vector is its values and their mean."""

    def embed(self, past_values, past_observed_mask=None, channel_mask=None):
        halves = past_values.unflatten(1, (-1, 2)).permute(0, 3, 1, 2)
        patches = torch.cat([halves, halves.mean(dim=-1, keepdim=True)], dim=-1).double()
        channels = patches.mean(dim=2)
        return {"patches": patches, "channels": channels, "pooled": channels.mean(dim=1)}


@pytest.fixture
def pipeline():
    return ForecastPipeline(LastPlusStep(), batch_size=2)


def test_one_series_in_one_series_out(pipeline):
    np.testing.assert_array_equal(pipeline.predict(np.arange(5.0), prediction_length=3), [5, 6, 7])
    np.testing.assert_array_equal(pipeline.predict([0.0, 1.0, 2.0], prediction_length=2), [3, 4])
    series = np.stack([np.arange(5.0), 10 * np.arange(5.0)], axis=1)
    np.testing.assert_array_equal(pipeline.predict(series, prediction_length=2), [[5, 41], [6, 42]])
    np.testing.assert_array_equal(pipeline.predict(torch.tensor(series), prediction_length=2), [[5, 41], [6, 42]])


def test_a_batch_array_comes_back_as_a_batch(pipeline):
    values = np.random.default_rng(0).normal(size=(5, 7, 3))
    forecast = pipeline.predict(values, prediction_length=4)
    assert forecast.shape == (5, 4, 3)
    np.testing.assert_allclose(forecast[:, 0], values[:, -1] + 1, rtol=1e-6)


def test_series_of_unequal_lengths_keep_their_order_and_kind(pipeline):
    series = [np.arange(4.0), np.ones((6, 2)), [1.0, 2.0], np.arange(4.0) + 1, [[1.0, 2.0], [3.0, 4.0]]]
    forecasts = pipeline.predict(series, prediction_length=2)
    assert [forecast.shape for forecast in forecasts] == [(2,), (2, 2), (2,), (2,), (2, 2)]
    assert [forecast.flat[0] for forecast in forecasts] == [4, 2, 3, 5, 4]


def test_unequal_lengths_get_the_forecasts_they_would_get_alone():
    torch.manual_seed(0)
    config = DystformerConfig(
        context_length=64, prediction_length=8, d_model=32, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32,
        num_poly_feats=4, num_rff=8,
    )  # fmt: skip
    pipeline = ForecastPipeline(DystformerForPrediction(config).eval())
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(length, 2)) for length in (64, 40, 64, 77)]
    series[1][5:9, 0] = np.nan
    for together, one in zip(pipeline.predict(series, prediction_length=11), series, strict=True):
        np.testing.assert_allclose(together, pipeline.predict(one, prediction_length=11), atol=1e-5)
        assert np.isfinite(together).all()


def test_inputs_are_left_as_they_were(pipeline):
    series = [np.arange(4.0), np.array([1.0, np.nan, 3.0])]
    before = [values.copy() for values in series]
    pipeline.predict(series, prediction_length=3)
    assert len(series) == 2
    for values, old in zip(series, before, strict=True):
        np.testing.assert_array_equal(values, old)


def test_quantiles_have_an_axis_of_levels_and_are_refused_without_a_distribution(pipeline):
    quantiles = ForecastPipeline(WithQuantiles()).predict_quantiles(
        np.arange(5.0), prediction_length=2, quantile_levels=[0.25, 0.75]
    )
    np.testing.assert_allclose(quantiles, [[5.25, 5.75], [6.25, 6.75]])
    with pytest.raises(NotImplementedError, match="found LastPlusStep"):
        pipeline.predict_quantiles(np.arange(5.0), prediction_length=2)


def test_sampled_quantiles_follow_the_generator_and_the_number_of_samples():
    pipeline = ForecastPipeline(WithSamples())

    def median(seed, num_samples=20):
        generator = torch.Generator().manual_seed(seed)
        options = {"quantile_levels": [0.5], "num_samples": num_samples, "generator": generator}
        return pipeline.predict_quantiles([np.arange(5.0), np.arange(3.0)], prediction_length=2, **options)

    for first, second, other in zip(median(0), median(0), median(1), strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)
    many = median(0, num_samples=20_000)
    np.testing.assert_allclose(many[0][:, 0], [5, 6], atol=0.05)
    frames = [
        pipeline.predict_df(
            frame(), prediction_length=2, target="x", quantile_levels=[0.9], num_samples=5,
            generator=torch.Generator().manual_seed(3),
        )
        for _ in range(2)
    ]  # fmt: skip
    pd.testing.assert_frame_equal(*frames)


def test_samples_have_an_axis_at_the_end_and_are_refused_without_paths(pipeline):
    class WithPaths(LastPlusStep):
        def forecast_samples(self, past_values, *, prediction_length, num_samples, generator):
            noise = torch.randn(num_samples, generator=generator)
            return self.forecast(past_values, prediction_length=prediction_length)[..., None] + noise

    noise = torch.randn(3, generator=torch.Generator().manual_seed(5)).numpy()
    options = {"prediction_length": 2, "num_samples": 3}
    found = ForecastPipeline(WithPaths()).predict_samples(
        np.arange(5.0), **options, generator=torch.Generator().manual_seed(5)
    )
    np.testing.assert_allclose(found, [5 + noise, 6 + noise], rtol=1e-6)
    assert ForecastPipeline(WithPaths()).predict_samples(np.ones((7, 4, 3)), **options).shape == (7, 2, 3, 3)
    with pytest.raises(NotImplementedError, match="found LastPlusStep"):
        pipeline.predict_samples(np.arange(5.0), prediction_length=2)


def test_vectors_come_back_per_series_in_the_layout_of_the_input():
    pipeline = ForecastPipeline(Encoder(), batch_size=2)
    series = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(pipeline.embed(series), [4.5, 6.5, 5.5])
    assert pipeline.embed(series, level="channels").shape == (2, 3)
    assert pipeline.embed(series, level="patches").shape == (2, 3, 3)
    np.testing.assert_array_equal(pipeline.embed(series, level="patches")[1, 2], [9, 11, 10])
    assert pipeline.embed(np.arange(6.0), level="channels").shape == (1, 3)
    assert pipeline.embed(np.zeros((5, 6, 2))).shape == (5, 3)
    vectors = pipeline.embed([series, np.arange(4.0), series + 1])
    assert [vector.shape for vector in vectors] == [(3,)] * 3
    np.testing.assert_array_equal(vectors[2], vectors[0] + 1)
    assert vectors[0].dtype == np.float32


def test_vectors_are_refused_without_an_encoder_and_at_unknown_levels(pipeline):
    with pytest.raises(NotImplementedError, match="must have embed, found LastPlusStep"):
        pipeline.embed(np.arange(5.0))
    with pytest.raises(ValueError, match=r"'patches'\), found 'tokens'"):
        ForecastPipeline(Encoder()).embed(np.arange(6.0), level="tokens")


def frame():
    return pd.DataFrame(
        {
            "item_id": ["b"] * 4 + ["a"] * 3,
            "timestamp": [*pd.date_range("2024-01-31", periods=4, freq="ME"), *pd.date_range("2024-01-01", periods=3)],
            "x": [3.0, 2.0, 1.0, 0.0, 5.0, 6.0, 7.0],
            "y": [0.0, 0.0, 0.0, np.nan, 1.0, 1.0, 1.0],
        }
    ).iloc[[3, 1, 2, 0, 4, 6, 5]]


def test_data_frames_are_forecast_series_by_series_with_their_calendar(pipeline):
    forecast = pipeline.predict_df(frame(), prediction_length=2, target=["x", "y"])
    assert list(forecast.columns) == ["item_id", "timestamp", "target_name", "predictions"]
    assert forecast.item_id.tolist() == ["b"] * 4 + ["a"] * 4
    assert forecast.target_name.tolist() == ["x", "x", "y", "y"] * 2
    assert forecast.predictions.tolist() == [1, 2, 1, 2, 8, 9, 2, 3]
    assert forecast.timestamp[0] == pd.Timestamp("2024-05-31")
    assert forecast.timestamp[5] == pd.Timestamp("2024-01-05")


def test_data_frames_with_numeric_times_and_quantiles():
    df = pd.DataFrame({"item_id": 0, "timestamp": [0.0, 0.5, 1.0], "target": [1.0, 2.0, 3.0]})
    forecast = ForecastPipeline(WithQuantiles()).predict_df(df, prediction_length=2, quantile_levels=[0.5])
    assert forecast.timestamp.tolist() == [1.5, 2.0]
    assert forecast["0.5"].tolist() == [4.5, 5.5]


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([], TypeError, "non-empty list"),
        ({"a": 1}, TypeError, "found dict"),
        ([np.ones((2, 2, 2))], ValueError, r"found \(2, 2, 2\) at position 0"),
        ([[1.0, "x"]], ValueError, "position 0"),
        ([[[1.0, 2.0], [3.0]]], ValueError, "equally long"),
        ([np.ones(3), np.full(3, np.nan)], ValueError, r"only NaN in the series at positions \[1\]"),
        (np.empty((0, 2)), ValueError, r"found \(0, 2\)"),
        (np.empty((0, 8, 2)), ValueError, r"found \(0, 8, 2\)"),
        (np.ones(5) * 1j, ValueError, "it is complex"),
    ],
)
def test_bad_inputs_are_refused_with_what_was_found(pipeline, inputs, error, message):
    with pytest.raises(error, match=message):
        pipeline.predict(inputs, prediction_length=2)


def test_a_frame_of_one_series_needs_no_id_column(pipeline):
    df = frame()
    one = df[df.item_id == df.item_id.iloc[0]]
    expected = pipeline.predict_df(one, prediction_length=2, target=["x", "y"])
    found = pipeline.predict_df(one.drop(columns="item_id"), prediction_length=2, target=["x", "y"], id_column=None)
    pd.testing.assert_frame_equal(found, expected.drop(columns="item_id"))
    with pytest.raises(ValueError, match=r"id_column \(None if all rows are one series\)"):
        pipeline.predict_df(one.drop(columns="item_id"), prediction_length=2, target=["x", "y"])


def test_bad_data_frames_are_refused(pipeline):
    with pytest.raises(ValueError, match=r"found no \['target'\]"):
        pipeline.predict_df(frame(), prediction_length=2)
    uneven = pd.DataFrame({"item_id": 0, "timestamp": [0.0, 0.5, 2.0], "target": 1.0})
    with pytest.raises(ValueError, match=r"evenly spaced, found steps from 0\.5 to 1\.5"):
        pipeline.predict_df(uneven, prediction_length=2)
    with pytest.raises(ValueError, match=r"found 3 rows, .* missing: \{'item_id': 1, 'timestamp': 0\}"):
        pipeline.predict_df(uneven.assign(item_id=[0, None, 0]), prediction_length=2)
    with pytest.raises(ValueError, match="must be numbers or datetimes"):
        pipeline.predict_df(uneven.assign(timestamp=["2020", "2021", "2022"]), prediction_length=2)
    with pytest.raises(ValueError, match="at least two times"):
        pipeline.predict_df(uneven.iloc[:1], prediction_length=2)


def test_from_pretrained_needs_a_checkpoint_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json"):
        ForecastPipeline.from_pretrained(tmp_path)


def test_integer_times_stay_integers_and_numpy_integers_count_steps(pipeline):
    df = pd.DataFrame({"item_id": 0, "timestamp": [2, 4, 6], "target": 1.0})
    assert pipeline.predict_df(df, prediction_length=np.int64(2)).timestamp.tolist() == [8, 10]
    assert pipeline.predict_df(df, prediction_length=2).timestamp.dtype.kind == "i"


def test_unused_categories_are_no_series(pipeline):
    frame = pd.DataFrame({"item_id": ["a"] * 40 + ["b"] * 40, "timestamp": [*range(40)] * 2, "target": 1.0})
    frame["item_id"] = frame["item_id"].astype("category")
    forecast = pipeline.predict_df(frame[frame["item_id"] == "b"], prediction_length=3)
    assert set(forecast["item_id"]) == {"b"}


@pytest.mark.parametrize(("dtype", "step"), [("int8", 3), ("uint8", 5)])
def test_times_go_on_beyond_the_range_of_their_type(pipeline, dtype, step):
    times = np.arange(0, 40 * step, step).astype(dtype)
    frame = pd.DataFrame({"item_id": "a", "timestamp": times, "target": np.arange(40.0)})
    forecast = pipeline.predict_df(frame, prediction_length=20)
    assert forecast["timestamp"].tolist() == list(range(40 * step, 60 * step, step))


def test_masked_arrays_hide_and_half_precision_counts(pipeline):
    wave = np.sin(0.1 * np.arange(100))
    masked = np.ma.masked_array(np.where(np.arange(100) == 50, 1e9, wave), mask=np.arange(100) == 50)
    hidden = np.where(np.arange(100) == 50, np.nan, wave)
    assert np.array_equal(pipeline.predict(masked, prediction_length=5), pipeline.predict(hidden, prediction_length=5))
    half = torch.from_numpy(wave).bfloat16()
    assert np.array_equal(
        pipeline.predict(half, prediction_length=5), pipeline.predict(half.float(), prediction_length=5)
    )
    assert pipeline.predict([None, *wave[1:]], prediction_length=5).shape == (5,)
