"""Upload: what is sent, and errors that say what to do without quoting a secret."""

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

from data_generation.gallery import GALLERY_FILE
from data_generation.hub import PushError, push_dataset


@pytest.fixture
def dataset(tmp_path: Path, write_dataset) -> Path:
    return write_dataset(tmp_path / "data", [{"target": np.zeros((2, 5), np.float32)}])


def failing_api(error: Exception) -> type:
    def create_repo(self: object, *arguments: object, **options: object) -> None:
        raise error

    return type("Api", (), {"create_repo": create_repo})


def test_the_finished_files_are_sent_and_nothing_else(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    class Api:
        def create_repo(self, repo: str, **options: object) -> huggingface_hub.RepoUrl:
            calls.append((repo, options))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/datasets/{repo}")

        def list_repo_files(self, repo: str, **options: object) -> list[str]:
            return ["README.md", "data/train-00000.arrow", "data/train-00001.arrow", "notes.txt"]

        def create_commit(self, repo: str, operations: list, **options: object) -> SimpleNamespace:
            files = {each.path_in_repo: getattr(each, "path_or_fileobj", None) for each in operations}
            calls.append((repo, files, options))
            return SimpleNamespace(oid="f" * 40)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    (dataset / ".progress").mkdir()
    for name in ("README.md", GALLERY_FILE, "rejected.jsonl", ".progress/settings.json", "notes.txt"):
        (dataset / name).write_text('load_dataset("PATH")')
    assert push_dataset(dataset, "name/chaos") == "https://huggingface.co/datasets/name/chaos"
    (asked, created), (repo, files, committed) = calls
    assert asked == repo == "name/chaos"
    assert created == {"repo_type": "dataset", "private": None, "exist_ok": True}
    assert committed["repo_type"] == "dataset"
    assert files.pop("README.md") == b'load_dataset("name/chaos")'
    assert files.pop("data/train-00001.arrow", "kept") is None  # a shard of a former upload
    sent = ["attractors.png", "data/train-00000.arrow", "manifest.json", "rejected.jsonl"]
    assert files == {name: str(dataset / name) for name in sent}


def test_offline_is_named(dataset: Path):
    with pytest.raises(PushError, match=r"found offline mode; unset HF_HUB_OFFLINE.*only the upload is left"):
        push_dataset(dataset, "name/chaos")


@pytest.mark.parametrize(("status", "remedy"), [(401, "hf auth login"), (403, "may write"), (500, "connection")])
def test_a_refusal_names_the_status_and_no_secret(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, status: int, remedy: str
):
    error = RuntimeError("Bearer hf_secret")
    error.response = SimpleNamespace(status_code=status)
    monkeypatch.setattr(huggingface_hub, "HfApi", failing_api(error))
    with pytest.raises(PushError, match=f"found HTTP {status}; .*{remedy}") as raised:
        push_dataset(dataset, "name/chaos")
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_lost_connection_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", failing_api(ConnectionError("hf_secret")))
    with pytest.raises(PushError, match="found ConnectionError; check the connection"):
        push_dataset(dataset, "name/chaos")


def test_a_wrong_name_is_refused(dataset: Path):
    with pytest.raises(ValueError, match="must name a repository like 'name/dataset', found 'a/b/c'"):
        push_dataset(dataset, "a/b/c")


def test_an_unfinished_dataset_is_not_sent(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="finished dataset folder"):
        push_dataset(tmp_path, "name/chaos")
