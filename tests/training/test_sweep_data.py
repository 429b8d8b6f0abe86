import hashlib

import numpy as np
import pandas as pd
import pytest

from training.sweep_data import SweepData, load_series


@pytest.fixture
def noise(tmp_path):
    """An NPY file of 100 steps of noise in three channels, and its values."""
    values = np.random.default_rng(0).normal(size=(100, 3))
    np.save(tmp_path / "noise.npy", values)
    return str(tmp_path / "noise.npy"), values


def test_a_series_is_cut_in_time_and_its_file_is_hashed(noise):
    path, values = noise
    series = load_series(SweepData(path=path, validation_share=0.2, test_share=0.1))
    np.testing.assert_array_equal(series.train, values[:70])
    np.testing.assert_array_equal(series.validation, values[70:90])
    np.testing.assert_array_equal(series.test, values[90:])
    with open(path, "rb") as content:
        assert series.fingerprint == hashlib.sha256(content.read()).hexdigest()
    assert series.num_channels == 3


def test_the_validation_part_alone_is_smoothed(noise):
    path, values = noise
    series = load_series(SweepData(path=path, validation_smoothing=2.0, test_share=0.1))
    np.testing.assert_array_equal(series.train, values[:70])
    np.testing.assert_array_equal(series.test, values[90:])
    steps = np.arange(20)
    weights = np.exp(-0.5 * ((10 - steps) / 2.0) ** 2)
    weights[np.abs(10 - steps) > 8] = 0
    np.testing.assert_allclose(series.validation[10], weights @ values[70:90] / weights.sum(), rtol=1e-12)


def test_the_training_part_can_be_smoothed_too(noise):
    path, values = noise
    series = load_series(SweepData(path=path, train_smoothing=2.0, validation_share=0.3))
    assert series.train[20:50].std() == pytest.approx((2 * 2 * np.pi**0.5) ** -0.5, rel=0.25)
    np.testing.assert_array_equal(series.validation, values[70:])


def test_another_file_can_be_the_test_series(noise, tmp_path):
    path, _ = noise
    np.save(tmp_path / "clean.npy", np.ones((7, 3)))
    series = load_series(SweepData(path=path, test_path=str(tmp_path / "clean.npy")))
    assert series.test.shape == (7, 3)
    assert series.test_fingerprint != series.fingerprint


def test_columns_choose_and_order_the_channels(noise):
    path, values = noise
    series = load_series(SweepData(path=path, columns=("2", "0")))
    np.testing.assert_array_equal(series.train, values[:80, [2, 0]])


def test_a_dataset_of_trajectories_gives_the_row_that_is_asked_for(write_dataset, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"target": rng.normal(size=(3, 40)).astype(np.float32), "system": system, "split": split}
        for system, split in [("Lorenz", "test"), ("Chen", "train"), ("Lorenz", "test")]
    ]
    path = str(write_dataset(tmp_path / "data", rows))
    for item, row in {0: 1, 1: 0, "Lorenz": 0, "Lorenz-2": 2, "Chen": 1}.items():
        np.testing.assert_array_equal(load_series(SweepData(path=path, item=item)).train, rows[row]["target"].T[:32])
    with pytest.raises(ValueError, match=r"which of the 3 trajectories .* found item 'Rossler'"):
        load_series(SweepData(path=path, item="Rossler"))
    with pytest.raises(ValueError, match="must be left out with a dataset"):
        load_series(SweepData(path=path, columns=("0",)))
    with pytest.raises(ValueError, match=r"which of the 3 trajectories .* found item None"):
        load_series(SweepData(path=path))
    single = str(write_dataset(tmp_path / "single", rows[:1]))
    assert load_series(SweepData(path=single)).train.shape == (32, 3)


def test_one_of_several_series_of_a_file_is_chosen_by_number(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 50, 3))
    np.save(tmp_path / "two.npy", values)
    series = load_series(SweepData(path=str(tmp_path / "two.npy"), item=1))
    np.testing.assert_array_equal(series.train, values[1, :40])
    for item in (2, "1", None):
        with pytest.raises(
            ValueError, match=rf"which of the 2 series .* found item {item!r}; choose one with --data.item"
        ):
            load_series(SweepData(path=str(tmp_path / "two.npy"), item=item))


def test_gaps_are_placed(noise, tmp_path):
    _, values = noise
    values[41, 2] = np.nan
    np.save(tmp_path / "gap.npy", values)
    with pytest.raises(ValueError, match="found 1 that are not, the first at step 41 of channel 2"):
        load_series(SweepData(path=str(tmp_path / "gap.npy")))


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (np.ones((50, 2)), {}, r"vary in every channel, found 40 steps, constant in channels \[0, 1\]"),
        (np.arange(4.0)[:, None], {}, "validation part must hold at least one step, found none of 4"),
    ],
)
def test_series_without_a_part_to_use_are_refused(tmp_path, values, settings, message):
    np.save(tmp_path / "series.npy", values)
    with pytest.raises(ValueError, match=message):
        load_series(SweepData(path=str(tmp_path / "series.npy"), **settings))


def test_test_series_of_other_channels_are_refused(noise, tmp_path):
    np.save(tmp_path / "other.npy", np.ones((7, 2)))
    with pytest.raises(ValueError, match=r"same channels, found 2 in .* and 3 in"):
        load_series(SweepData(path=noise[0], test_path=str(tmp_path / "other.npy")))


def test_the_training_series_is_no_test_series(noise, tmp_path):
    path, values = noise
    pd.DataFrame(values, columns=["a", "b", "c"]).to_csv(tmp_path / "same.csv", index=False)
    for same in (path, str(tmp_path / "same.csv")):
        with pytest.raises(ValueError, match="must be another one than that of training, found the same"):
            load_series(SweepData(path=path, test_path=same))


def test_a_constant_channel_is_found_whatever_its_value(noise, tmp_path):
    _, values = noise
    values[:80, 1] = 0.1  # its mean is not 0.1 to the last bit
    np.save(tmp_path / "flat.npy", values)
    with pytest.raises(ValueError, match=r"constant in channels \[1\]"):
        load_series(SweepData(path=str(tmp_path / "flat.npy")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found nothing at .*nowhere\.npy.*--data\.path"):
        load_series(SweepData(path=str(tmp_path / "nowhere.npy")))
