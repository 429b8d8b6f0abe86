import json
import math

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from hf_tsdyn.data.series import SeriesDataset
from hf_tsdyn.data.windows import RandomWindows, identity
from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from hf_tsdyn.models.dynonet.controller import TRAINING_SIGNALS
from training.bilevel_options import BilevelOptions, carve_meta_split
from training.bilevel_trainer import BilevelTrainer
from training.lookahead import channel_square_norms, mean_loss

NETWORK = {
    "num_channels": 2,
    "context_length": 32,
    "prediction_length": 8,
    "controller_hidden_size": 6,
    "controller_patch_length": 4,
    "worker_hidden_size": 3,
    "worker_context_length": 16,
    "worker_patch_length": 4,
    "trend_window": 5,
}
FAR = 60.0
"""A bias at which a bounded signal is at its upper end, and its negative at the lower."""


@pytest.fixture
def new_trainer(waves, tmp_path):
    """A function (options, training) that returns a trainer of a new network on the waves, with an optimizer."""

    def build(training=(), network=(), **options):
        options = BilevelOptions(**options)
        torch.manual_seed(0)
        model = DynoNetForPrediction(DynoNetConfig(**NETWORK | dict(network)))
        source = SeriesDataset(waves, "train", context_length=32)
        front, meta = carve_meta_split(options, source, context_length=32, seed=0)
        drawn = {"context_length": 32, "prediction_length": 8, "num_windows": 64, "seed": 0}
        settings = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "logging_steps": 2}
        settings |= {"label_names": ["future_values"], "remove_unused_columns": False, "dataloader_pin_memory": False}
        settings |= {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "weight_decay": 0.0}
        trainer = BilevelTrainer(
            options=options,
            meta_windows=None if meta is None else RandomWindows(meta, **drawn),
            model=model,
            args=TrainingArguments(output_dir=str(tmp_path / "run"), **(settings | dict(training))),
            train_dataset=RandomWindows(front, **drawn),
            data_collator=identity,
        )
        trainer.create_optimizer()
        return trainer

    return build


def set_signal(trainer, name, value, channel=slice(None)):
    """Let the controller say `value` of every window, by the bias of a head whose weights are 0 at the start."""
    low, high, _ = TRAINING_SIGNALS[name]
    share = (value - low) / (high - low)
    bias = FAR if share == 1 else -FAR if share == 0 else math.log(share / (1 - share))
    trainer.network.model.controller.training_signals[name].bias.data[channel] = bias


def take_step(trainer):
    """Take one step on the same batch of every such trainer; return the change of each worker, and its gradient."""
    torch.manual_seed(3)
    workers = trainer.roles.workers
    before = {name: each.detach().clone() for name, each in workers.items()}
    trainer.training_step(trainer.model, trainer.train_dataset.__getitems__(range(8)))
    gradients = {name: each.grad.clone() for name, each in workers.items()}
    trainer.optimizer.step()
    trainer.network.zero_grad()
    return {name: each.detach() - before[name] for name, each in workers.items()}, gradients


def moved_channels(changes):
    return (channel_square_norms(changes.values()) > 0).tolist()


def test_a_frozen_worker_does_not_move(new_trainer):
    trainer = new_trainer(training={"weight_decay": 0.1})
    set_signal(trainer, "freeze_prob", 1.0, channel=0)
    set_signal(trainer, "freeze_prob", 0.0, channel=1)
    assert moved_channels(take_step(trainer)[0]) == [False, True]


def test_freezing_is_drawn_at_its_probability_from_seed_and_step(new_trainer):
    trainer = new_trainer()
    probabilities = torch.tensor([0.2, 0.7])
    draws = []
    for step in range(500):
        trainer.state.global_step = step
        draws.append(trainer._draw_frozen(probabilities))
    torch.testing.assert_close(torch.stack(draws).mean(0), probabilities, rtol=0, atol=0.07)
    trainer.state.global_step = 7
    assert torch.equal(trainer._draw_frozen(probabilities), draws[7])


def test_the_rate_scale_multiplies_the_step_of_its_channel(new_trainer):
    plain, scaled = new_trainer(), new_trainer()
    set_signal(scaled, "lr_scale", 2.0, channel=1)
    (one, _), (other, _) = take_step(plain), take_step(scaled)
    for name in one:
        torch.testing.assert_close(other[name][0], one[name][0])
        torch.testing.assert_close(other[name][1], 2 * one[name][1], rtol=1e-4, atol=1e-6)


