"""Faces of known subjects, and what their loaders share: from frames of sequences to tensors."""

from collections import defaultdict
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from data.archives import ARCHIVE_SUFFIXES, DATA_FOLDER, File
from data.faces import fingerprint
from utils import images
from utils.files import UserError

SIZES = (48, 96)
TENSORS = ("images", "labels", "subjects", "sequences")
LAST_FRAMES = 3  # of a sequence are used: they show the expression at its strongest


@dataclass(frozen=True)
class Frame:
    """One image of a sequence.

    name: the file's name, relative to the dataset; sequence: its name among those of the subject;
    number: the frame's place in the sequence.
    """

    file: File
    name: str
    class_name: str
    subject: str
    sequence: str
    number: int


@dataclass(frozen=True)
class SubjectFaces:
    """Faces as tensors on one device. Raises ValueError for other shapes.

    images: (N, S, S) uint8, S 48 or 96.
    labels, subjects: (N,) int64, indices of class_names and of the sorted subject_names.
    sequences: (N,) int64, the same for all frames of a sequence.
    files: N names, relative to the dataset.
    description: one line about the faces.
    """

    images: torch.Tensor
    labels: torch.Tensor
    subjects: torch.Tensor
    sequences: torch.Tensor
    class_names: tuple[str, ...]
    subject_names: tuple[str, ...]
    files: tuple[str, ...]
    description: str

    def __post_init__(self):
        count, size, shape = len(self.labels), self.size, tuple(self.images.shape)
        if shape != (count, size, size) or size not in SIZES or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 ({count}, S, S), S 48 or 96, not {shape}")
        lengths = {len(self.subjects), len(self.sequences), len(self.files)}
        if lengths != {count}:
            raise ValueError(f"{count} faces need as many subjects, sequences and files")

    def __len__(self):
        return len(self.labels)

    @property
    def size(self):
        """Height and width of every image."""
        return self.images.shape[-1]

    def select(self, rows):
        """The faces of `rows`: int64 indices in any order, or a bool mask (N,)."""
        indices = torch.arange(len(self))[rows.cpu()]
        rows = indices.to(self.images.device)
        tensors = {name: getattr(self, name)[rows] for name in TENSORS}
        return replace(
            self, **tensors, files=tuple(self.files[index] for index in indices.tolist())
        )

    def to(self, device):
        """The same faces on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def fingerprint(self):
        """SHA-256, as hexadecimal digits, of all images, labels and subjects."""
        return fingerprint(self.images, self.labels, self.subjects)


def standard_place(names, dataset):
    """The first of `names` in the data folder. Raises UserError when none is there."""
    place = next((DATA_FOLDER / name for name in names if (DATA_FOLDER / name).exists()), None)
    if place is None:
        raise UserError(
            f"there is no {dataset} in {DATA_FOLDER}: put {' or '.join(names)} there, or give its "
            "folder or archive with --data"
        )
    return place


def find_images(files):
    """The images among {name: `File`}, by name.

    Raises UserError for an archive that cannot be read: a dataset without a part would look whole.
    """
    for file in files.values():
        if file.suffix in ARCHIVE_SUFFIXES:
            file.read()
    return {name: file for name, file in sorted(files.items()) if images.is_image(file)}


def only_root(roots, place, missing):
    """The one folder of the dataset. Raises UserError for none (`missing`) or several."""
    if not roots:
        raise UserError(f"{place} {missing}")
    if len(roots) > 1:
        first, second = sorted(map(str, roots))[:2]
        raise UserError(
            f"{place} holds the dataset more than once, in {first} and in {second}: give the path "
            "of one of them"
        )
    return next(iter(roots))


def decode_face(content, name, size=None, find_face=None):
    """The face in an image file (bytes) as grey uint8 (size, size).

    name: what error messages call the file. size: None for the largest of `SIZES` that does not
    enlarge the face. find_face: called with images that are not nearly square, uint8 (H, W), gives
    the square (left, top, side) of the face, or None for the centre square. Raises UserError when
    the image cannot be read.
    """
    if not content:
        raise UserError(f"{name} is empty: {images.AGAIN}.")
    grey = images.to_grey(images.decode(BytesIO(content), name))
    is_whole_frame = max(grey.shape) > images.NEARLY_SQUARE * min(grey.shape)
    square = find_face(grey) if is_whole_frame and find_face else None
    side = square[2] if square else min(grey.shape)
    size = size or max((other for other in SIZES if other <= side), default=SIZES[0])
    return images.square_resize(grey, size, square)


def last_frames(frames):
    """The last frames of every sequence, sorted by name."""
    sequences = defaultdict(dict)
    for frame in frames:
        sequences[frame.subject, frame.sequence][frame.number] = frame
    last = [
        one for numbered in sequences.values() for _, one in sorted(numbered.items())[-LAST_FRAMES:]
    ]
    return sorted(last, key=lambda frame: frame.name)


def read_faces(frames, place, class_names, find_face=None):
    """The faces of the last frames of every sequence, as `SubjectFaces`, described by their counts.

    The first face chooses the size of all (`decode_face`). Raises UserError when an image cannot be
    read.
    """
    frames, size, faces = last_frames(frames), None, []
    folder = Path(place) if Path(place).is_dir() else Path(place).parent
    for frame in frames:
        faces.append(decode_face(frame.file.read(), folder / frame.file.name, size, find_face))
        size = len(faces[0])
    subject_names, subjects = _indices([frame.subject for frame in frames])
    sequence_names, sequences = _indices([(frame.subject, frame.sequence) for frame in frames])
    return SubjectFaces(
        images=torch.from_numpy(np.stack(faces)),
        labels=torch.tensor([class_names.index(frame.class_name) for frame in frames]),
        subjects=subjects,
        sequences=sequences,
        class_names=class_names,
        subject_names=subject_names,
        files=tuple(frame.name for frame in frames),
        description=f"{len(frames):,} faces of {len(subject_names)} subjects, {size}x{size} grey, "
        f"the last frames of {len(sequence_names)} sequences",
    )


def _indices(values):
    """(the distinct values, sorted; the index of each value among them (N,) int64)."""
    distinct = tuple(sorted(set(values)))
    index = {value: number for number, value in enumerate(distinct)}
    return distinct, torch.tensor([index[value] for value in values])
