"""The command: errors without a traceback, a dry run that writes nothing, upload of what is finished."""

import errno
import sys
from pathlib import Path

import pytest
import yaml

from data_generation import __main__ as command
from data_generation import estimate, generate
from data_generation.config_loading import load_config
from data_generation.estimate import dry_run_report, estimate_run
from data_generation.folder import DatasetFolder, ShardRecord
from data_generation.generate import generate_dataset, generate_shard
from data_generation.plan import Shard, plan_shards

SETTINGS = {
    "systems": ["Lorenz", "Chen", "SprottB"],
    "splits": {name: {"num_parameter_sets": 3} for name in ("train", "validation", "test")},
    "integration": {"num_points": 256, "num_periods": 10, "transient_periods": 5},
    "rows_per_shard": 3,
    "jobs": 1,
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(SETTINGS))
    return file


def run(monkeypatch: pytest.MonkeyPatch, settings: Path, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["data_generation", "--config", str(settings), *options])
    command.main()


def test_an_output_that_is_a_file_is_an_error(monkeypatch: pytest.MonkeyPatch, settings: Path):
    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, settings, "--output", str(settings))
    assert str(raised.value).startswith("error: output must be a folder, found a file at")
    assert yaml.safe_load(settings.read_text()) == SETTINGS


def test_a_place_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, settings: Path):
    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, settings, "--output", str(settings / "below"))
    assert "error: output must be a folder that can be written, found: Not a directory" in str(raised.value)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "make the folder writable")]
)
def test_a_refusal_of_the_disk_keeps_what_is_finished(
    monkeypatch: pytest.MonkeyPatch, settings: Path, tmp_path: Path, number: int, remedy: str
):
    output = tmp_path / "dataset"

    def refused(config: object, shard: Shard, folder: DatasetFolder) -> ShardRecord:
        if shard.split == "test":
            raise OSError(number, "refused", str(folder.path / "data"))
        return generate_shard(config, shard, folder)

    with monkeypatch.context() as patch:
        patch.setattr(generate, "generate_shard", refused)
        with pytest.raises(SystemExit) as raised:
            run(monkeypatch, settings, "--output", str(output))
    message = str(raised.value)
    assert message.startswith("error: output must be a folder that can be written, found: refused")
    assert f"are kept; {remedy}" in message
    assert message.endswith("run the same command again to go on.")
    kept = sorted((output / "data").iterdir())
    times = [file.stat().st_mtime_ns for file in kept]
    assert [file.name for file in kept] == ["train-00000.arrow", "validation-00000.arrow"]
    run(monkeypatch, settings, "--output", str(output))
    assert times == [file.stat().st_mtime_ns for file in kept]
    assert (output / "manifest.json").is_file()


def test_an_error_without_a_number_is_told_as_it_is():
    assert command.failure_text(FileNotFoundError("every shard must stay"), "out") == "every shard must stay"


def test_an_interruption_says_that_the_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*arguments: object) -> ShardRecord:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "generate_shard", interrupted)
    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, settings, "--output", str(tmp_path / "dataset"))
    assert raised.value.code == 130
    assert "finished shards are kept" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(monkeypatch, settings, "--output", str(tmp_path / "new" / "dataset"), "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert [file.name for file in tmp_path.iterdir()] == ["settings.yaml"]
    assert lines[1].split() == ["train", "3", "candidates", "of", "1", "systems,", "1", "files"]
    assert lines[-1].startswith("estimated from 9 candidates of 3 systems, measured on this machine")


def test_a_sample_of_everything_gives_the_true_size(settings: Path, tmp_path: Path):
    config = load_config(["--config", str(settings), "--output", str(tmp_path / "dataset")])
    estimated = estimate_run(config, plan_shards(config))
    manifest = generate_dataset(config).manifest
    assert manifest is not None
    num_bytes = sum(shard["num_bytes"] for shard in manifest["shards"])
    assert estimated.num_rows == pytest.approx(manifest["counts"]["accepted"])
    # The file's header and the padding of its buffers are left out.
    assert estimated.megabytes == pytest.approx(num_bytes / 1e6, rel=0.3)


def test_what_the_budget_leaves_out_counts_as_the_mean(settings: Path):
    config = load_config(["--config", str(settings), "--output", "unused"])
    estimated = estimate_run(config, plan_shards(config), budget_seconds=0.0)
    assert (estimated.num_sampled_systems, estimated.num_sampled_candidates) == (1, 3)
    assert 0 < estimated.num_rows <= 9
    assert estimated.cpu_seconds > 0


def test_a_disk_that_is_too_small_is_told_beforehand(settings: Path, monkeypatch: pytest.MonkeyPatch):
    config = load_config(["--config", str(settings), "--output", "unused"])
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    assert "warning: the disk of unused has 0 MB left" in dry_run_report(config, plan_shards(config))


def test_upload_follows_generation_and_its_failure_keeps_the_dataset(
    monkeypatch: pytest.MonkeyPatch, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "dataset"
    pushed = []

    def push(path: str, repo: str) -> str:
        pushed.append((path, repo))
        return "https://hub"

    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, settings, "--output", str(output), "--push-to-hub", "name/chaos")
    assert "error: the Hub must take the dataset" in str(raised.value)
    monkeypatch.setattr(command, "push_dataset", push)
    run(monkeypatch, settings, "--output", str(output), "--push-to-hub", "name/chaos")
    assert pushed == [(str(output), "name/chaos")]
    assert "complete already" in capsys.readouterr().out
