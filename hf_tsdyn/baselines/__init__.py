"""Forecasters and completers without trained weights, to hold every model against."""

from .interpolation import CubicSpline, GaussianProcess, HermiteInterpolation, LinearInterpolation, MeanFill
from .lag_design import LagDesign
from .naive import ContextMean, ContextParroting, Persistence, SeasonalNaive
from .ridge import Ridge

BASELINES = {"persistence": Persistence, "mean": ContextMean, "parroting": ContextParroting}
"""The forecasting baselines by the names under which results report them; each is built without arguments."""

COMPLETION_BASELINES = {
    "linear": LinearInterpolation,
    "spline": CubicSpline,
    "hermite": HermiteInterpolation,
    "gaussian_process": GaussianProcess,
    "mean": MeanFill,
}
"""The completing baselines, in the same way."""

__all__ = [
    "BASELINES",
    "COMPLETION_BASELINES",
    "ContextMean",
    "ContextParroting",
    "CubicSpline",
    "GaussianProcess",
    "HermiteInterpolation",
    "LagDesign",
    "LinearInterpolation",
    "MeanFill",
    "Persistence",
    "Ridge",
    "SeasonalNaive",
]
