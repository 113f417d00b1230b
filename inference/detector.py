"""Face boxes in a photograph, framed as the faces of FER2013 are.

FER2013 was cropped around boxes of OpenCV's frontal face cascade. Pasted into larger pictures, its faces are found
again with a box whose middle is theirs and whose side is 0.965 of theirs (median of 400 PublicTest faces; quartiles
0.89 and 1.04), so a face is a cascade's box enlarged by 1 / 0.965.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from utils.files import UserError

FACE_CHOICES = ("auto", "none")  # find faces, or take the middle square of each picture as one
LONGEST_SIDE = 1280  # pixels; larger pictures are searched in a smaller copy
SMALLEST_FACE = 24  # pixels in that copy
OVERLAP = 0.3  # share of the smaller box from which on two boxes are the same face
PART = 0.7  # a box with less than this share of the side of another on the same face saw only a part
FACE_CROP = 64  # pixels; nearly square pictures up to this side are faces already
SMALL_PICTURE = 256  # pixels; a nearly square picture up to this side may be one whole face
NEARLY_SQUARE = 1.25


@dataclass(frozen=True)
class Box:
    """A square in a picture, in pixels; it may reach beyond the picture's edges."""

    left: float
    top: float
    side: float

    def rounded(self):
        """(left, top, right, bottom) as whole numbers."""
        return tuple(round(value) for value in (self.left, self.top, self.left + self.side, self.top + self.side))


@dataclass(frozen=True)
class Cascade:
    """A cascade of OpenCV and how its boxes lie: side and shift to the right of a face, in sides of the box."""

    name: str
    side: float
    shift: float = 0.0
    mirrored: bool = False

    @property
    def classifier(self):
        """The loaded `cv2.CascadeClassifier`."""
        return _load_cascade(self.name)


FRONTAL = Cascade("haarcascade_frontalface_default.xml", 1 / 0.965)
FRONTAL_TREES = Cascade("haarcascade_frontalface_alt2.xml", 1 / 0.972)
# Boxes of profiles lie towards the front of the face (same measurement, 82 and 95 faces found).
PROFILE = Cascade("haarcascade_profileface.xml", 1 / 0.93, shift=-0.145)
PROFILE_MIRRORED = Cascade("haarcascade_profileface.xml", 1 / 0.95, shift=0.145, mirrored=True)
# (cascade, how many neighbouring boxes must agree)
STRICT = ((FRONTAL, 4), (FRONTAL_TREES, 3), (PROFILE, 5), (PROFILE_MIRRORED, 5))
TILTED = ((FRONTAL, 2), (FRONTAL_TREES, 2))
TILTS = (-20, 20, -40, 40)  # degrees
LENIENT = ((FRONTAL, 1), (FRONTAL_TREES, 1), (PROFILE, 2), (PROFILE_MIRRORED, 2))


@cache
def _load_cascade(name):
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(
            "This OpenCV has no face cascades any more: pip install 'opencv-python-headless<5', give a YuNet model "
            "with --face-model, or take the middle of each picture as a face with --face none."
        )
    return cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / name))


def find_faces(grey):
    """`Box`es of the faces in a grey picture, uint8 (H, W), the largest first.

    Boxes on which several cascades or neighbours agree; only where there is none, the largest that a single look
    finds, and only where that finds none, the largest in the tilted picture.
    """
    scale = min(1.0, LONGEST_SIDE / max(grey.shape))
    if min(grey.shape) * scale < SMALLEST_FACE:
        return []
    small = grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes = _search(small, STRICT) or _search(small, LENIENT)[:1] or _search_tilted(small)[:1]
    return [Box(box.left / scale, box.top / scale, box.side / scale) for box in boxes]


