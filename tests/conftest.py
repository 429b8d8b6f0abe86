"""Settings and fixtures that several test files share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
import torch
import transformers

# The suite runs one process a core; determinism across thread counts is not what these tests promise.
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of recorded numbers."""
    return FIXTURES


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random tensors."""
    return torch.Generator().manual_seed(0)
