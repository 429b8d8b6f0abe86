"""CPU time of the AL-RNN recurrence on one core, beside the plain loop and the core's rates for matrix products."""

import time

import pytest
import torch

from hf_tsdyn.models.alrnn.recurrence import forced_run, forced_run_loop, free_run

pytestmark = pytest.mark.bench

UNITS, RECTIFIED, CHANNELS, STEPS, SERIES, INTERVAL = 20, 2, 3, 200, 16, 16
"""Lorenz-63 at its published settings."""


@pytest.fixture(autouse=True)
def one_core():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seconds(call, repetitions=9, number=1):
    """CPU seconds of one call: the best of several means over `number` calls."""
    call()
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        for _ in range(number):
            call()
        times.append((time.process_time() - start) / number)
    return min(times)


def problem(models, units=UNITS, channels=CHANNELS, steps=STEPS, series=SERIES):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    A, h = 0.9 * torch.rand(models, units, generator=generator), 0.1 * draw(models, units)
    W, initial = 0.3 * draw(models, units, units) / units**0.5, draw(models, series, units)
    weight = ((torch.arange(steps) % INTERVAL == 0) & (torch.arange(steps) > 0)).float()[:, None]
    parameters = [x.requires_grad_() for x in (A, W, h, initial)]
    return parameters, draw(models, series, steps, channels), weight, draw(models, series, steps, channels)


def gradient_step(run, models, rectified=RECTIFIED, **sizes):
    parameters, forcing, weight, targets = problem(models, **sizes)

    def step():
        observed = run(*parameters, forcing, weight, num_relu_units=rectified).observed
        torch.autograd.grad(torch.nn.functional.mse_loss(observed, targets), parameters)

    return step


def large_product_rate():
    a = torch.randn(1536, 1536)
    return 2 * 1536**3 / seconds(lambda: a @ a)


def small_product_rate():
    a, b = torch.randn(16, UNITS, UNITS), torch.randn(16, UNITS, SERIES)
    return 16 * 2 * UNITS**2 * SERIES / seconds(lambda: torch.bmm(a, b), number=1000)


def test_gradient_steps_beside_the_loop_and_matrix_products():
    loop = seconds(gradient_step(forced_run_loop, 1), repetitions=3)
    print(f"\nloop, one model: {1e3 * loop:.1f} ms a gradient step")
    flops = 3 * 2 * UNITS**2 * SERIES * STEPS
    for models in (1, 16, 64):
        taken = seconds(gradient_step(forced_run, models), number=max(1, 64 // models)) / models
        print(
            f"kernel, {models} models: {1e3 * taken:.3f} ms per model and gradient step, {flops / taken / 1e9:.0f} "
            f"GFLOP/s, {loop / taken:.0f} times as fast as the loop"
        )
    print(f"matrix products: {large_product_rate() / 1e9:.0f} GFLOP/s at 1536 x 1536")
    print(f"                 {small_product_rate() / 1e9:.0f} GFLOP/s at 16 of {UNITS} x {UNITS} by {UNITS} x {SERIES}")


@pytest.mark.parametrize(
    ("units", "rectified", "channels", "steps"), [(100, 50, 10, 50), (133, 60, 64, 100), (50, 2, 20, 72)], ids=str
)
def test_gradient_steps_of_larger_models(units, rectified, channels, steps):
    step = gradient_step(forced_run, 4, rectified, units=units, channels=channels, steps=steps)
    taken = seconds(step) / 4
    rate = 3 * 2 * units**2 * SERIES * steps / taken
    print(f"\n{units} units, {steps} steps: {1e3 * taken:.2f} ms per model and gradient step, {rate / 1e9:.0f} GFLOP/s")


def test_free_runs():
    for series in (1, 16):
        parameters, *_ = problem(1, series=series)
        taken = seconds(lambda p=parameters: free_run(*p, 100_000, num_relu_units=RECTIFIED, num_units=CHANNELS), 5)
        print(f"\n{series} series, 100,000 steps of a free run: {taken:.4f} s")
