import os
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

from hf_tsdyn.demo import space_folder
from hf_tsdyn.demo.__main__ import main, parser
from hf_tsdyn.demo.checkpoints import find_checkpoints
from hf_tsdyn.demo.space_folder import TEMPLATES, write_space


@pytest.fixture
def checkpoints(turning, tmp_path):
    turning.save_pretrained(tmp_path / "models" / "turning")
    (tmp_path / "models" / "turning" / "probe.safetensors").write_bytes(b"0")
    return find_checkpoints([tmp_path / "models"])


def test_the_page_is_served_to_this_machine_alone_unless_it_is_asked_for():
    assert parser().parse_args([]).host == "127.0.0.1"
    assert parser().parse_args(["--host", "0.0.0.0"]).host == "0.0.0.0"


def test_a_space_holds_the_page_the_package_and_the_models(checkpoints, tmp_path):
    folder = tmp_path / "space"
    write_space(folder, checkpoints)
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "LICENSE", "app.py", "requirements.txt", "hf_tsdyn", "model_cards",
    }  # fmt: skip
    package = space_folder.PACKAGE
    sources = {file.relative_to(package) for file in package.rglob("*") if "__pycache__" not in file.parts}
    assert {file.relative_to(folder / "hf_tsdyn") for file in (folder / "hf_tsdyn").rglob("*")} == sources
    models = [file.relative_to(folder).as_posix() for file in (folder / "model_cards").rglob("*") if file.is_file()]
    assert sorted(models) == ["model_cards/turning/config.json", "model_cards/turning/model.safetensors"]
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_a_space_asks_no_index_for_this_package(checkpoints, tmp_path):
    write_space(tmp_path / "space", checkpoints)
    index, *lines = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert index == "--extra-index-url https://download.pytorch.org/whl/cpu"
    required = {each.name: each for each in map(Requirement, lines)}
    assert {"torch", "transformers", "gradio", "matplotlib"} <= required.keys()
    assert required.keys().isdisjoint({"hf_tsdyn", "hf-tsdyn", "dysts", "pytest"})
    assert not any(each.marker for each in required.values())
    card = SpaceCard.load(tmp_path / "space" / "README.md")
    assert required["gradio"].specifier.contains(card.data.sdk_version)
    assert not required["gradio"].specifier.contains("7.0.0")


def test_an_installed_package_says_itself_what_it_needs(checkpoints, tmp_path, monkeypatch):
    class Installed:
        requires = ["b>=2", 'Gradio>=6; extra == "demo"', 'dysts; extra == "data"', 'old; python_version < "3"']

        def read_text(self, name):
            return {"licenses/LICENSE": "a licence"}[name]

    monkeypatch.setattr(space_folder, "CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "distribution", {"hf_tsdyn": Installed()}.__getitem__)
    write_space(tmp_path / "space", checkpoints)
    assert (tmp_path / "space" / "requirements.txt").read_text().splitlines()[1:] == ["b>=2", "Gradio>=6"]
    assert (tmp_path / "space" / "LICENSE").read_text() == "a licence"


def test_a_copy_that_nobody_installed_writes_nothing(checkpoints, tmp_path, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(space_folder, "CHECKOUT", tmp_path)
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(FileNotFoundError, match="found no metadata"):
        write_space(tmp_path / "space", checkpoints)
    assert not (tmp_path / "space").exists()


def test_a_space_is_written_over_nothing(checkpoints, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    arguments = ["--models", str(tmp_path / "models"), "--write-space", str(tmp_path / "mine")]
    main(arguments)
    assert f"hf upload --repo-type space NAME/forecasting {tmp_path / 'mine'}" in capsys.readouterr().out
    written = {file: file.read_bytes() for file in (tmp_path / "mine").rglob("*") if file.is_file()}
    with pytest.raises(SystemExit, match=r"an empty folder, found .*mine"):
        main(arguments)
    assert {file: file.read_bytes() for file in (tmp_path / "mine").rglob("*") if file.is_file()} == written


def test_the_card_of_a_space_is_one():
    card = SpaceCard.load(TEMPLATES / "README.md", ignore_metadata_errors=False)
    assert (card.data.sdk, card.data.app_file, card.data.license) == ("gradio", "app.py", "apache-2.0")
    assert len(card.data.short_description) <= 60
    assert "python -m hf_tsdyn.demo --write-space" in card.text


def test_the_entry_of_a_space_builds_the_page(in_loop):
    gradio = pytest.importorskip("gradio", reason="the demo needs gradio")
    made = in_loop(lambda: runpy.run_path(str(TEMPLATES / "app.py")))
    assert isinstance(made["demo"], gradio.Blocks)


@pytest.mark.slow
def test_a_space_runs_by_what_lies_in_it(checkpoints, tmp_path):
    pytest.importorskip("gradio", reason="the demo needs gradio")
    folder = tmp_path / "space"
    write_space(folder, checkpoints)
    code = (
        "import hf_tsdyn, app\n"
        "from hf_tsdyn.demo.app import chosen_trajectory\n"
        "print(hf_tsdyn.__file__, app.__file__, *app.CHECKPOINTS, len(chosen_trajectory('Thomas', None).values))"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    package, app, *rest = done.stdout.split()
    assert Path(package).is_relative_to(folder)
    assert Path(app).is_relative_to(folder)
    assert rest == ["turning", "12000"]


@pytest.mark.slow
def test_without_gradio_the_command_says_what_to_install():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "import hf_tsdyn, hf_tsdyn.demo\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from hf_tsdyn.demo.__main__ import main; main([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'hf_tsdyn[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
