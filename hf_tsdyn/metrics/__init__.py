"""How far a forecast is from the truth, how sure it was, and how sure a median over systems is."""

from .bootstrap import Interval, bootstrap_median, bootstrap_paired_difference
from .pointwise import mae, mase, mse, normalised_mae, normalised_mse, smape
from .predictability import ValidPrediction, lyapunov_unit, valid_prediction
from .probabilistic import (
    central_intervals,
    interval_coverage,
    interval_width,
    normalised_crps,
    sample_crps,
    share_below,
    weighted_quantile_loss,
)

__all__ = [
    "Interval",
    "ValidPrediction",
    "bootstrap_median",
    "bootstrap_paired_difference",
    "central_intervals",
    "interval_coverage",
    "interval_width",
    "lyapunov_unit",
    "mae",
    "mase",
    "mse",
    "normalised_crps",
    "normalised_mae",
    "normalised_mse",
    "sample_crps",
    "share_below",
    "smape",
    "valid_prediction",
    "weighted_quantile_loss",
]
