"""Drawn faces as a dataset: the embedded default, so that everything runs with no download.

Identity, pose, light and camera vary, V/A/D vary within each class, and some labels are wrong, so
that nothing is trivially 100%.
"""

import numpy as np
from PIL import Image, ImageFilter

from data.demo.drawing import CLASS_VAD, draw_face
from data.faces import Dataset, Faces
from utils.tasks import EMOTIONS, VAD_LIMIT

COUNTS = {"Training": 1600, "PublicTest": 400, "PrivateTest": 400}
STRENGTH = (0.7, 1.15)  # of an expression, as a multiple of its class mean
VAD_SPREAD = (0.4, 0.37, 0.34)  # standard deviations within a class, beyond the strength
VAD_NOISE = 0.1  # standard deviation of an annotation around what is drawn
LABEL_NOISE = 0.05  # share of the category labels that are wrong


def load(path=None, drop_duplicates=False, limit=None, out=None):
    """The demo as a `Dataset`: nothing is read or written, and no face is in it twice.

    limit: the number of faces of each split at most; the first ones. None: all.
    """
    splits = {}
    for number, (split, count) in enumerate(COUNTS.items(), 1):
        count = count if limit is None else min(count, limit)
        splits[split] = Faces.from_arrays(*draw_faces(count, (0, number)))
    return Dataset(splits, "drawn faces, no photographs of people")


def draw_faces(count, seed):
    """`count` different faces: images uint8 (count, 48, 48), labels int64 (count,), V/A/D float32
    (count, 3) in -2..2.

    Face i depends on `seed` (an int or ints) and i alone, not on `count`.
    """
    images, labels = np.empty((count, 48, 48), np.uint8), np.empty(count, np.int64)
    vad = np.empty((count, 3), np.float32)
    for index in range(count):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        images[index], labels[index], vad[index] = _draw_sample(rng)
    return images, labels, vad


def _draw_sample(rng):
    """One face uint8 (48, 48), its label and its V/A/D (3,)."""
    label = int(rng.integers(len(EMOTIONS)))
    vad = rng.uniform(*STRENGTH) * CLASS_VAD[label] + rng.normal(0, VAD_SPREAD)
    face = _photograph(draw_face(label, vad, rng), rng)
    vad = np.clip(vad + rng.normal(0, VAD_NOISE, 3), -VAD_LIMIT, VAD_LIMIT)
    if rng.random() < LABEL_NOISE:
        label = (label + int(rng.integers(1, len(EMOTIONS)))) % len(EMOTIONS)
    return face, label, vad


def _photograph(face, rng):
    """The uint8 face with the blur and the noise of a poor camera."""
    blur, noise = rng.uniform(0, 0.75), rng.uniform(1, 7)
    face = np.asarray(Image.fromarray(face).filter(ImageFilter.GaussianBlur(blur)))
    grain = noise * rng.standard_normal(face.shape, dtype=np.float32)
    return np.clip(face + grain + 0.5, 0, 255).astype(np.uint8)
