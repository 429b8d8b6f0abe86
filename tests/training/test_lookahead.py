import itertools

import pytest
import torch

from hf_tsdyn.models.dynonet import DynoNetConfig, DynoNetForPrediction
from training.bilevel_optimizer import AdamStep, ChannelAdamW
from training.lookahead import (
    channel_rates,
    channel_square_norms,
    clip_channels,
    clip_softly,
    clip_together,
    controller_gradients,
    look_ahead,
    mean_loss,
    parameter_roles,
)

CHANNELS, CONTEXT, HORIZON = 2, 16, 4


def tiny_network(**fields):
    torch.manual_seed(0)
    config = DynoNetConfig(
        num_channels=CHANNELS,
        context_length=CONTEXT,
        prediction_length=HORIZON,
        controller_hidden_size=3,
        controller_patch_length=4,
        worker_hidden_size=3,
        worker_context_length=8,
        worker_patch_length=2,
        trend_window=3,
        **fields,
    )
    return DynoNetForPrediction(config).double()


def batch_of(generator, num_windows):
    values = torch.randn(num_windows, CONTEXT + HORIZON, CHANNELS, generator=generator, dtype=torch.float64)
    return {"past_values": values[:, :CONTEXT], "future_values": values[:, CONTEXT:]}


def steps_of(parameters, generator):
    """Steps of an Adam that has been at work for a while."""
    draw = {"generator": generator, "dtype": torch.float64}
    return {
        name: AdamStep(
            momentum=0.3 * torch.randn(each.shape, **draw),
            weight=0.2,
            denominator=0.5 + torch.rand(each.shape, **draw),
            learning_rate=0.3,
            weight_decay=0.5,
        )
        for name, each in parameters.items()
    }


@pytest.fixture
def hypergradient_of(generator):
    """A function of a network that returns its roles, and the function of its weights that the controller descends.

    That returns the loss on a meta batch after a step, and its gradient with respect to the controller.
    """

    def build(network):
        roles = parameter_roles(network)
        batch, meta = batch_of(generator, 3), batch_of(generator, 5)
        steps = steps_of(roles.learners, generator)

        def hypergradient():
            torch.manual_seed(1)
            network.train()
            signals = network.signals(batch["past_values"])
            leaves = {name: signal.detach().requires_grad_() for name, signal in signals.items()}
            ahead = look_ahead(network, batch, leaves, roles=roles, steps=steps, max_grad_norm=0.1)
            network.eval()
            loss = mean_loss(network, meta, parameters=ahead)
            return loss.item(), controller_gradients(loss, roles.controller, signals, leaves)

        return roles, hypergradient

    return build


@pytest.mark.parametrize(
    "fields",
    [
        {"input_noise": "shift"},
        {"gating": "time_varying", "num_worker_layers": 2, "trend_head": False, "channel_mixer": False},
    ],
    ids=["published", "variant"],
)
def test_the_hypergradient_is_the_derivative_of_the_whole_map(hypergradient_of, generator, fields):
    network = tiny_network(**fields)
    for parameter in network.parameters():  # away from the start, where heads of zeros have no weight in the reader
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    roles, hypergradient = hypergradient_of(network)
    _, gradients = hypergradient()
    for name, parameter in roles.controller.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        start, values = parameter.data.clone(), []
        for sign in (1, -1):
            parameter.data = start + sign * 1e-5 * direction
            values.append(hypergradient()[0])
        parameter.data = start
        slope = (gradients[name] * direction).sum().item()
        assert slope != 0, name
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-11), name


def test_every_head_has_a_gradient_from_the_first_step_on(hypergradient_of):
    _, hypergradient = hypergradient_of(tiny_network())
    heads = {name: each for name, each in hypergradient()[1].items() if ".reader." not in name}
    found = {name.split("controller.")[1].rsplit(".", 1)[0] for name in heads}
    signals = ("lr_scale", "wd_scale", "dropout_rate", "grad_clip", "loss_weight", "freeze_prob")
    expected = {"film.0", "gate", "context", "input_noise", *(f"training_signals.{name}" for name in signals)}
    assert found == expected
    assert [name for name, gradient in heads.items() if not gradient.any()] == []


