"""Transforms that hide a part of the past, as sensors do that fail, skip or stay silent.

What is hidden is drawn without a look at the values; the future stays as it is.
"""

from dataclasses import dataclass

import numpy as np

from hf_tsdyn.data.transforms import Params, Transform, WindowShape


@dataclass(frozen=True)
class MissingPart(Transform):
    """A transform that hides what its draw names in `hidden`, (channels, context_length).

    A window of whose past nothing would be left to see stays as it is."""

    max_share: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.max_share > 1:
            raise ValueError(
                f"{type(self).__name__}.max_share must be at most 1, found {self.max_share!r}; it is a share of the "
                "past."
            )

    def apply(self, values: np.ndarray, params: Params) -> np.ndarray:
        hidden = params["hidden"]
        masked = values.copy()
        past = masked[:, : hidden.shape[1]]
        past[hidden] = np.nan
        return values if np.isnan(past).all() else masked


@dataclass(frozen=True)
class MissingSpans(MissingPart):
    """Hide spans of the past, each in one channel or in all, together at most `max_share` of it."""

    max_spans: int = 4
    max_share: float = 0.25

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        num_spans = int(rng.integers(1, self.max_spans + 1))
        longest = int(self.max_share * shape.context_length / num_spans)
        hidden = np.zeros((shape.num_inputs, shape.context_length), bool)
        for _ in range(num_spans):
            first = rng.integers(shape.context_length)
            channels = slice(None) if rng.random() < 0.5 else rng.integers(shape.num_inputs)
            hidden[channels, first : first + rng.integers(longest + 1)] = True
        return {"hidden": hidden}


@dataclass(frozen=True)
class MissingPoints(MissingPart):
    """Hide single steps of all channels, or single values, or all but every k-th step; a third of the windows each.

    Steps and values are hidden independently of each other, with a probability drawn up to `max_share`; k is drawn
    from 2 to `max_stride`, whatever `max_share`."""

    max_stride: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.max_stride < 2:
            raise ValueError(
                f"MissingPoints.max_stride must be at least 2, found {self.max_stride!r}; every k-th step is kept."
            )

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        pattern = ("steps", "values", "stride")[rng.integers(3)]
        if pattern == "stride":
            stride = rng.integers(2, self.max_stride + 1)
            hidden = (np.arange(shape.context_length) + rng.integers(stride)) % stride != 0
        else:
            share = rng.uniform(0, self.max_share)
            hidden = rng.random((shape.num_inputs if pattern == "values" else 1, shape.context_length)) < share
        return {"hidden": np.broadcast_to(hidden, (shape.num_inputs, shape.context_length))}


@dataclass(frozen=True)
class MissingChannels(MissingPart):
    """Hide the whole past of some channels, at most `max_share` of them and never all.

    A channel of which nothing is seen has no units, so that the windows ask nobody for its future either."""

    def draw(self, rng: np.random.Generator, shape: WindowShape) -> Params:
        most = min(int(self.max_share * shape.num_inputs), shape.num_inputs - 1)
        num_hidden = rng.integers(min(1, most), most + 1)
        hidden = rng.permutation(shape.num_inputs) < num_hidden
        return {"hidden": np.broadcast_to(hidden[:, None], (shape.num_inputs, shape.context_length))}
