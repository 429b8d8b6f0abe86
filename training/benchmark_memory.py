"""How much memory one forecast takes, measured in a process of its own.

    python -m training.benchmark_memory NAME ENTRY CONTEXT_LENGTH PREDICTION_LENGTH

`measure_memory` runs it so. It prints by how much the process grew at most, in bytes, from the loaded model to its
first forecast, of three channels: what the forecast needs, and code and tables that are loaded with it.
"""

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from hf_tsdyn.evaluation import EvaluationProtocol
from hf_tsdyn.results import write_atomically
from training.benchmark_config import BenchmarkConfig, ModelEntry
from training.benchmark_models import build_model, deciding_of
from training.cell_runs import failure_of

FOLDER = "memory"
NUM_CHANNELS = 3


def measure_memory(place: tuple[str, str], *, config: BenchmarkConfig) -> str | None:
    """Measure a (model, condition) that is missing; return what went wrong, None if nothing did."""
    (model, condition), file = place, memory_file(config, *place)
    wanted = settings_of(config, model, condition)

    def work() -> None:
        if file.is_file() and json.loads(file.read_text())["settings"] == wanted:
            return
        entry, protocol = config.models[model], config.conditions[condition]
        command = [sys.executable, "-m", "training.benchmark_memory", model, json.dumps(asdict(entry))]
        command += [str(protocol.context_length), str(protocol.prediction_length)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        found = int(lines[-1]) if done.returncode == 0 and lines else None  # a model that raises has no such memory
        write_atomically(file, json.dumps({"settings": wanted, "peak_memory_bytes": found}, indent=1).encode())

    return failure_of(f"{FOLDER}/{model}/{condition}", work)


def settings_of(config: BenchmarkConfig, model: str, condition: str) -> dict[str, object]:
    """Return what decides the memory of a forecast."""
    protocol: EvaluationProtocol = config.conditions[condition]
    lengths = {name: getattr(protocol, name) for name in ("context_length", "prediction_length")}
    return {"model": deciding_of(config.models[model], model), **lengths}


def memory_file(config: BenchmarkConfig, model: str, condition: str) -> Path:
    """Return the file of what was measured."""
    return Path(config.output_dir, FOLDER, model, f"{condition}.json")


def peak_memory(config: BenchmarkConfig, model: str, condition: str) -> int | None:
    """Return the bytes that were measured; None where nothing was, or the model raised."""
    file = memory_file(config, model, condition)
    return json.loads(file.read_text())["peak_memory_bytes"] if file.is_file() else None


def main(arguments: Sequence[str]) -> None:
    """Forecast once and print the growth."""
    if len(arguments) != 4:
        sys.exit("usage: python -m training.benchmark_memory NAME ENTRY CONTEXT_LENGTH PREDICTION_LENGTH")
    name, entry, context_length, prediction_length = arguments
    torch.set_num_threads(1)
    model = build_model(name, ModelEntry(**json.loads(entry)))
    time = torch.arange(int(context_length))[:, None]
    waves = torch.sin(0.06 * time * torch.tensor([1.0, 1.7, 0.6])) + torch.tensor([0.0, 1.0, 2.0])
    past = waves[None, :, :NUM_CHANNELS]
    _forget_peak()
    before = _peak()
    model.forecast(past, prediction_length=int(prediction_length))
    print(_peak() - before)


STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells of this process alone: what getrusage says there includes the process that it was forked from."""


def _peak() -> int:
    """The most memory that this process had so far, in bytes."""
    if STATUS.is_file():
        return 1024 * next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _forget_peak() -> None:
    """Let the peak begin anew at what is held now, where that can be: loading a model takes more than holding it."""
    with contextlib.suppress(OSError):
        RESET.write_text("5")


if __name__ == "__main__":
    main(sys.argv[1:])
