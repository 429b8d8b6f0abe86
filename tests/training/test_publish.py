"""The shipped checkpoints are fit to be published, and what is fit goes in one commit."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelCard, parse_eval_result_entries

from training.publish import main, prepare

CARDS = Path(__file__).parents[2] / "model_cards"
SHIPPED = sorted(file.parent for file in CARDS.glob("*/config.json"))


class Commits(list):
    def __init__(self):
        super().__init__()
        self.asked, self.deleted = [], set()


@pytest.fixture
def commits(monkeypatch):
    """The commits that a Hub received; of them `asked`, which options came, and `deleted`, which names went."""
    received = Commits()
    asked, deleted = received.asked, received.deleted

    class Api:
        def whoami(self):
            return {"name": "acme", "auth": {"accessToken": {"role": "write"}}}

        def repo_info(self, repo, **options):
            return SimpleNamespace(private=True)

        def create_branch(self, repo, *, branch, **options):
            asked.append(("branch", branch))

        def list_repo_files(self, repo, **options):
            return [".gitattributes", "README.md", "figures/old.png", "data/train-00001.arrow", "mine.txt"]

        def create_repo(self, repo, **options):
            asked.append(("private", options["private"]))
            kind = "datasets/" if options["repo_type"] == "dataset" else ""
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{kind}{repo}")

        def create_commit(self, repo, operations, **options):
            asked.append(("revision", options["revision"]))
            received.append({each.path_in_repo: each for each in operations if isinstance(each, CommitOperationAdd)})
            deleted.update(each.path_in_repo for each in operations if isinstance(each, CommitOperationDelete))
            return SimpleNamespace(oid="abc123")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return received


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_checkpoint_is_fit_to_be_published(folder):
    bundle, found = prepare(folder, repo=f"acme/{folder.name}")
    assert [str(finding) for finding in found] == []
    assert {"README.md", "config.json", "results.json", "run_config.yaml", "training_summary.json"} <= set(bundle.files)
    assert set(bundle.left) == set()
    card = ModelCard(bundle.text("README.md"))
    assert card.data.model_name == f"acme/{folder.name}"
    assert f'"model_cards/{folder.name}"' not in card.text


def test_a_model_that_fills_gaps_has_no_forecasting_tag(tmp_path, findings):
    shutil.copytree(CARDS / "dystformer-completion", tmp_path / "x")
    shutil.copyfile(CARDS / "results" / "dystformer-completion.json", tmp_path / "x" / "results.json")
    replace(tmp_path / "x" / "README.md", "license:", "pipeline_tag: time-series-forecasting\nlicense:")
    assert "no pipeline_tag fits, found 'time-series-forecasting'" in findings(tmp_path / "x")[0]


def test_a_large_file_is_found_unless_it_is_allowed(checkpoint, findings):
    limit = (checkpoint / "figures" / "symbols.png").stat().st_size / 1e6
    (found,) = findings(checkpoint, max_mb=limit - 0.001)
    assert found.startswith("figures/symbols.png must be at most 0.36")
    assert findings(checkpoint, max_mb=limit) == []


def test_results_without_weights_are_published_of_a_run_whose_settings_say_so(checkpoint, findings):
    for name in ("model.safetensors", "figures/reconstruction.png", "figures/spectra.png"):
        (checkpoint / name).unlink()
    text = (checkpoint / "README.md").read_text()
    (checkpoint / "README.md").write_text(re.sub(r".*\(figures/(?:reconstruction|spectra)\.png\).*\n", "", text))
    replace(checkpoint / "run_config.yaml", "ship_weights: true", "ship_weights: false")
    (found,) = findings(checkpoint)
    assert "card of a repository without weights must load none" in found


def test_only_what_is_listed_is_uploaded(checkpoint):
    torch.save({}, checkpoint / "training_args.bin")
    (checkpoint / "checkpoint-8").mkdir()
    (checkpoint / "checkpoint-8" / "optimizer.pt").touch()
    bundle, found = prepare(checkpoint)
    assert found == []
    assert bundle.left == ("checkpoint-8/", "training_args.bin")
    assert not [name for name in bundle.files if "checkpoint-8" in name or name.endswith(".bin")]


def test_a_probe_that_the_licence_keeps_back_is_not_uploaded(checkpoint):
    replace(checkpoint / "run_config.yaml", "ship_weights: true", "ship_probe: false")
    bundle, found = prepare(checkpoint)
    assert found == []
    assert "probe.safetensors" not in bundle.files


def test_paths_in_the_settings_are_cut_to_their_last_part(checkpoint):
    replace(checkpoint / "run_config.yaml", "path: DATA", "path: /home/someone/series/rossler.npy")
    bundle, found = prepare(checkpoint)
    assert found == []
    assert yaml.safe_load(bundle.text("run_config.yaml"))["data"]["path"] == "rossler.npy"


def test_the_numbers_of_a_benchmark_go_to_its_leaderboard(checkpoint):
    assert not [name for name in prepare(checkpoint)[0].files if name.startswith(".eval_results")]
    bundle, found = prepare(checkpoint, benchmark="acme/rossler")
    assert found == []
    entries = parse_eval_result_entries(yaml.safe_load(bundle.text(".eval_results/rossler.yaml")))
    assert {entry.dataset_id for entry in entries} == {"acme/rossler"}
    assert {entry.task_id: entry.value for entry in entries}["state_space_divergence_19500"] == 1.213
    assert len({entry.task_id for entry in entries}) == len(entries)
    with pytest.raises(ValueError, match=r"--benchmark must be a dataset on the Hub .* found 'Rössler'"):
        prepare(checkpoint, benchmark="Rössler")


def test_a_checkpoint_goes_in_one_commit_and_its_revision_is_printed(checkpoint, commits, capsys):
    main([str(checkpoint), "--repo", "acme/toy"])
    (commit,) = commits
    assert set(commit) == {
        *("README.md", "config.json", "model.safetensors", "probe.safetensors", "results.json", "run_config.yaml"),
        *("training_summary.json", *(f"figures/{file.name}" for file in (checkpoint / "figures").iterdir())),
    }
    assert b'ALRNNForPrediction.from_pretrained("acme/toy")' in commit["README.md"].path_or_fileobj
    printed = capsys.readouterr().out
    assert "published  https://huggingface.co/acme/toy" in printed
    assert "revision   abc123" in printed
    assert 'hf_tsdyn.ALRNNForPrediction.from_pretrained("acme/toy", revision="abc123")' in printed


def test_a_private_repository_and_a_branch_are_asked_for(checkpoint, commits):
    main([str(checkpoint), "--repo", "acme/new", "--private", "--revision", "trial"])
    assert commits.asked == [("private", True), ("branch", "trial"), ("revision", "trial")]


def test_a_name_alone_is_of_the_account_and_the_card_says_so(checkpoint, commits, capsys):
    main([str(checkpoint), "--repo", "new"])
    assert 'from_pretrained("acme/new")' in commits[0]["README.md"].path_or_fileobj.decode()
    assert 'from_pretrained("acme/new", revision="abc123")' in capsys.readouterr().out


def test_what_a_former_upload_left_is_deleted_and_nothing_else(checkpoint, dataset, commits):
    main([str(checkpoint), "--repo", "acme/new"])
    assert commits.deleted == {"figures/old.png"}
    main([str(dataset), "--repo", "acme/chaos"])
    assert commits.deleted == {"figures/old.png", "data/train-00001.arrow"}


def test_what_is_not_fit_is_not_sent_and_all_findings_are_told(checkpoint, commits, capsys):
    (checkpoint / "model.safetensors").unlink()
    replace(checkpoint / "README.md", "apache-2.0", "none")
    with pytest.raises(SystemExit) as stopped:
        main([str(checkpoint), "--repo", "acme/toy"])
    assert str(stopped.value).count("\n- ") == 3
    assert commits == []


def test_a_dry_run_lists_sizes_and_asks_the_hub_nothing(checkpoint, commits, capsys):
    main([str(checkpoint), "--dry-run"])
    printed = capsys.readouterr().out
    assert re.search(rf"^ +{(checkpoint / 'model.safetensors').stat().st_size:,}  model.safetensors$", printed, re.M)
    assert "fit  to be published" in printed
    assert commits == []


def test_a_dataset_goes_in_one_commit(dataset, commits, capsys):
    main([str(dataset), "--repo", "acme/chaos"])
    assert [set(commit) for commit in commits] == [{"README.md", "manifest.json", "data/train-00000.arrow"}]
    assert 'datasets.load_dataset("acme/chaos", revision="abc123")' in capsys.readouterr().out


def test_another_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"must hold config\.json, of a checkpoint, or manifest\.json"):
        main([str(tmp_path), "--dry-run"])
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "--repo must name the repository that gets it" in capsys.readouterr().err
