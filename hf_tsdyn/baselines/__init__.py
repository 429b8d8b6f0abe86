"""Forecasters and completers without trained weights, to hold every model against."""

from .affine_parroting import AffineParroting
from .dlinear import DLinear
from .echo_state import EchoState
from .fourier import Fourier
from .interpolation import CubicSpline, GaussianProcess, HermiteInterpolation, LinearInterpolation, MeanFill
from .lag_design import LagDesign
from .naive import ContextMean, ContextParroting, Persistence, SeasonalNaive
from .nvar import NVAR
from .ridge import Ridge

BASELINES = {
    "persistence": Persistence,
    "mean": ContextMean,
    "seasonal": SeasonalNaive,
    "fourier": Fourier,
    "parroting": ContextParroting,
    "affine_parroting": AffineParroting,
    "nvar": NVAR,
    "echo_state": EchoState,
    "dlinear": DLinear,
}
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
    "NVAR",
    "AffineParroting",
    "ContextMean",
    "ContextParroting",
    "CubicSpline",
    "DLinear",
    "EchoState",
    "Fourier",
    "GaussianProcess",
    "HermiteInterpolation",
    "LagDesign",
    "LinearInterpolation",
    "MeanFill",
    "Persistence",
    "Ridge",
    "SeasonalNaive",
]
