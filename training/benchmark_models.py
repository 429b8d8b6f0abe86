"""The models of a benchmark: built from their entries, known by their files, and kept from ending it."""

import dataclasses
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForTimeSeriesPrediction

from hf_tsdyn.baselines import BASELINES
from hf_tsdyn.forecasting import Forecaster
from hf_tsdyn.models.alrnn.fitting import FitOptions
from training.benchmark_config import BenchmarkConfig, ModelEntry
from training.run_summary import SUMMARY_FILE
from training.sweep_folder import without_transformers_bars

WEIGHTS = (".safetensors", ".bin", ".pt")
CONFIGS = ("config.json", "adapter_config.json")
TRAINING_FACTS = ("cpu_seconds", "cpu_seconds_of_last_launch", "steps", "windows_seen", "dataset_fingerprint")


def check_models(config: BenchmarkConfig) -> None:
    """Raise, naming it, ValueError if a model that is asked for cannot be built.

    Missing packages and checkpoints, unknown rules and options are all found before anything is forecast.
    """
    for name in config.asked:
        try:
            build_model(name, config.models[name])
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
            raise ValueError(f"model {name}: {error} (--only leaves a model out)") from error


def build_model(name: str, entry: ModelEntry) -> Forecaster:
    """Return the forecaster of an entry, built once a process.

    Raises: ValueError, TypeError, OSError or ModuleNotFoundError, as its class does.
    """
    return _build(name, json.dumps(dataclasses.asdict(entry), sort_keys=True), digest_of(entry))


@lru_cache(maxsize=4)
def _build(name: str, entry: str, digest: str | None) -> Forecaster:
    found = ModelEntry(**json.loads(entry))
    with without_transformers_bars():
        return _BUILDERS[found.kind](found, name)


def _baseline(entry: ModelEntry, name: str) -> Forecaster:
    rule = entry.rule or name
    if rule not in BASELINES:
        raise ValueError(f"rule must be one of the baselines {sorted(BASELINES)}, found {rule!r}; name one.")
    return BASELINES[rule](**entry.options)


def _checkpoint(entry: ModelEntry, name: str) -> Forecaster:
    return _whole(AutoModelForTimeSeriesPrediction, entry, name)


