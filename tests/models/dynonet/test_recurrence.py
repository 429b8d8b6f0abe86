"""Grouped GRUs against torch.nn.GRU and finite differences."""

import pytest
import torch
from torch import nn

from hf_tsdyn.models.dynonet import recurrence, recurrence_steps
from hf_tsdyn.models.dynonet.recurrence import grouped_gru, grouped_gru_loop

SIZES = [  # groups, series, steps, inputs, units
    (1, 5, 40, 7, 64),
    (7, 4, 21, 8, 8),
    (3, 1, 1, 1, 1),
    (2, 17, 9, 24, 3),
    (1, 3, 6, 2, 5),
]
SEGMENTS = {"one segment": 2**24, "segments": 1000, "segments of one step": 1}


@pytest.fixture(params=SEGMENTS)
def segments(request, monkeypatch):
    """Runs in one piece and cut."""
    monkeypatch.setattr(recurrence_steps, "BUFFER_BYTES", SEGMENTS[request.param])


def problem(groups, series, steps, inputs, units, *, dtype=torch.float32, seed=0):
    """Return inputs, weights, biases and initial states that all need gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (groups, series, steps, inputs),
        (groups, 3 * units, inputs),
        (groups, 3 * units, units),
        (groups, 3 * units),
        (groups, 3 * units),
        (groups, series, units),
    ]
    spread = [1.0, units**-0.5, units**-0.5, 0.5, 0.5, 1.0]
    return [
        (by * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for by, shape in zip(spread, shapes, strict=True)
    ]


def torchs_own(inputs, weight_ih, weight_hh, bias_ih, bias_hh, initial):
    states = []
    for group in range(len(inputs)):
        gru = nn.GRU(inputs.shape[3], weight_hh.shape[2], batch_first=True, dtype=inputs.dtype)
        named = {"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_ih_l0": bias_ih, "bias_hh_l0": bias_hh}
        weights = {name: tensor[group] for name, tensor in named.items()}
        states.append(torch.func.functional_call(gru, weights, (inputs[group], initial[group : group + 1]))[0])
    return torch.stack(states)


def gradients(states, tensors, seed=1):
    """Return the gradients of a random mix of states."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    return torch.autograd.grad((states * mix.to(states.dtype)).sum(), tensors)


def assert_same(found, wanted, tolerance):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=float(tolerance * b.detach().abs().max()))


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("last_only", [False, True], ids=["all states", "last state"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_states_and_gradients_are_those_of_torchs_gru(sizes, dtype, last_only):
    tensors = problem(*sizes, dtype=dtype)
    wanted = torchs_own(*tensors)
    wanted = wanted[:, :, -1:] if last_only else wanted
    found = grouped_gru(*tensors, last_only=last_only)
    single = dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 if single else 1e-14)
    assert_same(gradients(found, tensors), gradients(wanted, tensors), 1e-5 if single else 1e-12)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_loop_is_torchs_gru(sizes):
    tensors = problem(*sizes, dtype=torch.float64)
    found, wanted = grouped_gru_loop(*tensors), torchs_own(*tensors)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    assert_same(gradients(found, tensors), gradients(wanted, tensors), 1e-12)


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("last_only", [False, True], ids=["all states", "last state"])
def test_derivatives_are_those_of_finite_differences(last_only):
    tensors = problem(2, 1, 3, 1, 2, dtype=torch.float64)

    def run(*tensors):
        return grouped_gru(*tensors, last_only=last_only)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


def test_no_initial_states_are_zeros():
    tensors = problem(2, 3, 5, 4, 6)
    assert torch.equal(grouped_gru(*tensors[:5]), grouped_gru(*tensors[:5], torch.zeros(2, 3, 6)))


def test_a_step_of_gradient_descent_is_differentiated_through():
    """As look-ahead training does: the loss after a step of the weights, by what weighed the loss before it."""
    inputs, *weights, initial = problem(3, 4, 6, 2, 3, dtype=torch.float64)
    share = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def after(run):
        losses = run(inputs, *weights, initial)[:, :, -1].square().mean(dim=(1, 2))
        slopes = torch.autograd.grad((share * losses).sum(), weights, create_graph=True)
        moved = [weight - 0.1 * slope for weight, slope in zip(weights, slopes, strict=True)]
        loss = run(inputs.flip(2), *moved, initial).square().mean()
        return torch.autograd.grad(loss, [share, *weights, inputs])

    assert_same(after(grouped_gru), after(grouped_gru_loop), 1e-12)


def test_one_tensor_in_two_places_gets_the_gradients_of_both():
    inputs, weight, _, bias, _, initial = problem(2, 3, 4, 5, 5, dtype=torch.float64)
    tied = inputs, weight, weight, bias, bias, initial
    wanted = torch.autograd.grad(torchs_own(*tied).square().sum(), [weight, bias])
    for create_graph in (False, True):
        found = torch.autograd.grad(grouped_gru(*tied).square().sum(), [weight, bias], create_graph=create_graph)
        assert_same(found, wanted, 1e-12)


def test_gradients_can_be_taken_twice_from_one_run():
    tensors = problem(2, 3, 5, 4, 6)
    loss = grouped_gru(*tensors).square().sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, tensors), strict=True))


@pytest.mark.parametrize("wanted", range(6))
def test_each_gradient_can_be_taken_alone(wanted):
    tensors = [tensor.detach() for tensor in problem(2, 3, 5, 4, 6)]
    alone = tensors[wanted].requires_grad_()
    found = gradients(grouped_gru(*tensors), [alone])
    assert_same(found, gradients(torchs_own(*tensors), [alone]), 1e-5)


