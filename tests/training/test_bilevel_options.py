from types import SimpleNamespace

import numpy as np
import pytest

from hf_tsdyn.data.augmentations import Augmentations
from hf_tsdyn.data.series import SeriesDataset
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.data.windows import RandomWindows
from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from training.bilevel_options import BilevelOptions, carve_meta_split, check_bilevel, meta_draws
from training.train import freeze

SETTINGS = {"world_size": 1, "n_gpu": 0, "gradient_accumulation_steps": 1, "fp16": False, "optim": "adamw_torch"}


def test_the_meta_split_is_the_end_of_the_training_part(waves):
    source = SeriesDataset(waves, "train", context_length=32)
    front, meta = carve_meta_split(BilevelOptions(meta_share=0.25), source, context_length=32, seed=0)
    assert source.lengths.tolist() == [560]
    assert front.lengths.tolist() == [420]
    assert meta.lengths.tolist() == [140 + 32]
    np.testing.assert_array_equal(meta.values(0), source.values(0)[:, 420 - 32 :])
    assert carve_meta_split(BilevelOptions(mode="none"), source, context_length=32, seed=0) == (source, None)


def test_of_many_trajectories_the_meta_split_is_some_systems(oscillators):
    source = TrajectoryDataset(oscillators, "train")
    front, meta = carve_meta_split(BilevelOptions(meta_share=0.34), source, context_length=32, seed=1)
    assert len(set(meta.systems)) == 2
    assert {*front.systems} | {*meta.systems} == set("ABCDEF")
    assert not {*front.systems} & {*meta.systems}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_size": 2}, "one process on one device, found 2"),
        ({"n_gpu": 4}, "one process on one device, found 4"),
        ({"gradient_accumulation_steps": 3}, "found training.gradient_accumulation_steps=3"),
        ({"fp16": True}, "found fp16"),
        ({"optim": "adafactor"}, "found training.optim=adafactor"),
    ],
)
def test_what_bilevel_training_cannot_do_is_refused(changes, message):
    model = DynoNetForPrediction(DynoNetConfig(num_channels=2))
    check_bilevel(BilevelOptions(), model, SimpleNamespace(**SETTINGS))
    with pytest.raises(ValueError, match=message):
        check_bilevel(BilevelOptions(), model, SimpleNamespace(**SETTINGS | changes))


@pytest.mark.parametrize("specialists", [None, [{"kind": "low_rank", "rank": 2}]])
@pytest.mark.parametrize("mode", ["lookahead", "none"])
def test_a_controller_that_drives_nothing_is_refused(mode, specialists):
    model = DynoNetForPrediction(DynoNetConfig(num_channels=2, num_worker_layers=0, specialists=specialists))
    with pytest.raises(ValueError, match="signals to give, found neither workers nor two specialists"):
        check_bilevel(BilevelOptions(mode=mode), model, SimpleNamespace(**SETTINGS))


LEARNERS = ("model.workers", "model.trend_head", "model.mixer", "model.norm")
FORECASTING = tuple(f"model.controller.{part}" for part in ("reader", "film", "gate", "context"))


@pytest.mark.parametrize(
    ("fields", "frozen", "is_fine"),
    [
        ({}, LEARNERS, True),
        ({}, FORECASTING, True),
        ({"controller_learning_rate": 0.0}, (), True),
        ({"controller_learning_rate": 0.0}, LEARNERS, False),
        ({}, LEARNERS + FORECASTING, False),
        ({"mode": "none"}, LEARNERS + FORECASTING, False),
        ({"mode": "first_order"}, (*LEARNERS[1:], *FORECASTING), True),
    ],
)
def test_something_must_be_left_to_learn(fields, frozen, is_fine):
    model = DynoNetForPrediction(DynoNetConfig(num_channels=2))
    freeze(model, frozen)
    arguments = BilevelOptions(**fields), model, SimpleNamespace(**SETTINGS)
    if is_fine:
        check_bilevel(*arguments)
    else:
        with pytest.raises(ValueError, match="must have something to train, found nothing that a loss reaches"):
            check_bilevel(*arguments)


def test_meta_windows_are_drawn_by_themselves(waves):
    source = SeriesDataset(waves, "train", context_length=32)
    lengths = {"context_length": 32, "prediction_length": 8, "num_windows": 64}
    indices = np.arange(2000)
    for seed in (0, 1, 2**64 - 1):
        drawn = {"seed": seed, "augmentations": Augmentations(rate=0.5), **lengths}
        one, again, train = meta_draws(drawn), meta_draws(drawn), drawn
        assert one == again
        assert one["augmentations"] is None
        assert drawn["augmentations"] is not None
        starts = [RandomWindows(source, **each).locate(indices)[1] for each in (one, train)]
        assert abs(np.corrcoef(*starts)[0, 1]) < 0.1
    assert meta_draws(drawn | {"seed": 0})["seed"] != meta_draws(drawn | {"seed": 1})["seed"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"meta_share": 1.0}, "between 0 and 1, found 1.0"),
        ({"meta_batch_size": 0}, "at least 1, found 0 and 1"),
        ({"controller_interval": 0}, "at least 1, found None and 0"),
        ({"controller_learning_rate": -1.0}, "at least 0, found -1.0"),
    ],
)
def test_options_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BilevelOptions(**fields)
