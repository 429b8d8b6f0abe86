"""How far a forecast is from the truth, and how sure a median over systems is."""

from .bootstrap import Interval, bootstrap_median, bootstrap_paired_difference
from .pointwise import mae, mase, mse, normalised_mae, normalised_mse, smape
from .predictability import ValidPrediction, lyapunov_unit, valid_prediction

__all__ = [
    "Interval",
    "ValidPrediction",
    "bootstrap_median",
    "bootstrap_paired_difference",
    "lyapunov_unit",
    "mae",
    "mase",
    "mse",
    "normalised_mae",
    "normalised_mse",
    "smape",
    "valid_prediction",
]
