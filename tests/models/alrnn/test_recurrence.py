"""The compiled recurrence of AL-RNN against the plain loop."""

import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hf_tsdyn.models.alrnn import recurrence, recurrence_cpu
from hf_tsdyn.models.alrnn.recurrence import forced_run, forced_run_loop, free_run

SIZES = [  # models, units, rectified, observed, steps, series
    (2, 20, 2, 3, 40, 16),
    (1, 1, 1, 1, 1, 1),
    (3, 5, 0, 2, 33, 17),
    (1, 7, 7, 7, 16, 3),
    (2, 30, 12, 25, 25, 33),
    (1, 100, 50, 10, 15, 16),
    (1, 3, 2, 3, 70, 2),
]


def problem(models, units, rectified, observed, steps, series, *, dtype=torch.float32, seed=0, weight="steps"):
    """Return parameters that need gradients, and the constants of a run that neither dies out nor grows."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    A, h = 0.3 + 0.5 * torch.rand(models, units, generator=generator, dtype=torch.float64), 0.3 * draw(models, units)
    W, initial = 0.5 * draw(models, units, units) / units**0.5, draw(models, series, units)
    forcing = draw(models, series, steps, observed)
    share = (torch.arange(steps) % 5 == 3).double()[:, None]
    if weight == "full":
        share = torch.rand(forcing.shape, generator=generator, dtype=torch.float64)
        share = share * (torch.rand(forcing.shape, generator=generator) < 0.4)
    forcing = torch.where(share == 0, torch.nan, forcing)  # what is not used must not be looked at
    return [x.to(dtype).requires_grad_() for x in (A, W, h, initial)], forcing.to(dtype), share.to(dtype)


def gradients(run, parameters, through, seed=1):
    """Return the gradients through some of a run's outputs, each weighed at random."""
    generator = torch.Generator().manual_seed(seed)
    loss = 0
    for name in through:
        output = getattr(run, name)
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        loss = loss + (output * weights.to(output.dtype)).sum()
    return torch.autograd.grad(loss, parameters, retain_graph=True)


def assert_same(found, wanted, tolerance):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        scale = b.detach().abs().max() if b.numel() else 0.0
        torch.testing.assert_close(a.to(b.dtype), b, rtol=0, atol=float(tolerance * scale))


