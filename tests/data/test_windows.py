import pickle
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainingArguments

from hf_tsdyn.data import ChannelBucketSampler, RandomWindows, SequentialWindows, TrajectoryDataset, identity
from hf_tsdyn.data.draws import uniforms
from hf_tsdyn.data.windows import NO_WINDOW
from hf_tsdyn.models import DystformerConfig, DystformerForPrediction

SYSTEMS = ["Lorenz"] * 6 + ["Rossler", "Chen"]


def numbered(row, channels, length):
    """Return values that tell where they come from: 1000 row + 100 channel + step, exact in float32."""
    return (1000 * row + 100 * np.arange(channels)[:, None] + np.arange(length)).astype(np.float32)


@pytest.fixture
def mixed(tmp_path, write_dataset):
    """Eight trajectories of two to four channels and 20 to 27 steps; six of them of one system."""
    arrays = [numbered(row, channels, 20 + row) for row, channels in enumerate([3, 3, 2, 3, 4, 3, 3, 2])]
    rows = [{"target": values, "system": system} for values, system in zip(arrays, SYSTEMS, strict=True)]
    return TrajectoryDataset(write_dataset(tmp_path / "mixed", rows), "train")


@pytest.fixture
def uniform(tmp_path, write_dataset):
    rows = [{"target": numbered(row, 3, 20 + row), "system": system} for row, system in enumerate(SYSTEMS)]
    return TrajectoryDataset(write_dataset(tmp_path / "uniform", rows), "train")


def random_windows(trajectories, **options):
    defaults: dict[str, Any] = {"context_length": 6, "prediction_length": 4, "num_windows": 96, "seed": 3}
    return RandomWindows(trajectories, **(defaults | options))


def sequential_windows(trajectories, **options):
    defaults: dict[str, Any] = {"context_length": 6, "prediction_length": 4, "stride": 3}
    return SequentialWindows(trajectories, **(defaults | options))


def loader(windows, batch_size=8, **options):
    sampler = ChannelBucketSampler(windows, batch_size)
    return DataLoader(windows, batch_size=batch_size, sampler=sampler, collate_fn=identity, **options)


@pytest.mark.parametrize("make", [random_windows, sequential_windows])
def test_batch_holds_the_steps_it_locates(uniform, make):
    windows = make(uniform)
    indices = [5, 0, 17]
    batch = windows.__getitems__(indices)
    assert set(batch) == {"past_values", "future_values"}
    assert batch["past_values"].shape == (3, 6, 3)
    assert batch["future_values"].shape == (3, 4, 3)
    assert batch["past_values"].dtype == torch.float32
    both = torch.cat([batch["past_values"], batch["future_values"]], dim=1)
    for values, row, start in zip(both, *windows.locate(np.array(indices)), strict=True):
        expected = uniform.values(int(row))[:, start : start + 10].T
        np.testing.assert_array_equal(values, expected)


def test_a_single_window_equals_its_place_in_a_batch(uniform):
    windows = random_windows(uniform)
    batch = windows.__getitems__([7, 90, 91])
    for place, index in enumerate([7, 90, 91]):
        torch.testing.assert_close(windows[index]["past_values"], batch["past_values"][place], rtol=0, atol=0)
    assert len(list(windows)) == len(windows) == 96


def test_unseen_values_are_zero_and_masked(tmp_path, write_dataset):
    values = numbered(0, 2, 10)
    values[1, 2], values[0, 8] = np.nan, np.nan
    folder = write_dataset(tmp_path / "gaps", [{"target": values}])
    windows = sequential_windows(TrajectoryDataset(folder, "train"))
    batch = windows.__getitems__([0])
    assert (~batch["past_observed_mask"]).nonzero().tolist() == [[0, 2, 1]]
    assert (~batch["future_observed_mask"]).nonzero().tolist() == [[0, 2, 0]]
    assert batch["past_values"][0, 2, 1] == batch["future_values"][0, 2, 0] == 0
    assert torch.isfinite(batch["past_values"]).all()


