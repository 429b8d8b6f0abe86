"""A run that is trained to be pushed: once, when it has ended, without a pickle, a token or a checkpoint."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from training.run_config import load_run_config
from training.train import main, prepare

PUSH = ("--training.push_to_hub", "true", "--training.hub_model_id", "acme/toy")


@pytest.fixture
def commits(monkeypatch):
    """The commits that a Hub received."""
    received = []

    class Api:
        def whoami(self):
            return {"name": "acme"}

        def create_repo(self, repo, **options):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo}")

        def create_commit(self, repo, operations, **options):
            contents = {each.path_in_repo: each.as_file() for each in operations}
            received.append({})
            for name, opened in contents.items():
                with opened as file:
                    received[-1][name] = file.read()
            return SimpleNamespace(oid="abc123")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return received


def test_a_run_is_pushed_in_one_commit_when_it_has_ended(run_options, commits, tmp_path, capsys):
    main(run_options(*PUSH))
    (commit,) = commits
    names = ("README.md", "config.json", "model.safetensors", "probe.safetensors", "run_config.yaml")
    assert set(commit) == {*names, "training_summary.json"}
    assert (tmp_path / "run" / "training_args.bin").is_file()  # which the Trainer would have pushed
    assert commit["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert str(tmp_path).encode() not in b"".join(commit[name] for name in ("run_config.yaml", "README.md"))
    card = ModelCard(commit["README.md"].decode())
    assert card.data.library_name == "hf_tsdyn"
    assert card.data.pipeline_tag == "time-series-forecasting"
    assert card.data.license is None
    summary = json.loads(commit["training_summary.json"])
    assert f"| validation loss | {summary['best_validation_loss']:.4g} |" in card.text
    assert 'DystformerForPrediction.from_pretrained("acme/toy")' in card.text
    assert "pushed to https://huggingface.co/acme/toy, revision abc123" in capsys.readouterr().out


def test_a_run_is_the_same_with_and_without_and_a_finished_one_is_pushed_by_the_same_command(
    run_options, commits, tmp_path, capsys
):
    main(run_options())
    settings = (tmp_path / "run" / "run_config.yaml").read_text()
    assert commits == []
    main(run_options(*PUSH))
    assert len(commits) == 1
    assert "already holds this run" in capsys.readouterr().out
    assert (tmp_path / "run" / "run_config.yaml").read_text() == settings
    assert not (tmp_path / "run" / "README.md").exists()


def test_an_evaluated_run_is_pushed_with_its_own_card(run_options, commits, tmp_path):
    main(run_options())
    (tmp_path / "run" / "README.md").write_text("---\nlicense: mit\n---\n\n# toy\n")
    main(run_options(*PUSH))
    assert commits[0]["README.md"] == b"---\nlicense: mit\n---\n\n# toy\n"


def test_what_is_not_fit_is_not_pushed(run_options, commits, tmp_path):
    main(run_options())
    (tmp_path / "run" / "README.md").write_text(f"my token is hf_{'a1' * 12}")
    with pytest.raises(SystemExit, match=r"is trained, and not fit to be pushed:\n- README.md must hold no secret"):
        main(run_options(*PUSH))
    assert commits == []


def test_a_token_in_the_settings_is_refused_before_a_record_holds_it(run_options, commits, tmp_path):
    with pytest.raises(SystemExit, match="hub_token must not be given") as stopped:
        main(run_options(*PUSH, "--training.hub_token", "hf_abc"))
    assert "hf_abc" not in str(stopped.value)
    assert not (tmp_path / "run").exists()


def test_checkpoints_are_not_pushed(run_options, commits, tmp_path):
    with pytest.raises(SystemExit, match=r"hub_strategy must be end: .* found all_checkpoints"):
        main(run_options(*PUSH, "--training.hub_strategy", "all_checkpoints"))
    assert not (tmp_path / "run").exists()


def test_who_may_not_push_learns_it_before_the_training(run_options, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(SystemExit, match="found no login; log in with `hf auth login`"):
        main(run_options(*PUSH))
    assert not (tmp_path / "run").exists()


def test_a_failed_push_leaves_the_run_and_the_same_command_goes_on(run_options, commits, tmp_path, monkeypatch):
    create_commit = huggingface_hub.HfApi.create_commit
    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", lambda *_, **__: 1 / 0)
    with pytest.raises(SystemExit, match=r"found ZeroDivisionError; .*run the same command again"):
        main(run_options(*PUSH))
    assert (tmp_path / "run" / "training_summary.json").is_file()
    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", create_commit)
    main(run_options(*PUSH))
    assert len(commits) == 1


def test_a_trainer_that_would_push_by_itself_is_refused(run_options):
    config, resolved = load_run_config(run_options(*PUSH))
    with pytest.raises(ValueError, match="push_to_hub must be false here, found true"):
        prepare(config, resolved)
