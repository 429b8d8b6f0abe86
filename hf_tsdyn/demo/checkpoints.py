"""The forecasters of the demo: baselines, and the checkpoints of folders that whoever starts it has named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..baselines import BASELINES
from ..forecasting import Forecaster
from ..models import ARCHITECTURES
from ..pipeline import ForecastPipeline

MAX_CONFIG_BYTES = 1_000_000
SHIPPED = Path(__file__).parents[2] / "model_cards"
"""Of a checkout; a wheel has none."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder that forecasts series of `num_channels` channels, of any number where that is None."""

    folder: Path
    model_type: str
    num_channels: int | None


def default_folders() -> list[Path]:
    """Return the folder of shipped checkpoints, where there is one."""
    return [SHIPPED] if SHIPPED.is_dir() else []


def find_checkpoints(folders: Iterable[Path]) -> dict[str, Checkpoint]:
    """Return, by name, the forecasting checkpoints that are one of the folders or lie directly in one.

    Folders without safetensors weights, or of an architecture that this package does not have, are left out.
    Raises: FileNotFoundError if a folder is none, or holds no checkpoint; ValueError where two have one name.
    """
    found: dict[str, Checkpoint] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"models must be folders, found none at {str(folder)!r}; correct the path.")
        read = [_read(each) for each in (folder, *sorted(folder.iterdir()))]
        checkpoints = [each for each in read if each is not None]
        if not checkpoints:
            raise FileNotFoundError(
                f"a folder of models must hold checkpoints of {sorted(ARCHITECTURES)} with config.json and safetensors "
                f"weights, found none in {str(folder)!r}; give the folder that save_pretrained wrote, or the one above."
            )
        for checkpoint in checkpoints:
            name = checkpoint.folder.resolve().name
            if name in found or name in BASELINES:
                raise ValueError(f"models must differ in their names, found {name!r} twice; rename a folder.")
            found[name] = checkpoint
    return found


def _read(folder: Path) -> Checkpoint | None:
    """Read what kind of checkpoint a folder is; None if it is no forecaster of this package."""
    file = folder / "config.json"
    if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES or not any(folder.glob("*.safetensors")):
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        model_type, architectures = config["model_type"], config["architectures"]
        num_channels = config.get("num_channels")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    forecasts = model_type in ARCHITECTURES and ARCHITECTURES[model_type].__name__ in architectures
    return Checkpoint(folder, model_type, num_channels) if forecasts else None


def fitting_models(checkpoints: Mapping[str, Checkpoint], *, num_channels: int) -> list[str]:
    """Return the names of what forecasts series of so many channels: checkpoints, then baselines."""
    fitting = [name for name, each in checkpoints.items() if each.num_channels in (None, num_channels)]
    return [*fitting, *BASELINES]


def load_model(name: str, checkpoints: Mapping[str, Checkpoint]) -> Forecaster:
    """Return the checkpoint or baseline of this name; only what was found before is ever opened.

    Raises: ValueError on another name, or a checkpoint that does not load, without the folder that it lies in.
    """
    if name in checkpoints:
        folder = checkpoints[name].folder
        try:
            return _load(folder)
        except ValueError as error:  # for whoever visits the page, to whom folders of the server are no business
            raise ValueError(str(error).replace(str(folder), name)) from error
    if name in BASELINES:
        return BASELINES[name]()
    raise ValueError(f"the model must be one of {[*checkpoints, *BASELINES]}, found {name!r}; choose one of them.")


@lru_cache(maxsize=4)
def _load(folder: Path) -> Forecaster:
    return ForecastPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True).forecaster
