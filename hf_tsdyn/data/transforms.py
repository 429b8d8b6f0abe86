"""Transforms of trajectory windows: random draws apart from the deterministic functions that use them.

Every transform takes and returns (channels, time); what is unseen (NaN) stays unseen unless it says otherwise.
Source: the set of Panda (arXiv:2505.13755); noise, resampling and reversal are ours.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

Params = dict[str, Any]


class WindowShape(NamedTuple):
    """What a draw may depend on: never the values.

    num_inputs: channels that come in, a second series' included; num_outputs: channels that go out;
    length: steps of the window, of which the first `context_length` are the past;
    surplus: steps by which the trajectory is longer than the window."""

    num_inputs: int
    num_outputs: int
    context_length: int
    length: int
    surplus: int


class Transform(ABC):
    """A random transform: `draw` its parameters, then `apply` them to (channels, time)."""

    standardises: ClassVar[bool] = False
    """Whether channels are mixed, so that `apply` wants each of them in units of its context's spread."""
    takes_partner: ClassVar[bool] = False
    """Whether `apply` takes a second series, its channels below those of the first."""
    changes_channels: ClassVar[bool] = False

    def __post_init__(self):
        for name, value in vars(self).items():
            largest = vars(self).get(name.replace("min_", "max_"), value)
            if not 0 < value <= largest:
                raise ValueError(
                    f"{type(self).__name__}.{name} must be positive and at most {largest!r}, found {value!r}; "
                    "change it."
                )

    def draw_num_outputs(self, uniform: float, num_inputs: int) -> int:
        """Turn a number in [0, 1) into the channels that go out."""
        return num_inputs

    @abstractmethod
    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        """Draw the parameters of one window; `before` and `after` in them ask for more steps around it."""

    @abstractmethod
    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        """Return the transformed window; `values` has `before` and `after` more steps where they were asked."""


