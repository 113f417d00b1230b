"""What is measured over all faces of a split, against NumPy and hashlib."""

import hashlib

import numpy as np
import pytest
import torch

from data.faces import BLOCK, Faces


@pytest.fixture
def faces():
    """More faces than are looked at in one block."""
    count = BLOCK + 3
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, 48, 48), dtype=np.uint8)
    )
    return Faces(images, torch.arange(count) % 7, torch.linspace(-2, 2, 3 * count).view(-1, 3))


def test_pixel_statistics_equal_those_of_numpy(faces):
    pixels = faces.images.numpy() / 255
    assert faces.pixel_statistics() == {
        "mean": pytest.approx(pixels.mean()),
        "std": pytest.approx(pixels.std()),
    }


def test_the_fingerprint_covers_the_last_pixel_and_all_annotations(faces):
    whole = b"".join(part.numpy().tobytes() for part in (faces.images, faces.labels, faces.vad))
    before = faces.fingerprint()
    assert before == hashlib.sha256(whole).hexdigest()
    faces.images[-1, 47, 47] += 1
    assert faces.fingerprint() != before