def test_gradients_that_die_out_cost_no_steps(monkeypatch):
    monkeypatch.setattr(recurrence_steps, "BUFFER_BYTES", 2000)
    tensors = problem(1, 2, 300, 2, 3)
    with torch.no_grad():
        tensors[4][:, 3:6] = -8  # nearly nothing is kept from step to step
    passed, go_back = [], recurrence.Gradients.go_back

    def count(self, operands, gates, *others):
        passed.append(len(gates))
        go_back(self, operands, gates, *others)

    monkeypatch.setattr(recurrence.Gradients, "go_back", count)
    found = gradients(grouped_gru(*tensors, last_only=True), tensors)
    assert 0 < sum(passed) < 100
    assert not found[0][:, :, :200].any()
    assert_same(found, gradients(torchs_own(*tensors)[:, :, -1:], tensors), 1e-5)


def test_strided_tensors_are_read_as_they_are():
    tensors = problem(2, 6, 7, 3, 4)
    strided = [x.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for x in tensors]
    assert_same([grouped_gru(*strided)], [grouped_gru(*tensors)], 1e-6)
    assert_same(gradients(grouped_gru(*strided), strided), gradients(grouped_gru(*tensors), tensors), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_at_the_ends_alone(dtype):
    tensors = problem(2, 3, 30, 4, 6, dtype=dtype)
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    found, wanted = grouped_gru(*tensors), grouped_gru(*exact)
    assert torch.equal(found, wanted.to(dtype))
    assert [x.dtype for x in gradients(found, tensors)] == [dtype] * 6
    assert grouped_gru(tensors[0], *exact[1:]).dtype == dtype  # inputs alone, as under autocast


def test_autocast_leaves_precision_as_it_is():
    tensors = problem(2, 3, 30, 4, 6)
    wanted = torch.autograd.grad(grouped_gru(*tensors).square().sum(), tensors)
    for create_graph in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            states = grouped_gru(*tensors)
            found = torch.autograd.grad(states.square().sum(), tensors, create_graph=create_graph)
        assert_same(found, wanted, 1e-5)


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("last_only", [False, True], ids=["all states", "last state"])
def test_compiled_as_one_graph(last_only):
    tensors = problem(2, 3, 11, 4, 6)

    def loss(*tensors):
        return grouped_gru(*tensors, last_only=last_only).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_same([compiled(*tensors)], [loss(*tensors)], 1e-6)
    found = torch.autograd.grad(compiled(*tensors), tensors)
    assert_same(found, torch.autograd.grad(loss(*tensors), tensors), 1e-6)


@pytest.mark.usefixtures("segments")
@pytest.mark.parametrize("is_kept", [False, True])
def test_operator_keeps_torchs_rules(is_kept):
    arguments = (*problem(2, 3, 11, 4, 6), False, is_kept)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.hf_tsdyn.grouped_gru, arguments, test_utils=tests)


def test_shapes_come_out_on_the_meta_device():
    tensors = [tensor.detach().to("meta") for tensor in problem(2, 3, 11, 4, 6)]
    assert grouped_gru(*tensors).shape == (2, 3, 11, 6)
    assert grouped_gru(*tensors, last_only=True).shape == (2, 3, 1, 6)


def test_no_series_are_no_states():
    tensors = problem(2, 0, 5, 4, 6)
    states = grouped_gru(*tensors)
    assert states.shape == (2, 0, 5, 6)
    assert all(not gradient.any() for gradient in torch.autograd.grad(states.sum(), tensors))


@pytest.mark.gpu
@pytest.mark.parametrize("last_only", [False, True], ids=["all states", "last state"])
def test_cuda_gives_what_the_cpu_gives(last_only):
    tensors = problem(3, 5, 40, 4, 8)
    moved = [tensor.detach().cuda().requires_grad_() for tensor in tensors]
    wanted, found = grouped_gru(*tensors, last_only=last_only), grouped_gru(*moved, last_only=last_only)
    assert_same([found.cpu()], [wanted], 1e-5)
    on_cpu = [gradient.cpu() for gradient in torch.autograd.grad(found.square().sum(), moved)]
    assert_same(on_cpu, torch.autograd.grad(wanted.square().sum(), tensors), 1e-4)


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (0, (3, 5, 4), r"inputs must be \(groups, series, steps, inputs\).*found \(3, 5, 4\)"),
        (0, (2, 3, 0, 4), "at least one step"),
        (1, (2, 18, 5), r"weight_ih must be \(2, 18, 4\).*found \(2, 18, 5\)"),
        (2, (2, 6, 6), r"weight_hh must be \(2, 18, 6\).*found \(2, 6, 6\)"),
        (2, (), "weight_ih must be"),
        (3, (18,), r"bias_ih must be \(2, 18\).*found \(18,\)"),
        (4, (1, 18), "bias_hh must be"),
        (5, (3, 6), r"initial must be \(2, 3, 6\).*found \(3, 6\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(place, shape, message):
    tensors = [tensor.detach() for tensor in problem(2, 3, 5, 4, 6)]
    tensors[place] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        grouped_gru(*tensors)


def test_two_devices_are_refused():
    tensors = [tensor.detach() for tensor in problem(2, 3, 5, 4, 6)]
    with pytest.raises(ValueError, match="on one device"):
        grouped_gru(tensors[0].to("meta"), *tensors[1:])