def _whole(model_class: Any, entry: ModelEntry, name: str) -> Forecaster:
    """The model of a checkpoint that has all its weights: one that was pretrained by masking has no head."""
    if entry.options:
        raise ValueError(f"options must be left out of a checkpoint, found {entry.options}; its config.json has all.")
    model, report = model_class.from_pretrained(_folder(entry, name), output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(map(str, report["missing_keys"]))[:3]
        raise ValueError(
            f"path must be a checkpoint of a model that forecasts, found one without {missing}; fine-tune it first."
        )
    return model


def _chronos(entry: ModelEntry, name: str) -> Forecaster:
    from hf_tsdyn.baselines.chronos import ChronosForecaster

    return ChronosForecaster.from_pretrained(_folder(entry, name), **entry.options)


def _patchtst(entry: ModelEntry, name: str) -> Forecaster:
    from hf_tsdyn.baselines.patchtst import PatchTSTForecaster

    return _whole(PatchTSTForecaster, entry, name)


def _fitted_alrnn(entry: ModelEntry, name: str) -> Forecaster:
    from hf_tsdyn.baselines.fitted_alrnn import FittedALRNN

    options = dict(entry.options)
    if "options" in options:
        options["options"] = FitOptions(**options["options"])
    if "seeds" in options:
        options["seeds"] = tuple(options["seeds"])
    return FittedALRNN(**options)


def _fracast(entry: ModelEntry, name: str) -> Forecaster:
    from hf_tsdyn.baselines.fracast import FracastForecaster

    return FracastForecaster(**entry.options)


_BUILDERS = {
    "baseline": _baseline,
    "checkpoint": _checkpoint,
    "chronos": _chronos,
    "patchtst": _patchtst,
    "fitted_alrnn": _fitted_alrnn,
    "fracast": _fracast,
}


def _folder(entry: ModelEntry, name: str) -> str:
    """The path of an entry, refused before the Hub is asked where it can only be a folder."""
    path = str(entry.path)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_local and not (Path(path) / "config.json").is_file():
        raise FileNotFoundError(
            f"path must be a checkpoint with config.json or a Hub name, found none at {path!r}; train it, or correct "
            f"models.{name}.path"
        )
    return path


def digest_of(entry: ModelEntry) -> str | None:
    """Return the hash over a local checkpoint's weights and configuration; None of what has none."""
    if entry.path is None or not Path(entry.path).is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(Path(entry.path).iterdir()):
        if file.suffix in WEIGHTS or file.name in CONFIGS:
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def deciding_of(entry: ModelEntry, name: str) -> dict[str, Any]:
    """Return what decides the forecasts of a model: of a local checkpoint what it holds, not where it lies."""
    digest = digest_of(entry)
    deciding: dict[str, Any] = {"kind": entry.kind, "options": entry.options}
    if entry.kind == "baseline":
        deciding["rule"] = entry.rule or name
    return deciding | ({"path": entry.path} if digest is None else {"digest": digest})


def model_facts(entry: ModelEntry, name: str) -> dict[str, Any]:
    """Return what tables say of a model: label, kind, and what is known of its training."""
    facts: dict[str, Any] = {"label": entry.label or name, "kind": entry.kind, "training": {}}
    file = Path(entry.path or "", SUMMARY_FILE)
    if entry.path is not None and file.is_file():
        summary = json.loads(file.read_text())
        facts["training"] = {fact: summary[fact] for fact in TRAINING_FACTS if fact in summary}
    return facts


class Guarded:
    """A forecaster whose failures are forecasts of NaN, which count as failed windows, and sentences in `errors`.

    `first_forecast`, (time, channels), is what it forecast of the first series that it was given.
    """

    def __init__(self, forecaster: Forecaster):
        self.forecaster: Any = forecaster
        self.errors: list[str] = []
        self.first_forecast: Tensor | None = None
        self._has_distribution: bool | None = None if hasattr(forecaster, "forecast_quantiles") else False

    def num_parameters(self) -> int | None:
        """Return the number of trained weights; None of what has none."""
        return self.forecaster.num_parameters() if hasattr(self.forecaster, "num_parameters") else None

    def forecast(
        self, past_values: Tensor, *, prediction_length: int, past_observed_mask: Tensor | None = None
    ) -> Tensor:
        """Continue `past_values` as the forecaster does; NaN where it raises or returns another shape."""
        shape = (len(past_values), prediction_length, past_values.shape[2])
        try:
            found = self._checked(self.forecaster.forecast(past_values, prediction_length=prediction_length), shape)
        except Exception as error:  # whatever a rival raises, it is scored as failed and stays in the tables
            found = self._failed(error, past_values, shape)
        if self.first_forecast is None:
            self.first_forecast = found[0]
        return found

    def forecast_quantiles(
        self, past_values: Tensor, *, prediction_length: int, quantile_levels: tuple[float, ...], **options: Any
    ) -> Tensor:
        """Return the forecaster's quantiles, NaN as in `forecast`.

        Raises: NotImplementedError if it has no distribution.
        """
        shape = (len(past_values), prediction_length, past_values.shape[2], len(quantile_levels))
        asked = {"prediction_length": prediction_length, "quantile_levels": quantile_levels} | options
        if self._has_distribution is False:
            raise NotImplementedError(f"{type(self.forecaster).__name__} has no distribution")
        try:
            found = self._checked(self.forecaster.forecast_quantiles(past_values, **asked), shape)
        except Exception as error:  # as in `forecast`
            if isinstance(error, NotImplementedError) and not self._has_distribution:
                raise
            found = self._failed(error, past_values, shape)
        self._has_distribution = True
        return found

    @staticmethod
    def _checked(found: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(found.shape) != shape:
            raise ValueError(f"forecasts must have shape {shape}, found {tuple(found.shape)}")
        return found

    def _failed(self, error: Exception, past_values: Tensor, shape: tuple[int, ...]) -> Tensor:
        text = f"{type(error).__name__}: {error}"
        if text not in self.errors:
            self.errors.append(text)
        return torch.full(shape, torch.nan, dtype=past_values.dtype)