def _search(grey, cascades):
    found = []
    for cascade, neighbours in cascades:
        picture = np.ascontiguousarray(grey[:, ::-1]) if cascade.mirrored else grey
        size = max(SMALLEST_FACE, min(grey.shape) // 25)
        for left, top, side, _ in cascade.classifier.detectMultiScale(picture, 1.1, neighbours, minSize=(size, size)):
            middle = left + side / 2
            middle = (grey.shape[1] - middle if cascade.mirrored else middle) + cascade.shift * side
            whole = side * cascade.side
            found.append(Box(float(middle - whole / 2), float(top + side / 2 - whole / 2), float(whole)))
    return _merge(found)


def _search_tilted(grey):
    height, width = grey.shape
    found = []
    for angle in TILTS:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        tilted = cv2.warpAffine(grey, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
        back = cv2.invertAffineTransform(turn)
        for box in _search(tilted, TILTED):
            x, y = back @ (box.left + box.side / 2, box.top + box.side / 2, 1)
            found.append(Box(float(x - box.side / 2), float(y - box.side / 2), box.side))
    return _merge(found)


def _merge(found):
    """One box for each face: the mean of the boxes on it, without those that saw only a part. Largest first."""
    found, faces = sorted(found, key=lambda box: -box.side), []
    while found:
        mine = [box for box in found if _overlap(box, found[0]) >= OVERLAP]
        found = [box for box in found if box not in mine]
        whole = [box for box in mine if box.side >= PART * mine[0].side]
        faces.append(Box(*(float(np.mean([getattr(box, name) for box in whole])) for name in ("left", "top", "side"))))
    return sorted(faces, key=lambda box: -box.side)


def _overlap(box, other):
    """Common area as a share of the smaller box."""
    width = min(box.left + box.side, other.left + other.side) - max(box.left, other.left)
    height = min(box.top + box.side, other.top + other.side) - max(box.top, other.top)
    return max(0, width) * max(0, height) / min(box.side, other.side) ** 2


class YuNet:
    """Faces by the user's model file for `cv2.FaceDetectorYN`; called like `find_faces`."""

    def __init__(self, path):
        if not Path(path).exists():
            raise UserError(f"--face-model {path} does not exist: give a YuNet model (.onnx), or leave it out.")
        try:
            self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320))
        except cv2.error as error:
            raise UserError(
                f"--face-model {path} is not a model that cv2.FaceDetectorYN reads: give a YuNet model (.onnx), or "
                "leave it out."
            ) from error

    def __call__(self, grey):
        scale = min(1.0, LONGEST_SIDE / max(grey.shape))
        if min(grey.shape) * scale < SMALLEST_FACE:
            return []
        small = cv2.cvtColor(cv2.resize(grey, None, fx=scale, fy=scale), cv2.COLOR_GRAY2BGR)
        self._detector.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._detector.detect(small)
        boxes = []
        for left, top, width, height, *_ in () if rows is None else rows / scale:
            side = (width + height) / 2  # its boxes are higher than wide
            boxes.append(Box(float(left + width / 2 - side / 2), float(top + height / 2 - side / 2), float(side)))
        return sorted(boxes, key=lambda box: -box.side)


class Finder:
    """Finds the faces in a picture as the user asked for it: `face` is one of `FACE_CHOICES`, `face_model` a file
    with a YuNet model, or None. Raises UserError when that is none.
    """

    def __init__(self, face="auto", face_model=None):
        self._find = whole if face == "none" else find_faces
        if face_model is not None:
            self._find = YuNet(face_model)

    def __call__(self, grey):
        """([`Box`], remark or None) of a grey picture. The remark says that no face was found, and what is done."""
        if self._find is whole or nearly_square(grey, FACE_CROP):
            return whole(grey), None
        boxes = self._find(grey)
        if boxes:
            return boxes, None
        if nearly_square(grey, SMALL_PICTURE):
            return whole(grey), "no face found: the whole picture is taken as one"
        return [], "no face found"


def whole(grey):
    """The largest square in the middle of a picture, as a list of one `Box`; called like `find_faces`."""
    height, width = grey.shape
    side = min(height, width)
    return [Box((width - side) / 2, (height - side) / 2, float(side))]


def nearly_square(grey, largest):
    """Whether a picture is nearly square and at most `largest` pixels on a side."""
    return max(grey.shape) <= min(largest, NEARLY_SQUARE * min(grey.shape))


def crop_face(grey, box, size):
    """The picture inside `box`, uint8 (size, size); beyond the edges the outermost pixels are repeated."""
    left, top, right, bottom = box.rounded()
    height, width = grey.shape
    over = max(0, -left, -top, right - width, bottom - height)
    if over:
        grey = cv2.copyMakeBorder(grey, over, over, over, over, cv2.BORDER_REPLICATE)
    face = grey[top + over : bottom + over, left + over : right + over]
    if face.shape == (size, size):
        return face
    shrinks = face.shape[0] > size
    return cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
