"""data.h5 of the program that this one descends from.

It holds {split}_pixel (N, 48, 48) or (N, 2304), {split}_label (N,) and perhaps {split}_VAD (N, 3),
as numbers of any type.
"""

import h5py
import numpy as np

from data import FACE_SIZE
from data.archives import file_errors
from data.fer2013.tables import PIXELS, Rows
from utils.files import UserError, one_line
from utils.tasks import DIMENSIONS, EMOTIONS, SPLITS, VAD_LIMIT

BLOCK_ROWS = 4096  # read at a time


def read_shapes(file):
    """{dataset: shape} of an h5 file with faces; None for a prepared one. Raises ValueError."""
    try:
        with file.open() as stream, h5py.File(stream, "r") as h5:
            if "format_version" in h5.attrs:
                return None
            shapes = {name: h5[name].shape for name in h5 if hasattr(h5[name], "shape")}
    except OSError as error:
        raise ValueError(f"is not an HDF5 file ({one_line(error)})") from error
    if not all(_has_faces(shapes, split) for split in SPLITS):
        raise ValueError("has no 48x48 pixels and labels of all three splits")
    return shapes


def _has_faces(shapes, split):
    """Whether {dataset: shape} has as many pixels, labels and V/A/D, if any, of a split."""
    count = shapes.get(f"{split}_label", ())[:1]
    vad = shapes.get(f"{split}_VAD", count + (len(DIMENSIONS),))
    pixels = [count + shape for shape in ((PIXELS,), (FACE_SIZE, FACE_SIZE))]
    return vad == count + (len(DIMENSIONS),) and shapes.get(f"{split}_pixel") in pixels


def read_h5(file):
    """Yield the `Rows` of an h5 file. Raises UserError when a value is out of range."""
    with file_errors(file.name), file.open() as stream, h5py.File(stream, "r") as h5:
        for number, split in enumerate(SPLITS):
            pixels, labels, vad = (h5.get(f"{split}_{name}") for name in ("pixel", "label", "VAD"))
            for start in range(0, len(labels), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                faces, label = pixels[part].reshape(-1, PIXELS), labels[part]
                values = None if vad is None else np.asarray(vad[part], np.float32)
                if not _is_in_range(faces, label, values):
                    raise UserError(f"{file.name} has {split} values out of range: get it again")
                arrays = {"label": label.astype(np.int64), "pixel": faces.astype(np.uint8)}
                arrays |= {} if values is None else {"VAD": values}
                ids = list(range(start + 1, start + 1 + len(label)))
                yield Rows(ids, np.full(len(label), number), arrays, [])


def _is_in_range(pixels, labels, vad):
    is_pixel = (pixels >= 0) & (pixels <= 255) & (pixels % 1 == 0)
    has_range = vad is None or (np.abs(vad) <= VAD_LIMIT).all()
    return is_pixel.all() and np.isin(labels, range(len(EMOTIONS))).all() and has_range