def test_the_decay_scale_multiplies_the_decay_of_its_channel(new_trainer):
    decay = {"weight_decay": 0.5}
    plain, scaled = new_trainer(training=decay), new_trainer(training=decay)
    set_signal(scaled, "wd_scale", 5.0, channel=0)
    weights = {name: each.detach().clone() for name, each in plain.roles.workers.items()}
    (one, _), (other, _) = take_step(plain), take_step(scaled)
    for name, weight in weights.items():
        torch.testing.assert_close(other[name][1], one[name][1])
        more = -2e-3 * 0.5 * 4 * weight[0]
        torch.testing.assert_close(other[name][0] - one[name][0], more, rtol=1e-3, atol=1e-6)


def test_each_gradient_is_clipped_at_its_own_norm(new_trainer):
    plain, clipped = new_trainer(), new_trainer()
    for trainer in (plain, clipped):
        set_signal(trainer, "grad_clip", 2.0)
    set_signal(clipped, "grad_clip", 0.1, channel=0)
    norms = [channel_square_norms(take_step(trainer)[1].values()).sqrt() for trainer in (plain, clipped)]
    assert 0.1 < norms[0][0] < 2
    assert norms[1][0].item() == pytest.approx(0.1, rel=1e-4)
    assert torch.equal(norms[1][1], norms[0][1])


def test_losses_are_weighted_by_channel(new_trainer):
    plain, weighted = new_trainer(), new_trainer()
    for trainer in (plain, weighted):
        set_signal(trainer, "grad_clip", 2.0)
    set_signal(weighted, "loss_weight", 1.5, channel=1)
    (_, one), (_, other) = take_step(plain), take_step(weighted)
    for name in one:
        torch.testing.assert_close(
            other[name], one[name] * torch.tensor([1.0, 1.5]).view(-1, *[1] * (one[name].ndim - 1))
        )


@pytest.mark.parametrize("mode", ["first_order", "lookahead"])
def test_dropout_and_noise_act_in_training_alone(new_trainer, mode):
    losses = {}
    for case, rate, noise in (("none", 0.0, 0.0), ("dropout", 0.7, 0.0), ("noise", 0.0, FAR)):
        trainer = new_trainer(mode=mode)
        set_signal(trainer, "dropout_rate", rate)
        trainer.network.model.controller.input_noise.bias.data.fill_(noise)
        batch = trainer.train_dataset.__getitems__(range(8))
        with torch.no_grad():
            evaluated = mean_loss(trainer.network.eval(), batch).item()
        losses[case] = (trainer.training_step(trainer.model, batch).item(), evaluated)
    assert losses["none"][0] == pytest.approx(losses["none"][1], rel=1e-5)
    assert losses["dropout"][1] == losses["noise"][1] == losses["none"][1]
    assert losses["dropout"][0] != pytest.approx(losses["none"][0], rel=1e-4)
    assert losses["noise"][0] != pytest.approx(losses["none"][0], rel=1e-4)


def test_without_levels_the_training_signals_do_nothing(new_trainer):
    plain, changed = new_trainer(mode="none"), new_trainer(mode="none")
    for name, (_, high, _) in TRAINING_SIGNALS.items():
        set_signal(changed, name, high)
    changed.network.model.controller.input_noise.bias.data.fill_(FAR)
    assert changed.meta_windows is None
    (one, _), (other, _) = take_step(plain), take_step(changed)
    assert moved_channels(one) == [True, True]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_levels_controller_and_workers_learn_from_one_loss(new_trainer):
    trainer = new_trainer(mode="none", training={"max_grad_norm": 0.0})
    batch = trainer.train_dataset.__getitems__(range(8))
    trainer.training_step(trainer.model, batch)
    found = {name: each.grad for name, each in trainer.network.named_parameters() if each.grad is not None}
    assert {"model.controller.gate.weight", "model.controller.reader.weight_hh", "model.mixer.3.weight"} <= found.keys()
    assert not any("training_signals" in name for name in found)
    with torch.no_grad():
        loss = mean_loss(trainer.network.eval(), batch).item()
    assert trainer.training_step(trainer.model, batch).item() == pytest.approx(loss, rel=1e-5)


