"""How far a forecast is from the truth, how sure it was, how sure a median over systems is; invariants of dynamics."""

from .bootstrap import Interval, bootstrap_median, bootstrap_paired_difference
from .correlation_dimension import CorrelationDimension, correlation_dimension
from .invariants import (
    Floor,
    InvariantOptions,
    binned_divergence,
    mixture_divergence,
    prediction_error,
    spectrum_distance,
    state_space_divergence,
    truth_floor,
)
from .largest_lyapunov import LargestLyapunov, largest_lyapunov
from .lyapunov_spectrum import LyapunovSpectrum, kaplan_yorke_dimension, lyapunov_spectrum
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
    "CorrelationDimension",
    "Floor",
    "Interval",
    "InvariantOptions",
    "LargestLyapunov",
    "LyapunovSpectrum",
    "ValidPrediction",
    "binned_divergence",
    "bootstrap_median",
    "bootstrap_paired_difference",
    "central_intervals",
    "correlation_dimension",
    "interval_coverage",
    "interval_width",
    "kaplan_yorke_dimension",
    "largest_lyapunov",
    "lyapunov_spectrum",
    "lyapunov_unit",
    "mae",
    "mase",
    "mixture_divergence",
    "mse",
    "normalised_crps",
    "normalised_mae",
    "normalised_mse",
    "prediction_error",
    "sample_crps",
    "share_below",
    "smape",
    "spectrum_distance",
    "state_space_divergence",
    "truth_floor",
    "valid_prediction",
    "weighted_quantile_loss",
]
