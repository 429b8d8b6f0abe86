"""Our forecasters as predictors of gluonts, scored by its `evaluate_model` as GIFT-Eval scores them.

    python -m hf_tsdyn.adapters.gluonts DATA persistence parroting CHECKPOINT --prediction_length 64 --num_windows 4

DATA is a dataset folder that `python -m data_generation` wrote; the table of scores is printed. In code, on any data:

    entries = FileDataset(FOLDER / "data", freq="s", one_dim_target=False)  # gluonts', or a list of its entries
    _, template = split(entries, offset=-256)
    score_forecasters({"persistence": Persistence()}, template.generate_instances(64, windows=4))
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from ..data import TrajectoryDataset
from ..distributions import check_quantile_levels
from ..forecasting import Forecaster, check_prediction_length
from .loading import load_forecasters
from .series_forecasts import DECILES, SeriesForecast, SeriesForecaster

if TYPE_CHECKING:
    from gluonts.dataset.split import TestData
    from gluonts.model.forecast import QuantileForecast, SampleForecast

Output = Literal["auto", "quantiles", "samples", "points"]
POINTS_ALONE = {"distribution": "none: the point forecast stands at every level"}
"""`info` of the forecasts of a forecaster without a distribution."""


class GluonTSPredictor:
    """Any forecaster of ours as a gluonts predictor, multivariate or univariate.

    Args:
        forecaster: a model of this package, a baseline, or anything else with their `forecast`.
        prediction_length: steps of every forecast.
        output: "auto" for quantiles where the forecaster has a distribution, and otherwise its point forecast at every
            level, which `info` then says; "quantiles" refuses forecasters without a distribution; "samples" gives paths
            in which steps and channels belong together, and refuses forecasters that sample none; "points" uses the
            point forecast of any.
        quantile_levels: in (0, 1), increasing; gluonts interpolates between them.
        context_length: the latest steps that are looked at; by default the most that a model uses, else all.
        num_samples: paths of each series, where samples are asked for or quantiles come from paths.
        batch_size: series forecast at once.
    Raises: ImportError without gluonts; ValueError on impossible lengths, levels or output.
    """

    lead_time = 0

    def __init__(
        self,
        forecaster: Forecaster,
        prediction_length: int,
        *,
        output: Output = "auto",
        quantile_levels: Sequence[float] = DECILES,
        context_length: int | None = None,
        num_samples: int = 100,
        batch_size: int = 64,
    ):
        _check_gluonts()
        if output not in get_args(Output):
            raise ValueError(f"output must be one of {get_args(Output)}, found {output!r}; 'auto' is usual.")
        levels = check_quantile_levels(quantile_levels).tolist()
        # gluonts orders levels by their texts: 1e-05 would come after 0.9.
        if levels != sorted(set(levels)) or levels[0] < 1e-4:
            raise ValueError(
                f"quantile_levels must increase from 0.0001 or more, found {list(quantile_levels)}; sort them."
            )
        self.prediction_length = check_prediction_length(prediction_length)
        self.output = output
        self.quantile_levels = levels
        self.batch_size = batch_size
        self._series_forecaster = SeriesForecaster(
            forecaster, context_length=context_length, num_samples=num_samples, batch_size=batch_size
        )

    def predict(
        self, dataset: Iterable[Mapping[str, Any]], num_samples: int | None = None
    ) -> Iterator[QuantileForecast | SampleForecast]:
        """Forecast every entry of a gluonts dataset, in its order, reading `batch_size` entries at a time.

        Args:
            dataset: entries with `target`, (time,) or (channels, time), NaN = unseen; `start`, a period of pandas;
                `item_id`, if there is one. Other fields are not looked at. Never modified.
            num_samples: instead of the predictor's own.
        Returns: forecasts that begin where the entry ends, whatever was cut off its front: "mean", the point forecast,
            and each level or sample are (time,) or (time, channels), as the target is.
        Raises: TypeError on a `start` that is no period; ValueError, naming the entry, on a target of another shape or
            one with nothing seen; NotImplementedError where there is no distribution but quantiles or samples must be.
        """
        forecast_batch = self._sample if self.output == "samples" else self._forecast
        entries = iter(dataset)
        while batch := list(islice(entries, self.batch_size)):
            yield from forecast_batch(batch, [_series_of(entry) for entry in batch], num_samples)

    def _forecast(
        self, batch: list[Mapping[str, Any]], series: list[np.ndarray], num_samples: int | None
    ) -> Iterator[QuantileForecast]:
        forecasts = self._series_forecaster.predict(
            series,
            [entry.get("item_id") for entry in batch],
            prediction_length=self.prediction_length,
            quantile_levels=() if self.output == "points" else self.quantile_levels,
            num_samples=num_samples,
        )
        return map(self._as_gluonts, batch, forecasts)

    def _sample(
        self, batch: list[Mapping[str, Any]], series: list[np.ndarray], num_samples: int | None
    ) -> Iterator[SampleForecast]:
        from gluonts.model.forecast import SampleForecast

        names = [entry.get("item_id") for entry in batch]
        paths = self._series_forecaster.sample(
            series, names, prediction_length=self.prediction_length, num_samples=num_samples
        )
        for entry, each in zip(batch, paths, strict=True):
            yield SampleForecast(**_described(entry, samples=np.moveaxis(each, -1, 0)))

    def _as_gluonts(self, entry: Mapping[str, Any], forecast: SeriesForecast) -> QuantileForecast:
        from gluonts.model.forecast import QuantileForecast

        if self.output == "quantiles" and forecast.quantiles is None:
            raise NotImplementedError(
                'output "quantiles" needs a forecaster with a distribution, found '
                f'{type(self._series_forecaster.pipeline.forecaster).__name__} without one; choose "auto".'
            )
        levels = forecast.at_levels(len(self.quantile_levels))
        arrays = np.concatenate([forecast.points[None], np.moveaxis(levels, -1, 0)])
        return QuantileForecast(
            **_described(entry, forecast_arrays=arrays),
            forecast_keys=["mean", *map(str, self.quantile_levels)],
            info=POINTS_ALONE if forecast.quantiles is None else None,
        )


def score_forecasters(
    forecasters: Mapping[str, Forecaster],
    test_data: TestData,
    *,
    seasonality: int = 1,
    quantile_levels: Sequence[float] = DECILES,
    **options: Any,
) -> pd.DataFrame:
    """Score forecasters by gluonts' `evaluate_model` with GIFT-Eval's metrics.

    Args:
        test_data: what gluonts' `split(...)` generates, entries of any lengths and channel numbers.
        seasonality: steps apart of the differences by which MASE divides. gluonts' own choice for steps of a second,
            the `freq` of generated data, would be an hour.
        options: of `GluonTSPredictor`.
    Returns: a row a forecaster, a column a metric, over all values together: MSE of the point forecast and of the
        median, MAE, MASE and sMAPE (here 0 to 2) of the median, and the weighted quantile loss.
    Raises: ImportError without gluonts; else as `GluonTSPredictor`.
    """
    _check_gluonts()
    from gluonts.ev.metrics import MAE, MASE, MSE, SMAPE, MeanWeightedSumQuantileLoss
    from gluonts.model.evaluation import evaluate_model

    losses = [MeanWeightedSumQuantileLoss(quantile_levels=list(quantile_levels))]
    metrics = [MSE("mean"), MSE("0.5"), MAE(), MASE(), SMAPE(), *losses]
    rows = []
    for forecaster in forecasters.values():
        predictor: Any = GluonTSPredictor(
            forecaster, test_data.prediction_length, quantile_levels=quantile_levels, **options
        )
        # One at a time: gluonts stacks the targets of a batch, which must then have equally many channels.
        rows.append(
            evaluate_model(predictor, test_data=test_data, metrics=metrics, seasonality=seasonality, batch_size=1)
        )
    return pd.concat(rows).set_axis(list(forecasters))


def trajectory_entries(dataset: TrajectoryDataset) -> list[dict[str, Any]]:
    """Return what gluonts' FileDataset reads from the files of one split; given their folder, it reads all splits.

    Each has `item_id`, `start` (1970-01-01, steps of a second, as in the files) and `target`, a view (channels, time).
    """
    start = pd.Period("1970-01-01", freq="s")
    return [{"item_id": each.item_id, "start": start, "target": each.values} for each in dataset]


def _series_of(entry: Mapping[str, Any]) -> np.ndarray:
    """Return the target of an entry as (time, channels)."""
    if not isinstance(entry["start"], pd.Period):
        raise TypeError(
            f"the start of every entry must be a pandas.Period, found {entry['start']!r} in {entry.get('item_id')!r}; "
            "read the data by gluonts' FileDataset or ListDataset without use_timestamp."
        )
    target = np.asarray(entry["target"], dtype=np.float32)
    if target.ndim not in (1, 2) or 0 in target.shape:
        raise ValueError(
            "the target of every entry must have shape (time,) or (channels, time), none of them 0, found "
            f"{target.shape} in {entry.get('item_id')!r}; reshape it, or drop the entry."
        )
    return target.reshape(-1, target.shape[-1]).T


def _described(entry: Mapping[str, Any], **arrays: np.ndarray) -> dict[str, Any]:
    """Arrays (any, time, channels) with the axes of the entry's target, and what every forecast of it says of it."""
    start = entry["start"] + np.shape(entry["target"])[-1]
    one_axis = np.ndim(entry["target"]) == 1
    arrays = {name: array[..., 0] if one_axis else array for name, array in arrays.items()}
    return arrays | {"start_date": start, "item_id": entry.get("item_id")}


