"""EmotionRecognizer: pictures in, faces with emotion, valence, arousal and dominance out."""

from dataclasses import dataclass, field, replace
from os import PathLike

import numpy as np
import torch
from PIL import Image

from data import FACE_SIZE
from inference.checkpoints import load_networks, predict_tasks, ready_to_predict, temperature_of
from inference.explain import heat_maps
from inference.videos import detector, results
from inference.videos.tracks import SMOOTH
from training.device import select_device
from utils.files import UserError
from utils.images import from_pil, read_image, to_grey
from utils.tasks import DIMENSIONS, EMOTIONS, TASKS

CROPS = "fourcrop"
CLOSE = 0.15  # between the two best probabilities, below which they do not tell which it is
DOUBTFUL = 0.95  # confidence of a face below which it may be none, or hardly one to be seen
ACCEPTED = (
    "give the path of a picture, a PIL image, an array of uint8 of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) "
    "RGBA, or a list of them"
)


@dataclass(frozen=True)
class Face:
    """What is read from one face.

    box: where it is, with the confidence that it is one; probabilities: {emotion: 0..1}, summing to 1; valence,
    arousal, dominance: -2..2, or None where the network was not trained for it. crop: the face as the network saw it,
    (48, 48) uint8; heat: (48, 48) float32 0..1, what in it spoke for the emotion, where that was asked for.
    """

    box: detector.Box
    probabilities: dict[str, float]
    valence: float | None
    arousal: float | None
    dominance: float | None
    crop: np.ndarray | None = field(default=None, repr=False, compare=False)
    heat: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def emotion(self):
        """The most probable emotion."""
        return max(self.probabilities, key=self.probabilities.get)

    @property
    def probability(self):
        """Its probability."""
        return self.probabilities[self.emotion]

    @property
    def confidence(self):
        """0..1 that it is a face; None where nobody searched, since the picture is a face already."""
        return self.box.confidence

    @property
    def unsure(self):
        """Whether the two best emotions are close, or it may hardly be a face."""
        second, best = sorted(self.probabilities.values())[-2:]
        return best - second < CLOSE or self.confidence is not None and self.confidence < DOUBTFUL

    @property
    def dimensions(self):
        """{"valence": value or None, "arousal": ..., "dominance": ...}."""
        return {name.lower(): getattr(self, name.lower()) for name in DIMENSIONS}

    def to_dict(self):
        """{column: plain value}, as in a row of the tables."""
        return results.of_face(self)


class Faces(list):
    """The [`Face`] of a picture, the largest first; or, of a list of pictures, the `Faces` of each."""

    def to_frame(self):
        """A pandas DataFrame with a row a face, as in the tables; `picture` numbers those of a list from 0."""
        return results.to_frame(self)


@dataclass(frozen=True)
class Found:
    """The faces found in a picture. crops: (48, 48) uint8, one for each box."""

    boxes: list[detector.Box]
    crops: list[np.ndarray]


