"""The wheel of this checkout, and what a stranger does with it: core dependencies, a checkpoint folder, no extra."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from hf_tsdyn import ForecastPipeline

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CHECKPOINTS = {
    "dystformer": "dystformer-quickstart",
    "alrnn": "alrnn-lorenz63-p2",
    "dynonet": "dynonet-etth1-96",
    "fsnet": "fsnet-etth1",
}
"""A shipped one of each architecture."""
EXTRAS = ("dysts", "gluonts", "matplotlib", "chronos", "peft", "gradio", "fracast", "heyoka", "dask", "ray", "pytest")
THREE_LINES = """
import numpy as np
from hf_tsdyn import ForecastPipeline
forecast = ForecastPipeline.from_pretrained({folder!r}).predict(np.load("series.npy"), prediction_length=20)
"""
WHAT_IS_THERE = """
import importlib.util, pkgutil, hf_tsdyn
for module in pkgutil.walk_packages(hf_tsdyn.__path__, "hf_tsdyn."):
    if module.name.endswith("recurrence_triton"):
        continue  # only ever imported where there is a GPU
    try:
        __import__(module.name)
    except ImportError as error:
        if not module.name.startswith("hf_tsdyn.demo.") or "pip install 'hf_tsdyn[demo]'" not in str(error):
            raise
print(hf_tsdyn.__file__, *(name for name in {names} if importlib.util.find_spec(name)), sep="\\n")
"""
"""Every module imports, or is one of the demo's and names its extra."""


def run(*command, cwd, **variables):
    ran = subprocess.run(command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function (kind, source) that returns the path of what hatchling builds of a source tree."""
    backend = tmp_path_factory.mktemp("backend")
    if find_spec("hatchling") is None:
        options = ["--quiet", "--retries", "0", "--timeout", "30", "--target", str(backend)]
        fetched = subprocess.run([sys.executable, "-m", "pip", "install", *options, "hatchling"], check=False)
        if fetched.returncode:
            pytest.skip("hatchling, which builds the wheel, is not installed, and no package index serves it")

    def build(kind, source):
        target = tmp_path_factory.mktemp(kind)
        program = f"from hatchling import build; build.build_{kind}({str(target)!r})"
        run(sys.executable, "-c", program, cwd=source, PYTHONPATH=str(backend))
        (built,) = target.iterdir()
        return built

    return build


@pytest.fixture(scope="module")
def wheel(build):
    return build("wheel", ROOT)


@pytest.fixture(scope="module")
def bare_python(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel, and the core dependencies linked from this one."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel), cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in core_distributions(wheel):
        for source in installed_at(name):
            if not (site / source.name).exists():
                (site / source.name).symlink_to(source)
    return python


def core_distributions(wheel: Path) -> set[str]:
    """Names of what the wheel requires without any extra, and of all that this requires in turn."""
    with zipfile.ZipFile(wheel) as archive:
        (file,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        required = email.message_from_bytes(archive.read(file)).get_all("Requires-Dist") or []
    waiting, found = [(Requirement(line), "") for line in required], set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        wanted = {(requirement.name, each) for each in ("", *requirement.extras)} - found
        found |= wanted
        lines = metadata.requires(requirement.name) or []
        waiting += [(Requirement(line), each) for _, each in wanted for line in lines]
    return {name for name, _ in found}


def installed_at(name: str) -> Iterator[Path]:
    """Modules, packages and records of an installed distribution, where they lie in its site-packages."""
    distribution = metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
        yield Path(str(distribution.locate_file(top))).resolve()


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    found = {name for name in contents(wheel) if ".dist-info/" not in name}
    package = ROOT / "hf_tsdyn"
    files = (file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    assert found == {file.relative_to(ROOT).as_posix() for file in files}
    assert {"hf_tsdyn/py.typed", "hf_tsdyn/templates/model_card.md"} <= found
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents(wheel))
    assert wheel.stat().st_size < 2_000_000


def test_the_metadata_say_what_the_package_is(wheel):
    (text,) = [content for name, content in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    metadata_of_wheel = email.message_from_bytes(text)
    assert metadata_of_wheel["Author"] == "hf_tsdyn developers"
    assert "Typing :: Typed" in metadata_of_wheel.get_all("Classifier")


def test_the_source_distribution_is_small_and_builds_the_same_wheel(build, wheel, tmp_path):
    packed = build("sdist", ROOT)
    assert packed.stat().st_size < 2_000_000
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert contents(build("wheel", source)) == contents(wheel)


def test_every_module_imports_where_no_extra_is_installed(bare_python, tmp_path):
    names = (*EXTRAS, "training", "data_generation", "torch")
    found = run(bare_python, "-I", "-c", WHAT_IS_THERE.format(names=names), cwd=tmp_path).stdout.split()
    assert Path(found[0]).is_relative_to(bare_python.parents[1])
    assert found[1:] == ["torch"]


@pytest.mark.parametrize("name", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_three_lines_forecast_from_a_folder(bare_python, tmp_path, name):
    shutil.copytree(ROOT / "model_cards" / name, tmp_path / "folder")
    pipeline = ForecastPipeline.from_pretrained(tmp_path / "folder")
    series = np.sin(np.arange(400)[:, None] / 8 + np.arange(getattr(pipeline.forecaster.config, "num_channels", 2)))
    np.save(tmp_path / "series.npy", series)
    program = f'{THREE_LINES.format(folder="folder")}np.save("forecast.npy", forecast)'
    run(bare_python, "-I", "-c", program, cwd=tmp_path, OMP_NUM_THREADS="1")
    np.testing.assert_array_equal(np.load(tmp_path / "forecast.npy"), pipeline.predict(series, prediction_length=20))
