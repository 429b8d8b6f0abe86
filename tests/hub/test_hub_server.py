"""The Hub of these tests keeps its own promises: without them the others would promise nothing."""

import base64
import hashlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest


@pytest.fixture
def request_hub(hub):
    """A function that sends a request and returns status, headers and what the answer holds."""

    def send(method, path, body=None, *, token=None, **headers):
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"{hub.url}/{path}", content, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    return send


@pytest.fixture
def commit(request_hub, hub):
    """A function that makes a repository if need be, commits lines (key, value) there and returns the status."""

    def send(repo, *lines, **header):
        made = request_hub("POST", "api/repos/create", {"name": repo, "organization": "acme"}, token=hub.token)
        assert made[0] in (200, 409)
        wanted = [("header", {"summary": "a commit", **header}), *lines]
        body = b"\n".join(json.dumps({"key": key, "value": value}).encode() for key, value in wanted)
        return request_hub("POST", f"api/models/acme/{repo}/commit/main", body, token=hub.token)[0]

    return send


def file_of(content, path="a/file.txt"):
    return ("file", {"path": path, "encoding": "base64", "content": base64.b64encode(content).decode()})


def test_every_commit_stays_readable_by_its_hash(request_hub, commit, hub):
    for content in (b"older words", b"newer words"):
        assert commit("kept", file_of(content)) == 200
    newer, older, _ = hub.commits("models/acme/kept")
    for revision, content in {newer: b"newer words", older: b"older words", "main": b"newer words"}.items():
        status, headers, found = request_hub("GET", f"acme/kept/resolve/{revision}/a/file.txt")
        assert (status, found) == (200, content)
        assert headers["X-Repo-Commit"] == (newer if revision == "main" else revision)
        blob = hashlib.sha1(b"blob 11\0" + content).hexdigest()
        assert headers["ETag"] == f'"{blob}"'
    assert request_hub("GET", "acme/kept/resolve/main/a/file.txt", Range="bytes=2-5")[2] == b"wer "
    assert request_hub("GET", "acme/kept/resolve/main/other")[1]["X-Error-Code"] == "EntryNotFound"
    assert request_hub("GET", f"acme/kept/resolve/{40 * '0'}/other")[1]["X-Error-Code"] == "RevisionNotFound"
    assert request_hub("GET", "acme/absent/resolve/main/other")[1]["X-Error-Code"] == "RepoNotFound"


def test_a_commit_that_cannot_be_whole_is_none(request_hub, commit, hub):
    oid = hashlib.sha256(b"weights").hexdigest()
    large = ("lfsFile", {"path": "model.safetensors", "algo": "sha256", "oid": oid, "size": 7})
    assert commit("whole", file_of(b"words"), large) == 400
    assert commit("whole", file_of(b"words"), parentCommit=40 * "0") == 412
    assert hub.files("models/acme/whole") == {".gitattributes"}
    assert request_hub("PUT", f"lfs/{oid}", b"weights")[0] == 400  # not announced
    batch = {"objects": [{"oid": oid, "size": 7}]}
    assert request_hub("POST", "acme/whole.git/info/lfs/objects/batch", batch, token=hub.token)[0] == 200
    assert request_hub("PUT", f"lfs/{oid}", b"others!")[0] == 400
    assert request_hub("PUT", f"lfs/{oid}", b"weights")[0] == 200
    assert commit("whole", file_of(b"words"), large) == 200
    assert hub.files("models/acme/whole") == {".gitattributes", "a/file.txt", "model.safetensors"}


def test_tokens_allow_what_they_should(request_hub, commit, hub):
    commit("tokens")
    asked = {"name": "other", "organization": "acme"}
    for token, status in {hub.read_token: 403, hub.wrong_token: 401, None: 401}.items():
        assert request_hub("POST", "api/repos/create", asked, token=token)[0] == status
        assert request_hub("POST", "api/models/acme/tokens/commit/main", b"", token=token)[0] == status
    assert [request_hub("GET", "api/models/acme/tokens", token=token)[0] for token in (None, hub.read_token)] == [
        200
    ] * 2
    assert request_hub("GET", "api/models/acme/tokens", token=hub.wrong_token)[0] == 401
    assert request_hub("POST", "api/repos/create", {"name": "../up", "organization": "a"}, token=hub.token)[0] == 400
    assert hub.commits("models/acme/other") == []


def test_it_ends_with_its_standard_input(tmp_path):
    script = Path(__file__).with_name("hub_server.py")
    command = [sys.executable, str(script), str(tmp_path), "--write-token", "a", "--read-token", "b"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline().startswith("http://127.0.0.1:")
        server.stdin.close()
        assert server.wait(timeout=30) == 0
