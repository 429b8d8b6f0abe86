"""Learners that meet a series step by step, and how they are scored; importing this makes all of them loadable."""

from .copy_last_revealed import CopyLastRevealed
from .drift import DriftMonitor
from .feature_adaptation import FeatureAdaptation, FeatureAdaptationOptions
from .gradient import FrozenLearner, GradientLearner, GradientOptions
from .learner import OnlineLearner
from .learning_rate import choose_learning_rate
from .mixture import MixtureLearner
from .prequential import PrequentialRun, run_prequential
from .recursive_correction import RecursiveCorrection
from .recursive_least_squares import RecursiveLeastSquares
from .saving import load_learner
from .stream import Stream

__all__ = [
    "CopyLastRevealed",
    "DriftMonitor",
    "FeatureAdaptation",
    "FeatureAdaptationOptions",
    "FrozenLearner",
    "GradientLearner",
    "GradientOptions",
    "MixtureLearner",
    "OnlineLearner",
    "PrequentialRun",
    "RecursiveCorrection",
    "RecursiveLeastSquares",
    "Stream",
    "choose_learning_rate",
    "load_learner",
    "run_prequential",
]
