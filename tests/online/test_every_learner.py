"""What every learner around a forecaster promises: no look ahead, forecasts without effect, memory that stays flat."""

import gc
import resource

import numpy as np
import pytest
import torch


def test_no_forecast_depends_on_what_comes_after_it(run_learner, build_learner, learner_name, stream):
    rng = np.random.default_rng(sum(map(ord, learner_name)))
    cuts = rng.choice(np.arange(21, 38), size=3, replace=False)
    whole = run_learner(build_learner(learner_name), stream[:38], warm_up=20)
    for cut, changes in zip(cuts, (np.nan, rng.normal(size=(38, 2)), 1e6 * rng.normal(size=(38, 2))), strict=True):
        changed = np.where(np.arange(38)[:, None] < cut, stream[:38], changes)
        other = run_learner(build_learner(learner_name), changed, warm_up=20, stop=cut + 1)
        number = cut - 20
        assert torch.equal(whole[: number + 1], other[: number + 1])
        assert np.isnan(changes).all() or not torch.equal(whole[number + 1], other[number + 1])


def test_the_immediate_protocol_does_know_what_comes_after(run_learner, build_learner, stream):
    changed = stream.copy()
    changed[31:] += 1
    whole, other = (
        run_learner(build_learner("ogd", None, "immediate"), each, warm_up=20, stop=40) for each in (stream, changed)
    )
    assert torch.equal(whole[:9], other[:9])
    assert not torch.equal(whole[10], other[10])


@pytest.mark.parametrize("name", ["ogd", "er", "der++", "three_updates"])
def test_both_protocols_are_one_with_a_horizon_of_one_step(run_learner, tiny_model, build_learner, stream, name):
    model = tiny_model(prediction_length=1)
    delayed, immediate = (build_learner(name, model, protocol) for protocol in ("delayed", "immediate"))
    assert torch.equal(run_learner(delayed, stream, warm_up=20), run_learner(immediate, stream, warm_up=20))
    assert delayed.statistics() == immediate.statistics()
    assert delayed.statistics()["num_updates"] >= 27


def test_forecasting_changes_nothing(run_learner, build_learner, learner_name, stream):
    learner = build_learner(learner_name)
    run_learner(learner, stream, warm_up=20, stop=40)
    before = learner.state_dict()
    assert torch.equal(learner.forecast(), learner.forecast())
    after = learner.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor.nan_to_num(7.0), after[name].nan_to_num(7.0)), name


def _sizes_after(learner, *counts):
    """Bytes of state, Python's objects and the largest resident memory, in kB, each after so many steps more."""
    rng = np.random.default_rng(0)
    for count in counts:
        for _ in range(count):
            learner.learn_one(rng.normal(size=2))
            learner.forecast()
        state = sum(each.nbytes for each in learner.state_dict().values())
        gc.collect()
        yield state, len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", ["der++", "partial_er", "fsnet_der++", "features"])
def test_nothing_grows_with_the_stream(build_learner, name):
    learner = build_learner(name)
    (state, objects, _), (later_state, later_objects, _) = _sizes_after(learner, 20, 40)
    assert state == later_state
    assert later_objects - objects < 40
    assert all(buffer.grad_fn is None for buffer in learner.forecaster.buffers())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["der++", "fsnet_ogd"])
def test_memory_is_flat_over_twenty_thousand_steps(build_learner, name):
    (state, objects, resident), (later_state, later_objects, later_resident) = _sizes_after(
        build_learner(name), 2000, 18_000
    )
    assert state == later_state
    assert later_objects - objects < 1000
    assert later_resident - resident < 2000