def context_statistics(values: np.ndarray, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over the seen part of the context, (channels, 1) both.

    A channel with nothing seen has mean 0; one that does not vary has deviation 1."""
    context = values[:, :context_length]
    seen = ~np.isnan(context)
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    loc = np.sum(context, axis=1, keepdims=True, where=seen, dtype=np.float64) / count
    variance = np.sum((context - loc) ** 2, axis=1, keepdims=True, where=seen) / count
    size = np.max(np.abs(context), axis=1, keepdims=True, where=seen, initial=0)
    scale = np.sqrt(variance)
    return loc.astype(np.float32), np.where(scale > 1e-6 * size, scale, 1).astype(np.float32)


@dataclass(frozen=True)
class ChannelRange(Transform):
    """A transform that puts out a random number of channels."""

    changes_channels: ClassVar[bool] = True
    min_channels: int = 3
    max_channels: int = 8

    def draw_num_outputs(self, uniform: float, num_inputs: int) -> int:
        return self.min_channels + int(uniform * (self.max_channels - self.min_channels + 1))


@dataclass(frozen=True)
class Affine(ChannelRange):
    """y = A x + b with entries N(0, 1) / sqrt(channels in); pointwise in time."""

    standardises: ClassVar[bool] = True

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        draws = rng.standard_normal((shape.num_outputs, shape.num_inputs + 1), np.float32)
        draws /= np.float32(np.sqrt(shape.num_inputs))
        return {"matrix": draws[:, :-1], "offset": draws[:, -1]}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        return params["matrix"] @ values + params["offset"][:, None]


@dataclass(frozen=True)
class ConvexCombination(Transform):
    """y = W x, each row of W drawn from a symmetric Dirichlet distribution; pointwise in time."""

    standardises: ClassVar[bool] = True
    concentration: float = 1.0

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        alpha = np.full(shape.num_inputs, self.concentration)
        return {"weights": rng.dirichlet(alpha, size=shape.num_outputs).astype(np.float32)}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        return params["weights"] @ values


@dataclass(frozen=True)
class Takens(ChannelRange):
    """Delay embedding of one coordinate: channel k at t is x(t - k lag); causal."""

    min_lag: int = 1
    max_lag: int = 10

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        longest = min(self.max_lag, shape.surplus // max(shape.num_outputs - 1, 1))
        lag = int(rng.integers(min(self.min_lag, longest), longest + 1))
        before = lag * (shape.num_outputs - 1)
        coordinate = int(rng.integers(shape.num_inputs))
        return {"coordinate": coordinate, "lag": lag, "before": before}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        before, lag = params["before"], params["lag"]
        series, length = values[params["coordinate"]], values.shape[1] - before
        return np.stack([series[first : first + length] for first in range(before, -1, -lag)])


@dataclass(frozen=True)
class ProjectedSkew(Transform):
    """y = G1 x1 + G2 x2 of two series, entries N(0, 1) / sqrt(channels in); pointwise in time."""

    standardises: ClassVar[bool] = True
    takes_partner: ClassVar[bool] = True

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        own = shape.num_outputs
        sizes = np.repeat([own, shape.num_inputs - own], [own, shape.num_inputs - own])
        draws = rng.standard_normal((own, shape.num_inputs), np.float32)
        return {"matrix": draws / np.sqrt(sizes, dtype=np.float32)}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        return params["matrix"] @ values


@dataclass(frozen=True)
class PhaseSurrogate(Transform):
    """Turn the Fourier phases of all channels by the same random angles: amplitude and cross spectra stay.

    It mixes past and future of the window: what comes out is another series, past and future alike, not the old
    future seen early. A window with unseen values is left as it is.
    Source: Prichard and Theiler, Phys. Rev. Lett. 73, 951 (1994)."""

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        angles = rng.uniform(0, 2 * np.pi, shape.length // 2 + 1)
        angles[0] = 0
        if shape.length % 2 == 0:
            angles[-1] = 0
        return {"angles": angles}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        if np.isnan(values).any():
            return values
        spectrum = np.fft.rfft(values) * np.exp(1j * params["angles"])
        return np.fft.irfft(spectrum, n=values.shape[1]).astype(np.float32)


@dataclass(frozen=True)
class FourierSeries(Transform):
    """Replace the window by sums of sines, frequencies log-uniform from one cycle a window up.

    max_frequency: in cycles per step."""

    max_components: int = 10
    max_frequency: float = 0.1

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        size = (shape.num_outputs, int(rng.integers(1, self.max_components + 1)))
        low, high = np.log(1 / shape.length), np.log(max(self.max_frequency, 1 / shape.length))
        return {
            "frequencies": np.exp(rng.uniform(low, high, size)),
            "amplitudes": rng.standard_normal(size) / np.sqrt(size[1]),
            "phases": rng.uniform(0, 2 * np.pi, size),
        }

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        cycles = params["frequencies"][..., None] * np.arange(values.shape[1])
        waves = np.sin((2 * np.pi * cycles + params["phases"][..., None]).astype(np.float32))
        return np.einsum("ck,ckt->ct", params["amplitudes"].astype(np.float32), waves)


@dataclass(frozen=True)
class ChannelSubset(Transform):
    """Keep some of the channels, at least one, in their order."""

    changes_channels: ClassVar[bool] = True

    def draw_num_outputs(self, uniform: float, num_inputs: int) -> int:
        return 1 + int(uniform * max(num_inputs - 1, 1))

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        return {"channels": np.sort(rng.permutation(shape.num_inputs)[: shape.num_outputs])}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        return values[params["channels"]]


@dataclass(frozen=True)
class ObservationNoise(Transform):
    """Add white noise to the past, at most `max_level` of its spread; the future stays clean."""

    max_level: float = 0.1

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        noise = rng.standard_normal((shape.num_inputs, shape.context_length), np.float32)
        return {"noise": noise * np.float32(rng.uniform(0, self.max_level))}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        noise = params["noise"]
        noisy = values.copy()
        noisy[:, : noise.shape[1]] += noise * context_statistics(values, noise.shape[1])[1]
        return noisy


@dataclass(frozen=True)
class Resampling(Transform):
    """Change the sampling interval by a log-uniform factor; the last step of the past keeps its value.

    Cubic interpolation through the four samples up to the next one, so that the past never sees the future (from
    four steps of context on)."""

    min_factor: float = 0.5
    max_factor: float = 2.0

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        longest = max(1.0, 1 + (shape.surplus - 2) / (shape.length - 1))
        factor = np.exp(rng.uniform(*np.log(np.minimum([self.min_factor, self.max_factor], longest))))
        steps = factor * (np.arange(shape.length) - (shape.context_length - 1))
        before = max(0, int(np.ceil(-steps[0])) - (shape.context_length - 1))
        after = max(0, int(np.ceil(steps[-1])) - (shape.length - shape.context_length))
        return {"positions": steps + before + shape.context_length - 1, "before": before, "after": after}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        first = np.clip(np.ceil(params["positions"]).astype(np.int64) - 3, 0, values.shape[1] - 4)
        s = params["positions"] - first
        # Lagrange polynomials on the nodes 0, 1, 2, 3
        weights = (
            -(s - 1) * (s - 2) * (s - 3) / 6,
            s * (s - 2) * (s - 3) / 2,
            -s * (s - 1) * (s - 3) / 2,
            s * (s - 1) * (s - 2) / 6,
        )
        nodes = (values[:, first + k] for k in range(4))
        return np.sum([w.astype(np.float32) * node for w, node in zip(weights, nodes, strict=True)], axis=0)


@dataclass(frozen=True)
class TimeReversal(Transform):
    """Run the window backwards: what was the future becomes the past."""

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        return {}

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        return values[:, ::-1]
