"""What `push_to_hub` of a model sends: weights, configuration, and a card that says how to load it."""

from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers import TrainingArguments
from transformers.utils import hub

from hf_tsdyn import ALRNNModel, DystformerForMaskedModeling
from hf_tsdyn.hub_card import hub_card, import_name
from training.window_trainer import WindowTrainer

OWN_CARD = "---\nlicense: mit\nlibrary_name: transformers\n---\n\n# Mine\n"


@pytest.fixture
def commits(monkeypatch):
    """The files of each commit that a Hub received."""
    received = []

    def create_commit(repo_id, operations, **options):
        received.append({each.path_in_repo: each.path_or_fileobj for each in operations} | options)
        for name, file in received[-1].items():
            if name == "README.md":
                with open(file, encoding="utf-8") as opened:
                    received[-1][name] = opened.read()

    def create_repo(repo_id, **options):
        return SimpleNamespace(repo_id=repo_id)

    monkeypatch.setattr(hub, "hf_api", lambda: SimpleNamespace(create_repo=create_repo, create_commit=create_commit))
    return received


@pytest.fixture
def no_card(monkeypatch):
    """A repository without a card."""
    load = ModelCard.load

    def load_local(place, **options):
        if str(place).startswith("acme/"):
            raise EntryNotFoundError("no README.md")
        return load(place, **options)

    monkeypatch.setattr(ModelCard, "load", load_local)


def test_a_pushed_model_has_a_card_that_loads_it(model, commits, no_card):
    model.push_to_hub("acme/toy", tags=["mine", "time-series"])
    (commit,) = commits
    assert {"README.md", "config.json", "model.safetensors"} <= set(commit)
    card = ModelCard(commit["README.md"])
    assert card.data.library_name == "hf_tsdyn"
    assert card.data.pipeline_tag == "time-series-forecasting"
    assert card.data.tags == ["hf_tsdyn", model.config.model_type, "time-series", "mine"]
    assert f'import hf_tsdyn\n\nmodel = hf_tsdyn.{type(model).__name__}.from_pretrained("acme/toy")\n' in card.text
    assert "More Information Needed" not in card.text


def test_a_card_that_is_there_stays(model, commits, monkeypatch):
    load = ModelCard.load
    monkeypatch.setattr(
        ModelCard, "load", lambda place, **options: ModelCard(OWN_CARD) if place == "acme/toy" else load(place)
    )
    model.push_to_hub("acme/toy")
    assert commits[0]["README.md"] == OWN_CARD


def test_a_trainer_pushes_the_model_and_no_pickle(model, commits, no_card, tmp_path):
    arguments = TrainingArguments(str(tmp_path / "toy"), use_cpu=True, report_to=[], hub_model_id="acme/run")
    trainer = WindowTrainer(model=model, args=arguments)
    trainer.push_to_hub("done", revision=None, token="hf_mine")
    (commit,) = commits
    assert commit["commit_message"] == "done"
    assert commit["token"] == "hf_mine"
    assert 'from_pretrained("acme/run")' in commit["README.md"]
    assert {name for name in commit if "." in name} == {"README.md", "config.json", "model.safetensors"}


def test_a_model_that_fills_gaps_is_filed_as_such_and_a_backbone_as_no_forecaster():
    filling = ModelCard(hub_card(DystformerForMaskedModeling, "acme/x", "It fills gaps.")).data
    assert (filling.pipeline_tag, filling.tags) == (None, ["hf_tsdyn", "dystformer", "imputation"])
    assert ModelCard(hub_card(ALRNNModel, "acme/x", "A backbone.")).data.pipeline_tag is None


def test_a_class_is_named_by_the_outermost_module_that_offers_it():
    from hf_tsdyn.baselines.patchtst import PatchTSTForecaster

    assert import_name(ALRNNModel) == "hf_tsdyn.ALRNNModel"
    assert import_name(PatchTSTForecaster) == "hf_tsdyn.baselines.patchtst.PatchTSTForecaster"
    assert import_name(type("Own", (ALRNNModel,), {"__module__": __name__})) == f"{__name__}.Own"