def check(parameters, forcing, weight, *, num_relu_units, tolerance, backend="cpu"):
    found = forced_run(*parameters, forcing, weight, num_relu_units=num_relu_units, backend=backend)
    exact = [x.detach().double().requires_grad_() for x in parameters]
    wanted = forced_run_loop(*exact, forcing.double(), weight.double(), num_relu_units=num_relu_units)
    assert_same(found, wanted, tolerance)
    for through in (("observed",), ("states",), ("observed", "states")):
        assert_same(gradients(found, parameters, through), gradients(wanted, exact, through), tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("weight", ["steps", "full"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_outputs_and_gradients_are_those_of_the_loop(sizes, weight, dtype):
    parameters, forcing, share = problem(*sizes, dtype=dtype, weight=weight)
    check(parameters, forcing, share, num_relu_units=sizes[2], tolerance=1e-5 if dtype == torch.float32 else 1e-12)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_outputs_and_gradients_are_those_of_the_loop_at_any_size(data):
    units = data.draw(st.integers(1, 28))
    sizes = (
        data.draw(st.integers(1, 3)),
        units,
        data.draw(st.integers(0, units)),
        data.draw(st.integers(1, units)),
        data.draw(st.integers(1, 40)),
        data.draw(st.integers(1, 35)),
    )
    parameters, forcing, share = problem(
        *sizes, dtype=torch.float64, weight=data.draw(st.sampled_from(["steps", "full"]))
    )
    check(parameters, forcing, share, num_relu_units=sizes[2], tolerance=1e-12)


def test_derivatives_are_those_of_finite_differences():
    parameters, forcing, weight = problem(1, 3, 1, 2, 4, 2, dtype=torch.float64, weight="full")
    assert torch.autograd.gradcheck(
        lambda *p: tuple(forced_run(*p, forcing, weight, num_relu_units=1)), parameters, fast_mode=False
    )


def test_no_gradient_reaches_units_that_are_replaced():
    parameters, forcing, _ = problem(1, 4, 1, 2, 1, 3)
    run = forced_run(*parameters, torch.ones_like(forcing), torch.ones(1, 1), num_relu_units=1)
    (gradient,) = torch.autograd.grad(run.observed.sum(), parameters[3])
    assert (gradient[..., :2] == 0).all()
    assert (gradient[..., 2:] != 0).any()


@pytest.mark.parametrize("shape", [(), (12, 1), (12, 3), (2, 1, 12, 1), (2, 17, 12, 3)], ids=str)
def test_weight_is_broadcast(shape):
    parameters, forcing, _ = problem(2, 6, 2, 3, 12, 17)
    forcing = torch.nan_to_num(forcing)
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    assert_same(
        forced_run(*parameters, forcing, weight, num_relu_units=2),
        forced_run(*parameters, forcing, weight.expand_as(forcing).contiguous(), num_relu_units=2),
        0,
    )


@pytest.mark.parametrize("empty", [0, 3, 5], ids=["models", "observed units", "series"])
def test_nothing_is_made_of_nothing(empty):
    sizes = [2, 6, 2, 3, 12, 4]
    sizes[empty] = 0
    parameters, forcing, weight = problem(*sizes)
    check(parameters, forcing, weight, num_relu_units=2, tolerance=1e-5)
    assert free_run(*parameters, 3, num_relu_units=2).shape == (sizes[0], sizes[5], 3, 6)


def test_strided_tensors_are_read_as_they_are():
    parameters, forcing, weight = problem(2, 6, 2, 3, 20, 5, weight="full")
    wanted = forced_run(*parameters, forcing, weight, num_relu_units=2)
    strided = [x.detach().mT.contiguous().mT.requires_grad_() if x.ndim > 2 else x for x in parameters]
    turned = [x.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0) for x in (forcing, weight)]
    found = forced_run(*strided, *turned, num_relu_units=2)
    assert_same(found, wanted, 0)
    generator = torch.Generator().manual_seed(4)
    incoming = torch.randn(20, 2, 5, 3, generator=generator).permute(1, 2, 0, 3)
    assert_same(
        torch.autograd.grad(found.observed, strided, incoming),
        torch.autograd.grad(wanted.observed, parameters, incoming.contiguous()),
        0,
    )


@pytest.mark.parametrize("weights", ["shared", "of each model"])
def test_a_model_has_the_same_bits_whatever_its_neighbours(weights):
    parameters, forcing, weight = problem(16, 20, 2, 3, 30, 16)
    forcing = forcing.nan_to_num()
    weight = weight.expand(16, 1, 30, 1).clone()
    if weights == "of each model":
        weight[::7] = 0  # no step of these is forced
    together = forced_run(*parameters, forcing, weight, num_relu_units=2)
    all_gradients = gradients(together, parameters, ["observed"])
    incoming = torch.randn(together.observed.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    incoming = incoming.float()
    for model in (0, 7, 15):
        alone = [x.detach()[model : model + 1].requires_grad_() for x in parameters]
        run = forced_run(*alone, forcing[model : model + 1], weight[model : model + 1], num_relu_units=2)
        assert torch.equal(run.states[0], together.states[model])
        own = torch.autograd.grad(run.observed, alone, incoming[model : model + 1])
        assert all(torch.equal(a[0], b[model]) for a, b in zip(own, all_gradients, strict=True))


def test_states_that_are_kept_in_another_order_give_the_same_gradients():
    parameters, forcing, weight = problem(2, 6, 2, 3, 20, 5)
    wanted = gradients(forced_run(*parameters, forcing, weight, num_relu_units=2), parameters, ["observed"])
    turned = torch.autograd.graph.saved_tensors_hooks(
        lambda x: x.mT.contiguous() if x.ndim > 1 else x, lambda x: x.mT if x.ndim > 1 else x
    )
    with turned:
        run = forced_run(*parameters, forcing, weight, num_relu_units=2)
    assert_same(gradients(run, parameters, ["observed"]), wanted, 0)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own
def test_forward_derivatives_take_the_loop():
    parameters, forcing, weight = problem(1, 4, 1, 2, 6, 2)
    A, W, h, initial = (x.detach() for x in parameters)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(initial, torch.ones_like(initial))
        runs = [forced_run(A, W, h, dual, forcing, weight, num_relu_units=1, backend=each) for each in (None, "loop")]
        found, wanted = (torch.autograd.forward_ad.unpack_dual(run.states).tangent for run in runs)
    assert torch.equal(found, wanted)


def test_second_derivatives_are_refused_by_name():
    parameters, forcing, weight = problem(1, 4, 1, 2, 6, 2)
    run = forced_run(*parameters, forcing, weight, num_relu_units=1)
    (gradient,) = torch.autograd.grad(run.observed.square().sum(), parameters[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='loop'"):
        torch.autograd.grad(gradient.sum(), parameters[0])


def test_the_loop_stands_in_with_a_warning_where_nothing_compiles(monkeypatch):
    def broken():
        raise KeyError("no such option")

    parameters, forcing, weight = problem(1, 4, 1, 2, 6, 2)
    monkeypatch.setattr(recurrence_cpu, "check_compiles", broken)
    recurrence._cpu_kernels_compile.cache_clear()
    try:
        with pytest.warns(UserWarning, match="the loop in torch is.*KeyError: 'no such option'"):
            run = forced_run(*parameters, forcing, weight, num_relu_units=1)
        assert torch.equal(forced_run(*parameters, forcing, weight, num_relu_units=1).states, run.states)  # warns once
        assert torch.equal(run.states, forced_run_loop(*parameters, forcing, weight, num_relu_units=1).states)
    finally:
        recurrence._cpu_kernels_compile.cache_clear()


def test_gradients_of_observed_units_alone_make_none_of_the_states():
    parameters, forcing, weight = problem(1, 20, 2, 3, 50, 16)
    run = forced_run(*parameters, forcing, weight, num_relu_units=2)
    calls = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append((func, args))
            return func(*args, **(kwargs or {}))

    with Calls():
        torch.autograd.grad(run.observed.sum(), parameters, retain_graph=True)
        torch.autograd.grad(run.states.sum(), parameters)
    backward = torch.ops.hf_tsdyn.alrnn_forced_run_backward.default
    incoming = [arguments[6:8] for function, arguments in calls if function is backward]
    assert [[gradient is None for gradient in pair] for pair in incoming] == [[False, True], [True, False]]


@pytest.mark.parametrize("backend", ["cpu", "loop"])
@pytest.mark.parametrize(("series", "units"), [(1, 20), (17, 6)])
def test_free_run_is_a_run_never_pulled(backend, series, units):
    parameters, forcing, weight = problem(2, units, 2, 3, 37, series)
    states = forced_run_loop(*parameters, forcing, 0 * weight, num_relu_units=2).states
    for num_units in (None, 1, 3):
        found = free_run(*parameters, 37, num_relu_units=2, num_units=num_units, backend=backend)
        assert not found.requires_grad
        assert_same([found], [states[..., :num_units].detach()], 1e-5)


def test_free_run_goes_on_where_a_shorter_one_ended():
    parameters, _, _ = problem(2, 20, 2, 3, 1, 5)
    whole = free_run(*parameters, 83, num_relu_units=2)
    first = free_run(*parameters, 29, num_relu_units=2)
    rest = free_run(*parameters[:3], first[:, :, -1], 54, num_relu_units=2)
    assert torch.equal(torch.cat([first, rest], dim=2), whole)
    assert torch.equal(free_run(*parameters, 83, num_relu_units=2, num_units=3), whole[..., :3])
    assert free_run(*parameters, 0, num_relu_units=2).shape == (2, 5, 0, 20)


def test_overflow_goes_on_quietly():
    parameters, _, _ = problem(2, 6, 2, 3, 1, 3)
    A, W, h, initial = (x.detach() for x in parameters)
    W[0] *= 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = free_run(A, W, h, initial, 60, num_relu_units=2)
    wanted = free_run(A, W, h, initial, 60, num_relu_units=2, backend="loop")
    assert not found[0, :, -1].isfinite().any()
    assert torch.equal(found.isfinite().all(-1), wanted.isfinite().all(-1))
    assert_same([found[1]], [wanted[1]], 1e-5)


def test_kernels_leave_subnormal_numbers_to_others_as_they_were():
    parameters, forcing, weight = problem(1, 6, 2, 3, 5, 3)
    run = forced_run(*parameters, forcing, weight, num_relu_units=2)
    gradients(run, parameters, ["observed"])
    assert torch.tensor([1e-40]).mul(0.5).item() > 0
    assert np.float32(1e-40) * np.float32(0.5) > 0


def test_without_gradients_nothing_is_kept():
    parameters, forcing, weight = problem(1, 6, 2, 3, 5, 3)
    with torch.no_grad():
        run = forced_run(*parameters, forcing, weight, num_relu_units=2)
    assert not run.observed.requires_grad
    assert torch.equal(run.observed, run.states[..., :3])


def test_compiled_as_one_graph():
    parameters, forcing, weight = problem(2, 6, 2, 3, 20, 3)

    def loss(*p):
        run = forced_run(*p, forcing, weight, num_relu_units=2)
        return run.observed.square().sum() + run.states[:, :, -1].sum() + free_run(*p, 4, num_relu_units=2).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_same([compiled(*parameters)], [loss(*parameters)], 1e-6)
    found = torch.autograd.grad(compiled(*parameters), parameters)
    assert_same(found, torch.autograd.grad(loss(*parameters), parameters), 1e-6)


def test_operators_keep_torchs_rules():
    parameters, forcing, weight = problem(2, 6, 2, 3, 20, 3)
    operators = torch.ops.hf_tsdyn
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operators.alrnn_forced_run, (*parameters, forcing, weight, 2, "cpu"), test_utils=tests)
    torch.library.opcheck(operators.alrnn_free_run, (*parameters, 9, 2, 4, "cpu"), test_utils=tests)


def test_transforms_of_functions_take_the_loop():
    parameters, forcing, weight = problem(1, 4, 1, 2, 5, 2, dtype=torch.float64)
    A, W, h, initial = (x.detach() for x in parameters)

    def last(state):
        return forced_run(A, W, h, state, forcing, weight, num_relu_units=1).states[:, :, -1].sum((0, 1))

    jacobian = torch.func.jacrev(last)(initial)
    (row,) = torch.autograd.grad(last(parameters[3])[2], parameters[3])
    assert_same([jacobian[2]], [row], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_types_take_the_loop(dtype):
    parameters, forcing, weight = problem(1, 4, 1, 2, 5, 2, dtype=dtype)
    assert forced_run(*parameters, forcing, weight, num_relu_units=1).states.dtype == dtype


def test_shapes_come_out_on_the_meta_device():
    parameters, forcing, weight = problem(2, 5, 1, 3, 7, 4)
    moved = [x.detach().to("meta") for x in (*parameters, forcing, weight)]
    run = forced_run(*moved, num_relu_units=1)
    assert run.observed.shape == (2, 4, 7, 3)
    assert run.states.shape == (2, 4, 7, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": torch.zeros(2, 5)}, "Shapes must be"),
        ({"A": torch.zeros(4)}, "Shapes must be"),
        ({"initial": torch.zeros(1, 3, 4)}, "Shapes must be"),
        ({"forcing": torch.zeros(2, 3, 6, 5)}, "forcing must be"),
        ({"forcing": torch.zeros(2, 3, 0, 2)}, "forcing must be"),
        ({"weight": torch.zeros(3, 6, 2)[:2]}, "weight must be broadcastable"),
        ({"weight": torch.zeros(6, 1).double()}, "of A's type"),
        ({"h": torch.zeros(2, 4).double()}, "one floating-point type"),
        (
            {
                "A": torch.zeros(2, 0),
                "W": torch.zeros(2, 0, 0),
                "h": torch.zeros(2, 0),
                "initial": torch.zeros(2, 3, 0),
            },
            "at least one unit",
        ),
        ({"num_relu_units": 5}, "num_relu_units must be from 0 to"),
        ({"num_relu_units": -1}, "num_relu_units must be from 0 to"),
        ({"backend": "gpu"}, "backend must be one of loop, cpu, triton or None, found 'gpu'"),
        ({"backend": "triton", "A": torch.zeros(2, 4).double()}, "floating-point type"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change, message):
    fields = {"A": torch.zeros(2, 4), "W": torch.zeros(2, 4, 4), "h": torch.zeros(2, 4)}
    fields |= {"initial": torch.zeros(2, 3, 4), "forcing": torch.zeros(2, 3, 6, 2), "weight": torch.zeros(6, 1)}
    with pytest.raises(ValueError, match=message):
        forced_run(**(fields | {"num_relu_units": 1} | change))


def test_backends_refuse_types_they_cannot_take():
    parameters, _, _ = problem(1, 4, 1, 2, 5, 2, dtype=torch.float16)
    for backend in ("cpu", "triton"):
        with pytest.raises(ValueError, match="leave backend at None"):
            free_run(*parameters, 3, num_relu_units=1, backend=backend)


FROM_COPY = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import hf_tsdyn
from hf_tsdyn.models.alrnn.recurrence import free_run
assert hf_tsdyn.__file__.startswith(sys.argv[1]), hf_tsdyn.__file__
one = torch.ones(1, 1, 1)
assert free_run(one[0], 0 * one, 0 * one[0], one, 2, num_relu_units=0).flatten().tolist() == [1, 1]
"""


@pytest.mark.slow
def test_kernels_are_kept_elsewhere_if_the_package_cannot_be_written(tmp_path):
    package = Path(sys.modules[forced_run.__module__].__file__).parents[2]
    copy = shutil.copytree(package, tmp_path / "hf_tsdyn", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "models" / "alrnn" / "__pycache__").touch()  # no folder can be made here, not even by root
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", FROM_COPY, str(tmp_path)], check=True, cwd=tmp_path, env=environment)
    assert list((tmp_path / "cache").rglob("*.nbc"))


INTERPRETED = """
import sys, torch
sys.path[:0] = [{folder!r}]
from test_recurrence import SIZES, assert_same, check, problem
from hf_tsdyn.models.alrnn.recurrence import free_run
for sizes in SIZES:
    models, units, rectified, observed, steps, series = sizes
    sizes = models, units, rectified, observed, min(steps, 7), series
    for weight in ("steps", "full"):
        parameters, forcing, share = problem(*sizes, weight=weight)
        check(parameters, forcing, share, num_relu_units=rectified, tolerance=1e-5, backend="triton")
    options = dict(num_relu_units=rectified, num_units=min(units, 2))
    found, wanted = (free_run(*parameters, 9, backend=backend, **options) for backend in ("triton", "loop"))
    assert_same([found], [wanted], 1e-5)
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton"), reason="triton is not installed")
def test_triton_kernels_agree_with_the_loop_in_tritons_interpreter():
    code = INTERPRETED.format(folder=str(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_triton_kernels_agree_with_the_loop_on_a_gpu(sizes):
    for weight in ("steps", "full"):
        parameters, forcing, share = problem(*sizes, weight=weight)
        moved = [x.detach().cuda().requires_grad_() for x in parameters]
        found = forced_run(*moved, forcing.cuda(), share.cuda(), num_relu_units=sizes[2], backend="triton")
        wanted = forced_run_loop(*parameters, forcing, share, num_relu_units=sizes[2])
        assert_same([x.cpu() for x in found], wanted, 1e-5)
        incoming = torch.randn(wanted.observed.shape, generator=torch.Generator().manual_seed(2))
        own = torch.autograd.grad(found.observed, moved, incoming.cuda())
        assert_same([x.cpu() for x in own], torch.autograd.grad(wanted.observed, parameters, incoming), 1e-5)
        free = free_run(*moved, 9, num_relu_units=sizes[2], backend="triton").cpu()
        assert_same([free], [free_run(*parameters, 9, num_relu_units=sizes[2], backend="loop")], 1e-5)
