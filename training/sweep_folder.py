"""The folder of a sweep: its settings, one folder a trained model, and what is under way.

A model's folder appears with all its files at once. Below `.progress` lie the states that a killed run goes on from.
"""

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
from transformers.utils import logging

from hf_tsdyn.models.alrnn.fitting import FitResult, FitStatus
from hf_tsdyn.results import write_atomically
from training.sweep_config import differing_settings

CONFIG_FILE = "sweep_config.yaml"
HISTORY_FILE = "history.json"
BEST = "best"


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
        values = json.loads(content)
        history = [{name: float(value) for name, value in row.items()} for row in values["history"]]
        scores = {name: float(value) for name, value in values["scores"].items()}
        read = {"status": FitStatus[values["status"].upper()], "best_divergence": float(values["best_divergence"])}
        return cls(**values | read | {"history": history, "scores": scores})


def to_json(content: Any) -> bytes:
    """Return plain values as JSON, numbers that it does not know as the strings "Infinity" and "NaN"."""
    return json.dumps(_spelled(content), indent=1, allow_nan=False).encode()


def _spelled(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _spelled(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_spelled(value) for value in content]
    special = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
    return special.get(str(content), content) if isinstance(content, float) else content


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
        return Member.from_json((self.of_seed(cell, seed) / HISTORY_FILE).read_bytes())

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
        """Give an empty folder to fill, which takes the name `target` when all is written; one that is there stays."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self.progress.mkdir(exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self.progress))
        try:
            yield scratch
            scratch.chmod(0o755)  # mkdtemp makes it private
            try:
                os.rename(scratch, target)
            except OSError:
                if not target.exists():  # another run may have written the same
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def clear_progress(self) -> None:
        """Remove what only an unfinished sweep needs."""
        shutil.rmtree(self.progress, ignore_errors=True)
