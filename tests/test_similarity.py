"""Structural similarity against scikit-image, and sheets of faces pixel by pixel."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.demo.drawing import draw_face
from training.fersnet.sheet import contact_sheet
from training.fersnet.similarity import structural_similarity

RNG = np.random.default_rng(0)


def reference(x, y):
    return pytest.importorskip("skimage.metrics").structural_similarity(
        x.astype(np.float64), y.astype(np.float64), gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=1,
    )  # fmt: skip


def picture_pairs():
    """(B, H, W) float32 pictures and what they are compared with."""
    face = draw_face(3, (0, 0, 0), 1) / np.float32(255)
    other = draw_face(1, (0, 0, 0), 1) / np.float32(255)
    noisy = np.clip(face + RNG.normal(0, 0.1, face.shape), 0, 1).astype(np.float32)
    flat = np.full_like(face, 0.3)
    noise = RNG.random(face.shape, dtype=np.float32)
    return [(face, other), (face, noisy), (face, 1 - face), (flat, flat + 0.2), (flat, face), (noise, face)]


def test_similarity_equals_scikit_image():
    pairs = picture_pairs()
    x, y = (torch.from_numpy(np.stack(side))[:, None] for side in zip(*pairs, strict=True))
    result = structural_similarity(x, y)
    assert result.shape == (len(pairs),)
    assert result.tolist() == pytest.approx([reference(*pair) for pair in pairs], abs=1e-9)


@pytest.mark.parametrize("shape", [(11, 11), (96, 96), (20, 33)])
def test_similarity_of_other_shapes_equals_scikit_image(shape):
    x, y = RNG.random((2, *shape))
    result = structural_similarity(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert result.item() == pytest.approx(reference(x, y), abs=1e-9)


def test_equal_pictures_have_similarity_one():
    pictures = torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    assert structural_similarity(pictures, pictures).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("shape", [(2, 3, 48, 48), (48, 48), (2, 1, 10, 48)])
def test_similarity_checks_shapes(shape):
    with pytest.raises(ValueError, match="11x11"):
        structural_similarity(torch.zeros(shape), torch.zeros(shape))


def sheet_of(rows, columns):
    with Image.open(io.BytesIO(contact_sheet(rows, columns))) as picture:
        assert picture.format == "PNG"
        return np.array(picture.convert("L"))


def places(sheet, face):
    """(top, left) of every place in the sheet that shows the face enlarged twice."""
    enlarged = np.kron(face, np.ones((2, 2), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (1, enlarged.shape[1]))[:, :, 0]
    starts = np.argwhere((windows == enlarged[0]).all(2))
    side = len(enlarged)
    return [(y, x) for y, x in starts.tolist() if np.array_equal(sheet[y : y + side, x : x + side], enlarged)]


@pytest.mark.parametrize("size", [48, 96])
def test_every_cell_of_a_sheet_shows_its_face(size):
    faces = [RNG.integers(0, 250, (size, size), dtype=np.uint8) for _ in range(4)]
    rows = [("S010", [faces[0], None, faces[1]]), ("a longer title", [None, faces[2], faces[3]])]
    sheet = sheet_of(rows, ["input", "a title that is wider than a face of forty-eight pixels", "gjpqy"])
    found = [places(sheet, face) for face in faces]
    assert [len(place) for place in found] == [1, 1, 1, 1]
    (first, third, middle, last), side = [place[0] for place in found], 2 * size
    tops, lefts = (first[0], last[0]), (first[1], middle[1], last[1])
    assert third == (tops[0], lefts[2]) and middle == (tops[1], lefts[1])
    assert tops[0] + side < tops[1] and lefts[0] + side < lefts[1] and lefts[1] + side < lefts[2]
    for top, left in ((tops[0], lefts[1]), (tops[1], lefts[0])):
        assert (sheet[top : top + side, left : left + side] == 255).all()

    for top, left in (first, third, middle, last):
        sheet[top : top + side, left : left + side] = 255
    assert (sheet[tops[0] :, lefts[0] :] == 255).all()  # only faces: the titles are above and to the left
    edges = [*lefts, sheet.shape[1]]
    for left, right in zip(edges, edges[1:], strict=False):
        ink = np.flatnonzero((sheet[: tops[0], left - 1 : right - 1] < 128).any(1))
        assert ink[-1] - ink[0] + 1 >= 9  # a title can be read
        assert (sheet[: tops[0], right - 2] == 255).all()  # and ends before the next begins
    for top in tops:
        assert (sheet[top : top + side, : lefts[0]] < 128).any()
    assert (sheet[[0, -1]] == 255).all() and (sheet[:, [0, -1]] == 255).all()


def test_a_sheet_without_row_titles_begins_with_the_faces():
    face = RNG.integers(0, 250, (48, 48), dtype=np.uint8)
    sheet = sheet_of([("", [face])], ["x"])
    ((_, left),) = places(sheet, face)
    assert left < 20


def test_a_row_of_another_length_is_an_error():
    face = np.zeros((48, 48), np.uint8)
    with pytest.raises(ValueError):
        contact_sheet([("S010", [face, face])], ["one"])
