"""The folder of a sweep: its settings, one folder a trained model, and what is under way.

A model's folder appears with all its files at once. Below `.progress` lie the states that a killed run goes on from,
and the locks of those at work.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from transformers.utils import logging

from hf_tsdyn.models.alrnn import ALRNNForPrediction
from hf_tsdyn.models.alrnn.fitting import FitResult, FitStatus
from hf_tsdyn.results import write_atomically
from training.sweep_config import differing_settings

CONFIG_FILE = "sweep_config.yaml"
HISTORY_FILE = "history.json"
BEST = "best"
DELETE = "delete that file, and the same sweep writes it again"
_SPELLED = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}


@dataclass(frozen=True)
class Member:
    """What came of one seed of a cell: `history.json` of its folder.

    scores: of its free run against test data; none of a model that exploded, or without such data.
    """

    seed: int
    status: FitStatus
    best_epoch: int
    best_divergence: float
    cpu_seconds: float
    scores: dict[str, float]
    history: list[dict[str, float]]

    @classmethod
    def of(cls, result: FitResult, scores: dict[str, float]) -> "Member":
        """Return the record of a fit."""
        kept = ("seed", "status", "best_epoch", "best_divergence", "cpu_seconds", "history")
        return cls(scores=scores, **{name: getattr(result, name) for name in kept})

    def to_json(self) -> bytes:
        """Return the record as JSON."""
        return to_json(asdict(self) | {"status": self.status.name.lower()})

    @classmethod
    def from_json(cls, content: bytes) -> "Member":
        """Return what `to_json` wrote."""
        values = from_json(content)
        return cls(**values | {"status": FitStatus[values["status"].upper()]})

    @classmethod
    def read(cls, file: Path) -> "Member":
        """Return the record in a file; ValueError, naming it, if it is damaged."""
        try:
            return cls.from_json(file.read_bytes())
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} must be a whole record of a fit, found {error!r}; {DELETE}.") from error


def load_model(folder: Path) -> ALRNNForPrediction:
    """Return the model in a folder; ValueError, naming it, if its files are damaged or gone."""
    try:
        with without_transformers_bars():
            return ALRNNForPrediction.from_pretrained(folder)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{folder} must hold a whole model.safetensors and config.json, found that {error}; delete that folder, "
            "and the same sweep writes it again."
        ) from error


def from_json(content: bytes) -> Any:
    """Return what `to_json` wrote, "Infinity" and "NaN" as numbers again."""

    def with_numbers(row: dict[str, Any]) -> dict[str, Any]:
        return {name: float(value) if value in _SPELLED.values() else value for name, value in row.items()}

    return json.loads(content, object_hook=with_numbers)


def to_json(content: Any) -> bytes:
    """Return plain values as JSON, numbers that it does not know as the strings "Infinity" and "NaN"."""
    return json.dumps(_spelled(content), indent=1, allow_nan=False).encode()


def _spelled(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _spelled(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_spelled(value) for value in content]
    return _SPELLED.get(str(content), content) if isinstance(content, float) else content


@contextmanager
def without_transformers_bars() -> Iterator[None]:
    """Hide the progress bars of transformers, one a file that is written or read."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class SweepFolder:
    """Where a sweep lies; several runs may work on it, each on chunks of its own."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.progress = self.path / ".progress"

    def claim(self, resolved: dict[str, Any]) -> None:
        """Write the settings, or check that what lies there is the same sweep, to be resumed.

        Raises: FileExistsError naming the settings that differ.
        """
        file = self.path / CONFIG_FILE
        if file.exists():
            differing = differing_settings(yaml.safe_load(file.read_text()), resolved)
            if differing:
                raise FileExistsError(
                    f"{self.path} must be new or hold this same sweep, found one with other settings of "
                    f"{differing[:6]}; choose another --output_dir or delete it."
                )
        else:
            write_atomically(file, yaml.safe_dump(resolved, sort_keys=False).encode())

    def of_seed(self, cell: str, seed: int) -> Path:
        """Return the folder of one model."""
        return self.path / cell / f"seed-{seed}"

    def has_member(self, cell: str, seed: int) -> bool:
        """Return whether a seed of a cell is done."""
        return (self.of_seed(cell, seed) / HISTORY_FILE).is_file()

    def load_member(self, cell: str, seed: int) -> Member:
        """Return what came of a seed that is done."""
        return Member.read(self.of_seed(cell, seed) / HISTORY_FILE)

    def load_members(self, cell: str, seeds: Sequence[int]) -> list[Member]:
        """Return what came of all seeds of a cell."""
        return [self.load_member(cell, seed) for seed in seeds]

    def write_member(self, cell: str, result: FitResult, scores: dict[str, float]) -> None:
        """Write the model of a seed and its record."""
        with self.complete_folder(self.of_seed(cell, result.seed)) as folder:
            if result.model is not None:
                with without_transformers_bars():
                    result.model.save_pretrained(folder)
            write_atomically(folder / HISTORY_FILE, Member.of(result, scores).to_json())

    @contextmanager
    def complete_folder(self, target: Path) -> Iterator[Path]:
        """Give an empty folder to fill, which takes the name `target` when all is written.

        Of a target that is there all files stay, and what it lacks is added.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        self.progress.mkdir(exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self.progress))
        try:
            yield scratch
            scratch.chmod(0o755)  # mkdtemp makes it private
            try:
                os.rename(scratch, target)
            except OSError:
                if not target.is_dir():
                    raise
                for file in scratch.iterdir():
                    if not (target / file.name).exists():
                        os.replace(file, target / file.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait until no other run holds the lock of this name, and hold it."""
        self.progress.mkdir(parents=True, exist_ok=True)
        with _locked(self.progress / f"{name}.lock"):
            self.progress.mkdir(exist_ok=True)  # the run that held it may have cleared it away
            yield

    @contextmanager
    def lock_all(self) -> Iterator[None]:
        """Wait until no other run writes what belongs to the sweep as a whole, and keep others from it."""
        with _locked(self.path / CONFIG_FILE):
            yield

    def clear_progress(self) -> None:
        """Remove what only an unfinished sweep needs, unless another run still works there."""
        try:
            for file in self.progress.glob("*.lock"):
                with _locked(file, wait=False):
                    pass
        except BlockingIOError:
            return
        shutil.rmtree(self.progress, ignore_errors=True)


@contextmanager
def _locked(file: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that ends with the process; BlockingIOError if another holds it, unless to `wait`."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
