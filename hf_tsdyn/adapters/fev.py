"""Our forecasters as models of fev, the forecast evaluation library, on its own tasks or on exported trajectories.

    python -m hf_tsdyn.adapters.fev TASKS persistence parroting CHECKPOINT

TASKS is a folder that `python -m hf_tsdyn.adapters.fev_tasks` wrote; a line of scores is printed for each forecaster
and task. fev 0.10 needs datasets < 5 and this package asks for datasets >= 5.2, though it works with 4.8: the two share
an environment where this package is installed with `pip install --no-deps`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from ..forecasting import Forecaster
from .fev_tasks import TASKS_FILE
from .loading import load_forecasters
from .series_forecasts import SeriesForecaster

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

try:
    fev: Any = importlib.import_module("fev")
except ImportError:
    fev = None

INSTALL = (
    "this adapter needs fev, found none; fev 0.10 needs datasets < 5, so install it in an environment of its own: "
    "pip install fev==0.10.0, and there this package with: pip install --no-deps hf_tsdyn"
)

_ForecastingModel: Any = object if fev is None else fev.ForecastingModel


class FevModel(_ForecastingModel):
    """Any forecaster of ours as a fev model, for tasks with one target column or several.

    Several target columns are channels that are forecast together; covariates are not looked at. The column
    "predictions" is the forecaster's point forecast (dystformer's is the median); each quantile level of the task is
    the forecaster's own, or where it has no distribution the point forecast again, and `has_distribution` is False.

    Args:
        forecaster: a model of this package, a baseline, or anything else with their `forecast`.
        name: `model_name`; by default the name of the forecaster's class.
        context_length: the latest steps that are looked at; by default the most that a model uses, else all.
        num_samples: paths of each series, where quantiles come from paths.
        batch_size: series forecast at once.
    Attributes:
        has_distribution: whether the quantiles of the latest task were more than points; None before there is one.
    Raises: ImportError without fev; ValueError on impossible lengths.
    """

    model_name = "hf_tsdyn"

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        name: str | None = None,
        context_length: int | None = None,
        num_samples: int = 100,
        batch_size: int = 64,
    ):
        _check_fev()
        super().__init__()
        self.model_name = type(forecaster).__name__ if name is None else name
        self.has_distribution: bool | None = None
        self._series_forecaster = SeriesForecaster(
            forecaster, context_length=context_length, num_samples=num_samples, batch_size=batch_size
        )

    def _fit_predict(self, task: Any) -> list[DatasetDict]:
        """Forecast every window of a `fev.Task`: by target column, a row a series in the order of the window.

        Raises: ValueError, naming the series, where nothing is seen in the steps that are looked at.
        """
        return [self._predict_window(window.get_input_data()[0], task) for window in task.iter_windows()]

    def _predict_window(self, past: Dataset, task: Any) -> DatasetDict:
        from datasets import Dataset, DatasetDict

        names = list(task.target_columns)
        rows = past.select_columns(names).with_format("numpy")
        series = [np.stack([np.asarray(row[name], np.float32) for name in names], axis=1) for row in rows]
        with self._record_inference_time():
            forecasts = self._series_forecaster.predict(
                series,
                [str(name) for name in past[task.id_column]],
                prediction_length=task.horizon,
                quantile_levels=task.quantile_levels,
            )
        if task.quantile_levels:
            self.has_distribution = forecasts[0].quantiles is not None
        points = np.stack([forecast.points for forecast in forecasts])  # (series, steps, channels)
        levels = np.stack([forecast.at_levels(len(task.quantile_levels)) for forecast in forecasts])
        columns = {}
        for channel, name in enumerate(names):
            data = {"predictions": points[..., channel]}
            data |= {str(level): levels[:, :, channel, k] for k, level in enumerate(task.quantile_levels)}
            lists = {key: list(values.astype(np.float64)) for key, values in data.items()}
            columns[name] = Dataset.from_dict(lists, features=task.predictions_schema)
        return DatasetDict(columns)


def read_tasks(folder: str | os.PathLike[str]) -> list[Any]:
    """Return the `fev.Task`s of a folder that `export_tasks` wrote, wherever it lies now.

    Raises: FileNotFoundError without a list of tasks; ImportError without fev.
    """
    _check_fev()
    file = Path(folder) / TASKS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"a folder of tasks must hold {TASKS_FILE}, found none in {str(folder)!r}; write it with "
            "`python -m hf_tsdyn.adapters.fev_tasks`."
        )
    tasks = yaml.safe_load(file.read_text())["tasks"]
    return [fev.Task(**(task | {"dataset_path": str(Path(folder) / task["dataset_path"])})) for task in tasks]


def score_forecasters(forecasters: Mapping[str, Forecaster], tasks: list[Any], **options: Any) -> pd.DataFrame:
    """Return fev's summaries, a row a forecaster and task: `model_name`, `task_name`, `num_forecasts`, every metric.

    Args:
        options: of `FevModel`.
    Raises: ImportError without fev; else as `FevModel`.
    """
    rows = []
    for name, forecaster in forecasters.items():
        model = FevModel(forecaster, name=name, **options)
        for task in tasks:
            predictions = model.fit_predict(task)
            rows.append(task.evaluation_summary(predictions, name, inference_time_s=model.inference_time))
    return pd.DataFrame(rows)


def _check_fev() -> None:
    if fev is None:
        raise ImportError(INSTALL)


def main() -> None:
    """Score forecasters on the tasks of a folder, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_tsdyn.adapters.fev",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", type=Path, help="folder of tasks")
    parser.add_argument("forecasters", nargs="+", help="names of baselines, checkpoint folders, Hub repositories")
    parser.add_argument("--num_samples", type=int, default=100, help="paths, where quantiles come from them")
    arguments = parser.parse_args()
    tasks = read_tasks(arguments.tasks)
    logging.getLogger("fev").setLevel(logging.ERROR)
    table = score_forecasters(load_forecasters(arguments.forecasters), tasks, num_samples=arguments.num_samples)
    metrics = [tasks[0].eval_metric, *tasks[0].extra_metrics]
    columns = ["model_name", "task_name", "num_forecasts", *metrics]
    print(table.filter(columns).to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
