import math

import pytest
import torch

from hf_tsdyn.models.dynonet.controller import TRAINING_SIGNALS
from training.lookahead import channel_square_norms, mean_loss

FAR = 60.0
"""A bias at which a bounded signal is at its upper end, and its negative at the lower."""


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


def test_the_workers_step_is_the_same_whatever_the_controller_learns_from(new_trainer):
    changes = [take_step(new_trainer(mode=mode))[0] for mode in ("lookahead", "first_order")]
    changes.append(take_step(new_trainer(controller_learning_rate=0.0))[0])
    for other in changes[1:]:
        assert all(torch.equal(changes[0][name], other[name]) for name in other)
