"""A run that is trained to be pushed: once, when it has ended, without a pickle, a token or a checkpoint."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from training import evaluate_checkpoint
from training.run_config import load_run_config
from training.train import main, prepare

PUSH = ("--training.push_to_hub", "true", "--training.hub_model_id", "acme/toy")


class Commit(dict):
    pass


@pytest.fixture
def commits(monkeypatch):
    """The commits that a Hub received, with `private`, `revision` and what each deletes."""
    received = []

    class Api:
        def whoami(self):
            return {"name": "acme", "auth": {"accessToken": {"role": "write"}}}

        def list_repo_files(self, repo, **options):
            return ["training_args.bin", "figures/old.png", "mine.txt", "model.safetensors"]

        def create_repo(self, repo, **options):
            self.private = options["private"]
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo}")

        def repo_info(self, repo, **options):
            return SimpleNamespace(private=True)

        def create_branch(self, repo, **options):
            pass

        def create_commit(self, repo, operations, **options):
            added = [each for each in operations if isinstance(each, huggingface_hub.CommitOperationAdd)]
            contents = {each.path_in_repo: each.as_file() for each in added}
            received.append(Commit())
            received[-1].private, received[-1].revision = self.private, options["revision"]
            received[-1].deleted = {each.path_in_repo for each in operations if each not in added}
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
    assert commit.deleted == {"training_args.bin", "figures/old.png"}
    assert (commit.private, commit.revision) == (None, None)
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


def test_an_evaluated_run_is_pushed_with_its_own_card_unless_that_misleads(run_options, commits, tmp_path):
    main(run_options())
    evaluate_checkpoint.main([str(tmp_path / "run"), "--evaluation.protocol.num_windows", "2"])
    card = tmp_path / "run" / "README.md"
    main(run_options(*PUSH))
    assert 'from_pretrained("acme/toy")' in commits[0]["README.md"].decode()
    assert commits[0]["README.md"].count(b"|") == card.read_bytes().count(b"|") > 50
    card.write_text(card.read_text().replace("library_name: hf_tsdyn", "library_name: transformers"))
    with pytest.raises(SystemExit, match="not fit to be pushed:\n- library_name must be hf_tsdyn"):
        main(run_options(*PUSH))
    assert len(commits) == 1


def test_a_run_goes_to_a_private_repository_of_the_account_and_to_a_branch(run_options, commits):
    more = ("--training.hub_private_repo", "true", "--training.hub_revision", "trial")
    main(run_options("--training.push_to_hub", "true", *more))
    (commit,) = commits
    assert (commit.private, commit.revision) == (True, "trial")
    assert 'from_pretrained("acme/run")' in commit["README.md"].decode()


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
