"""EmotionRecognizer: pictures in, faces with emotion, valence, arousal and dominance out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from os import PathLike

import numpy as np
import torch
from PIL import Image

from inference.checkpoints import load_networks, predict_tasks, ready_to_predict, temperature_of
from inference.detection import CONFIDENCE, Box, FaceDetector, crop_faces
from inference.explain import heat_maps
from inference.output import to_row
from training.device import select_device
from training.engine import CROPS
from utils.files import UserError, as_text, one_line
from utils.images import from_pil, in_batches, prefetch, read_first, reduce_image, to_grey
from utils.tasks import DIMENSIONS, EMOTIONS, TASKS

BATCH = 16  # pictures whose faces go through the network together
SMOOTHING = 0.5  # seconds, time constant of the smoothed values of a video
UNCERTAIN_MARGIN = 0.15  # between the two highest probabilities
UNCERTAIN_CONFIDENCE = 0.95  # of a detection
ACCEPTED = (
    "give a path, a PIL image, or an array of uint8 of shape (H, W), (H, W, 1), (H, W, 3) RGB or "
    "(H, W, 4) RGBA"
)


@dataclass(frozen=True)
class Face:
    """A face and what is read in it.

    probabilities: {emotion: 0..1}, summing to 1; valence, arousal, dominance: -2..2, None where the
    network was not trained for it. number: from 1, the largest face first; in a video that of the
    person. file: its path, None or a position where it had none; frame, time: in a video, from 0,
    and in seconds. smoothed: a `Face` with values smoothed over time, in a video. crop: uint8
    (48, 48), what the network saw; heat: float32 (48, 48), 0..1, what spoke for the emotion, if
    asked for.
    """

    box: Box
    probabilities: dict[str, float]
    valence: float | None
    arousal: float | None
    dominance: float | None
    number: int = 1
    file: str | int | None = None
    frame: int | None = None
    time: float | None = None
    smoothed: "Face | None" = field(default=None, repr=False)
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
    def angle(self):
        """Degrees by which the face is turned, clockwise."""
        return self.box.angle

    @property
    def confidence(self):
        """0..1, that it is a face; None where the whole picture was taken as one."""
        return self.box.confidence

    @property
    def uncertain(self):
        """Whether the two best emotions are close, or it may not be a face."""
        second, best = sorted(self.probabilities.values())[-2:]
        is_doubtful = self.confidence is not None and self.confidence < UNCERTAIN_CONFIDENCE
        return best - second < UNCERTAIN_MARGIN or is_doubtful

    @property
    def dimensions(self):
        """{"valence": value or None, "arousal": ..., "dominance": ...}."""
        return {name.lower(): getattr(self, name.lower()) for name in DIMENSIONS}

    def to_dict(self) -> dict:
        """{column: value}, the row of the tables."""
        return to_row(self)


@dataclass(frozen=True)
class Result:
    """The faces of a picture, or of a frame of a video.

    file, frame, time: as in `Face`; faces: [`Face`], the largest first, in a video by number;
    image: uint8 (H, W, 3) RGB or (H, W), reduced where it is large; size: (height, width) of the
    picture, to which boxes refer. error: the UserError by which a picture could not be read; more:
    "frames" or "pages" if the file has more of them than the first, which was read.
    """

    file: str | int | None
    faces: list = field(default_factory=list)
    image: np.ndarray | None = field(default=None, repr=False, compare=False)
    size: tuple[int, int] | None = None
    frame: int | None = None
    time: float | None = None
    error: Exception | None = None
    more: str | None = None


class EmotionRecognizer:
    """Finds the faces of pictures and videos, and reads them.

        recognizer = EmotionRecognizer()
        for face in recognizer.recognize("photo.jpg"):
            print(face.box, face.emotion, face.probability, face.valence)

    checkpoints: a folder, a .t7 file or a list of them (None: the released ones); face: "none"
    takes the centre square of each picture as a face; confidence: threshold of a detection, 0..1;
    crops: "center", "fourcrop" or "tencrop", averaged for each face; explain: whether faces get
    their `heat`. Settings of the process stay as they are. Raises UserError for unusable
    checkpoints or options.
    """

    def __init__(
        self,
        checkpoints=None,
        *,
        face="auto",
        confidence=CONFIDENCE,
        crops="fourcrop",
        explain=False,
        device="auto",
        precision="auto",
    ):
        if crops not in CROPS:
            raise UserError(f"crops must be one of {', '.join(CROPS)}, got {crops}.")
        self.crops, self.explain = crops, explain
        self.detector = FaceDetector(confidence, face)
        self.runtime = select_device(device, precision)
        with torch.random.fork_rng(devices=[]):  # networks are made of random numbers
            self.networks = ready_to_predict(load_networks(checkpoints), self.runtime)
        self.temperature = temperature_of(self.networks)

    def recognize(
        self, image: Image.Image | np.ndarray | str | PathLike, *, bgr: bool = False
    ) -> list[Face]:
        """[`Face`] of one picture, the largest first.

        image: a path, a PIL image, or uint8 (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
        bgr: an array has its colours in the order of OpenCV. Raises UserError for anything else,
        and when a file cannot be read.
        """
        file = as_text(image) if isinstance(image, (str, PathLike)) else None
        image, _ = read_image(image, bgr)
        boxes = self.detector.detect(image)
        faces = self.predict(crop_faces(to_grey(image), boxes), boxes, explain=self.explain)
        return _numbered(faces, file)

    def iter_images(self, images: Iterable) -> Iterator[Result]:
        """Yield the `Result` of each of any number of pictures, in order.

        images: an iterable of what `recognize` takes. Pictures are read and searched in another
        thread, and the faces of several go through the network together. A picture that cannot be
        read gives a `Result` with its error.
        """
        for batch in in_batches(prefetch(self._detect, enumerate(images)), BATCH):
            boxes = [box for _, found, _ in batch for box in found]
            crops = np.concatenate([crops for _, _, crops in batch])
            faces = iter(self.predict(crops, boxes, explain=self.explain))
            for result, found, _ in batch:
                mine = [next(faces) for _ in found]
                yield replace(result, faces=_numbered(mine, result.file))

    def iter_video(
        self, path: str | PathLike, *, every: int = 1, smoothing: float = SMOOTHING
    ) -> Iterator[Result]:
        """Yield the `Result` of every so many frames of a video file.

        Faces keep the number of their person from frame to frame. smoothing: time constant of the
        smoothed values in seconds, 0 for none. Raises UserError when the file cannot be read.
        """
        from inference.video import analyze_video

        return analyze_video(self, path, every=every, smoothing=smoothing)

    def predict(self, images, boxes, *, crops=None, explain=False):
        """[`Face`] of uint8 (N, 48, 48) faces and their [`Box`].

        crops: other than those of the recognizer; explain: whether they get their `heat`.
        """
        if not boxes:
            return []
        pixels = torch.from_numpy(images).to(self.runtime.device)
        outputs = predict_tasks(self.networks, pixels, self.runtime, crops or self.crops)
        probabilities = (outputs["classify"] / self.temperature).softmax(1)
        heats = [None] * len(boxes)
        if explain:
            heats = heat_maps(self.networks, pixels, probabilities.argmax(1), self.runtime)
        dimensions = {
            DIMENSIONS[task.dimension].lower(): outputs[name].flatten().tolist()
            for name, task in TASKS.items()
            if task.dimension is not None and name in outputs
        }
        faces = []
        for row, (box, values) in enumerate(zip(boxes, probabilities.tolist(), strict=True)):
            vad = {name.lower(): None for name in DIMENSIONS}
            vad |= {name: column[row] for name, column in dimensions.items()}
            named = dict(zip(EMOTIONS, values, strict=True))
            faces.append(Face(box, named, **vad, crop=images[row], heat=heats[row]))
        return faces

    def _detect(self, item):
        """(`Result` without faces, [`Box`], their crops) of (position, picture)."""
        position, source = item
        file = as_text(source) if isinstance(source, (str, PathLike)) else position
        try:
            image, more = read_image(source)
            boxes = self.detector.detect(image)
            crops = crop_faces(to_grey(image), boxes)
        except Exception as error:  # of any type, so that one picture does not stop the others
            if not isinstance(error, UserError):
                reason = f"{type(error).__name__}: {one_line(error)}"
                error = UserError(f"{file} could not be analysed ({reason}): leave it out.")
            return Result(file, error=error), [], crop_faces(None, [])
        result = Result(file, image=reduce_image(image), size=image.shape[:2], more=more)
        return result, boxes, crops


def _numbered(faces, file):
    return [replace(face, number=number, file=file) for number, face in enumerate(faces, 1)]


def read_image(image, bgr=False):
    """A picture as `EmotionRecognizer.recognize` takes it -> (uint8 (H, W, 3) RGB or (H, W), more).

    more: "frames" or "pages" where a file has more of them, else None. Raises UserError.
    """
    if isinstance(image, (str, PathLike)):
        return read_first(image)
    if isinstance(image, Image.Image):
        return from_pil(image), None
    if image is None:
        raise UserError(
            f"None, which cv2.imread returns for unreadable files, is no picture: {ACCEPTED}."
        )
    if not isinstance(image, np.ndarray):
        raise UserError(f"{type(image).__name__} is no picture: {ACCEPTED}; several: iter_images.")
    return _from_array(image, bgr), None


def _from_array(image, bgr):
    channels = image.shape[2] if image.ndim == 3 else 1
    is_picture = image.ndim in (2, 3) and channels in (1, 3, 4) and image.size
    if image.dtype != np.uint8 or not is_picture:
        raise UserError(f"An array of {image.dtype} {image.shape} is no picture: {ACCEPTED}.")
    if channels == 1:
        return np.ascontiguousarray(image.reshape(image.shape[:2]))
    if bgr:
        image = image[:, :, [2, 1, 0, *range(3, channels)]]
    return from_pil(Image.fromarray(image)) if channels == 4 else np.ascontiguousarray(image)
