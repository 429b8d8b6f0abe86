import json
import shutil
from pathlib import Path

import pytest
import torch

from hf_tsdyn import DystformerForMaskedModeling
from hf_tsdyn.baselines import BASELINES, ContextMean
from hf_tsdyn.demo.checkpoints import find_checkpoints, fitting_models, load_model

CARDS = Path(__file__).parents[2] / "model_cards"


def test_checkpoints_are_found_and_those_that_fit_are_offered():
    found = find_checkpoints([CARDS])
    assert {"dystformer-quickstart", "alrnn-lorenz63-p2", "alrnn-rossler"} <= found.keys()
    completer = json.loads((CARDS / "dystformer-completion" / "config.json").read_text())
    assert completer["architectures"] == [DystformerForMaskedModeling.__name__]
    assert "dystformer-completion" not in found
    assert "alrnn-ecg" not in found  # without weights
    three, seven = (fitting_models(found, num_channels=channels) for channels in (3, 7))
    assert "alrnn-rossler" in three
    assert "alrnn-rossler" not in seven
    assert "dystformer-quickstart" in seven
    assert three[-len(BASELINES) :] == list(BASELINES)


def test_a_checkpoint_is_found_by_its_own_folder_and_loaded(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    found = find_checkpoints([tmp_path / "mine"])
    loaded = load_model("mine", found)
    past = torch.randn(1, 10, 2)
    assert torch.equal(loaded.forecast(past, prediction_length=5), turning.forecast(past, prediction_length=5))
    assert isinstance(load_model("mean", found), ContextMean)


def test_only_what_was_found_is_opened(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    for name in (str(tmp_path / "mine"), "../mine", "someone/model"):
        with pytest.raises(ValueError, match="choose one"):
            load_model(name, {})


def test_a_checkpoint_that_does_not_load_is_called_by_its_name_alone(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    found = find_checkpoints([tmp_path])
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config | {"architectures": ["XForMaskedModeling"]}))
    with pytest.raises(ValueError, match="in mine;") as caught:
        load_model("mine", found)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "bert", "architectures": ["BertModel"]}'])
def test_folders_of_other_things_are_no_checkpoints(tmp_path, turning, content):
    turning.save_pretrained(tmp_path / "mine")
    shutil.copytree(tmp_path / "mine", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(content)
    assert list(find_checkpoints([tmp_path])) == ["mine"]


def test_weights_that_are_pickles_are_no_checkpoint(tmp_path, turning):
    turning.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").rename(tmp_path / "mine" / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors"):
        find_checkpoints([tmp_path / "mine"])


def test_a_missing_folder_and_a_name_that_repeats_are_errors(tmp_path, turning):
    turning.save_pretrained(tmp_path / "a" / "mine")
    turning.save_pretrained(tmp_path / "b" / "mine")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_checkpoints([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="'mine' twice"):
        find_checkpoints([tmp_path / "a", tmp_path / "b"])
