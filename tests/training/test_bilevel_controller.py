import json

import numpy as np
import pytest
import torch

from hf_tsdyn.models.dynonet.controller import TRAINING_SIGNALS
from training.lookahead import mean_loss

PAIR = [{"kind": "low_rank", "rank": 2}, {"kind": "low_rank", "rank": 1}]
WEIGHED = {"num_worker_layers": 0, "specialists": PAIR, "trend_head": False, "channel_mixer": False}


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
    rates = {"controller_learning_rate": 1e-3, "controller_weight_decay": 0.0}
    slow = {"weight_decay": 1e-6, "learning_rate": 3e-4, "lr_scheduler_type": "constant"}
    trainer = new_trainer(slow, **rates)  # so that the hypergradient of the decay scale is below 1e-10
    before = {name: each.detach().clone() for name, each in trainer.roles.controller.items()}
    trainer.train()
    moves = {name: (each.detach() - before[name]).abs().max() for name, each in trainer.roles.controller.items()}
    assert {name: move.item() for name, move in moves.items() if not move > 5e-4} == {}
    log = json.loads((trainer.signal_log.path).read_text())
    assert log["steps"] == [0, 2, 4]
    for name in (*TRAINING_SIGNALS, "input_noise", "gate_masks", "film_gamma", "film_beta"):
        means = np.array(log["signals"][name]["mean"])
        assert means.shape == (3, 2)
        assert (np.diff(means, axis=0) != 0).any(), name
    assert np.array(log["signals"]["lr_scale"]["std"])[-1].min() > 0


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
        trainer.training_step(trainer.model, trainer.train_dataset.__getitems__(range(8)))
        trainer.optimizer.step()
        trainer.network.zero_grad()
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
    fields = {"no reader": {"controller": False}, "no workers": {"num_worker_layers": 0, "specialists": PAIR}}
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


@pytest.mark.parametrize("mode", ["lookahead", "first_order", "none"])
def test_a_controller_learns_where_nothing_else_does(new_trainer, mode):
    frozen = ["model.specialists", "model.norm"]
    trainer = new_trainer({"max_grad_norm": 0.0}, WEIGHED, frozen, mode=mode)
    for parameter in trainer.network.model.specialists.parameters():
        torch.nn.init.normal_(parameter)
    assert trainer.roles.learners == {}
    batch = trainer.train_dataset.__getitems__(range(8))
    trainer.training_step(trainer.model, batch)
    controller = trainer.roles.controller
    loss = mean_loss(trainer.network, batch if mode == "none" else trainer._meta_batch())
    for name, expected in zip(controller, torch.autograd.grad(loss, controller.values()), strict=True):
        torch.testing.assert_close(controller[name].grad, expected)
    before = {name: each.detach().clone() for name, each in controller.items()}
    trainer.train()
    assert [name for name, each in controller.items() if torch.equal(each, before[name])] == []


def test_what_is_frozen_of_a_controller_needs_no_gradient(new_trainer):
    frozen = [f"model.controller.{part}" for part in ("reader", "film", "training_signals.lr_scale")]
    trainer = new_trainer(frozen=["model.norm", *frozen])
    trainer.training_step(trainer.model, trainer.train_dataset.__getitems__(range(8)))
    found = {name for name, each in trainer.network.model.controller.named_parameters() if each.grad is not None}
    parts = {"gate", "context", "input_noise", *(f"training_signals.{name}" for name in TRAINING_SIGNALS)}
    parts.remove("training_signals.lr_scale")
    assert found == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_only_a_look_aheads_controller_has_an_epsilon_of_its_own(new_trainer):
    for mode, expected in (("lookahead", 1e-15), ("first_order", 1e-5), ("none", 1e-5)):
        trainer = new_trainer(training={"adam_epsilon": 1e-5}, mode=mode)
        controller = {id(each) for each in trainer.roles.controller.values()}
        for group in trainer.optimizer.param_groups:
            is_controllers = controller.issuperset(id(each) for each in group["params"])
            assert group["eps"] == (expected if is_controllers else 1e-5)


def test_the_meta_loss_has_neither_dropout_nor_noise(new_trainer):
    trainer = new_trainer(mode="first_order")
    controller = trainer.network.model.controller
    for head in (controller.training_signals["dropout_rate"], controller.input_noise):
        head.bias.data.fill_(60.0)
    trainer.network.train()
    loss = trainer._meta_loss()
    assert trainer.network.training
    assert torch.equal(loss, mean_loss(trainer.network.eval(), trainer._meta_batch()))


def total_norm(parameters):
    return torch.nn.utils.get_total_norm([each.grad for each in parameters.values() if each.grad is not None]).item()


@pytest.mark.parametrize("mode", ["lookahead", "first_order"])
def test_shared_parameters_and_controller_are_clipped_each_by_itself(new_trainer, mode):
    norms = {}
    for limit in (1e-4, 0.0):
        trainer = new_trainer(training={"max_grad_norm": limit}, mode=mode)
        trainer.training_step(trainer.model, trainer.train_dataset.__getitems__(range(8)))
        norms[limit] = [total_norm(part) for part in (trainer.roles.shared, trainer.roles.controller)]
    assert min(norms[0.0]) > 1e-3
    assert norms[1e-4] == pytest.approx([1e-4, 1e-4], rel=0.02)


def test_the_look_ahead_takes_the_step_that_the_shared_parameters_take(new_trainer, monkeypatch):
    trainer = new_trainer(
        training={"max_grad_norm": 1e-4, "weight_decay": 0.1}, network={"worker_dropout": 0.0, "mixer_dropout": 0.0}
    )
    meta_loss, seen = trainer._meta_loss, {}
    monkeypatch.setattr(trainer, "_meta_loss", lambda ahead: seen.update(ahead) or meta_loss(ahead))
    before = {name: each.detach().clone() for name, each in trainer.roles.shared.items()}
    trainer.training_step(trainer.model, trainer.train_dataset.__getitems__(range(8)))
    trainer.optimizer.step()
    for name, parameter in trainer.roles.shared.items():
        torch.testing.assert_close(seen[name] - before[name], parameter - before[name], rtol=1e-2, atol=1e-6)


def test_biases_and_norms_do_not_decay(new_trainer):
    trainer = new_trainer(training={"weight_decay": 0.2}, controller_weight_decay=0.3)
    decays = {id(each): group["weight_decay"] for group in trainer.optimizer.param_groups for each in group["params"]}
    for role, decay in ((trainer.roles.shared, 0.2), (trainer.roles.controller, 0.3)):
        spared = {name for name in role if "bias" in name or "norm" in name}
        assert {name for name, each in role.items() if decays[id(each)] == 0} == spared
        assert {decays[id(each)] for name, each in role.items() if name not in spared} == {decay}
    assert {decays[id(each)] for each in trainer.roles.workers.values()} == {0.2}
