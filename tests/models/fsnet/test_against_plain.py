"""Equality with the family written plainly, one module a layer: forecasts, gradients, averages, triggers, memory."""

import importlib.util
from pathlib import Path

import pytest
import torch

from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction, averages, network
from hf_tsdyn.models.fsnet.averages import GradientAverages
from hf_tsdyn.models.fsnet.convolutions import Scales, Stack, run_blocks, run_blocks_plainly
from hf_tsdyn.models.fsnet.presets import ADVANCED_CHANGES, PRESETS, ULTRA_CHANGES, ultra_without
from hf_tsdyn.models.fsnet.reach import parts_of

SMALL = {
    "num_channels": 2,
    "num_time_features": 3,
    "context_length": 2,
    "prediction_length": 3,
    "hidden_size": 4,
    "num_hidden_layers": 2,
    "representation_size": 8,
    "controller_size": 5,
    "trigger_threshold": 0.0,
}
"""Blocks are asked at 2, 1 and 1 steps: the outer taps of most layers reach nothing."""
OTHERS = {
    "memory that learns what was asked": PRESETS["fixed"] | {"memory_write": "query"},
    "norm of each slot": PRESETS["fixed"] | {"slot_normalization": "slot"},
    "ultra, norm of each slot, learns queries": PRESETS["ultra"]
    | {"slot_normalization": "slot", "memory_write": "query"},
    "published, weights of memory by temperature": PRESETS["published"] | ADVANCED_CHANGES["dynamic_retrieval"],
    "identity at the start": PRESETS["published"] | {"identity_start": True},
    "changes from the last value": PRESETS["fixed"] | {"anchor": "last"},
    "other units": PRESETS["nomem"] | {"channel_loc": [3.0, -40.0], "channel_scale": [0.5, 20.0]},
    "other decays": PRESETS["ultra"] | {"slow_decay": 0.7, "fast_decay": 0.2, "second_moment_decay": 0.9},
}
CHANGES = ADVANCED_CHANGES | ULTRA_CHANGES
MEMBERS = PRESETS | {f"ultra without {change}": ultra_without(change) for change in CHANGES}
SINGLE_CHANGES = {f"fixed with {change}": PRESETS["fixed"] | fields for change, fields in CHANGES.items()}
SHAPES = {
    "batch of one": (1, {}),
    "wide kernel": (2, {"kernel_size": 5, "context_length": 6}),
    "kernel of one": (2, {"kernel_size": 1}),
    "one step": (2, {"context_length": 1}),
    "deep": (2, {"num_hidden_layers": 5, "context_length": 12}),
    "two blocks of one shape": (3, {"num_hidden_layers": 1, "context_length": 9, "representation_size": 4}),
    "one block": (3, {"num_hidden_layers": 0, "num_channels": 1, "num_time_features": 0}),
}


@pytest.fixture(scope="module")
def plain():
    """The class of plain networks."""
    file = Path(__file__).parents[2] / "benchmarks" / "per_layer_fsnet.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PerLayerFSNet


