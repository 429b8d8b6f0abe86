"""Compiled kernels compute what numpy computes, and survive in the disk cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_generation.dormand_prince import LANES
from data_generation.expressions import trace
from data_generation.kernels import emit, kernel_name, load_kernel
from data_generation.systems import load_system, system_names


def run_kernel(vector_field, states, time, parameters):
    """(dimension, LANES), (LANES,), (LANES, num_parameters) -> (num_outputs, LANES)"""
    kernel = load_kernel(vector_field)
    outputs = np.empty(len(vector_field.outputs) * LANES)
    kernel.function(np.ravel(states), time, np.ravel(kernel.constants(parameters).T), outputs)
    return outputs.reshape(-1, LANES)


def check_system(name):
    generator = np.random.default_rng(3)
    system = load_system(name)
    noise = generator.standard_normal((system.dimension, LANES))
    states = system.initial_condition[:, None] + 0.1 * system.state_std[:, None] * noise
    time = generator.uniform(0, 10, LANES)
    shape = (LANES, len(system.parameter_vector))
    parameters = system.parameter_vector * (1 + 0.1 * generator.standard_normal(shape))
    with np.errstate(invalid="ignore"):
        expected = system.vector_field(states, time, parameters.T)
    found = run_kernel(system.vector_field, states, time, parameters)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=3e-14 * np.nanmax(np.abs(expected)))


@pytest.mark.parametrize("name", ["BelousovZhabotinsky", "CircadianRhythm", "FluidTrampoline", "Hopfield", "Torus"])
def test_kernel_equals_numpy_evaluation(name):
    check_system(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", system_names())
def test_kernel_of_every_system_equals_numpy_evaluation(name):
    check_system(name)


def test_every_operation_agrees_with_numpy_on_special_values():
    def function(x, t, p):
        a, b = x
        smooth = [
            np.sin(a),
            np.cos(a),
            np.tanh(a),
            np.exp(a),
            np.log(a),
            np.sinh(a),
            np.cosh(a),
            np.sqrt(a),
            a**b,
            a / b,
        ]
        smooth += [(-2.0) ** b, a - float("inf"), b - -3.0]
        return [*smooth, -a, np.abs(a), np.sign(a), np.heaviside(a, 0.5), np.maximum(a, b), min(a, b), t + a * b]

    field = trace(function, 2, {})
    values = [0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, 3.0]
    states = np.array([values * 2, [2.0] * 8 + values[::-1]])
    time = np.linspace(0, 1, LANES)
    with np.errstate(all="ignore"):
        expected = field(states, time, np.empty(0))
    found = run_kernel(field, states, time, np.empty((LANES, 0)))
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=0)


def test_work_on_parameters_alone_is_kept_out_of_the_kernel():
    field = trace(lambda x, t, p: [x[0] * np.exp(p["a"] / p["b"]), p["b"] + 1], 1, {"a": 0.0, "b": 0.0})
    kernel = load_kernel(field)
    np.testing.assert_allclose(kernel.constants(np.array([[1.0, 2.0]])), [[np.exp(0.5), 3.0]], rtol=1e-15)
    found = run_kernel(field, np.full((1, LANES), 3.0), np.zeros(LANES), np.tile([1.0, 2.0], (LANES, 1)))
    np.testing.assert_allclose(found[:, 5], [3 * np.exp(0.5), 3.0], rtol=1e-15)


def test_processes_that_race_share_one_compiled_kernel(tmp_path):
    program = (
        "from data_generation.expressions import trace; from data_generation.kernels import load_kernel;"
        "field = trace(lambda x, t, p: [x[1] * p['b'], -x[0] * p['a'] * (1 + p['b'])], 2, {'b': 0, 'a': 0});"
        "print(sum(load_kernel(field).function.stats.cache_hits.values()))"
    )
    settings = {
        "env": {**os.environ, "HF_TSDYN_CACHE": str(tmp_path)},
        "cwd": Path(__file__).parents[2],
        "stdout": subprocess.PIPE,
        "text": True,
    }
    racers = [subprocess.Popen([sys.executable, "-c", program], **settings) for _ in range(2)]
    assert [(racer.communicate(), racer.returncode)[1] for racer in racers] == [0, 0]
    assert len(list(tmp_path.glob("kernel_*.py"))) == 1
    assert not list(tmp_path.glob("*.tmp"))
    late = subprocess.run([sys.executable, "-c", program], check=True, **settings)
    assert late.stdout.strip() == "1"


def test_file_with_other_content_is_not_run_but_written_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TSDYN_CACHE", str(tmp_path))
    field = trace(lambda x, t, p: [x[0] * 3.25 + 1], 1, {})
    (tmp_path / f"{kernel_name(emit(field))}.py").write_text("raise SystemExit('not the emitted source')")
    found = run_kernel(field, np.full((1, LANES), 2.0), np.zeros(LANES), np.empty((LANES, 0)))
    np.testing.assert_array_equal(found, np.full((1, LANES), 7.5))
    assert [path.read_text() for path in tmp_path.glob("*.py")] == [emit(field)]
