import json

import pytest
import torch

from training.signal_log import SignalLog, channel_statistics


@pytest.fixture
def counted(tmp_path):
    """A function that returns a log of signals that grow with every measurement, from a number on."""

    def build(first=0):
        state = {"number": first}

        def measure():
            state["number"] += 1
            return {"lr_scale": state["number"] + torch.tensor([[0.0, 10.0], [2.0, 10.0]])}

        return SignalLog(tmp_path / "signals.json", measure)

    return build


def test_the_file_holds_means_and_deviations_by_step(counted, tmp_path):
    log = counted()
    for step in (0, 5, 5, 10):
        log.record(step)
    log.write()
    assert json.loads((tmp_path / "signals.json").read_text()) == {
        "steps": [0, 5, 10],
        "signals": {"lr_scale": {"mean": [[2.0, 11.0], [3.0, 12.0], [4.0, 13.0]], "std": [[1.0, 0.0]] * 3}},
    }


def test_a_resumed_log_goes_on_from_its_checkpoint(counted, tmp_path):
    whole = counted()
    for step in (0, 4, 8, 12):
        whole.record(step)
    whole.write()
    content = (tmp_path / "signals.json").read_bytes()
    resumed = counted(first=2)
    resumed.resume(4)
    assert resumed.steps == [0, 4]
    for step in (4, 8, 12):
        resumed.record(step)
    resumed.write()
    assert (tmp_path / "signals.json").read_bytes() == content


def test_a_log_without_a_file_begins_anew(counted):
    log = counted()
    log.resume(4)
    log.record(4)
    assert log.steps == [4]


def test_every_signal_has_a_number_a_channel(generator):
    windows, channels, units, layers = 6, 3, 4, 2
    film = torch.randn(layers, 2, windows, channels, units, generator=generator)
    gates = torch.randn(windows, channels, 5, units, generator=generator)
    context = torch.randn(windows, units, generator=generator)
    mixture = torch.randn(windows, channels, 2, generator=generator)
    found = channel_statistics({"film": film, "gate_masks": gates, "context": context, "mixture": mixture})
    assert list(found) == ["film_gamma", "film_beta", "gate_masks", "context", "mixture_0", "mixture_1"]
    expected = {
        "film_gamma": film[:, 0].mean(dim=(0, 1, 3)),
        "film_beta": film[:, 1].mean(dim=(0, 1, 3)),
        "gate_masks": gates.mean(dim=(0, 2, 3)),
        "context": context.mean(dim=0),
        "mixture_1": mixture[:, :, 1].mean(dim=0),
    }
    for name, mean in expected.items():
        torch.testing.assert_close(found[name][0].float(), mean)
    by_channel = torch.randn(windows, channels, units, generator=generator)
    assert channel_statistics({"context": by_channel})["context"][0].shape == (channels,)
    torch.testing.assert_close(found["gate_masks"][1].float(), gates.std(dim=0, correction=0).mean(dim=(1, 2)))
    torch.testing.assert_close(found["mixture_0"][1].float(), mixture[:, :, 0].std(dim=0, correction=0))
