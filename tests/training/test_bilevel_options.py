from types import SimpleNamespace

import numpy as np
import pytest

from hf_tsdyn.data.series import SeriesDataset
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from training.bilevel_options import BilevelOptions, carve_meta_split, check_bilevel


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
    settings = {"world_size": 1, "n_gpu": 0, "gradient_accumulation_steps": 1, "fp16": False, "optim": "adamw_torch"}
    model = DynoNetForPrediction(DynoNetConfig(num_channels=2))
    check_bilevel(model, SimpleNamespace(**settings))
    with pytest.raises(ValueError, match=message):
        check_bilevel(model, SimpleNamespace(**settings | changes))


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
