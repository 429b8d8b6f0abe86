"""A learner on disk goes on where it stood, whole or not at all."""

import json

import numpy as np
import pytest
import torch

from hf_tsdyn.baselines import LagDesign, Persistence, Ridge, SeasonalNaive
from hf_tsdyn.online import saving
from hf_tsdyn.online.gradient import FrozenLearner, GradientLearner, GradientOptions
from hf_tsdyn.online.learner import LEARNERS, OnlineLearner
from hf_tsdyn.online.mixture import MixtureLearner
from hf_tsdyn.online.saving import describe_learner, load_learner, rebuild_learner, save_learner

LENGTHS = {"context_length": 8, "prediction_length": 3, "num_channels": 2}


def _follow(learner, values):
    forecasts = []
    for step, row in enumerate(values):
        if learner.protocol == "immediate":
            learner.learn_revealed(values[step : step + 3] if step + 3 <= len(values) else np.zeros((3, 2)))
        learner.learn_one(row)
        forecasts.append(learner.forecast())
    return torch.stack(forecasts)


def _assert_equal_states(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor.nan_to_num(7.0), second[name].nan_to_num(7.0)), name


def _assert_resumes(learner, stream, folder):
    learner.warm_up(stream[:15])
    _follow(learner, stream[15:30])
    learner.save(folder)
    resumed = load_learner(folder)
    assert type(resumed) is type(learner)
    _assert_equal_states(learner, resumed)
    assert torch.equal(_follow(learner, stream[30:]), _follow(resumed, stream[30:]))
    _assert_equal_states(learner, resumed)
    assert learner.statistics() == resumed.statistics()


def test_a_learner_resumed_in_mid_stream_goes_on_to_the_bit(build_learner, learner_name, stream, tmp_path):
    _assert_resumes(build_learner(learner_name), stream, tmp_path / "learner")


@pytest.mark.parametrize("name", ["er", "fsnet_der++", "features"])
def test_so_does_one_with_the_immediate_protocol(build_learner, name, stream, tmp_path):
    _assert_resumes(build_learner(name, None, "immediate"), stream, tmp_path / "learner")


def test_a_learner_that_has_learnt_nothing_yet_is_saved(build_learner, stream, tmp_path):
    learner = build_learner("der++")
    save_learner(learner, tmp_path / "learner")
    resumed = load_learner(tmp_path / "learner")
    assert torch.equal(_follow(learner, stream), _follow(resumed, stream))


def test_a_state_is_a_copy(build_learner, stream):
    learner, other = build_learner("fsnet_der++"), build_learner("fsnet_der++")
    _follow(learner, stream[:25])
    state = learner.state_dict()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    other.load_state_dict(state)
    _follow(learner, stream[25:35])
    _follow(other, stream[25:35])
    for name, tensor in state.items():
        assert torch.equal(tensor.nan_to_num(7.0), kept[name].nan_to_num(7.0)), name
    _assert_equal_states(learner, other)


def test_options_and_precision_are_kept(tiny_model, tmp_path):
    options = GradientOptions(learning_rate=0.1, trainable=("model.norm_*",), max_grad_norm=2.0, seed=3)
    GradientLearner(tiny_model().double(), options, "immediate").save(tmp_path / "learner")
    resumed = load_learner(tmp_path / "learner")
    assert isinstance(resumed, GradientLearner)
    assert (resumed.options, resumed.protocol) == (options, "immediate")
    assert resumed.forecaster.dtype == torch.float64


def test_loading_leaves_the_global_generator_alone(build_learner, tmp_path):
    build_learner("er").save(tmp_path / "learner")
    before = torch.get_rng_state()
    load_learner(tmp_path / "learner")
    assert torch.equal(torch.get_rng_state(), before)


def test_only_json_and_safetensors_are_written(build_learner, tmp_path):
    build_learner("er").save(tmp_path / "deep" / "learner")
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    folder = "deep/learner"
    assert files == [f"{folder}/forecaster/config.json", f"{folder}/learner.json", f"{folder}/state.safetensors"]


def test_a_write_that_fails_leaves_the_old_learner(build_learner, stream, tmp_path, monkeypatch):
    learner = build_learner("ogd")
    learner.save(tmp_path / "learner")
    start = learner.forecaster.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    _follow(learner, stream)

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_file", fail)
        with pytest.raises(OSError, match="no space left"):
            learner.save(tmp_path / "learner")
    resumed = load_learner(tmp_path / "learner")
    assert all(torch.equal(each, start[name]) for name, each in resumed.forecaster.state_dict().items())
    assert [each.name for each in tmp_path.iterdir()] == ["learner"]
    learner.save(tmp_path / "learner")
    _assert_equal_states(learner, load_learner(tmp_path / "learner"))
    assert [each.name for each in tmp_path.iterdir()] == ["learner"]


