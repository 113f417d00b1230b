"""data.h5 of the program that this one descends from.

It holds {split}_pixel (N, 48, 48) or (N, 2304), {split}_label (N,) and perhaps {split}_VAD (N, 3),
as numbers of any type.
"""

import h5py
import numpy as np

from data import FACE_SIZE
from data.archives import file_errors
from data.fer2013.tables import PIXELS, Row
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
    """Yield a `Row` for each face of an h5 file. Raises UserError when a value is out of range."""
    with file_errors(file.name), file.open() as stream, h5py.File(stream, "r") as h5:
        for split in SPLITS:
            names = [name for name in ("pixel", "label", "VAD") if f"{split}_{name}" in h5]
            for start in range(0, len(h5[f"{split}_label"]), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                block = {name: h5[f"{split}_{name}"][part] for name in names}
                block["pixel"] = block["pixel"].reshape(-1, PIXELS)
                if not _is_in_range(block["pixel"], block["label"], block.get("VAD")):
                    raise UserError(f"{file.name} has {split} values out of range: get it again")
                block["pixel"] = block["pixel"].astype(np.uint8)
                for number, values in enumerate(zip(*block.values(), strict=True), start + 1):
                    yield Row(file.name, number, split, dict(zip(block, values, strict=True)))


def _is_in_range(pixel, label, vad):
    is_pixel = (pixel >= 0) & (pixel <= 255) & (pixel % 1 == 0)
    has_range = vad is None or (np.abs(vad) <= VAD_LIMIT).all()
    return is_pixel.all() and np.isin(label, range(len(EMOTIONS))).all() and has_range
