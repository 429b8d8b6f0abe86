"""The page of attractors: the same bytes for the same rows, whatever the user's settings."""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from data_generation.gallery import first_trajectories, gallery_image, project

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, write_dataset) -> list[Path]:
    rng = np.random.default_rng(0)
    rows = [
        {"target": rng.normal(size=(channels, 50)).astype(np.float32), "system": system}
        for system, channels in [("B", 3), ("B", 3), ("A", 2), ("C$^x", 1), ("D", 4)]
    ]
    rows[3]["target"][:, 20:25] = np.nan
    folder = write_dataset(tmp_path_factory.mktemp("gallery") / "data", rows, rows_per_shard=2)
    return sorted((folder / "data").iterdir())


def test_equal_rows_give_equal_bytes_whatever_the_users_settings(files: list[Path]):
    image = gallery_image(files)
    assert image is not None
    assert image.startswith(PNG_SIGNATURE)
    with matplotlib.rc_context({"font.size": 30, "savefig.facecolor": "red", "axes.facecolor": "green"}):
        assert gallery_image(files) == image
    assert gallery_image(files[1:]) != image


def test_without_matplotlib_there_is_no_picture(files: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert gallery_image(files) is None


def test_each_system_is_shown_by_its_first_trajectory(files: list[Path], write_dataset, tmp_path: Path):
    series = first_trajectories(files)
    assert {name: values.shape for name, values in series.items()} == {
        "B": (3, 50),
        "A": (2, 50),
        "C$^x": (1, 50),
        "D": (4, 50),
    }
    expected = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    np.testing.assert_array_equal(series["B"], expected)


def test_the_projection_looks_along_the_diagonal():
    values = np.random.default_rng(1).normal(size=(3, 40))
    scaled = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    plane = project(values)
    # The axes of the picture are orthonormal and at right angles to (1, 1, 1).
    basis = np.linalg.lstsq(scaled.T, plane.T, rcond=None)[0]
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(basis.sum(axis=0), 0, atol=1e-12)


def test_a_channel_at_rest_gives_no_warning():
    assert np.isfinite(project(np.zeros((3, 10)))).all()