def heads_with_gradients(trainer):
    trainer.training_step(trainer.model, trainer.train_dataset.__getitems__(range(8)))
    found = [name for name, each in trainer.roles.controller.items() if each.grad is not None and each.grad.any()]
    return {name.removeprefix("model.controller.").rsplit(".", 1)[0] for name in found}


def test_in_the_first_order_the_training_signals_learn_nothing(new_trainer):
    assert heads_with_gradients(new_trainer(mode="first_order")) == {
        "film.0",
        "gate",
        "context",
        "reader",
        "reader.embedding",
    }


def test_every_head_of_the_look_ahead_moves(new_trainer):
    trainer = new_trainer(training={"weight_decay": 1e-4})
    before = {name: each.detach().clone() for name, each in trainer.roles.controller.items()}
    trainer.train()
    unmoved = [name for name, each in trainer.roles.controller.items() if torch.equal(each, before[name])]
    assert unmoved == []
    log = json.loads((trainer.signal_log.path).read_text())
    assert log["steps"] == [0, 2, 4]
    for name in (*TRAINING_SIGNALS, "input_noise", "gate_masks", "film_gamma", "film_beta"):
        means = np.array(log["signals"][name]["mean"])
        assert means.shape == (3, 2)
        assert (np.diff(means, axis=0) != 0).any(), name
    assert np.array(log["signals"]["lr_scale"]["std"])[-1].min() > 0


def test_the_workers_step_is_the_same_whatever_the_controller_learns_from(new_trainer):
    changes = [take_step(new_trainer(mode=mode))[0] for mode in ("lookahead", "first_order")]
    changes.append(take_step(new_trainer(controller_learning_rate=0.0))[0])
    for other in changes[1:]:
        assert all(torch.equal(changes[0][name], other[name]) for name in other)


@pytest.mark.parametrize("mode", ["lookahead", "first_order", "none"])
def test_a_controller_of_rate_0_stays_as_it_starts(new_trainer, mode):
    trainer = new_trainer(mode=mode, controller_learning_rate=0.0)
    controller = trainer.network.model.controller
    before = {name: each.clone() for name, each in controller.state_dict().items()}
    trainer.train()
    assert all(torch.equal(each, before[name]) for name, each in controller.state_dict().items())
    assert trainer.roles.controller == {}


def test_the_controller_steps_at_its_interval(new_trainer):
    trainer = new_trainer(controller_interval=2)
    moves = []
    for step in range(4):
        trainer.state.global_step = step
        before = trainer.network.model.controller.gate.bias.detach().clone()
        take_step(trainer)
        moves.append(not torch.equal(before, trainer.network.model.controller.gate.bias))
    assert moves == [True, False, True, False]


def test_the_meta_batch_is_a_function_of_the_step(new_trainer):
    trainer = new_trainer(meta_batch_size=3)
    batches = []
    for step in (0, 1, 0):
        trainer.state.global_step = step
        batches.append(trainer._meta_batch()["past_values"])
    assert batches[0].shape == (3, 32, 2)
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[0], batches[1])


@pytest.mark.parametrize("mode", ["lookahead", "first_order", "none"])
@pytest.mark.parametrize("case", ["no reader", "no workers"])
def test_less_than_the_whole_network_is_trained(new_trainer, mode, case):
    specialists = [{"kind": "low_rank", "rank": 2}, {"kind": "low_rank", "rank": 1}]
    fields = {"no reader": {"controller": False}, "no workers": {"num_worker_layers": 0, "specialists": specialists}}
    trainer = new_trainer({"weight_decay": 0.1}, fields[case], mode=mode, controller_learning_rate=0.01)
    torch.manual_seed(0)
    for name, parameter in trainer.network.named_parameters():
        if "specialists" in name:
            torch.nn.init.normal_(parameter)
    before = {name: each.detach().clone() for name, each in trainer.network.named_parameters()}
    trainer.train()
    moved = {name for name, each in trainer.network.named_parameters() if not torch.equal(each, before[name])}
    stays = {"no reader": {"training_signals", "input_noise"} if mode != "lookahead" else set(), "no workers": set()}
    expected = {name for name in before if not any(each in name for each in stays[case])}
    assert moved == expected