def build(fields):
    """A float64 model in eval mode away from its start, where many maps are zero."""
    torch.manual_seed(0)
    model = FSNetForPrediction(FSNetConfig(**SMALL | fields)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


class Pair:
    """A model and its plain twin, which learn the same windows step by step."""

    def __init__(self, model, plain, *, batch=2, online=True):
        self.model, self.plain, self.batch, self.online = model, plain(model), batch, online
        self.optimizers = [
            torch.optim.AdamW(each.parameters(), lr=3e-3, fused=True) for each in (self.model, self.plain)
        ]
        self.parameters = dict(model.named_parameters())
        self.buffers = dict(model.named_buffers())
        self.generator = torch.Generator().manual_seed(1)
        self.num_triggers = 0

    def draw(self, step):
        """Windows, their time features, and targets that turn around, so that gradients do."""
        config = self.model.config
        shape = self.batch, config.context_length + config.prediction_length
        values = torch.randn(*shape, config.num_channels, generator=self.generator, dtype=torch.float64)
        features = torch.randn(*shape, config.num_time_features, generator=self.generator, dtype=torch.float64)
        past, future = values.split([config.context_length, config.prediction_length], dim=1)
        features = features[:, : config.context_length] if config.num_time_features else None
        units = self.model.scale, self.model.loc
        return past * units[0] + units[1], features, (future + 4 * (-1) ** (step // 3)) * units[0] + units[1]

    def learn(self, step):
        """Let both learn one batch and hold everything against each other."""
        past, features, future = self.draw(step)
        found = self.model(past, past_time_features=features, future_values=future)
        expected = self.plain(past, features, learning=True)
        assert_same(found.prediction_outputs, expected, "forecasts")
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        found.loss.backward()
        ((expected - future) / self.model.scale).square().mean().backward()
        for each in (self.model, self.plain):  # an optimiser passes over what has none, and layers here share theirs
            for parameter in each.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradients = self.plain.as_ours(lambda parameter: parameter.grad)
        assert gradients.keys() == self.parameters.keys()
        for name, gradient in gradients.items():
            assert_same(self.parameters[name].grad, gradient, f"gradient of {name}")
        for optimizer in self.optimizers:
            optimizer.step()
        for each in (self.model, self.plain):
            each.after_optimizer_step(online=self.online)
        self.compare_states()

    def compare_states(self):
        for name, value in self.plain.state_as_ours().items():
            assert_same(self.buffers[name], value, name)
            self.num_triggers += int(value.sum()) if name.endswith("trigger") else 0


def assert_same(found, expected, what):
    assert found.shape == expected.shape, what
    found, expected = found.detach().double(), expected.detach().double()
    difference = (found - expected).abs().max().item()
    assert difference <= 1e-8 * max(1.0, expected.abs().max().item()), f"{what} differ by {difference:.1e}"


def learn_online(pair, num_steps):
    with pair.model.learning():
        for step in range(num_steps):
            pair.learn(step)


@pytest.mark.parametrize("name", MEMBERS)
def test_thirty_online_steps_are_those_of_separate_layers(plain, name):
    pair = Pair(build(MEMBERS[name]), plain)
    learn_online(pair, 30)
    assert (pair.num_triggers > 0) == (MEMBERS[name]["memory"] != "none")


@pytest.mark.parametrize("name", SINGLE_CHANGES | OTHERS)
def test_each_field_does_the_same_to_separate_layers(plain, name):
    fields = (SINGLE_CHANGES | OTHERS)[name]
    pair = Pair(build(fields), plain)
    learn_online(pair, 10)
    assert (pair.num_triggers > 0) == (fields["memory"] != "none")


@pytest.mark.parametrize("preset", ["tcn", "published", "ultra"])
@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_the_shape_nothing_that_counts_is_left_out(plain, shape, preset):
    batch, fields = SHAPES[shape]
    pair = Pair(build(PRESETS[preset] | {"num_memory_heads": 1} | fields), plain, batch=batch)
    learn_online(pair, 6)


@pytest.mark.parametrize("in_training", [False, True])
def test_offline_steps_ask_the_memory_where_that_is_wanted_alone(plain, in_training):
    fields = {"memory_in_training": in_training, "controller_dropout": 0.0, "head_dropout": 0.0}
    pair = Pair(build(PRESETS["ultra"] | fields), plain, online=False)
    pair.model.train()
    for step in range(15):
        pair.learn(step)
    assert (pair.num_triggers > 0) == in_training
    started = pair.model.config.trigger_threshold
    assert all((each.threshold != started).all() == in_training for each in pair.model.averages)


def test_a_forecast_reads_what_triggered_layers_would_and_changes_neither(plain):
    pair = Pair(build(PRESETS["ultra"]), plain)
    learn_online(pair, 12)
    model = pair.model
    for each, layer in zip(model.averages[0].trigger, pair.plain.layers, strict=False):
        each.fill_(True)
        layer.calibration.trigger = True
    past, features, _ = pair.draw(0)
    before = {name: value.clone() for name, value in model.named_buffers()}
    found = model.forecast(past, prediction_length=3, past_time_features=features)
    assert_same(found, pair.plain(past, features, learning=False).detach(), "forecast")
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name])
    pair.compare_states()


@pytest.mark.parametrize("preset", ["published", "ultra"])
def test_plain_operations_learn_what_compiled_ones_do(plain, preset, monkeypatch):
    for module in (network, averages):
        monkeypatch.setattr(module, "is_compiled_for", lambda values: False)
    learn_online(Pair(build(PRESETS[preset]), plain), 10)


@pytest.mark.parametrize("preset", ["published", "ultra"])
def test_where_triggers_cannot_be_looked_at_all_layers_learn_the_same(plain, preset, monkeypatch):
    pair = Pair(build(PRESETS[preset]), plain)
    forward = pair.model.model.network.forward

    def traced(*arguments, **options):
        with monkeypatch.context() as context:
            context.setattr(torch.compiler, "is_compiling", lambda: True)
            return forward(*arguments, **options)

    monkeypatch.setattr(pair.model.model.network, "forward", traced)
    learn_online(pair, 10)
    assert pair.num_triggers > 0


def stacks_of(generator, dtype, *, blocks, context_length, kernel_size):
    """Values and stacked layers of random numbers: calibrated ones by input, by output, and a plain stack."""

    def draw(*shape):
        return (0.5 * torch.randn(*shape, generator=generator, dtype=dtype)).requires_grad_()

    stacks = []
    for numbers, inputs, outputs, kind in (
        (list(range(blocks)) * 2, 3, 3, 0),
        ([blocks], 3, 6, 1),
        ([blocks], 6, 6, 2),
    ):
        count, parts = len(numbers), parts_of(sorted(numbers), context_length=context_length, kernel_size=kernel_size)
        taps = tuple(2 * part.reach + 1 for part in parts for _ in range(part.num_layers))
        by = (count, 1, inputs, kernel_size) if kind == 0 else (count, outputs, 1, kernel_size)
        scales = None if kind == 2 else Scales(draw(*by), draw(count, outputs), draw(count, outputs))
        stacks.append(Stack(draw(count, outputs, inputs, kernel_size), draw(count, outputs), taps, scales))
    return draw(3, context_length, 3), stacks


def leaves_of(values, stacks):
    scales = [scale for stack in stacks for scale in stack.scales or ()]
    return [values, *(leaf for stack in stacks for leaf in (stack.weight, stack.bias)), *scales]


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("context_length", [1, 2, 5, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_compiled_blocks_and_their_gradients_are_the_plain_ones(generator, dtype, context_length, kernel_size):
    values, stacks = stacks_of(generator, dtype, blocks=3, context_length=context_length, kernel_size=kernel_size)
    results = []
    for run in (run_blocks, run_blocks_plainly):
        end, start, _ = run(values, stacks)
        loss = (end.sin() * torch.arange(1, 7)).sum() + (start.cos() * torch.arange(1, 4)).sum()
        results.append([end, start, *torch.autograd.grad(loss, leaves_of(values, stacks))])
    for found, expected in zip(*results, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=scale * (1e-5 if dtype == torch.float32 else 1e-12))


def test_compiled_blocks_have_the_derivatives_of_finite_differences(generator):
    values, stacks = stacks_of(generator, torch.float64, blocks=2, context_length=3, kernel_size=3)
    template = [stack._replace(scales=stack.scales and Scales(*stack.scales)) for stack in stacks]

    def run(values, *leaves):
        parts, scales = list(leaves[: 2 * len(template)]), list(leaves[2 * len(template) :])
        built = []
        for stack in template:
            own = None if stack.scales is None else Scales(scales.pop(0), scales.pop(0), scales.pop(0))
            built.append(Stack(parts.pop(0), parts.pop(0), stack.taps, own))
        return run_blocks(values, built)[:2]

    assert torch.autograd.gradcheck(run, leaves_of(values, stacks), fast_mode=True)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_compiled_averages_are_the_plain_ones(generator, dtype, second, monkeypatch):
    config = FSNetConfig(**SMALL | {"kernel_size": 5, "track_second_moment": second, "trigger_threshold": 0.1})
    parts = parts_of([0, 0, 1, 1, 2, 2], context_length=4, kernel_size=5)
    assert [part.reach for part in parts] == [2, 1, 0]
    both = []
    for _ in range(2):
        own = GradientAverages(config, num_layers=6, inputs=4, outputs=8, parts=parts).to(dtype)
        for buffer in own.buffers():
            buffer.zero_()
        both.append(own)
    for step in range(20):
        gradient = torch.randn(6, 8, 4, 5, generator=generator, dtype=dtype) + 2 * (-1) ** (step // 4)
        gradient[:, step % 8] = 0  # a fibre of zeros stays one
        both[0].update(gradient, online=True)
        with monkeypatch.context() as context:
            context.setattr(averages, "is_compiled_for", lambda values: False)
            both[1].update(gradient, online=True)
        for (name, found), expected in zip(both[0].named_buffers(), both[1].buffers(), strict=True):
            torch.testing.assert_close(found, expected, msg=lambda message, name=name: f"{name}: {message}")
    assert both[0].trigger.any()
    assert not both[0].slow[4:, :, [0, 1, 3, 4]].any()
