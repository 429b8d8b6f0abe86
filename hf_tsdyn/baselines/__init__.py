"""Forecasters without trained weights, to hold every model against."""

from .naive import ContextMean, ContextParroting, Persistence

BASELINES = {"persistence": Persistence, "mean": ContextMean, "parroting": ContextParroting}
"""The baselines by the names under which results report them; each is built without arguments."""

__all__ = ["BASELINES", "ContextMean", "ContextParroting", "Persistence"]
