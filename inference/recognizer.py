"""EmotionRecognizer: pictures in, faces with emotion, valence, arousal and dominance out."""

from dataclasses import dataclass

import numpy as np
import torch

from data.batches import FACE_SIZE
from inference import detector
from inference.networks import load_networks, predict_tasks, ready_to_predict
from training.runtime import decide
from utils.pictures import read_picture, to_grey
from utils.tasks import DIMENSIONS, EMOTIONS, TASKS


@dataclass(frozen=True)
class Face:
    """What is read from one face.

    box: where it is; probabilities: {emotion: 0..1}, summing to 1; valence, arousal, dominance: -2..2, or None
    where the network was not trained for it.
    """

    box: detector.Box
    probabilities: dict[str, float]
    valence: float | None
    arousal: float | None
    dominance: float | None

    @property
    def emotion(self):
        """The most probable emotion."""
        return max(self.probabilities, key=self.probabilities.get)

    @property
    def probability(self):
        """Its probability."""
        return self.probabilities[self.emotion]

    @property
    def dimensions(self):
        """{"valence": value or None, "arousal": ..., "dominance": ...}."""
        return {name.lower(): getattr(self, name.lower()) for name in DIMENSIONS}


@dataclass(frozen=True)
class Found:
    """The faces found in a picture. crops: (48, 48) uint8, one for each box; remark: to be printed, or None."""

    boxes: list[detector.Box]
    crops: list[np.ndarray]
    remark: str | None


class EmotionRecognizer:
    """Finds faces in pictures and reads them.

        recognizer = EmotionRecognizer()
        for face in recognizer.recognize("photo.jpg"):
            print(face.emotion, face.probability, face.valence)

    checkpoints: folder with .t7 files, or one such file that holds all tasks (None: the released ones); face: "auto"
    finds faces, "none" takes the middle square of each picture as one face; face_model: YuNet model file to find them
    with; crops: a key of `training.engine.CROPS`; "tencrop" is that of the evaluation. Raises UserError when the
    checkpoints are not usable.
    """

    def __init__(self, checkpoints=None, face="auto", face_model=None, crops="fourcrop", device="auto",
                 precision="auto"):  # fmt: skip
        self.runtime = decide(device, precision, "off")
        self.crops = crops
        self.networks = ready_to_predict(load_networks(checkpoints), self.runtime)
        self._locate = detector.Finder(face, face_model)

    def recognize(self, image):
        """The faces in one picture: a path, or uint8 (H, W, 3) RGB or (H, W) grey. A list of `Face`, largest first."""
        return self.recognize_batch([image])[0]

    def recognize_batch(self, images):
        """For each of several pictures what `recognize` gives; all their faces go through the network together."""
        greys = [to_grey(image if isinstance(image, np.ndarray) else read_picture(image)) for image in images]
        return self.read_faces([self.find(grey) for grey in greys])

    def find(self, grey):
        """The faces in a picture, uint8 (H, W), as `Found`."""
        boxes, remark = self._locate(grey)
        # A copy, since a part of a picture would keep the whole in memory.
        return Found(boxes, [detector.crop_face(grey, box, FACE_SIZE).copy() for box in boxes], remark)

    def read_faces(self, pictures):
        """For each `Found` its [`Face`]; all go through the network together."""
        crops = [crop for found in pictures for crop in found.crops]
        if not crops:
            return [[] for _ in pictures]
        images = torch.from_numpy(np.stack(crops)).to(self.runtime.device)
        outputs = predict_tasks(self.networks, images, self.runtime, self.crops)
        rows = ({task: values[row] for task, values in outputs.items()} for row in range(len(crops)))
        return [[self._describe(box, next(rows)) for box in found.boxes] for found in pictures]

    def _describe(self, box, outputs):
        probabilities = dict(zip(EMOTIONS, outputs["classify"].softmax(0).tolist(), strict=True))
        named = {DIMENSIONS[task.dimension].lower(): outputs[name].item() if name in outputs else None
                 for name, task in TASKS.items() if task.dimension is not None}  # fmt: skip
        return Face(box, probabilities, **named)
