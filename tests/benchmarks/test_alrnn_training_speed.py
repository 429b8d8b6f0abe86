"""CPU milliseconds of a gradient step of AL-RNN on one core, all included, beside a plain loop and the floor."""

import time

import numpy as np
import pytest
import torch

from hf_tsdyn import ALRNNConfig
from hf_tsdyn.models.alrnn import recurrence
from hf_tsdyn.models.alrnn.ensemble import Ensemble
from hf_tsdyn.models.alrnn.fitting import FitOptions
from hf_tsdyn.models.alrnn.forcing import draw_parameters, lift, prediction_loss

pytestmark = pytest.mark.bench

CONFIG = ALRNNConfig()  # Lorenz-63 as published: M = 20, P = 2, N = 3, T = 200, tau = 16
BATCH, MEMBERS, BATCHES_PER_EPOCH, EPOCHS = 16, 16, 50, 2000
MFLOP = 8.06
"""Of one gradient step of one model."""


@pytest.fixture(autouse=True)
def one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cpu_milliseconds(call, repetitions):
    call()
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return 1e3 * best


def ensemble_step():
    """One gradient step of 16 models with all that belongs to it: windows, noise, loss, optimizer."""
    series = np.random.default_rng(0).normal(size=(20_000, 3)).cumsum(axis=0)
    ensemble = Ensemble(CONFIG, FitOptions(batch_size=BATCH), series, series, range(MEMBERS))

    def epoch():
        ensemble.train_until(ensemble.epoch + 1)

    return cpu_milliseconds(epoch, 5) / BATCHES_PER_EPOCH / MEMBERS


def plain_step():
    """The same step of one model in plain torch, with its automatic derivatives."""
    parameters = [each.requires_grad_() for each in draw_parameters(CONFIG, torch.Generator().manual_seed(0))]
    A, W, h, L = parameters
    optimizer = torch.optim.RAdam(parameters)
    windows = torch.randn(1, BATCH, CONFIG.prediction_length + 1, 3, generator=torch.Generator().manual_seed(1))
    weight = (torch.arange(CONFIG.prediction_length) % CONFIG.forcing_interval == 0).float()[:, None]

    def step():
        noisy = windows + CONFIG.noise_std * torch.randn_like(windows)
        run = recurrence.forced_run_loop(
            A, W, h, lift(L, noisy[:, :, 0]), noisy[:, :, :-1], weight, num_relu_units=CONFIG.num_relu_units
        )
        optimizer.zero_grad()
        prediction_loss(run.observed, noisy[:, :, 1:]).sum().backward()
        optimizer.step()

    return cpu_milliseconds(step, 5)


def matrix_product_rate():
    """GFLOP/s of a large product in single precision."""
    a, b = (torch.randn(1500, 1500, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    return 2 * 1500**3 / 1e6 / cpu_milliseconds(lambda: a @ b, 5)


def test_a_gradient_step_of_an_ensemble():
    ours, plain, rate = ensemble_step(), plain_step(), matrix_product_rate()
    floor = MFLOP / rate
    hours = ours * BATCHES_PER_EPOCH * EPOCHS * MEMBERS / 1e3 / 60
    print(f"\nAL-RNN, Lorenz-63 recipe, one gradient step of one model, CPU ms on one core ({MEMBERS} models at once):")
    print(
        f"  all of training: {ours:.3f} ({MFLOP / ours:.1f} GFLOP/s); {EPOCHS} epochs of {MEMBERS}: {hours:.1f} CPU min"
    )
    print(f"  plain torch loop, one model: {plain:.1f}, {plain / ours:.0f} times as much")
    print(
        f"  matrix products at this core's rate, {rate:.0f} GFLOP/s: {floor:.3f}; ours: {ours / floor:.1f} times that"
    )


def test_a_long_free_run():
    parameters = draw_parameters(CONFIG, torch.Generator().manual_seed(0))
    initial = lift(parameters.L, torch.ones(1, 1, 3))
    A, W, h, _ = parameters
    run = cpu_milliseconds(
        lambda: recurrence.free_run(A, W, h, initial, 100_000, num_relu_units=CONFIG.num_relu_units), 3
    )
    print(f"\nAL-RNN, free run of 100 000 steps: {run:.0f} CPU ms")
