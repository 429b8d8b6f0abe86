"""A learner's folder from a stranger can do no harm."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tsdyn.baselines import LagDesign, Ridge
from hf_tsdyn.online.gradient import FrozenLearner
from hf_tsdyn.online.mixture import MixtureLearner
from hf_tsdyn.online.saving import load_learner

LENGTHS = {"context_length": 8, "prediction_length": 3, "num_channels": 2}


@pytest.fixture
def saved(build_learner, tmp_path):
    """A learner's folder, and a function (file, **changes) that changes JSON there, at the top or in the forecaster."""
    build_learner("ogd").save(tmp_path / "learner")

    def change(file="learner.json", **changes):
        path = tmp_path / "learner" / file
        content = json.loads(path.read_text())
        (content["description"]["forecaster"] if file == "learner.json" else content).update(changes)
        path.write_text(json.dumps(content))

    return tmp_path / "learner", change


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"attention": "evil/kernel"}, "'evil/kernel' and 'float32'"),
        ({"attention": "paged|eager"}, r"'paged\|eager'"),
        ({"dtype": "load"}, "and 'load'"),
        ({"dtype": "int64"}, "and 'int64'"),
    ],
)
def test_attention_and_precision_are_chosen_from_a_list(saved, changes, found):
    folder, change = saved
    change(**changes)
    with pytest.raises(ValueError, match=f"attention of a forecaster must be one of .*, found .*{found}"):
        load_learner(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_attn_implementation": "evil/kernel"}, "must not decide what is loaded beside weights"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "must not decide what is loaded beside weights"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}, "must be one of .*'alrnn'.*found 'evil'"),
        ({"context_length": 2**14, "prediction_length": 2**14}, "found weights of .* values for a model of"),
        ({"num_worker_layers": 10**9}, "at most 1024"),
        ({"context_length": 32}, "no larger than the state of their learner"),
        ({"context_length": "8"}, "StrictDataclass.* expected int, got str"),
    ],
)
def test_a_forecaster_that_means_harm_is_refused(saved, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder, change = saved
    change("forecaster/config.json", **changes)
    (folder / "forecaster" / "evil.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')")
    with pytest.raises(ValueError, match=message):
        load_learner(folder)
    assert not (tmp_path / "sentinel").exists()


def test_members_share_the_values_of_one_state(build_learner, tmp_path, monkeypatch):
    MixtureLearner([build_learner("frozen"), build_learner("frozen")]).save(tmp_path / "learner")
    file = tmp_path / "learner" / "learner.json"
    content = json.loads(file.read_text())
    content["description"]["num_members"] = 12
    file.write_text(json.dumps(content))
    for number in range(2, 12):
        (tmp_path / "learner" / f"member-{number}").symlink_to(tmp_path / "learner" / "member-0")
    with pytest.raises(ValueError, match="no larger than the state of their learner"):
        load_learner(tmp_path / "learner")


def test_a_ridge_larger_than_its_state_is_refused(stream, tmp_path):
    ridge = Ridge.fit(torch.from_numpy(stream[None, :30]), LagDesign(**LENGTHS), penalty=1.0)
    FrozenLearner(ridge, **LENGTHS).save(tmp_path / "learner")
    file = tmp_path / "learner" / "learner.json"
    content = json.loads(file.read_text())
    content["description"]["forecaster"]["design"]["context_length"] = 10**12
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no larger than the state of their learner"):
        load_learner(tmp_path / "learner")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"[" * 100_000, b"\xff", b'{"format_version": 1}'])
def test_a_damaged_description_is_refused(saved, content):
    (saved[0] / "learner.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"must hold a learner as save_learner wrote it, found .*; get it anew"):
        load_learner(saved[0])


def test_a_damaged_state_is_refused(saved):
    file = saved[0] / "state.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=r"state\.safetensors must be a whole safetensors file"):
        load_learner(saved[0])
    state = load_file(file) if file.write_bytes(whole) else {}
    save_file({name: each for name, each in state.items() if name != "stream.values"}, file)
    with pytest.raises(ValueError, match=r"as save_learner wrote it, found KeyError: 'stream\.values'"):
        load_learner(saved[0])
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold learner\.json and state\.safetensors, found none"):
        load_learner(saved[0])
