"""Fixtures that several test files use."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    """Tests do little work at a time; more threads would only wait for each other on a busy machine."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def real_data():
    """The folder of real faces, or a skip that says what is missing."""
    folder = Path(os.environ.get("FER_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "fer2013" / "labels.csv").exists():
        pytest.skip(f"needs the real faces: {folder / 'fer2013'} is not there (set FER_REAL_DATA)")
    return folder