def test_the_future_of_a_channel_without_a_past_counts_as_unseen(tmp_path, write_dataset):
    """Its units are unknown: no forecast of it can be scored."""
    values = numbered(0, 3, 10)
    values[0, :6] = np.nan
    values[1, :5] = np.nan
    windows = sequential_windows(TrajectoryDataset(write_dataset(tmp_path / "gaps", [{"target": values}]), "train"))
    batch = windows.__getitems__([0])
    assert batch["past_observed_mask"].sum(dim=1).tolist() == [[0, 1, 6]]
    assert batch["future_observed_mask"].sum(dim=1).tolist() == [[0, 4, 4]]
    assert (batch["future_values"][..., 0] == 0).all()
    np.testing.assert_array_equal(batch["future_values"][0, :, 1:].T, values[1:, 6:])


def test_windows_without_anything_seen_add_nothing_to_a_loss(tmp_path, write_dataset):
    values = np.concatenate([numbered(1, 2, 24), np.full((2, 24), np.nan), 1e4 + numbered(0, 2, 6)], axis=1)
    folder = write_dataset(tmp_path / "gaps", [{"target": values.astype(np.float32)}])
    lengths = {"context_length": 16, "prediction_length": 4}
    windows = sequential_windows(TrajectoryDataset(folder, "train"), stride=1, **lengths)
    seen = np.array([batch.get("past_observed_mask", torch.ones(1)).any() for batch in windows])
    assert 0 < seen.sum() < len(windows)
    torch.manual_seed(0)
    size = {"d_model": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "patch_length": 8}
    model = DystformerForPrediction(DystformerConfig(**lengths, **size, embedding="linear", normalize_loss=True))
    unseen, alone, both = (
        windows.__getitems__(np.flatnonzero(chosen).tolist()) for chosen in (~seen, seen, np.ones(len(seen), bool))
    )
    assert model(**unseen).loss == 0
    loss = model(**both).loss
    torch.testing.assert_close(loss, model(**alone).loss)
    loss.backward()
    assert all(torch.isfinite(weights.grad).all() for weights in model.parameters())


@pytest.mark.parametrize("make", [random_windows, sequential_windows])
def test_windows_without_targets_hold_no_future(mixed, make):
    windows = make(mixed, context_length=20, prediction_length=0)
    batches = list(loader(windows))
    assert {tuple(batch) for batch in batches} == {("past_values",)}
    assert {batch["past_values"].shape[1] for batch in batches} == {20}
    rows, starts = windows.locate(np.array([0]))
    np.testing.assert_array_equal(windows[0]["past_values"], mixed.values(rows.item())[:, starts.item() :][:, :20].T)


def test_windows_without_targets_keep_their_mask(tmp_path, write_dataset):
    values = numbered(0, 2, 10)
    values[1, 2] = np.nan
    folder = write_dataset(tmp_path / "gaps", [{"target": values}])
    windows = sequential_windows(TrajectoryDataset(folder, "train"), context_length=10, prediction_length=0)
    assert {name: part.shape for name, part in windows[0].items()} == {
        "past_values": (10, 2),
        "past_observed_mask": (10, 2),
    }


def test_random_windows_reach_every_start_evenly(uniform):
    windows = random_windows(uniform)
    rows, starts = windows.locate(np.arange(80_000))
    counts = np.bincount(rows, minlength=8)
    np.testing.assert_allclose(counts, 10_000, atol=5 * np.sqrt(10_000))
    for row in range(8):
        num_starts = 20 + row - 10 + 1
        counts = np.bincount(starts[rows == row], minlength=num_starts)
        expected = 10_000 / num_starts
        assert len(counts) == num_starts
        np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(expected))


def test_systems_are_balanced_on_request(uniform):
    windows = random_windows(uniform, balance="systems")
    rows, _ = windows.locate(np.arange(60_000))
    counts = np.bincount(rows, minlength=8)
    expected = np.array([20_000 / 6] * 6 + [20_000, 20_000])
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(20_000))
    np.testing.assert_allclose(windows.row_weights, expected / 60_000)


