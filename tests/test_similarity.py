"""Structural similarity against scikit-image, and sheets of faces."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity as reference

from data.demo.drawing import draw_face
from training.fersnet.sheet import contact_sheet
from training.fersnet.similarity import structural_similarity

RNG = np.random.default_rng(0)
OPTIONS = {
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
    "data_range": 1,
}


def picture_pairs():
    face, other = (draw_face(label, (0, 0, 0), 1) / np.float32(255) for label in (3, 1))
    noisy = np.clip(face + RNG.normal(0, 0.1, face.shape), 0, 1).astype(np.float32)
    flat, noise = np.full_like(face, 0.3), RNG.random(face.shape, dtype=np.float32)
    yield from ((face, other), (face, noisy), (face, 1 - face), (flat, flat + 0.2), (flat, face))
    yield noise, face
    yield from (tuple(RNG.random((2, *shape))) for shape in ((11, 11), (96, 96), (20, 33)))


def test_similarity_equals_scikit_image():
    for x, y in picture_pairs():
        result = structural_similarity(*(torch.from_numpy(each)[None, None] for each in (x, y)))
        expected = reference(x.astype(np.float64), y.astype(np.float64), **OPTIONS)
        assert result.shape == (1,) and result.item() == pytest.approx(expected, abs=1e-9)
    faces = torch.rand(3, 1, 48, 48)
    assert structural_similarity(faces, faces).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("size", [48, 96])
def test_a_sheet_shows_every_face_at_its_place(size):
    tones = np.array([[40, 70], [100, 130], [160, 190]], np.uint8)
    faces = np.broadcast_to(tones[..., None, None], (3, 2, size, size))
    rows = list(zip(("S010", "a title", ""), faces, strict=True))
    content = contact_sheet(rows, ["input", "Surprise"])
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        sheet = np.array(picture.convert("L"))
    counts = [(sheet == tone).sum() for tone in tones.flat]
    assert min(counts) > 48**2 and max(counts) < 1.3 * min(counts)
    centres = [np.argwhere(sheet == tone).mean(axis=0) for tone in tones.flat]
    down, across = np.array(centres).reshape(3, 2, 2).transpose(2, 0, 1)
    assert np.ptp(down, axis=1).max() < 2 and np.ptp(across, axis=0).max() < 2
    assert np.diff(down, axis=0).min() > 48 and np.diff(across, axis=1).min() > 48
