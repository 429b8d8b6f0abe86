import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_tsdyn.data import Augmentations, ChannelBucketSampler, RandomWindows, TrajectoryDataset, identity
from hf_tsdyn.data.augmentations import TRANSFORM_NAMES
from hf_tsdyn.data.draws import generator
from hf_tsdyn.data.transforms import Affine, WindowShape, context_statistics

CONTEXT_LENGTH, LENGTH, SURPLUS = 40, 64, 80
CHANGE_CHANNELS = {"affine", "takens", "channel_subset"}
MIX_PAST_AND_FUTURE = {"phase_surrogate", "time_reversal"}
REACH_AROUND = {"takens", "resampling"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def store(tmp_path, write_dataset):
    """A function (name, arrays) that writes a dataset of these values and opens it."""

    def write_and_open(name, arrays):
        rows = [{"target": values} for values in arrays]
        return TrajectoryDataset(write_dataset(tmp_path / name, rows), "train")

    return write_and_open


@pytest.fixture
def trajectories(store, rng):
    lengths = [LENGTH + SURPLUS + extra for extra in range(6)]
    arrays = [np.cumsum(rng.standard_normal((3, length), np.float32), axis=1) for length in lengths]
    return store("walks", arrays)


def windows_of(trajectories, augmentations, **options):
    return RandomWindows(
        trajectories,
        context_length=CONTEXT_LENGTH,
        prediction_length=LENGTH - CONTEXT_LENGTH,
        num_windows=256,
        seed=1,
        augmentations=augmentations,
        **options,
    )


def only(name, **options):
    return Augmentations(rate=1.0, weights={name: 1.0}, **options)


def shape_of(name, num_inputs=3, **options):
    num_outputs = num_inputs
    if name == "projected_skew":
        num_inputs = num_outputs + 4
    elif name in ("affine", "takens"):
        num_outputs = 5
    elif name == "channel_subset":
        num_outputs = 2
    fields = {"context_length": CONTEXT_LENGTH, "length": LENGTH, "surplus": SURPLUS} | options
    return WindowShape(num_inputs, num_outputs, **fields)


def draw_and_values(name, rng, index=0, **options):
    transform = getattr(Augmentations(), name)
    shape = shape_of(name, **options)
    params = transform.draw(generator(7, index), shape)
    steps = params.get("before", 0) + LENGTH + params.get("after", 0)
    return transform, params, rng.standard_normal((shape.num_inputs, steps), np.float32)


def test_affine_is_a_matrix_product(rng):
    transform, params, values = draw_and_values("affine", rng)
    expected = [
        [sum(params["matrix"][i, j] * values[j, t] for j in range(3)) + params["offset"][i] for t in range(64)]
        for i in range(5)
    ]
    np.testing.assert_allclose(transform.apply(values, params), expected, rtol=1e-5, atol=1e-5)


def test_affine_entries_have_variance_one_over_channels():
    transform, shape = Augmentations().affine, WindowShape(4, 8, 10, 20, 0)
    draws = [transform.draw(generator(0, index), shape) for index in range(500)]
    for name in ("matrix", "offset"):
        entries = np.concatenate([draw[name].ravel() for draw in draws])
        assert entries.mean() == pytest.approx(0, abs=4 * 0.5 / np.sqrt(entries.size))
        assert entries.var() == pytest.approx(1 / 4, rel=4 * np.sqrt(2 / entries.size))


def test_convex_combination_stays_within_bounds(rng):
    transform, params, values = draw_and_values("convex_combination", rng)
    np.testing.assert_allclose(params["weights"].sum(axis=1), 1, rtol=1e-6)
    assert params["weights"].min() >= 0
    mixed = transform.apply(values, params)
    assert (mixed <= values.max(axis=0) + 1e-6).all()
    assert (mixed >= values.min(axis=0) - 1e-6).all()


def test_takens_channels_are_delayed_copies():
    transform, shape = Augmentations().takens, shape_of("takens")
    params = transform.draw(generator(7, 0), shape)
    lag, before = params["lag"], params["before"]
    assert 1 <= lag <= 10
    assert before == 4 * lag
    values = np.arange(3 * (before + LENGTH), dtype=np.float32).reshape(3, -1)
    embedded = transform.apply(values, params)
    now = values[params["coordinate"], before:]
    np.testing.assert_array_equal(embedded, [now - k * lag for k in range(5)])


def test_takens_lags_fit_the_surplus():
    transform, shape = Augmentations().takens, shape_of("takens", surplus=9)
    lags = {transform.draw(generator(0, index), shape)["lag"] for index in range(50)}
    assert lags == {1, 2}


def test_projected_skew_sums_two_projections(rng):
    transform, params, values = draw_and_values("projected_skew", rng)
    own, partner = values[:3], values[3:]
    expected = params["matrix"][:, :3] @ own + params["matrix"][:, 3:] @ partner
    np.testing.assert_allclose(transform.apply(values, params), expected, rtol=1e-4, atol=1e-5)


def test_projections_have_variance_one_over_channels():
    transform, shape = Augmentations().projected_skew, WindowShape(2 + 8, 2, 10, 20, 0)
    matrices = np.stack([transform.draw(generator(0, index), shape)["matrix"] for index in range(4000)])
    assert matrices[:, :, :2].var() == pytest.approx(1 / 2, rel=0.05)
    assert matrices[:, :, 2:].var() == pytest.approx(1 / 8, rel=0.05)


@pytest.mark.parametrize("length", [64, 63])
def test_phase_surrogate_keeps_amplitude_and_cross_spectra(rng, length):
    transform = Augmentations().phase_surrogate
    params = transform.draw(generator(7, 0), shape_of("phase_surrogate", length=length))
    values = rng.standard_normal((3, length), np.float32)
    surrogate = transform.apply(values, params)
    before, after = np.fft.rfft(values), np.fft.rfft(surrogate)
    np.testing.assert_allclose(np.abs(after), np.abs(before), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(after[0] * after[1].conj(), before[0] * before[1].conj(), rtol=1e-3, atol=1e-2)
    assert np.abs(surrogate - values).max() > 0.5


def test_phase_surrogate_leaves_windows_with_gaps(rng):
    transform, params, values = draw_and_values("phase_surrogate", rng)
    values[1, 5] = np.nan
    np.testing.assert_array_equal(transform.apply(values, params), values)


def test_fourier_series_is_its_formula(rng):
    transform, params, values = draw_and_values("fourier_series", rng)
    series = transform.apply(values, params)
    frequencies, amplitudes, phases = params["frequencies"], params["amplitudes"], params["phases"]
    for c, t in [(0, 0), (1, 17), (2, 63)]:
        waves = amplitudes[c] * np.sin(2 * np.pi * frequencies[c] * t + phases[c])
        assert series[c, t] == pytest.approx(waves.sum(), abs=1e-4)
    assert frequencies.min() >= 1 / LENGTH
    assert frequencies.max() <= 0.1


def test_channel_subset_keeps_order(rng):
    transform, params, values = draw_and_values("channel_subset", rng)
    kept = transform.apply(values, params)
    assert params["channels"][0] < params["channels"][1]
    np.testing.assert_array_equal(kept, values[params["channels"]])


@pytest.mark.parametrize(("num_inputs", "expected"), [(1, {1}), (2, {1}), (4, {1, 2, 3})])
def test_channel_subset_is_a_proper_one(num_inputs, expected):
    subset = Augmentations().channel_subset
    assert {subset.draw_num_outputs(u, num_inputs) for u in np.linspace(0, 0.999, 50)} == expected


def test_affine_puts_out_three_to_eight_channels():
    affine = Augmentations().affine
    assert {affine.draw_num_outputs(u, 3) for u in np.linspace(0, 0.999, 50)} == {3, 4, 5, 6, 7, 8}


def test_observation_noise_scales_with_the_past_and_spares_the_future(rng):
    transform, params, values = draw_and_values("observation_noise", rng)
    noise = transform.apply(values, params) - values
    assert (noise[:, CONTEXT_LENGTH:] == 0).all()
    spread = values[:, :CONTEXT_LENGTH].std(axis=1, keepdims=True)
    np.testing.assert_allclose(noise[:, :CONTEXT_LENGTH], params["noise"] * spread, rtol=1e-3, atol=1e-5)
    larger = transform.apply(1000 * values, params) - 1000 * values
    np.testing.assert_allclose(larger, 1000 * noise, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("surplus", [0, 1, 5, SURPLUS])
@pytest.mark.parametrize("context_length", [4, CONTEXT_LENGTH, LENGTH - 1])
def test_resampling_is_exact_on_cubics(surplus, context_length):
    transform = Augmentations().resampling
    factors = []
    for index in range(50):
        shape = shape_of("resampling", surplus=surplus, context_length=context_length)
        params = transform.draw(generator(7, index), shape)
        assert params["before"] + params["after"] <= surplus
        time = np.arange(params["before"] + LENGTH + params["after"]) / 50 - 1
        positions = params["positions"] / 50 - 1
        values = np.stack([time**3 - time, 2 * time**2 + 1]).astype(np.float32)
        expected = np.stack([positions**3 - positions, 2 * positions**2 + 1])
        resampled = transform.apply(values, params)
        np.testing.assert_allclose(resampled, expected, rtol=1e-4, atol=1e-4)
        now = params["before"] + context_length - 1
        np.testing.assert_array_equal(resampled[:, context_length - 1], values[:, now])
        np.testing.assert_allclose(np.diff(params["positions"]), np.diff(params["positions"])[0])
        factors.append(np.diff(params["positions"])[0])
    assert 0.5 <= min(factors) < 0.7
    assert max(factors) > (1.5 if surplus == SURPLUS else 0.9)
    assert max(factors) <= (2 if surplus else 1) + 1e-12


def test_time_reversal_runs_backwards(rng):
    transform, params, values = draw_and_values("time_reversal", rng)
    np.testing.assert_array_equal(transform.apply(values, params)[:, 5], values[:, -6])


@pytest.mark.parametrize("name", sorted(set(TRANSFORM_NAMES) - MIX_PAST_AND_FUTURE - REACH_AROUND))
def test_the_past_never_sees_the_future(store, rng, name):
    """Values at and after some step of one trajectory change: no past before that step may."""
    changed_from = 100
    values = np.cumsum(rng.standard_normal((3, LENGTH + SURPLUS), np.float32), axis=1)
    other = values.copy()
    other[:, changed_from:] = rng.standard_normal((3, LENGTH + SURPLUS - changed_from), np.float32)
    pair = [windows_of(store(folder, [array]), only(name)) for folder, array in [("one", values), ("other", other)]]
    starts = pair[0].locate(np.arange(256))[1]
    affected = 0
    for index in np.flatnonzero(starts <= changed_from - CONTEXT_LENGTH).tolist():
        one, two = (windows[index] for windows in pair)
        partner_start = pair[0].locate(np.array([index + (1 << 62)]))[1]
        if name == "projected_skew" and partner_start + CONTEXT_LENGTH > changed_from:
            continue
        torch.testing.assert_close(one["past_values"], two["past_values"], rtol=0, atol=0)
        affected += not torch.equal(one["future_values"], two["future_values"])
    assert affected > 50 or name == "fourier_series"


@pytest.mark.parametrize("name", sorted(REACH_AROUND))
def test_transforms_that_reach_around_the_window_are_causal(rng, name):
    for index in range(20):
        transform, params, values = draw_and_values(name, rng, index)
        changed = values.copy()
        changed[:, params["before"] + CONTEXT_LENGTH :] += 1
        before, after = transform.apply(values, params), transform.apply(changed, params)
        np.testing.assert_array_equal(before[:, :CONTEXT_LENGTH], after[:, :CONTEXT_LENGTH])
        assert (before[:, CONTEXT_LENGTH:] != after[:, CONTEXT_LENGTH:]).any()


def test_context_statistics_use_what_is_seen(rng):
    values = rng.standard_normal((4, 20)).astype(np.float32)
    values[0, 3:6] = np.nan
    values[1, :10] = np.nan
    values[2, :10] = 5.1
    loc, scale = context_statistics(values, 10)
    seen = np.r_[values[0, :3], values[0, 6:10]]
    np.testing.assert_allclose(loc[:, 0], [seen.mean(), 0, 5.1, values[3, :10].mean()], rtol=1e-6)
    np.testing.assert_allclose(scale[:, 0], [seen.std(), 1, 1, values[3, :10].std()], rtol=1e-6)


@pytest.mark.parametrize("name", TRANSFORM_NAMES)
def test_every_augmentation_gives_whole_batches(trajectories, name):
    windows = windows_of(trajectories, only(name))
    plain = windows_of(trajectories, None)
    for first in range(0, 64, 8):
        batch = windows.__getitems__(range(first, first + 8))
        past, future = batch["past_values"], batch["future_values"]
        assert past.shape[:2] == (8, CONTEXT_LENGTH)
        assert future.shape == (8, LENGTH - CONTEXT_LENGTH, past.shape[2])
        assert past.dtype == torch.float32
        assert torch.isfinite(past).all()
        assert torch.isfinite(future).all()
        if name not in CHANGE_CHANNELS:
            assert past.shape[2] == 3
    assert not torch.equal(past[:, :, :1], plain.__getitems__(range(56, 64))["past_values"][:, :, :1])


@pytest.mark.parametrize("name", ["affine", "convex_combination"])
def test_mixing_ignores_the_units_of_channels(store, trajectories, name):
    units = np.array([[1e-3], [1.0], [1e4]], np.float32)
    scaled = store("scaled", [units * trajectories.values(row) for row in range(6)])
    one, other = (windows_of(part, only(name)).__getitems__(range(8)) for part in (trajectories, scaled))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_given_share_of_windows_is_transformed(trajectories):
    weights = {"affine": 1.0, "takens": 1.0, "observation_noise": 1.0, "fourier_series": 1.0}
    augmented, plain = (windows_of(trajectories, a) for a in (Augmentations(rate=0.4, weights=weights), None))
    transformed, whole_batches = 0, 0
    for first in range(0, 8000, 8):
        one, other = (w.__getitems__(range(first, first + 8))["past_values"] for w in (augmented, plain))
        changed = 8 if one.shape != other.shape else int((one != other).any(dim=2).any(dim=1).sum())
        transformed += changed
        whole_batches += changed == 8
    assert whole_batches / 1000 == pytest.approx(0.2, abs=0.06)
    assert transformed / 8000 == pytest.approx(0.4, abs=0.06)


def test_rate_zero_changes_nothing(trajectories):
    augmented, plain = (windows_of(trajectories, a) for a in (Augmentations(rate=0.0), None))
    torch.testing.assert_close(augmented.__getitems__(range(64)), plain.__getitems__(range(64)), rtol=0, atol=0)


def test_workers_change_nothing(trajectories):
    windows = windows_of(trajectories, Augmentations(rate=0.9))
    alone, shared = (
        list(
            DataLoader(
                windows,
                batch_size=16,
                sampler=ChannelBucketSampler(windows, 16),
                collate_fn=identity,
                num_workers=num_workers,
            )
        )
        for num_workers in (0, 2)
    )
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_files_are_never_written_through(trajectories):
    before = trajectories.values(0).copy()
    windows = windows_of(trajectories, Augmentations(rate=1.0))
    for first in range(0, 256, 16):
        windows.__getitems__(range(first, first + 16))
    np.testing.assert_array_equal(trajectories.values(0), before)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"found \['afine'\]; choose from \('affine', 'convex_combination'"):
        Augmentations(weights={"afine": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.5}, "found 1.5"),
        ({"weights": {"affine": -1.0, "takens": 2.0}}, "-1.0"),
        ({"weights": {"affine": 0.0}}, "one of them positive"),
        ({"weights": {}}, "one of them positive"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentations(**options)


@pytest.mark.parametrize("options", [{"min_channels": 9}, {"max_channels": 2}, {"min_channels": 0}])
def test_wrong_ranges_are_named(options):
    with pytest.raises(ValueError, match=r"Affine.min_channels must be positive and at most [28], found [039]"):
        Affine(**options)


def test_takens_asks_for_longer_trajectories(store, rng):
    short = store("short", [rng.standard_normal((3, LENGTH + 6), np.float32)])
    with pytest.raises(ValueError, match="7 steps more than a window, found 6"):
        windows_of(short, Augmentations())
    assert len(windows_of(short, only("resampling"))) == 256


def test_reversal_is_off_by_default():
    weights = Augmentations().weights
    assert weights.pop("time_reversal") == 0
    assert weights.keys() == set(TRANSFORM_NAMES) - {"time_reversal"}
    assert set(weights.values()) == {1.0}