def _check_gluonts() -> None:
    try:
        import gluonts  # noqa: F401  (whether it is there)
    except ImportError as error:
        raise ImportError(
            "this adapter needs gluonts, found none; install it with: pip install 'hf_tsdyn[eval]'"
        ) from error


def main() -> None:
    """Score forecasters on the end of each trajectory of a split, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_tsdyn.adapters.gluonts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("forecasters", nargs="+", help="names of baselines, checkpoint folders, Hub repositories")
    parser.add_argument("--split", default="test")
    parser.add_argument("--prediction_length", type=int, default=64)
    parser.add_argument("--num_windows", type=int, default=1, help="windows one after the other at the end")
    parser.add_argument("--context_length", type=int, help="most steps that a model is given; all by default")
    parser.add_argument("--num_samples", type=int, default=100, help="paths, where quantiles come from them")
    arguments = parser.parse_args()
    _check_gluonts()
    from gluonts.dataset.split import split

    entries: Any = trajectory_entries(TrajectoryDataset(arguments.data, arguments.split))
    length = arguments.prediction_length
    _, template = split(entries, offset=-length * arguments.num_windows)
    test_data = template.generate_instances(length, windows=arguments.num_windows, max_history=arguments.context_length)
    scores = score_forecasters(load_forecasters(arguments.forecasters), test_data, num_samples=arguments.num_samples)
    print(f"{len(test_data)} windows of {len(entries)} trajectories, {length} steps each")
    print(scores.to_string(float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
