"""What a Hub refuses or breaks off is said without the token, leaves no commit, and succeeds when it is done again."""

import re
from pathlib import Path

import pytest
import torch

from hf_tsdyn.models import ARCHITECTURES

pytestmark = pytest.mark.slow

CARD = Path(__file__).parents[2] / "model_cards" / "alrnn-lorenz63-p2"
CASES = ("wrong-token", "read-token", "drop-uploads", "fail-commits")

ATTEMPTS = """
import contextlib, os, sys, time
from pathlib import Path
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

upload, source, cases, faults, tokens = given
time.sleep = lambda seconds: None  # the client's pauses between its own attempts

def push(name):
    if upload == "model":
        import hf_tsdyn
        from transformers import AutoModelForTimeSeriesPrediction
        AutoModelForTimeSeriesPrediction.from_pretrained(source).push_to_hub(name)
    elif upload == "dataset":
        from data_generation.hub import push_dataset
        push_dataset(source, name)
    else:
        from training.publish import main
        with contextlib.redirect_stdout(sys.stderr):
            main([source, "--repo", name])

def attempt(name):
    try:
        push(name)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"

def num_commits(name):
    kind = "dataset" if upload == "dataset" else "model"
    try:
        return len(HfApi().list_repo_commits(name, repo_type=kind, token=False))
    except RepositoryNotFoundError:
        return 0

def outcome(case):
    name = f"acme/{upload}-{case}"
    flag = Path(faults) / case
    os.environ["HF_TOKEN"] = tokens.get(case, tokens["write-token"])
    if case not in tokens:
        flag.touch()
    words, left = attempt(name), num_commits(name)
    flag.unlink(missing_ok=True)
    os.environ["HF_TOKEN"] = tokens["write-token"]
    return [words, left, attempt(name), num_commits(name)]

result = {case: outcome(case) for case in cases} | {"invalid": attempt("acme/two/slashes")}
"""


@pytest.fixture
def tokens(hub):
    """The tokens by case."""
    return {"write-token": hub.token, "read-token": hub.read_token, "wrong-token": hub.wrong_token}


@pytest.fixture
def sources(tiny_configs, tmp_path, write_dataset):
    """What is uploaded, by kind: a model's folder, a dataset and a card with its checkpoint."""
    torch.manual_seed(0)
    ARCHITECTURES["alrnn"](tiny_configs["alrnn"]).save_pretrained(tmp_path / "model")
    write_dataset(tmp_path / "dataset", [{"target": torch.zeros(2, 5).numpy()}])
    return {"model": tmp_path / "model", "dataset": tmp_path / "dataset", "card": CARD}


SAID = {
    "wrong-token": "found HTTP 401; log in with `hf auth login`, and run the same command again",
    "read-token": "found (HTTP 403; use an account|a token that may only read; log in with one) that may write",
    "drop-uploads": "check the connection and the login .*, and run the same command again",
    "fail-commits": "found HTTP 500; check the connection and the login .*, and run the same command again",
    "invalid": r"must name a repository like 'name/(model|dataset)', found 'acme/two/slashes'; correct it",
}
SAID_BY_TRANSFORMERS = {
    "wrong-token": "401 Unauthorized",
    "read-token": "403 Forbidden: .*you must use a write token",
    "drop-uploads": "Error while uploading 'model.safetensors' to the Hub",
    "fail-commits": "Internal Error - We're working hard to fix this",
    "invalid": "Repo id must be in the form",
}


@pytest.mark.parametrize("upload", ["model", "dataset", "card"])
def test_a_refused_upload_leaves_no_commit_and_succeeds_when_done_again(hub, home, sources, tokens, upload):
    found = hub.run_code(ATTEMPTS, home, upload, sources[upload], CASES, hub.folder, tokens)
    said = SAID_BY_TRANSFORMERS if upload == "model" else SAID
    assert re.search(said["invalid"], found.pop("invalid"))
    for case, (words, left, again, in_the_end) in found.items():
        assert re.search(said[case], words), (case, words)
        assert not any(token in words for token in tokens.values())
        assert left == (0 if case.endswith("-token") else 1)  # the Hub makes one when it makes a repository
        assert again is None
        assert in_the_end == 2


LOADS = """
import hf_tsdyn
from datasets import load_dataset
from hf_tsdyn import ForecastPipeline
from transformers import AutoModelForTimeSeriesPrediction

def words(load, *names, **options):
    try:
        load(*names, **options)
    except Exception as error:  # whatever it is, its words are what is tested
        return f"{type(error).__name__}: {error}"

model = AutoModelForTimeSeriesPrediction.from_pretrained
model(given[0]).push_to_hub("acme/present")
result = [
    words(model, "acme/absent"),
    words(ForecastPipeline.from_pretrained, "acme/absent"),
    words(load_dataset, "acme/absent"),
    words(model, "acme/present", revision=40 * "0"),
]
"""


def test_a_missing_repository_or_revision_is_named(hub, home, sources):
    *absent, dataset, revision = hub.run_code(LOADS, home, sources["model"])
    for found in absent:
        assert re.search("acme/absent is not a local folder and is not a valid model identifier", found)
    assert dataset.startswith("DatasetNotFoundError: Dataset 'acme/absent' doesn't exist")
    assert re.search(f"{40 * '0'} is not a valid git identifier.*acme/present", revision)
    assert not any(hub.token in found for found in [*absent, dataset, revision])
