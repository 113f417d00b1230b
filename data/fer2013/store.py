"""data.h5: prepared faces.

For each split (Training, PublicTest, PrivateTest), with N faces:

    {split}_pixel  uint8 (N, 2304)   row-major 48x48, grey
    {split}_label  int64 (N,)        0..6, indices into `class_names`
    {split}_VAD    float32 (N, 3)    valence, arousal, dominance, -2..2; if known
    {split}_votes  uint8 (N, 7)      FER+ votes for each class; if known

Attributes: `format_version`, `class_names`, `vad_range`, `vad_origin`, `counts` (JSON: faces of
each split), `notes` (JSON: sentences about the faces) and `fingerprint` (of the sources, see
`prepare.fingerprint`).
"""

import io
import json
from pathlib import Path

import h5py
import numpy as np

from utils.tasks import EMOTIONS, VAD_LIMIT

FORMAT_VERSION = 2
DAMAGED = (RuntimeError, KeyError)  # raised by h5py, beside OSError, for a damaged file
DTYPES = {"pixel": np.uint8, "label": np.int64, "VAD": np.float32, "votes": np.uint8}


def write(path, splits, vad_origin, notes, fingerprint):
    """Write {split: {"pixel", "label" and perhaps "VAD" and "votes": array}}.

    Equal input gives equal bytes. Raises OSError when the disk is full.
    """
    content = io.BytesIO()  # HDF5 itself crashes when it cannot write
    with h5py.File(content, "w") as h5:
        for split, arrays in splits.items():
            for name, array in arrays.items():
                h5.create_dataset(f"{split}_{name}", data=array)
        counts = {split: len(arrays["label"]) for split, arrays in splits.items()}
        h5.attrs.update(
            format_version=FORMAT_VERSION,
            class_names=list(EMOTIONS),
            vad_range=np.array([-VAD_LIMIT, VAD_LIMIT]),
            vad_origin=vad_origin,
            counts=json.dumps(counts),
            notes=json.dumps(notes),
            fingerprint=fingerprint,
        )
    Path(path).write_bytes(content.getbuffer())


def read_attributes(path):
    """The attributes of a data.h5 as a dict, `counts` and `notes` decoded.

    `fingerprint` is None in files of earlier versions. {} for an HDF5 file that was not prepared
    here; None when there is no HDF5 file, or a damaged one.
    """
    try:
        with h5py.File(path, "r") as h5:
            attributes = dict(h5.attrs)
        if "format_version" not in attributes:
            return {}
        counts, notes = (json.loads(attributes.get(name, "[]")) for name in ("counts", "notes"))
    except (OSError, ValueError, *DAMAGED):
        return None
    return {"fingerprint": None, **attributes, "counts": dict(counts), "notes": notes}


def is_foreign(path):
    """Whether a file is a readable HDF5 file that was not prepared here."""
    return read_attributes(path) == {}
