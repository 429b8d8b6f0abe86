"""Forecasters by the names that commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from ..baselines import BASELINES
from ..forecasting import Forecaster
from ..pipeline import ForecastPipeline


def load_forecasters(names: Sequence[str]) -> dict[str, Forecaster]:
    """Load baselines by their names in `hf_tsdyn.baselines.BASELINES`, anything else as a checkpoint.

    A checkpoint is a folder or a Hub repository, goes to the GPU where there is one, and is called by its last part.
    Raises: ValueError on a name that is neither, or where two would be called the same.
    """
    forecasters: dict[str, Forecaster] = {}
    for name in names:
        short = name if name in BASELINES else Path(name).resolve().name
        if short in forecasters:
            raise ValueError(f"forecasters must differ in their names, found {short!r} twice; rename a folder.")
        forecasters[short] = BASELINES[name]() if name in BASELINES else _load_checkpoint(name)
    return forecasters


def _load_checkpoint(name: str) -> Forecaster:
    if not Path(name).is_dir() and "/" not in name:
        raise ValueError(
            f"a forecaster must be one of {sorted(BASELINES)}, a checkpoint folder or a Hub repository, found "
            f"{name!r}; correct the name."
        )
    model = cast(torch.nn.Module, ForecastPipeline.from_pretrained(name).forecaster)
    return cast(Forecaster, model.to("cuda" if torch.cuda.is_available() else "cpu"))