def test_a_crash_between_moving_old_and_new_loses_nothing(build_learner, stream, tmp_path):
    learner = build_learner("ogd")
    learner.save(tmp_path / "learner")
    (tmp_path / "learner").rename(tmp_path / ".learner.old")
    _assert_equal_states(learner, load_learner(tmp_path / "learner"))
    _follow(learner, stream)
    learner.save(tmp_path / "learner")
    _assert_equal_states(learner, load_learner(tmp_path / "learner"))
    assert [each.name for each in tmp_path.iterdir()] == ["learner"]


def test_nothing_else_is_written_over(build_learner, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="folder must be new, empty or hold a learner"):
        build_learner("ogd").save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


class Pair(OnlineLearner, kind="pair_of_a_test"):
    """The mean of two members."""

    def __init__(self, members, protocol="delayed"):
        super().__init__(**LENGTHS, protocol=protocol)
        self.members = list(members)
        self.count = torch.zeros(1)

    def _forecast(self, window):
        return sum(member.forecast() for member in self.members) / len(self.members)

    def _learn(self, window, future_values, future_observed_mask):
        self.count += 1

    def _state(self):
        return {"count": self.count}

    def _load_state(self, state):
        self.count.copy_(state["count"])

    def _describe(self, folder):
        for number, member in enumerate(self.members):
            describe_learner(member, folder / str(number))
        return {"num_members": len(self.members)}

    @classmethod
    def _rebuild(cls, folder, description):
        return cls(rebuild_learner(folder / str(number)) for number in range(description["num_members"]))


def test_learners_in_learners_are_saved_with_them(build_learner, stream, tmp_path):
    learner = Pair([Pair([build_learner("persistence"), build_learner("er")]), build_learner("fsnet_ogd")])
    _assert_resumes(learner, stream, tmp_path / "learner")
    assert learner.count == 33


@pytest.mark.parametrize("protocol", ["delayed", "immediate"])
def test_fitted_baselines_are_saved_in_mixtures_too(stream, tmp_path, protocol):
    ridge = Ridge.fit(torch.from_numpy(stream[None, :30]), LagDesign(**LENGTHS), penalty=1.0)
    members = [FrozenLearner(each, **LENGTHS, protocol=protocol) for each in (ridge, SeasonalNaive(4))]
    _assert_resumes(members[0], stream, tmp_path / "ridge")
    _assert_resumes(MixtureLearner(members), stream, tmp_path / "mixture")
    assert SeasonalNaive(4) in [each.forecaster for each in load_learner(tmp_path / "mixture").members]


def test_the_folder_one_stands_in_takes_a_learner(build_learner, stream, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build_learner("ogd").save(".")
    monkeypatch.chdir(tmp_path / "here")
    _assert_equal_states(build_learner("ogd"), load_learner("."))


def test_a_learner_without_a_kind_is_refused(tmp_path):
    class Nameless(Pair):
        pass

    with pytest.raises(TypeError, match="found Nameless without one"):
        Nameless([]).save(tmp_path / "learner")
    assert list(tmp_path.iterdir()) == []


def test_a_forecaster_that_cannot_be_saved_is_named(tmp_path):
    class Mine(Persistence):
        pass

    with pytest.raises(TypeError, match="to be saved, found Mine"):
        FrozenLearner(Mine(), **LENGTHS).save(tmp_path / "learner")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_saved_learner_is_refused(build_learner, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="found none in"):
        load_learner(tmp_path / "learner")
    build_learner("ogd").save(tmp_path / "learner")
    file = tmp_path / "learner" / "learner.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"kind": "wizard"}))
    with pytest.raises(ValueError, match=r"must be one of .*'gradient'.* found 'wizard'"):
        load_learner(tmp_path / "learner")
    file.write_text(json.dumps(content | {"format_version": 99}))
    with pytest.raises(ValueError, match="must have format version 1, found 99"):
        load_learner(tmp_path / "learner")


def test_the_learners_of_the_library_are_known():
    assert {"frozen", "gradient"} <= LEARNERS.keys()
