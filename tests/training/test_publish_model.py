"""Weights, configuration and records that are published are those of one run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

CARDS = Path(__file__).parents[2] / "model_cards"


def change_tensors(folder, name, change):
    tensors = load_file(folder / name)
    save_file({key: change(key, tensor) for key, tensor in tensors.items()}, folder / name)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_other_weights_do_not_repeat_the_probe(checkpoint, share, findings):
    generator = torch.Generator().manual_seed(0)

    def change(_, tensor):
        return tensor * (1 + share * torch.randn(tensor.shape, generator=generator))

    change_tensors(checkpoint, "model.safetensors", change)
    (found,) = findings(checkpoint)
    assert "must repeat the outcome in probe.safetensors, found another, by up to" in found


def test_last_bits_of_another_processor_are_no_other_weights(checkpoint, findings):
    change_tensors(checkpoint, "model.safetensors", lambda _, tensor: tensor * (1 + 1e-7))
    assert findings(checkpoint) == []


def test_a_probe_that_is_none_is_found(checkpoint, findings):
    save_file({"past_values": torch.zeros(1, 8, 2)}, checkpoint / "probe.safetensors")
    (found,) = findings(checkpoint)
    assert "must repeat the outcome in probe.safetensors, found that it cannot (KeyError" in found


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_lost_are_found(checkpoint, value, findings):
    change_tensors(checkpoint, "model.safetensors", lambda key, each: each.index_fill(0, torch.tensor(0), value))
    assert "model.safetensors must hold finite weights, found NaN or infinity in" in findings(checkpoint)[0]


def test_words_in_the_name_of_a_tensor_are_read(checkpoint, findings):
    tensors = load_file(checkpoint / "probe.safetensors")
    save_file(tensors | {"/home/ann/x": torch.zeros(1)}, checkpoint / "probe.safetensors")
    (found,) = findings(checkpoint)
    assert "metadata of probe.safetensors must name no path of this machine, found '/home/ann/x'" in found


SUMMARIES = {
    "none": (None, "must hold training_summary.json, the record of its training, found none"),
    "no JSON": ("{", "must be the record of a training, found JSONDecodeError"),
    "a list": ("[]", "must be the record of a training, found TypeError"),
    "too deep": ("[" * 100_000, "must be the record of a training, found RecursionError"),
    "nothing": ("{}", "must be the record of a training, found KeyError: 'model_type'"),
    "size": ('{"model_type": "alrnn", "num_parameters": 490}', "found one of 490 parameters (alrnn) in place of 491"),
    "type": ('{"model_type": "dynonet", "num_parameters": 491}', "found one of 491 parameters (dynonet)"),
}


@pytest.mark.parametrize(("content", "message"), SUMMARIES.values(), ids=SUMMARIES)
def test_a_record_of_no_or_another_training_is_found(checkpoint, content, message, findings):
    file = checkpoint / "training_summary.json"
    file.unlink() if content is None else file.write_text(content)
    assert message in findings(checkpoint)[0]


def test_a_whole_other_model_under_a_card_is_found(checkpoint, findings):
    """Of the same architecture and size, so that nothing but what the card shows tells them apart."""
    other = CARDS / "alrnn-lorenz63-p10"
    for name in ("config.json", "model.safetensors", "probe.safetensors", "training_summary.json", "run_config.yaml"):
        shutil.copyfile(other / name, checkpoint / name)
    sizes = [json.loads((each / "training_summary.json").read_text())["num_parameters"] for each in (checkpoint, other)]
    assert sizes[0] == sizes[1]
    (found,) = findings(checkpoint)
    assert "tables of README.md must be what results and records of the run render to, found no row" in found
