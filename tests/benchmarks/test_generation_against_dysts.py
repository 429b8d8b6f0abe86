"""CPU seconds a trajectory against dysts, and the accepted trajectories a CPU-second of the whole pipeline.

The seconds of dysts lie in `dysts_baseline.json`; `REMEASURE=1` measures them anew (about three minutes) and rewrites
that file.
"""

import json
import os
import platform
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_generation.config import SPLITS
from data_generation.config_loading import load_config
from data_generation.dormand_prince import load_driver
from data_generation.gallery import gallery_image
from data_generation.generate import generate_dataset
from data_generation.integration import IntegrationStatus, integrate
from data_generation.kernels import load_kernel
from data_generation.systems import load_system, system_names

SYSTEMS = (
    "Lorenz", "Rossler", "Lorenz96", "HyperRossler", "DoublePendulum", "MacArthur", "Hopfield", "CellCycle",
    "ForcedVanDerPol", "Chua", "ExcitableCell", "HindmarshRose", "SprottA", "BlinkingRotlet", "Bouali2",
)  # fmt: skip
FLOORS = {"Radau": 2000.0, "DOP853": 200.0}
NUM_TRAJECTORIES = 256
NUM_POINTS = 4096
NUM_PERIODS = 40
NUM_PARAMETER_SETS = 5
TOLERANCES = {"rtol": 1e-9, "atol": 1e-10}
BASELINE = Path(__file__).with_name("dysts_baseline.json")
BASE_CONFIG = Path(__file__).parents[2] / "data_generation" / "configs" / "base.yaml"


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores"


def dysts_seconds(name: str, method: str) -> float:
    """Return the CPU seconds of one full trajectory, with what dysts compiles itself compiled before."""
    from dysts import flows

    flow = getattr(flows, name)()
    flow(flow.ic, 0.0)
    if flow.has_jacobian():
        flow.jac(flow.ic, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.process_time()
        points_per_period = NUM_POINTS / NUM_PERIODS
        states = flow.make_trajectory(NUM_POINTS, pts_per_period=points_per_period, method=method, **TOLERANCES)
        seconds = time.process_time() - start
    assert states is not None, (name, method)
    return seconds


def measure_baseline() -> dict[str, Any]:
    return {
        "hardware": hardware(),
        "versions": {package: version(package) for package in ("dysts", "numpy", "scipy")},
        **TOLERANCES,
        "num_points": NUM_POINTS,
        "periods_measured": NUM_PERIODS,
        "seconds": {method: {name: round(dysts_seconds(name, method), 3) for name in SYSTEMS} for method in FLOORS},
    }


def measure_ours() -> dict[str, dict[str, float]]:
    """Return CPU seconds by name of a system, and of the "driver" that all share."""
    start = time.process_time()
    load_driver()
    seconds = {"driver": {"compilation": time.process_time() - start}}
    for name in SYSTEMS:
        system = load_system(name)
        starts = system.initial_condition * (1 + 1e-6 * np.arange(NUM_TRAJECTORIES)[:, None])
        start = time.process_time()
        load_kernel(system.vector_field)
        compiled = time.process_time()
        result = integrate(
            system.vector_field,
            starts,
            system.parameter_vector,
            dt=NUM_PERIODS * system.period / (NUM_POINTS - 1),
            num_points=NUM_POINTS,
            unbounded=system.unbounded,
            **TOLERANCES,
        )
        seconds[name] = {"compilation": compiled - start, "integration": time.process_time() - compiled}
        assert result.status == [IntegrationStatus.COMPLETED] * NUM_TRAJECTORIES, name
    return seconds


def run_alone(task: str, cache: Path) -> dict[str, Any]:
    """Run this file in a fresh process that finds nothing compiled, and return what it prints."""
    environment = os.environ | {
        "HF_TSDYN_CACHE": str(cache),
        "NUMBA_CACHE_DIR": str(cache / "driver"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, task]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.bench
def test_integration_alone(tmp_path):
    if os.environ.get("REMEASURE"):
        BASELINE.write_text(json.dumps(run_alone("dysts", tmp_path), indent=2) + "\n")
    baseline = json.loads(BASELINE.read_text())
    ours = run_alone("ours", tmp_path)
    print(f"\ndysts {baseline['versions']['dysts']} measured on {baseline['hardware']}; this is {hardware()}")
    print(f"driver {ours['driver']['compilation']:.1f} CPU s, once a machine, not counted below")
    print(
        f"{'CPU ms a trajectory':20s}{'compile/256':>12s}{'integrate':>10s}"
        + "".join(f"{m:>10s}{'x':>8s}" for m in FLOORS)
    )
    ratios: dict[str, list[float]] = {method: [] for method in FLOORS}
    for name in SYSTEMS:
        parts = [seconds / NUM_TRAJECTORIES for seconds in (ours[name]["compilation"], ours[name]["integration"])]
        line = f"{name:20s}{1e3 * parts[0]:12.2f}{1e3 * parts[1]:10.2f}"
        for method in FLOORS:
            theirs = baseline["seconds"][method][name]
            ratios[method].append(theirs / sum(parts))
            line += f"{1e3 * theirs:10.0f}{ratios[method][-1]:8.0f}"
        print(line)
    for method, floor in FLOORS.items():
        print(f"geometric mean against {method}: {np.exp(np.mean(np.log(ratios[method]))):.0f} (floor {floor:.0f})")
    assert set(baseline["seconds"]) == set(FLOORS)


@pytest.mark.bench
@pytest.mark.parametrize(("num_periods", "floor"), [(0, 35), (100, 15)], ids=["every check", "and the exponent"])
def test_whole_pipeline(tmp_path, num_periods, floor):
    """Perturbed parameters only, 40 periods in all; kernels loaded before, card and gallery included."""

    def generate(folder: str, *options: str) -> tuple[float, int]:
        arguments = ["--config", str(BASE_CONFIG), "--output", str(tmp_path / folder), "--jobs", "1"]
        arguments += ["--perturbation.include_default_parameters", "false"]
        arguments += ["--lyapunov.num_periods", str(num_periods), *options]
        for split in SPLITS:
            arguments += [f"--splits.{split}.num_parameter_sets", str(NUM_PARAMETER_SETS)]
        config = load_config(arguments, exit_on_error=False)
        start = time.process_time()
        manifest = generate_dataset(config).manifest
        return time.process_time() - start, manifest["counts"]["accepted"]

    short = ["--integration.num_points", "256", "--integration.num_periods", "4"]
    generate("warm", *short)
    seconds, accepted = generate("measured")
    start = time.process_time()
    gallery_image(sorted((tmp_path / "measured" / "data").glob("*.arrow")))
    drawing = time.process_time() - start
    candidates = NUM_PARAMETER_SETS * len(system_names())
    print(f"\n{accepted} of {candidates} accepted in {seconds:.1f} CPU s, exponent over {num_periods} periods")
    print(
        f"{accepted / seconds:.1f} accepted a CPU-second (floor {floor}), {accepted / (seconds - drawing):.1f} without"
    )
    print(f"the gallery, whose {drawing:.1f} s do not grow with the dataset")
    assert accepted > candidates / 5


if __name__ == "__main__":
    print(json.dumps({"dysts": measure_baseline, "ours": measure_ours}[sys.argv[1]]()))
