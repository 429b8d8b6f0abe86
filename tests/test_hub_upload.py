"""One commit, and errors that say what to do without quoting a secret."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from hf_tsdyn.hub_upload import PushError, check_account, upload_files

FILES = {"README.md": b"a card", "config.json": b"{}"}


@pytest.fixture
def hub(monkeypatch):
    """A Hub that remembers what it was asked, and fails at the step that `hub.failures` names."""
    state = SimpleNamespace(asked=[], failures={}, is_private=True, role="write")

    class Api:
        def _answer(self, step, **asked):
            state.asked.append((step, asked))
            if step in state.failures:
                raise state.failures[step]

        def whoami(self):
            self._answer("whoami")
            return {"name": "acme", "auth": {"accessToken": {"role": state.role}}}

        def list_repo_files(self, repo, **options):
            self._answer("list_repo_files", repo=repo, **options)
            return ["README.md", "results.json", "training_args.bin", "notes.txt"]

        def create_repo(self, repo, **options):
            self._answer("create_repo", repo=repo, **options)
            return huggingface_hub.RepoUrl(f"https://huggingface.co/acme/{repo.split('/')[-1]}")

        def repo_info(self, repo, **options):
            self._answer("repo_info", repo=repo)
            return SimpleNamespace(private=state.is_private)

        def create_branch(self, repo, **options):
            self._answer("create_branch", repo=repo, **options)

        def create_commit(self, repo, operations, **options):
            names = {each.path_in_repo: getattr(each, "path_or_fileobj", None) for each in operations}
            self._answer("create_commit", repo=repo, files=names, **options)
            return SimpleNamespace(oid="f" * 40)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return state


def upload(repo="acme/toy", **options):
    return upload_files(FILES, repo, what="the model 'toy'", message="Toy", **options)


def refused(status):
    error = RuntimeError("Authorization: Bearer hf_secret")
    error.response = SimpleNamespace(status_code=status)
    return error


def test_all_files_go_in_one_commit_to_a_repository_that_is_made(hub):
    uploaded = upload("toy")
    assert [step for step, _ in hub.asked] == ["create_repo", "create_commit"]
    assert hub.asked[0][1] == {"repo": "toy", "repo_type": "model", "private": None, "exist_ok": True}
    commit = hub.asked[1][1]
    assert commit["repo"] == "acme/toy"
    assert commit["files"] == FILES
    assert uploaded == ("acme/toy", "https://huggingface.co/acme/toy", "f" * 40)


def test_a_branch_is_made_before_the_commit_to_it(hub):
    upload(branch="trial")
    assert [step for step, _ in hub.asked] == ["create_repo", "create_branch", "create_commit"]
    assert hub.asked[2][1]["revision"] == "trial"


def test_what_is_replaced_goes_in_the_same_commit(hub):
    upload(branch="trial", replaces=("README.md", "results.json", "*.bin"))
    assert [step for step, _ in hub.asked] == ["create_repo", "create_branch", "list_repo_files", "create_commit"]
    assert hub.asked[2][1]["revision"] == "trial"
    assert hub.asked[3][1]["files"] == FILES | {"results.json": None, "training_args.bin": None}


def test_a_name_alone_is_of_the_account_and_a_token_must_be_able_to_write(hub):
    assert check_account("toy", option="--repo") == "acme/toy"
    assert check_account("other/toy", option="--repo") == "other/toy"
    hub.role = "read"
    with pytest.raises(PushError, match="found a token that may only read; log in with one that may write"):
        check_account("toy", option="--repo")


def test_nothing_private_is_sent_to_a_public_repository(hub):
    hub.is_private = False
    with pytest.raises(PushError, match="found a repository that everybody sees; make it private there"):
        upload(private=True)
    assert [step for step, _ in hub.asked] == ["create_repo", "repo_info"]


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "README.md"), (401, "hf auth login"), (403, "may write"), (404, "check the name"), (500, "connection")],
)
def test_a_refusal_names_the_status_the_remedy_and_no_secret(hub, status, remedy):
    hub.failures["create_repo"] = refused(status)
    with pytest.raises(PushError, match=f"found HTTP {status}; .*{remedy}.*nothing was sent") as raised:
        upload()
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_failed_commit_says_what_is_left_and_how_to_go_on(hub):
    hub.failures["create_commit"] = ConnectionError("hf_secret")
    with pytest.raises(PushError, match=r"found ConnectionError; .*again: .* all of the files or none") as raised:
        upload()
    assert "secret" not in str(raised.value)


def test_metadata_that_the_hub_refuses_is_named(hub):
    hub.failures["create_commit"] = ValueError("Invalid metadata in README.md.\n- license is wrong")
    with pytest.raises(PushError, match=r"found HTTP 400; .*the first lines of README"):
        upload()


def test_offline_mode_is_named(hub):
    hub.failures["whoami"] = OfflineModeIsEnabled("offline")
    with pytest.raises(PushError, match="found offline mode; unset HF_HUB_OFFLINE"):
        check_account("acme/toy", option="--repo")


def test_a_wrong_name_is_refused_before_the_hub_is_asked(hub):
    with pytest.raises(ValueError, match="--repo must name a repository like 'name/model', found 'a/b/c'"):
        check_account("a/b/c", option="--repo")
    assert hub.asked == []


def test_a_missing_file_is_found_before_the_hub_is_asked(hub, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        upload_files({"config.json": tmp_path / "config.json"}, "acme/toy", what="the model", message="Toy")
    assert hub.asked == []