def test_seeds_and_indices_give_other_windows(uniform):
    first, again, other = (random_windows(uniform, seed=seed).locate(np.arange(200)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.mean(np.array(first) != np.array(other)) > 0.8
    far = random_windows(uniform).locate(np.arange(200) + (1 << 61))
    assert np.mean(np.array(first) != np.array(far)) > 0.8


def test_uniforms_are_uniform_and_independent():
    draws = np.stack([uniforms(5, stream, np.arange(50_000)) for stream in ("row", "start")])
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=1), 0.5, atol=5 / np.sqrt(12 * 50_000))
    np.testing.assert_allclose(draws.var(axis=1), 1 / 12, atol=2e-3)
    neighbours = np.corrcoef([*draws, np.roll(draws[0], 1)])
    np.testing.assert_allclose(neighbours, np.eye(3), atol=5 / np.sqrt(50_000))


@pytest.mark.parametrize(
    ("options", "starts_of_first_row", "starts_of_second_row"),
    [
        ({}, [0, 3, 6, 9], [0, 3, 6, 9]),
        ({"align_end": True}, [1, 4, 7, 10], [2, 5, 8, 11]),
        ({"max_windows_per_trajectory": 2}, [0, 3], [0, 3]),
        ({"max_windows_per_trajectory": 2, "align_end": True}, [7, 10], [8, 11]),
        ({"stride": 11}, [0], [0, 11]),
    ],
)
def test_sequential_windows_lie_in_order(uniform, options, starts_of_first_row, starts_of_second_row):
    windows = sequential_windows(uniform, **options)
    rows, starts = windows.locate(np.arange(len(windows)))
    assert (np.diff(rows) >= 0).all()
    assert rows[-1] == 7
    assert starts[rows == 0].tolist() == starts_of_first_row
    assert starts[rows == 1].tolist() == starts_of_second_row


def test_workers_change_nothing(mixed):
    alone = list(loader(random_windows(mixed)))
    shared = list(loader(random_windows(mixed), num_workers=2))
    assert len(alone) == len(shared) == 12
    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("make", [random_windows, sequential_windows])
def test_pickle_holds_no_data(mixed, make):
    windows = make(mixed)
    content = pickle.dumps(windows)
    assert len(content) < 2000
    again = pickle.loads(content)
    torch.testing.assert_close(again[11], windows[11], rtol=0, atol=0)
    assert len(again) == len(windows)


def test_mixed_channels_name_the_sampler(mixed):
    windows = sequential_windows(mixed)
    with pytest.raises(ValueError, match=r"\{2: \d+, 3: \d+, 4: \d+\}.*ChannelBucketSampler"):
        windows.__getitems__(list(range(len(windows))))


def test_random_runs_keep_channel_shares_and_never_repeat(mixed):
    windows = random_windows(mixed, num_windows=4000)
    sampler = ChannelBucketSampler(windows, 8)
    runs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert len(indices) == len(sampler) == 4000
        runs += [indices[first : first + 8] for first in range(0, 4000, 8)]
    assert len({index for run in runs for index in run}) == 8000
    channels = mixed.num_channels[windows.locate(np.array(runs))[0]]
    assert (channels == channels[:, :1]).all()
    shares = np.bincount(channels[:, 0], minlength=5)[2:] / 1000
    np.testing.assert_allclose(shares, [2 / 8, 5 / 8, 1 / 8], atol=5 * np.sqrt(0.25 / 1000))
    rows = windows.locate(np.array(runs).ravel())[0]
    np.testing.assert_allclose(np.bincount(rows) / 8000, 1 / 8, atol=0.06)


def test_an_epoch_does_not_depend_on_those_before(mixed):
    fresh, used = (ChannelBucketSampler(random_windows(mixed), 8) for _ in range(2))
    first = list(used)
    used.set_epoch(5)
    fresh.set_epoch(5)
    assert list(used) == list(fresh) != first