class EmotionRecognizer:
    """Finds faces in pictures and reads them. Settings of the process (threads, random numbers) stay as they are.

        recognizer = EmotionRecognizer()
        for face in recognizer.recognize("photo.jpg"):
            print(face.emotion, face.probability, face.valence)

    checkpoints: folder with .t7 files, or one such file that holds all tasks (None: the released ones); face: "auto"
    finds faces, "none" takes the middle square of each picture as one face; face_model: YuNet model file to find them
    with; crops: a key of `training.engine.CROPS`; "tencrop" is that of the evaluation, None four for pictures and one
    for frames of a video. confidence: the least that a
    face needs, 0..1; explain: whether each face gets its `heat`. Raises UserError when the checkpoints or the
    YuNet model are not usable, or the confidence is none.
    """

    def __init__(self, checkpoints=None, face="auto", face_model=None, crops=None, device="auto",
                 precision="auto", confidence=detector.CONFIDENCE, explain=False):  # fmt: skip
        self.runtime = select_device(device, precision)
        self.crops, self.explain = crops, explain
        with torch.random.fork_rng(devices=[]):  # a network is made of random numbers before its weights are read
            self.networks = ready_to_predict(load_networks(checkpoints), self.runtime)
        self.temperature = temperature_of(self.networks)
        self.locate = detector.Finder(face, face_model, confidence)

    def recognize(self, image, bgr=False):
        """The `Faces` in one picture, the largest first; of a list of pictures a list of them.

        image: a path, a PIL image, uint8 (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, or a list of any. bgr:
        arrays have their colours in OpenCV's order. Raises UserError for anything else, and when a file cannot be read.
        All faces of a list go through the network together.
        """
        several = isinstance(image, (list, tuple))
        pictures = [as_picture(one, bgr) for one in (image if several else [image])]
        read = self.read_faces([self.find(picture) for picture in pictures])
        return Faces(read) if several else read[0]

    def recognize_video(self, path, every=1, smooth=None):
        """Yield an `inference.videos.video.Moment` for each `every`th frame of a video file: number, seconds, people.

        Its people have the same number from frame to frame; smooth: see `inference.videos.tracks.SMOOTH`. Raises
        UserError when the file cannot be read, or `every` is less than 1.
        """
        from inference.videos.video import watch_file

        return watch_file(self, path, every, SMOOTH if smooth is None else smooth)

    def find(self, picture):
        """The faces in a picture, uint8 (H, W) or (H, W, 3) RGB, as `Found`."""
        return self.cut(picture, self.locate(picture))

    def cut(self, picture, boxes):
        """`Found` of the faces in these [`Box`] of a picture."""
        grey = to_grey(picture)
        # A copy, since a part of a picture would keep the whole in memory.
        return Found(boxes, [detector.crop_face(grey, box, FACE_SIZE).copy() for box in boxes])

    def read_faces(self, pictures, crops=None):
        """For each `Found` its `Faces`; all go through the network together. crops: other than the recognizer's."""
        cut = [crop for found in pictures for crop in found.crops]
        if not cut:
            return [Faces() for _ in pictures]
        images = torch.from_numpy(np.stack(cut)).to(self.runtime.device)
        outputs = predict_tasks(self.networks, images, self.runtime, crops or self.crops or CROPS)
        boxes = (box for found in pictures for box in found.boxes)
        faces = [self._describe(box, crop, {task: values[row] for task, values in outputs.items()})
                 for row, (box, crop) in enumerate(zip(boxes, cut, strict=True))]  # fmt: skip
        if self.explain:
            emotions = torch.tensor([EMOTIONS.index(face.emotion) for face in faces])
            heats = heat_maps(self.networks, images, emotions, self.runtime)
            faces = [replace(face, heat=heat) for face, heat in zip(faces, heats, strict=True)]
        following = iter(faces)
        return [Faces(next(following) for _ in found.boxes) for found in pictures]

    def _describe(self, box, crop, outputs):
        values = (outputs["classify"] / self.temperature).softmax(0).tolist()
        named = {DIMENSIONS[task.dimension].lower(): outputs[name].item() if name in outputs else None
                 for name, task in TASKS.items() if task.dimension is not None}  # fmt: skip
        return Face(box, dict(zip(EMOTIONS, values, strict=True)), **named, crop=crop)


def as_picture(image, bgr=False):
    """A picture as `EmotionRecognizer.recognize` accepts it -> uint8 (H, W) or (H, W, 3) RGB. Raises UserError."""
    if isinstance(image, (str, PathLike)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return from_pil(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"{_what(image)} is no picture: {ACCEPTED}.")
    if image.dtype != np.uint8:
        raise UserError(f"An array of {image.dtype} is no picture of pixels from 0 to 255: {ACCEPTED}.")
    if image.ndim not in (2, 3) or image.ndim == 3 and image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise UserError(f"An array of shape {image.shape} is no picture: {ACCEPTED}.")
    if image.ndim == 2:
        return np.ascontiguousarray(image)
    if image.shape[2] == 1:
        return np.ascontiguousarray(image[:, :, 0])
    if bgr:
        image = image[:, :, [2, 1, 0, *range(3, image.shape[2])]]
    return np.ascontiguousarray(image) if image.shape[2] == 3 else from_pil(Image.fromarray(image))


def _what(thing):
    """What somebody gave instead of a picture, in words."""
    if thing is None:
        return "None (what cv2.imread gives where it cannot read a file)"
    if isinstance(thing, torch.Tensor):
        return f"A tensor of {str(thing.dtype).removeprefix('torch.')}"
    return f"A {type(thing).__name__}"
