"""The drift monitor, against its definition and on losses whose drift is known."""

import numpy as np
import pytest

from hf_tsdyn.online.drift import DriftMonitor


def _alarms(losses, **settings) -> list[int]:
    monitor = DriftMonitor(**settings)
    found = [step for step, loss in enumerate(losses) if monitor.update(float(loss))]
    assert monitor.num_alarms == len(found)
    return found


def _alarms_by_definition(losses, *, tolerance, threshold, min_observations):
    found, past, evidence = [], [], 0.0
    for step, loss in enumerate(losses):
        if len(past) >= min_observations:
            evidence = max(0.0, evidence + (loss - np.mean(past)) / np.std(past) - tolerance)
        past.append(loss)
        if evidence > threshold:
            found.append(step)
            past, evidence = [], 0.0
    return found


def test_alarms_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    losses = rng.lognormal(size=2000) * (1 + np.arange(2000) // 250)
    settings = {"tolerance": 0.1, "threshold": 12.0, "min_observations": 30}
    expected = _alarms_by_definition(losses, **settings)
    assert len(expected) > 4
    assert _alarms(losses, **settings) == expected


def test_a_rise_is_told_soon_and_a_fall_never():
    rng = np.random.default_rng(1)
    losses = rng.lognormal(sigma=0.5, size=3000)
    assert _alarms(losses) == []
    risen = losses * np.where(np.arange(3000) < 1500, 1.0, 3.0)
    alarms = _alarms(risen)
    assert len(alarms) == 1
    assert 1500 <= alarms[0] < 1550
    assert _alarms(risen[::-1]) == []


def test_alarms_do_not_depend_on_the_unit_of_the_loss():
    losses = np.random.default_rng(2).lognormal(size=1500) * (1 + np.arange(1500) // 300)
    assert _alarms(losses * 2.0**40) == _alarms(losses * 2.0**-40) == _alarms(losses) != []


def test_constant_losses_raise_no_alarm():
    assert _alarms([0.1] * 1000) == []
    assert _alarms([0.0] * 300 + [1.0]) == []


def test_a_monitor_goes_on_to_the_bit():
    losses = np.random.default_rng(3).lognormal(size=3000) * (1 + np.arange(3000) // 500)
    for cut in (10, 700, 1500):
        first, second = DriftMonitor(), DriftMonitor()
        for loss in losses[:cut]:
            first.update(loss)
        second.load_state(first.state())
        assert [first.update(loss) for loss in losses[cut:]] == [second.update(loss) for loss in losses[cut:]]
        assert first.num_alarms == second.num_alarms > 0


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="a loss must be finite, found nan"):
        DriftMonitor().update(float("nan"))


@pytest.mark.parametrize("settings", [{"tolerance": -1}, {"threshold": 0}, {"min_observations": 1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="change them"):
        DriftMonitor(**settings)
