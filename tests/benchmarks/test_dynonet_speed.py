"""CPU seconds of DynoNet and its recurrences on one core, beside torch.nn.GRU and a loop over channels."""

import importlib.util
import statistics
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hf_tsdyn import DynoNetConfig, DynoNetForPrediction
from hf_tsdyn.models.dynonet.recurrence import grouped_gru

pytestmark = pytest.mark.bench

BATCH = 512
RECURRENCES = {  # groups, inputs, units, steps
    "controller": (1, 7, 64, 512),
    "workers": (7, 8, 8, 96),
    "controller on patches": (1, 64, 64, 21),
    "workers on patches": (7, 8, 8, 4),
}
PATCHED = {"controller_patch_length": 24, "worker_patch_length": 24}


@pytest.fixture(autouse=True)
def one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def product_rate():
    """Flops per CPU second of a large matrix product."""
    a = torch.randn(1536, 1536)
    return 2 * 1536**3 / seconds(lambda: a @ a)


def seconds(call, repetitions=5):
    """CPU seconds of one call: the median of several."""
    call()
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def recurrence(groups, inputs, units, steps, *, persistent):
    """Return our run and torch's, from the same inputs and weights; persistent units forget next to nothing."""
    torch.manual_seed(0)
    grus = [nn.GRU(inputs, units, batch_first=True) for _ in range(groups)]
    if persistent:
        for gru in grus:
            nn.init.constant_(gru.bias_hh_l0.detach()[units : 2 * units], 6.0)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [torch.stack([getattr(gru, name).detach() for gru in grus]).requires_grad_() for name in names]
    values = torch.randn(groups, BATCH, steps, inputs, requires_grad=True)
    theirs = [values, *(parameter for gru in grus for parameter in gru.parameters())]
    return (
        (lambda: grouped_gru(values, *weights, last_only=True), [values, *weights]),
        (lambda: torch.stack([gru(x)[0] for gru, x in zip(grus, values, strict=True)])[:, :, -1:], theirs),
    )


def gradient_step(run, parameters):
    """Return a function that takes the gradients of a loss of what `run` returns."""

    def step():
        torch.autograd.grad(run().square().mean(), parameters, allow_unused=True)

    return step


@pytest.mark.parametrize("persistent", [False, True], ids=["fresh weights", "long memory"])
@pytest.mark.parametrize("name", RECURRENCES)
def test_recurrences_beside_torchs(name, persistent, product_rate):
    groups, inputs, units, steps = RECURRENCES[name]
    flops = 2 * BATCH * steps * groups * 3 * units * (inputs + units)
    print(f"\n{name}: {groups} x {inputs} -> {units} units, {steps} steps, {BATCH} series")
    print(f"  products alone: forward {flops / product_rate:.4f} s, gradient step {3 * flops / product_rate:.4f} s")
    ours, theirs = recurrence(groups, inputs, units, steps, persistent=persistent)
    torch.testing.assert_close(ours[0](), theirs[0](), rtol=0, atol=1e-5)
    _print_both(ours, theirs)


def _print_both(ours, theirs):
    """Print CPU seconds of two pairs of a function and its parameters."""
    for what, wrap in (("forward", lambda run, _: torch.no_grad()(run)), ("gradient step", gradient_step)):
        own, other = seconds(wrap(*ours)), seconds(wrap(*theirs))
        print(f"  {what}: {own:.4f} s, theirs {other:.4f} s: {other / own:.1f} times as fast")


@pytest.fixture(scope="module")
def per_channel():
    """The published network, its straightforward twin, windows, and the twin's parameters."""
    file = Path(__file__).with_name("per_channel_dynonet.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model = DynoNetForPrediction(DynoNetConfig()).eval()
    for parameter in model.parameters():  # zeros would hide what does not fit
        nn.init.normal_(parameter.detach()[parameter.detach() == 0], std=0.02)
    values = torch.randn(BATCH, model.config.context_length, model.config.num_channels).cumsum(dim=1)
    return model, module.PerChannelDynoNet(model), values


@pytest.mark.parametrize("options", [{}, PATCHED], ids=["published", "patched"])
def test_model_beside_a_loop_over_channels(options, per_channel, product_rate):
    published, twin, values = per_channel
    expected = twin(values)
    difference = (published(values).prediction_outputs - expected).abs().max() / expected.abs().max()
    assert difference < 1e-5
    model = DynoNetForPrediction(DynoNetConfig(**options)).eval() if options else published
    parameters, theirs = list(model.parameters()), list(twin.parameters())
    print(f"\n{options or 'published'}: {sum(parameter.numel() for parameter in parameters)} parameters, batch {BATCH}")
    with FlopCounterMode(display=False) as counter:
        model(values)
    print(f"  products outside of recurrences: forward {counter.get_total_flops() / product_rate:.4f} s")
    _print_both((lambda: model(values).prediction_outputs, parameters), (lambda: twin(values), theirs))
