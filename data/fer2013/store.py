"""data.h5: how prepared faces are kept, and whether a file is such a one.

For each split that there is (Training, PublicTest, PrivateTest), with N faces:

    {split}_pixel     uint8 (N, 2304)   row-major 48x48, grey
    {split}_label     int64 (N,)        0..6, the places in `class_names`
    {split}_VAD       float32 (N, 3)    valence, arousal, dominance, -2..2; absent without V/A/D
    {split}_repeated  uint8 (N,)        1 where another split holds the identical image

All are contiguous. Attributes of the file: `format_version`,
`sources` (JSON: name, size, mtime_ns and sha256 of each file it was made from; unpacked pictures are one, "pictures",
and its sha256 is of their paths, sizes and times), `class_names`,
`vad_range`, `counts` (JSON: faces of each split), `vad_origin`, `notes` (JSON: what else is to be known of the faces)
and `seen` (JSON: names of the files that were looked at).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.fer2013.tables import PIXELS
from utils.files import one_line
from utils.tasks import EMOTIONS, SPLITS, VAD_LIMIT

FORMAT_VERSION = 1
VAD_ORIGINS = ("annotations", "derived from FER+ votes", "none")
_OURS = ("format_version", "sources", "vad_origin")  # a file without these is someone else's
_COPY_BYTES = 8 << 20
_LONGEST_ATTRIBUTE = 60_000  # bytes; HDF5 has room for 64 kB


class Damaged(Exception):
    """A data.h5 that cannot be used, but may be replaced. The text says what is wrong with it."""


class Foreign(Exception):
    """A file that did not come from here, whatever its name, and so must not be overwritten."""


@dataclass(frozen=True)
class Contents:
    """What a checked data.h5 says of itself.

    counts: {split: number of faces}; vad_origin: one of VAD_ORIGINS;
    sources: list of {"name", "size" (bytes), "mtime_ns", "sha256"}; notes: sentences; seen: names of files.
    """

    counts: dict[str, int]
    vad_origin: str
    sources: list[dict]
    notes: list[str]
    seen: set[str]


@dataclass(frozen=True)
class StoredSplit:
    """One split to write. pixels: binary file of N x 2304 bytes; the arrays are as in the module's text."""

    pixels: object
    labels: np.ndarray
    vad: np.ndarray | None
    repeated: np.ndarray


def write(path, splits, sources, vad_origin, notes=(), seen=()):
    """Write {split name: `StoredSplit`} as an HDF5 file at `path`; equal input gives equal bytes.

    Raises OSError when the disk refuses.
    """
    try:
        with h5py.File(path, "w") as h5:
            _write(h5, splits, sources, vad_origin)
            h5.attrs["notes"] = json.dumps(list(notes))
            names = json.dumps(list(seen))
            h5.attrs["seen"] = names if len(names) < _LONGEST_ATTRIBUTE else "[]"
    except RuntimeError as error:  # what closing the file raises when the disk is full
        raise OSError("the disk is full, or refuses to be written to") from error


def _write(h5, splits, sources, vad_origin):
    for name, split in splits.items():
        _write_pixels(h5, f"{name}_pixel", split.pixels, len(split.labels))
        h5.create_dataset(f"{name}_label", data=split.labels.astype(np.int64))
        if split.vad is not None:
            h5.create_dataset(f"{name}_VAD", data=split.vad.astype(np.float32))
        h5.create_dataset(f"{name}_repeated", data=split.repeated.astype(np.uint8))
    h5.attrs["format_version"] = FORMAT_VERSION
    h5.attrs["sources"] = json.dumps(sources)
    h5.attrs["class_names"] = list(EMOTIONS)
    h5.attrs["vad_range"] = np.array([-VAD_LIMIT, VAD_LIMIT])
    h5.attrs["counts"] = json.dumps({name: len(split.labels) for name, split in splits.items()})
    h5.attrs["vad_origin"] = vad_origin


def _write_pixels(h5, name, stream, count):
    dataset = h5.create_dataset(name, (count, PIXELS), np.uint8)
    rows = _COPY_BYTES // PIXELS
    stream.seek(0)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        block = np.frombuffer(stream.read((stop - start) * PIXELS), np.uint8)
        dataset[start:stop] = block.reshape(-1, PIXELS)


def check(path):
    """Return the `Contents` of the data.h5 at `path`, or raise `Damaged` or `Foreign`.

    Looks at everything but the pixels' values, in milliseconds. OSError when the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        raise Foreign("a folder")
    with open(path, "rb") as stream:
        start = stream.read(8)
    if start and start != b"\x89HDF\r\n\x1a\n":
        raise Foreign("not an HDF5 file")
    try:
        with h5py.File(path, "r") as h5:
            if any(name not in h5.attrs for name in _OURS):
                raise Foreign("an HDF5 file, but not one of faces prepared here")
            if h5.attrs["format_version"] != FORMAT_VERSION:
                raise Damaged(f"of format {h5.attrs['format_version']}, where {FORMAT_VERSION} is needed")
            contents = _contents(h5)
            for split, count in contents.counts.items():
                _check_split(h5, split, count, contents.vad_origin != "none", path.stat().st_size)
            return contents
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise Damaged(f"damaged ({one_line(error)})") from error


def _contents(h5):
    counts, sources = json.loads(h5.attrs["counts"]), json.loads(h5.attrs["sources"])
    origin = h5.attrs["vad_origin"]
    if not counts or not set(counts) <= set(SPLITS) or not all(type(n) is int and n > 0 for n in counts.values()):
        raise ValueError(f"counts are {counts}")
    if list(h5.attrs["class_names"]) != list(EMOTIONS) or list(h5.attrs["vad_range"]) != [-VAD_LIMIT, VAD_LIMIT]:
        raise ValueError("other classes or another V/A/D range")
    if origin not in VAD_ORIGINS:
        raise ValueError(f"vad_origin is {origin}")
    for source in sources:
        if not {"name", "size", "mtime_ns", "sha256"} <= set(source):
            raise ValueError(f"a source is {source}")
    notes = json.loads(h5.attrs.get("notes", "[]"))
    return Contents(counts, origin, sources, notes, set(json.loads(h5.attrs.get("seen", "[]"))))


def _check_split(h5, split, count, has_vad, file_size):
    expected = {"pixel": ("uint8", (count, PIXELS)), "label": ("int64", (count,)), "repeated": ("uint8", (count,))}
    if has_vad:
        expected["VAD"] = ("float32", (count, 3))
    for suffix, (dtype, shape) in expected.items():
        if not isinstance(h5.get(f"{split}_{suffix}", getlink=True), h5py.HardLink):
            raise ValueError(f"{split}_{suffix} is missing, or only a link to somewhere else")
        dataset = h5[f"{split}_{suffix}"]
        if dataset.dtype != dtype or dataset.shape != shape:
            raise ValueError(f"{split}_{suffix} is {dataset.dtype} {dataset.shape} instead of {dtype} {shape}")
        offset = dataset.id.get_offset()  # None unless contiguous
        if offset is None or offset + dataset.nbytes > file_size:
            raise ValueError(f"{split}_{suffix} is incomplete or not contiguous")
    labels = h5[f"{split}_label"][:]
    if labels.min() < 0 or labels.max() >= len(EMOTIONS):
        raise ValueError(f"{split}_label has values outside 0-{len(EMOTIONS) - 1}")
    if has_vad and not (np.abs(h5[f"{split}_VAD"][:]) <= VAD_LIMIT).all():
        raise ValueError(f"{split}_VAD has values outside -2..2")
