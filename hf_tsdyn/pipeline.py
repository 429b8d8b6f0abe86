"""Forecasts for people with arrays, lists and data frames: the verbs of the Chronos pipelines, any forecaster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForTimeSeriesPrediction

from .checkpoint_safety import check_checkpoint, pinned
from .checkpoint_settings import check_dtype
from .forecasting import Forecaster
from .frames import future_times, split_frame

Series = np.ndarray | Tensor | Sequence[float] | Sequence[Sequence[float]]


class ForecastPipeline:
    """Forecast series of any length from numpy, torch, lists or pandas.

    A series is (time,) or (time, channels), evenly sampled; NaN = unseen. Forecasts come back as float32 numpy
    arrays of the same kind: (prediction_length,) or (prediction_length, channels).

    Args:
        forecaster: a model of this package, a baseline, or anything else with their `forecast`.
        batch_size: series of equal length and channels forecast at once.
    """

    def __init__(self, forecaster: Forecaster, *, batch_size: int = 64):
        self.forecaster = forecaster
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, batch_size: int = 64, **kwargs: Any) -> ForecastPipeline:
        """Load a checkpoint folder or Hub repository; `kwargs` go to the model's `from_pretrained`.

        Nothing that the checkpoint brings along is executed; see `hf_tsdyn.checkpoint_safety` for what is refused.
        Raises: ValueError also if weights are missing, or the model does not forecast.
        """
        if kwargs.pop("trust_remote_code", False):
            raise ValueError("trust_remote_code must be left out, found True; no code of a checkpoint is run here.")
        folder = Path(name_or_path, kwargs.get("subfolder") or "")
        if Path(name_or_path).is_dir() and not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"a checkpoint folder must hold config.json, found none in {folder}; give the folder that "
                "save_pretrained or training.train wrote."
            )
        check_dtype(kwargs.get("dtype"))
        kwargs |= pinned(name_or_path, kwargs)
        check_checkpoint(name_or_path, **kwargs)
        kwargs |= {"trust_remote_code": False, "output_loading_info": True}
        _check_forecasts(name_or_path, kwargs)
        model, report = AutoModelForTimeSeriesPrediction.from_pretrained(str(name_or_path), **kwargs)
        if report["missing_keys"]:
            missing = sorted(map(str, report["missing_keys"]))[:3]
            raise ValueError(
                f"a checkpoint must hold all weights of its model, found none for {missing} in {name_or_path}; they "
                "would be random. Train it, or load it by its class."
            )
        return cls(model, batch_size=batch_size)

    def predict(self, inputs: Series | Sequence[Series], *, prediction_length: int) -> Any:
        """Forecast one series, a batch, or a list of series of unequal lengths.

        Args:
            inputs: one series (time,) or (time, channels) as an array or tensor; an array (batch, time, channels);
                or a list of series, each an array or a list, of any lengths and channel numbers.
        Returns: an array (prediction_length[, channels]) for one series, (batch, prediction_length, channels) for
            a batch array, a list of arrays for a list.
        """

        def forecast(values: Tensor) -> Tensor:
            return self.forecaster.forecast(values, prediction_length=prediction_length)

        return self._apply(forecast, inputs)

    def predict_quantiles(
        self,
        inputs: Series | Sequence[Series],
        *,
        prediction_length: int,
        quantile_levels: Sequence[float] = (0.1, 0.5, 0.9),
        num_samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Quantiles of the forecasts, laid out as `predict`'s results with one more axis (levels) at the end.

        Args:
            num_samples, generator: how many paths a series and what they are drawn from, for forecasters that sample.
                A generator goes on from batch to batch of `batch_size`; without one the forecaster's own rule.
        Raises: NotImplementedError where the forecaster has no distribution.
        """
        forecast_quantiles = self._method("forecast_quantiles", "call predict for its point forecasts")

        def forecast(values: Tensor) -> Tensor:
            return forecast_quantiles(
                values,
                prediction_length=prediction_length,
                quantile_levels=quantile_levels,
                num_samples=num_samples,
                generator=generator,
            )

        return self._apply(forecast, inputs)

    def predict_samples(
        self,
        inputs: Series | Sequence[Series],
        *,
        prediction_length: int,
        num_samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Sampled paths of the future, laid out as `predict`'s results with one more axis (samples) at the end.

        Args:
            num_samples, generator: as in `predict_quantiles`.
        Raises: NotImplementedError where the forecaster samples no paths.
        """
        forecast_samples = self._method("forecast_samples", "call predict_quantiles for quantiles of each step alone")

        def forecast(values: Tensor) -> Tensor:
            return forecast_samples(
                values, prediction_length=prediction_length, num_samples=num_samples, generator=generator
            )

        return self._apply(forecast, inputs)

    def embed(
        self, inputs: Series | Sequence[Series], *, level: Literal["pooled", "channels", "patches"] = "pooled"
    ) -> Any:
        """Represent series by vectors: what a model's encoder makes of them, for any use but forecasting.

        Args:
            inputs: as in `predict`; a series (time,) counts as one channel.
            level: "pooled" for one vector a series (width,), "channels" (channels, width), "patches"
                (channels, patches, width).
        Returns: an array for one series, an array with a leading batch axis for a batch array, a list of arrays for a
            list.
        Raises: NotImplementedError where the forecaster is no model with an encoder; ValueError on another level.
        """
        levels = ("pooled", "channels", "patches")
        if level not in levels:
            raise ValueError(f"level must be one of {levels}, found {level!r}; 'pooled' is one vector a series.")
        embed = self._method("embed", "load a model with an encoder, such as a dystformer")
        return self._apply(lambda values: embed(values)[level].float().cpu(), inputs, drop_channel=False)

    def predict_df(
        self,
        df: pd.DataFrame,
        *,
        prediction_length: int,
        id_column: str | None = "item_id",
        timestamp_column: str = "timestamp",
        target: str | Sequence[str] = "target",
        quantile_levels: Sequence[float] = (),
        num_samples: int = 100,
        generator: torch.Generator | None = None,
    ) -> pd.DataFrame:
        """Forecast every series of a long data frame, several target columns jointly as channels.

        Args:
            df: one row per series and time; times of a series must be evenly spaced (any order), numeric or
                datetime; missing targets are unseen.
            id_column: None where all rows are one series; the result then has no such column either.
            quantile_levels: adds one column per level, named by it, where the forecaster can.
            num_samples, generator: as in `predict_quantiles`.
        Returns: columns `id_column`, `timestamp_column`, `target_name`, `predictions` and the quantiles; one row per
            series, target and future time, in the order in which series and targets are given. Beyond one block of
            the model `predictions` rolls its medians on, and the quantiles are those of sampled paths.
        """
        targets = [target] if isinstance(target, str) else list(target)
        groups = split_frame(df, id_column, timestamp_column, targets)
        inputs = [group[targets].to_numpy(np.float32) for _, group in groups]
        forecasts = self.predict(inputs, prediction_length=prediction_length)
        quantiles: Sequence[np.ndarray] = [np.empty((prediction_length, len(targets), 0))] * len(groups)
        if len(quantile_levels):
            quantiles = self.predict_quantiles(
                inputs,
                prediction_length=prediction_length,
                quantile_levels=quantile_levels,
                num_samples=num_samples,
                generator=generator,
            )
        frames = []
        for (item, group), forecast, levels in zip(groups, forecasts, quantiles, strict=True):
            times = future_times(group[timestamp_column], prediction_length, item)
            for channel, name in enumerate(targets):
                columns = {} if id_column is None else {id_column: item}
                columns |= {timestamp_column: times, "target_name": name, "predictions": forecast[:, channel]}
                columns |= {str(q): levels[:, channel, k] for k, q in enumerate(quantile_levels)}
                frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _method(self, name: str, otherwise: str) -> Callable[..., Any]:
        method = getattr(self.forecaster, name, None)
        if method is None:
            raise NotImplementedError(
                f"the forecaster must have {name}, found {type(self.forecaster).__name__} without it; {otherwise}."
            )
        return method

    def _apply(self, function: Callable[[Tensor], Tensor], inputs: Any, *, drop_channel: bool = True) -> Any:
        """Apply `function` to batches of equal shape, and lay the results out as the inputs are.

        drop_channel: results have a channel axis after that of time, which series (time,) are given without.
        """
        if isinstance(inputs, np.ndarray | Tensor):
            if inputs.ndim == 3 and len(inputs):
                return np.stack(self._apply_to_all(function, list(inputs), drop_channel))
            return self._apply_to_all(function, [inputs], drop_channel)[0]
        if not isinstance(inputs, list | tuple) or not len(inputs):
            raise TypeError(
                f"inputs must be an array, a tensor or a non-empty list of series, found {type(inputs).__name__}; "
                "use predict_df for data frames."
            )
        first = inputs[0]
        if first is None or np.isscalar(first) or getattr(first, "ndim", 1) == 0:
            return self._apply_to_all(function, [inputs], drop_channel)[0]
        return self._apply_to_all(function, list(inputs), drop_channel)

    def _apply_to_all(
        self, function: Callable[[Tensor], Tensor], inputs: list[Any], drop_channel: bool
    ) -> list[np.ndarray]:
        """Take series of equal shape together, so that each gets exactly what it would get alone."""
        series = [_as_tensor(values, position) for position, values in enumerate(inputs)]
        buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for position, values in enumerate(series):
            buckets[tuple(values.shape)].append(position)
        results: list[np.ndarray] = [np.empty(0)] * len(series)
        for positions in buckets.values():
            for start in range(0, len(positions), self.batch_size):
                chunk = positions[start : start + self.batch_size]
                batch = torch.stack([series[position] for position in chunk])
                batch = batch[..., None] if batch.ndim == 2 else batch
                _check_seen(batch, chunk)
                for position, values in zip(chunk, function(batch), strict=True):
                    values = values[:, 0] if drop_channel and series[position].ndim == 1 else values
                    results[position] = values.numpy()
        return results


def _check_forecasts(name_or_path: str | Path, kwargs: dict[str, Any]) -> None:
    """Refuse a masked-modelling checkpoint, which would be given a head that was never trained."""
    names = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "trust_remote_code")
    options = {name: kwargs[name] for name in names if name in kwargs}
    found = AutoConfig.from_pretrained(str(name_or_path), **options).architectures or []
    if any(name.endswith("ForMaskedModeling") for name in found):
        raise ValueError(
            f"a forecaster's checkpoint must hold a model for prediction, found {found} in {name_or_path}; start one "
            "from its encoder (from_encoder, or encoder_checkpoint in training) and train it."
        )


def _as_tensor(values: Any, position: int) -> Tensor:
    array = values
    if isinstance(values, Tensor):
        array = values.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # NumPy knows no bfloat16
    elif np.ma.isMaskedArray(values):
        array = np.ma.filled(np.ma.asarray(values, np.float32), np.nan)
    try:
        if np.iscomplexobj(array):
            raise TypeError("it is complex")
        array = np.array(array, dtype=np.float32)  # a copy: the caller's data stay theirs
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a series must be numbers of shape (time,) or (time, channels), found one at position {position} that "
            f"is not ({error}); make its rows equally long and numeric."
        ) from error
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(
            f"a series must have shape (time,) or (time, channels), found {array.shape} at position {position}; "
            "give one series per list entry."
        )
    return torch.from_numpy(array)


def _check_seen(batch: Tensor, positions: list[int]) -> None:
    unseen = batch.isnan().flatten(1).all(dim=1).tolist()
    if any(unseen):
        bad = [position for position, nothing in zip(positions, unseen, strict=True) if nothing]
        raise ValueError(
            f"every series must have at least one value, found only NaN in the series at positions {bad[:5]}; "
            "drop them."
        )