@pytest.mark.parametrize("batch_size", [1, 5, 8])
def test_every_sequential_window_comes_once(mixed, batch_size):
    windows = sequential_windows(mixed)
    sampler = ChannelBucketSampler(windows, batch_size)
    indices = list(sampler)
    assert len(indices) == len(sampler)
    assert sorted(index for index in indices if index != NO_WINDOW) == list(range(len(windows)))
    sizes = [len(batch["past_values"]) for batch in loader(windows, batch_size)]
    assert sum(sizes) == len(windows)
    assert min(sizes) >= 1


@pytest.mark.parametrize("make", [random_windows, sequential_windows])
def test_runs_survive_sharding_over_processes(mixed, make):
    windows = make(mixed)
    batches = BatchSampler(ChannelBucketSampler(windows, 8), 8, drop_last=False)
    shards = [
        list(cast(Iterable[list[int]], BatchSamplerShard(batches, num_processes=2, process_index=rank)))
        for rank in range(2)
    ]
    assert len(shards[0]) == len(shards[1])
    seen = {index for shard in shards for batch in shard for index in batch}
    assert seen == set(ChannelBucketSampler(windows, 8))
    for shard in shards:
        for batch in shard:
            assert windows.__getitems__(batch)["past_values"].shape[0] == sum(i != NO_WINDOW for i in batch)


class Recorder(torch.nn.Module):
    """A model that remembers the batches it saw in training."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, past_values, future_values):
        if self.training:
            self.seen.append(past_values[:, 0].flatten().tolist())
        return {"loss": ((self.level - future_values / 1000) ** 2).mean()}


class BucketTrainer(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        assert isinstance(self.train_dataset, RandomWindows)
        return ChannelBucketSampler(self.train_dataset, self._train_batch_size)

    def _get_eval_sampler(self, eval_dataset):
        assert isinstance(eval_dataset, SequentialWindows)
        return ChannelBucketSampler(eval_dataset, self.args.eval_batch_size)


def test_a_resumed_trainer_sees_what_an_uninterrupted_one_does(mixed, tmp_path):
    def train(model, max_steps, **resume):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=max_steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            save_steps=2,
            remove_unused_columns=False,
            prediction_loss_only=True,
            label_names=["future_values"],
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = BucketTrainer(
            model,
            arguments,
            data_collator=identity,
            train_dataset=random_windows(mixed, num_windows=48),
            eval_dataset=sequential_windows(mixed),
        )
        trainer.train(**resume)
        return trainer

    whole, resumed = Recorder(), Recorder()
    trainer = train(whole, 8)
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    assert len({tuple(batch) for batch in whole.seen}) == len(whole.seen) == 16
    train(resumed, 8, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert resumed.seen == whole.seen[8:]


def test_short_trajectories_are_named(mixed):
    with pytest.raises(ValueError, match=r"24 steps.*4 that are shorter.*'Lorenz-0': 20.*'Lorenz-3': 23"):
        random_windows(mixed, context_length=20)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (random_windows, {"context_length": 0}, "found 0 and 4"),
        (random_windows, {"prediction_length": -1}, "found 6 and -1"),
        (random_windows, {"num_windows": 0}, "num_windows must be at least 1"),
        (random_windows, {"seed": -1}, "found 96 and -1"),
        (random_windows, {"balance": "system"}, "'rows' or 'systems', found 'system'"),
        (sequential_windows, {"stride": 0}, "found 0 and None"),
        (sequential_windows, {"max_windows_per_trajectory": 0}, "found 3 and 0"),
    ],
)
def test_wrong_options_are_named(uniform, make, options, message):
    with pytest.raises(ValueError, match=message):
        make(uniform, **options)


def test_wrong_batch_size_is_named(uniform):
    with pytest.raises(ValueError, match="between 1 and the 96 windows of an epoch, found 97"):
        ChannelBucketSampler(random_windows(uniform), 97)


@pytest.mark.parametrize(("make", "indices"), [(random_windows, [-2]), (sequential_windows, [10_000])])
def test_indices_outside_are_refused(uniform, make, indices):
    with pytest.raises(IndexError, match=str(indices[0])):
        make(uniform).__getitems__(indices)
