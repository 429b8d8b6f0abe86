"""Series and forecasters whose studies are known."""

import asyncio
import math

import numpy as np
import pytest
import torch

from hf_tsdyn import ALRNNConfig, ALRNNForPrediction
from hf_tsdyn.demo.systems import Trajectory, shipped_trajectory


class Oracle:
    """Knows what follows each context of one series, but for an error that grows by a factor a step."""

    def __init__(self, values, *, error=0.0, growth=1.0):
        self.values, self.error, self.growth = torch.tensor(values), error, growth
        self.origins = []

    def forecast(self, past_values, *, prediction_length, past_observed_mask=None):
        futures = [self._following(past, prediction_length) for past in past_values]
        return torch.stack(futures) + self.error * self.growth ** torch.arange(prediction_length)[:, None]

    def _following(self, past, steps):
        windows = self.values.unfold(0, len(past), 1).movedim(-1, 1)
        origin = len(past) + int((windows == past).flatten(1).all(dim=1).int().argmax())
        self.origins.append(origin)
        future = self.values[origin : origin + steps]
        return torch.cat([future, future[-1:].expand(steps - len(future), -1)])


@pytest.fixture(scope="session")
def oracle():
    """The class of a forecaster that knows a series."""
    return Oracle


@pytest.fixture(scope="session")
def lorenz():
    """Lorenz-63, shorter than the page's."""
    return shipped_trajectory("Lorenz-63", num_steps=3500)


@pytest.fixture
def waves():
    """Two channels of an upload, without a known Lyapunov time."""
    return Trajectory("mine.csv", np.sin(np.arange(700)[:, None] * [0.1, 0.17]).astype(np.float32))


@pytest.fixture
def turning():
    """An AL-RNN that turns two channels around the origin for ever, and rectifies a copy of each."""
    model = ALRNNForPrediction(ALRNNConfig(num_channels=2, hidden_size=4, num_relu_units=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        turn = torch.tensor([[math.cos(0.2), -math.sin(0.2)], [math.sin(0.2), math.cos(0.2)]])
        model.model.W[:2, :2] = model.model.W[2:, :2] = turn
        model.model.L.copy_(torch.eye(2))
    return model


@pytest.fixture(scope="session")
def in_loop():
    """A function that calls another with a loop of events running: without one gradio leaves several open."""

    async def call(function):
        return function()

    return lambda function: asyncio.run(call(function))