@pytest.mark.parametrize("max_grad_norm", [1.0, 1e-5])
def test_the_smooth_step_is_the_real_one_where_nothing_is_smoothed(generator, max_grad_norm):
    network = tiny_network().eval()  # without dropout and noise
    heads = network.model.controller.training_signals
    for name, bias in {"freeze_prob": -60.0, "grad_clip": 60.0, "lr_scale": 0.3}.items():
        heads[name].bias.data.fill_(bias)
    batch = batch_of(generator, 3)
    noise = 1e-2 * torch.randn(3, HORIZON, CHANNELS, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        batch["future_values"] = network(batch["past_values"]).prediction_outputs + noise
    roles = parameter_roles(network)
    groups = [{"params": list(roles.workers.values()), "per_channel": True}, {"params": list(roles.shared.values())}]
    adam = ChannelAdamW([group | {"weight_decay": 0.1} for group in groups], lr=0.01, eps=1e-3)
    signals = {name: each.detach() for name, each in network.signals(batch["past_values"]).items()}
    mean_loss(network, batch, signals=signals, weighted=True).backward()
    assert channel_square_norms([each.grad for each in roles.workers.values()]).sqrt().max() < 2e-2
    norm = torch.nn.utils.clip_grad_norm_(roles.shared.values(), max_grad_norm)
    assert 1e-4 < norm < 1
    names = {each: name for name, each in roles.learners.items()}
    steps = {names[each]: adam.preview(group, each) for group in adam.param_groups for each in group["params"]}
    ahead = look_ahead(network, batch, signals, roles=roles, steps=steps, max_grad_norm=max_grad_norm)
    adam.channel_rates = channel_rates(signals, torch.ones(CHANNELS))
    before = {name: each.detach().clone() for name, each in roles.learners.items()}
    adam.step()
    for name, parameter in roles.learners.items():
        torch.testing.assert_close(ahead[name] - before[name], parameter - before[name], rtol=1e-3, atol=1e-9)


def test_roles_share_out_what_is_trained():
    network = tiny_network()
    network.model.trend_head.requires_grad_(False)
    roles = parameter_roles(network)
    trained = {name for name, each in network.named_parameters() if each.requires_grad}
    assert {*roles.controller, *roles.workers, *roles.shared} == trained
    assert sum(map(len, roles)) == len(trained)
    assert {name.split(".")[1] for name in roles.shared} == {"norm_weight", "norm_bias", "mixer"}
    assert {each.shape[0] for each in roles.workers.values()} == {CHANNELS}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("case", ["whole", "masked", "nan", "unseen", "constant", "nothing"])
def test_the_mean_loss_is_the_models_own(generator, case, normalize):
    network = tiny_network(normalize_loss=normalize).eval()
    batch = batch_of(generator, 6)
    past, future = batch.values()
    if case == "masked":
        batch["future_observed_mask"] = torch.rand(6, HORIZON, CHANNELS, generator=generator) < 0.6
        batch["future_observed_mask"][0, :, 0] = False
        batch["past_observed_mask"] = torch.rand(6, CONTEXT, CHANNELS, generator=generator) < 0.8
    elif case == "nan":
        future[torch.rand(6, HORIZON, CHANNELS, generator=generator) < 0.4] = torch.nan
        future[1, :, 1] = torch.nan
    elif case == "unseen":
        past[2:4, :, 0] = torch.nan
    elif case == "constant":
        past[:2, :, 1] = 3.0
    elif case == "nothing":
        future[:] = torch.nan
    loss = network(**batch).loss.item()
    assert (loss == 0) is (case == "nothing")
    assert mean_loss(network, batch).item() == pytest.approx(loss, rel=1e-12)


def test_the_mean_loss_is_the_same_of_a_model_that_returns_tuples(generator):
    network, batch = tiny_network().eval(), batch_of(generator, 3)
    loss = mean_loss(network, batch)
    network.config.return_dict = network.model.config.return_dict = False
    assert isinstance(network(**batch), tuple)
    assert torch.equal(mean_loss(network, batch), loss)


def test_losses_are_weighted_window_by_window(generator):
    network = tiny_network().eval()
    batch = batch_of(generator, 3)
    signals = network.signals(batch["past_values"])
    each = network.channel_losses(network(batch["past_values"]), **batch).losses
    weights = torch.rand(3, CHANNELS, generator=generator, dtype=torch.float64)
    found = mean_loss(network, batch, signals=signals | {"loss_weight": weights}, weighted=True)
    assert found.item() == pytest.approx((each * weights).mean().item(), rel=1e-12)


def test_each_channel_is_clipped_by_itself(generator):
    gradients = {"a": torch.randn(2, 3, 4, generator=generator), "b": torch.randn(2, 5, generator=generator)}
    clip = torch.tensor([0.5, 100.0])
    clipped = clip_channels(gradients, clip)
    alone = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(5))]
    for parameter, gradient in zip(alone, gradients.values(), strict=True):
        parameter.grad = gradient[0].clone()
    torch.nn.utils.clip_grad_norm_(alone, 0.5)
    for name, parameter in zip(gradients, alone, strict=True):
        torch.testing.assert_close(clipped[name][0], parameter.grad)
        assert torch.equal(clipped[name][1], gradients[name][1])


def test_soft_clipping_shortens_to_below_the_clip_norm_and_always_feels_it(generator):
    clip = torch.tensor([0.7, 0.7], requires_grad=True)
    direction = torch.nn.functional.normalize(torch.randn(2, 6, generator=generator), dim=1)
    lengths = torch.tensor([[1e-2], [50.0]])
    clipped = clip_softly({"a": direction * lengths}, clip)["a"]
    norms = clipped.norm(dim=1)
    torch.testing.assert_close(norms, 0.7 * lengths[:, 0] / (0.49 + lengths[:, 0] ** 2).sqrt())
    assert (norms < 0.7).all()
    (slope,) = torch.autograd.grad(norms.sum(), clip)
    assert (slope > 0).all()


def test_shared_gradients_are_clipped_together(generator):
    gradients = {name: torch.randn(4, generator=generator) for name in "ab"}
    parameters = [torch.nn.Parameter(torch.zeros(4)) for _ in "ab"]
    for parameter, gradient in zip(parameters, gradients.values(), strict=True):
        parameter.grad = gradient.clone()
    for most in (0.3, 1000.0):
        torch.nn.utils.clip_grad_norm_(parameters, most)
        for found, parameter in zip(clip_together(gradients, most).values(), parameters, strict=True):
            if most == 0.3:
                torch.testing.assert_close(found, parameter.grad)
    assert all(
        torch.equal(a, b) for a, b in itertools.zip_longest(clip_together(gradients, 0).values(), gradients.values())
    )
    assert clip_together({}, 1.0) == {}
