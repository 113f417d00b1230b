"""Drawn faces as a dataset: the embedded default, so that everything runs with no download.

Identity, pose, light and camera vary, V/A/D vary within each class, and some labels are wrong, so that
nothing is trivially 100%.
"""

import numpy as np
from PIL import Image, ImageFilter

from data.demo.drawing import CLASS_VAD, draw_face
from data.faces import Dataset, Faces
from utils.tasks import EMOTIONS, SPLITS, VAD_LIMIT

STRENGTH = (0.7, 1.15)  # of an expression, as a multiple of its class mean
VAD_SPREAD = (0.4, 0.37, 0.34)  # standard deviations within a class, beyond the strength
VAD_NOISE = 0.1  # standard deviation of an annotation around what is drawn
LABEL_NOISE = 0.05  # share of the category labels that are wrong


def _camera(face, rng):
    """The uint8 face with the blur and the noise of a poor camera."""
    blur, noise = rng.uniform(0, 0.75), rng.uniform(1, 7)
    if blur > 0.3:
        face = np.asarray(Image.fromarray(face).filter(ImageFilter.GaussianBlur(blur)))
    grain = noise * rng.standard_normal(face.shape, dtype=np.float32)
    return np.clip(face + grain + 0.5, 0, 255).astype(np.uint8)


def _sample(rng, noisy):
    """One face uint8 (48, 48), its label and its V/A/D (3,)."""
    label = int(rng.integers(len(EMOTIONS)))
    vad = rng.uniform(*STRENGTH) * CLASS_VAD[label] + rng.normal(0, VAD_SPREAD)
    vad = np.clip(vad, -VAD_LIMIT, VAD_LIMIT)
    face = _camera(draw_face(label, vad, rng), rng)
    if noisy:
        vad = np.clip(vad + rng.normal(0, VAD_NOISE, 3), -VAD_LIMIT, VAD_LIMIT)
        if rng.random() < LABEL_NOISE:
            label = (label + int(rng.integers(1, len(EMOTIONS)))) % len(EMOTIONS)
    return face, label, vad


def draw_faces(count, seed, noisy=True):
    """`count` different faces with annotations.

    Face i depends on `seed` (an int or ints) and i alone, not on `count`. With `noisy`, 5% of the labels are
    wrong and V/A/D carry a little Gaussian noise; the pictures are the same without.
    Returns images uint8 (count, 48, 48), labels int64 (count,), V/A/D float32 (count, 3) in -2..2.
    """
    images, labels = np.empty((count, 48, 48), np.uint8), np.empty(count, np.int64)
    vad = np.empty((count, 3), np.float32)
    for index in range(count):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        images[index], labels[index], vad[index] = _sample(rng, noisy)
    return images, labels, vad


def demo_splits(training=1600, test=400, seed=0, limit=None):
    """The demo dataset: split name -> (images, labels, V/A/D) as `draw_faces` returns them.

    training: faces in Training; test: faces in each of PublicTest and PrivateTest; limit: at most so many in
    each (None: all). No face is in two splits, and a smaller split is the beginning of a larger one.
    """
    counts = zip(SPLITS, (training, test, test), strict=True)
    return {
        split: draw_faces(count if limit is None else min(count, limit), (seed, number))
        for number, (split, count) in enumerate(counts, 1)
    }


def load(path=None, drop_duplicates=False, limit=None, out=None):
    """The demo as a `Dataset`: nothing is read from `path` nor written to `out`, and no face is in it twice."""
    splits = {name: Faces.from_arrays(*arrays) for name, arrays in demo_splits(limit=limit).items()}
    return Dataset(splits, "drawn faces, no photographs of people")
