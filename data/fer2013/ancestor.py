"""data.h5 of the program that this one descends from.

It holds {split}_pixel (N, 48, 48) or (N, 2304), {split}_label (N,) and perhaps {split}_VAD (N, 3),
as numbers of any type.
"""

import h5py
import numpy as np

from data.archives import UNREADABLE, file_errors
from data.fer2013.store import DAMAGED
from data.fer2013.tables import PIXELS, NotUsed, Row
from utils.files import UserError
from utils.tasks import EMOTIONS, SPLITS, VAD_LIMIT

BLOCK_ROWS = 4096  # read at a time


def check_h5(file):
    """Whether an h5 file with faces has V/A/D. Raises NotUsed for any other h5 file."""
    try:
        with file.open() as stream, h5py.File(stream, "r") as h5:
            names, is_prepared = set(h5), "format_version" in h5.attrs
    except (*UNREADABLE, *DAMAGED) as error:
        raise NotUsed(f"{file.name} is not an HDF5 file") from error
    if is_prepared:
        raise NotUsed(f"{file.name} was prepared earlier: give its path, or get it again")
    if not names.issuperset(f"{split}_{name}" for split in SPLITS for name in ("pixel", "label")):
        raise NotUsed(f"{file.name} has no pixels and labels of all three splits")
    return names.issuperset(f"{split}_VAD" for split in SPLITS)


def read_h5(file):
    """Yield a `Row` for each face of an h5 file. Raises UserError when a value is out of range."""
    errors = file_errors(file.name, *DAMAGED)
    with errors, file.open() as stream, h5py.File(stream, "r") as h5:
        for split in SPLITS:
            names = ["pixel", "label", *(["VAD"] if f"{split}_VAD" in h5 else [])]
            arrays = {name: h5[f"{split}_{name}"] for name in names}
            if not _are_numbers(**arrays):
                raise UserError(f"{file.name} has no faces as numbers in {split}: get it again")
            for start in range(0, len(arrays["label"]), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                block = {name: array[part] for name, array in arrays.items()}
                if not _are_in_range(**block):
                    raise UserError(f"{file.name} has {split} values out of range: get it again")
                block["pixel"] = block["pixel"].reshape(-1, PIXELS).astype(np.uint8)
                for number, values in enumerate(zip(*block.values(), strict=True), start + 1):
                    yield Row(file.name, number, split, dict(zip(block, values, strict=True)))


def _are_numbers(pixel, label, VAD=None):
    """Whether datasets are numbers and have the shapes of faces."""
    arrays = [array for array in (pixel, label, VAD) if array is not None]
    if not all(isinstance(array, h5py.Dataset) and array.dtype.kind in "iuf" for array in arrays):
        return False
    has_shape = VAD is None or VAD.shape == (*label.shape, 3)
    return label.ndim == 1 and pixel.size == label.size * PIXELS and has_shape


def _are_in_range(pixel, label, VAD=None):
    """Whether arrays have the ranges of faces."""
    is_pixel = (pixel >= 0) & (pixel <= 255) & (pixel % 1 == 0)
    has_range = VAD is None or (np.abs(VAD) <= VAD_LIMIT).all()
    return is_pixel.all() and np.isin(label, range(len(EMOTIONS))).all() and has_range
