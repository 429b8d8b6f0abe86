"""What a benchmark forecasts: the systems of a generated dataset, and series of your own beside them."""

from dataclasses import dataclass, replace

from hf_tsdyn.data.held_out_windows import HeldOutWindow
from hf_tsdyn.data.series import SeriesDataset, SeriesOptions, TrajectorySource
from hf_tsdyn.data.trajectories import TrajectoryDataset
from hf_tsdyn.evaluation import EvaluationProtocol, draw_windows
from training.benchmark_config import BenchmarkConfig

BASE, SKEW_PRODUCT, SERIES = GROUPS = ("base", "skew_product", "series")
"""Of systems: those of dysts and the like, products of two of them, and everything else."""


@dataclass(frozen=True, eq=False)
class BenchmarkSystem:
    """One system and all its trajectories, or one series; `group` is one of `GROUPS`."""

    name: str
    group: str
    source: TrajectorySource

    @property
    def folder(self) -> str:
        """Name of its folders."""
        return self.name.replace("->", "_")

    def protocol(self, condition: EvaluationProtocol) -> EvaluationProtocol:
        """Return a condition as far as a series allows it; generated trajectories must have all its steps."""
        return condition.fitted(int(self.source.lengths.min())) if self.group == SERIES else condition

    def windows(self, condition: EvaluationProtocol) -> list[HeldOutWindow]:
        """Return the windows under a condition, as `hf_tsdyn.evaluation.draw_windows` says."""
        found = draw_windows(self.source, self.protocol(condition))
        return [replace(window, trajectory=replace(window.trajectory, system=self.name)) for window in found]


def system_names(config: BenchmarkConfig) -> list[str]:
    """Return what is forecast, those of the dataset first, by name.

    Raises: FileNotFoundError or ValueError, as datasets do, or if a series is called as a system is.
    """
    names: list[str] = []
    if config.data is not None:
        names = sorted(set(TrajectoryDataset(config.data, config.split, systems=config.systems or None).systems))
    taken = sorted(set(names) & set(config.series))
    if taken:
        raise ValueError(f"series must have names that no system has, found {taken}; rename them.")
    return names + sorted(config.series)


def open_system(config: BenchmarkConfig, name: str) -> BenchmarkSystem:
    """Return a system of the dataset, or a series.

    Raises: FileNotFoundError or ValueError, as datasets do.
    """
    if name in config.series:
        entry = config.series[name]
        options = SeriesOptions(
            columns=entry.columns, time_column=entry.time_column, validation_share=0.0, test_share=0.0
        )
        return BenchmarkSystem(name, SERIES, SeriesDataset(entry.path, "train", context_length=0, options=options))
    group = SKEW_PRODUCT if "->" in name else BASE
    return BenchmarkSystem(name, group, TrajectoryDataset(str(config.data), config.split, systems=[name]))
