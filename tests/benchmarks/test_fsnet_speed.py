"""CPU milliseconds of one online step of the FSNet family at full size on one core, beside separate plain layers."""

import importlib.util
import statistics
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from hf_tsdyn.models.fsnet import FSNetConfig, FSNetForPrediction
from hf_tsdyn.models.fsnet.reach import steps_left

pytestmark = pytest.mark.bench

FULL_SIZE = {"num_channels": 1, "num_time_features": 7, "context_length": 48, "prediction_length": 12}
PRESETS = ("tcn", "nomem", "published", "advanced", "ultra")
WARM_UP, STEPS = 10, 100


@pytest.fixture(autouse=True)
def one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain():
    """The class of plain networks."""
    file = Path(__file__).with_name("per_layer_fsnet.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PerLayerFSNet


def build(preset):
    torch.manual_seed(0)
    return FSNetForPrediction(FSNetConfig.from_preset(preset, **FULL_SIZE)).eval()


def windows(count):
    """Windows of one series with time features, and their targets: (1, 48, 1), (1, 48, 7), (1, 12, 1) each."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count + 60, 1, generator=generator).cumsum(dim=0)
    values = (values - values.mean()) / values.std()
    features = torch.rand(count + 60, 7, generator=generator) - 0.5
    for start in range(count):
        context = slice(start, start + 48)
        yield values[None, context], features[None, context], values[None, start + 48 : start + 60]


def learner(model, optimizer, forward):
    """Return a function that learns one window and returns what was forecast before."""

    def step(past, features, future):
        forecast, loss = forward(past, features, future)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_optimizer_step(online=True)
        return forecast.detach()

    return step


def our_learner(model):
    def forward(past, features, future):
        with model.learning():
            found = model(past, past_time_features=features, future_values=future)
        return found.prediction_outputs, found.loss

    return learner(model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True), forward)


def plain_learner(network):
    def forward(past, features, future):
        found = network(past, features, learning=True)
        return found, (found - future).square().mean()

    return learner(network, torch.optim.AdamW(network.parameters(), lr=1e-4), forward)


def clocked(times, call, *arguments):
    """Return what a call returns, its CPU milliseconds appended to `times`."""
    start = time.process_time()
    found = call(*arguments)
    times.append(1e3 * (time.process_time() - start))
    return found


def report(name, times, beside=None):
    """Print quantiles of what came after the warm-up, and how many times as long another took."""
    times = times[WARM_UP:]
    low, _, high = statistics.quantiles(times, n=4)
    line = f"  {name}: {statistics.median(times):.2f} ms ({low:.2f} - {high:.2f}), at best {min(times):.2f}"
    if beside is not None:
        line += f": {statistics.median(beside[WARM_UP:]) / statistics.median(times):.1f} times as fast"
    print(line)


def optimizer_alone(model):
    """Return a function that takes fused AdamW steps on every parameter."""
    parameters = [torch.zeros_like(each).requires_grad_() for each in model.parameters()]
    for each in parameters:
        each.grad = torch.full_like(each, 1e-3)
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True).step


def products_alone(model):
    """Return a function that takes the matrix products of one step: convolutions, controllers, and their gradients."""
    pairs = []
    for bank in model.banks:
        _, outputs, inputs, _ = bank.weight.shape
        for layer, taps in enumerate(bank.taps):
            block = layer // 2 if bank is model.banks[0] else model.config.num_hidden_layers
            steps, width = steps_left(model.config.context_length, block), inputs * taps
            pairs += [((steps, width), (width, outputs)), ((outputs, steps), (steps, width))]
            pairs += [((steps, outputs), (outputs, width))]
        if bank.calibration is None:
            continue
        weight, chunks = bank.calibration.controller.weight, bank.calibration.num_chunks
        kinds = 2 if model.config.track_second_moment else 1
        for taps in bank.taps:
            read = weight.shape[2] * weight.shape[4] * taps * kinds
            size = weight.shape[1]
            pairs += [((chunks, read), (read, size)), ((size, chunks), (chunks, read))]
    operands = [(torch.randn(*left), torch.randn(*right)) for left, right in pairs]

    def multiply():
        for left, right in operands:
            torch.mm(left, right)

    return multiply


@pytest.mark.parametrize("preset", PRESETS)
def test_an_online_step_beside_separate_layers(preset, plain):
    model = build(preset)
    network = plain(model)
    steps, times = (our_learner(model), plain_learner(network)), ([], [])
    floors = {"fused AdamW alone": optimizer_alone(model), "matrix products alone": products_alone(model)}
    floor_times = {name: [] for name in floors}
    forecasts = ([], [])
    for window in windows(WARM_UP + STEPS):
        found, expected = (clocked(taken, step, *window) for taken, step in zip(times, steps, strict=True))
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
        for name, call in floors.items():
            clocked(floor_times[name], call)
        past, features, _ = window
        with torch.no_grad():
            forecast = partial(model.forecast, prediction_length=12, past_time_features=features)
            own = clocked(forecasts[0], forecast, past)
            other = clocked(forecasts[1], network, past, features)
        assert (own - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1)
    print(f"\n{preset}: {model.num_parameters()} parameters, CPU ms: median (quartiles), {STEPS} steps of one window")
    report("online step", times[0], beside=times[1])
    report("separate layers", times[1])
    for name, taken in floor_times.items():
        report(name, taken)
    report("forecast", forecasts[0], beside=forecasts[1])
    report("forecast of separate layers", forecasts[1])
