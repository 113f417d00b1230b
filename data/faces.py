"""Faces: one split of a dataset as tensors; Dataset: all of them."""

import hashlib
from dataclasses import dataclass
from itertools import chain

import h5py
import numpy as np
import torch

from data import FACE_SIZE
from utils.files import UserError, one_line
from utils.tasks import EMOTIONS, VAD_LIMIT

BLOCK = 8192  # pictures at a time where all are looked at once


@dataclass(frozen=True)
class Dataset:
    """What is trained on.

    splits: {"Training", "PublicTest", "PrivateTest"} -> `Faces` on the CPU.
    description: one line, what the faces and their annotations are.
    """

    splits: dict
    description: str

    @property
    def has_vad(self):
        """Whether every face has valence, arousal and dominance."""
        return all(faces.vad is not None for faces in self.splits.values())


@dataclass(frozen=True)
class Faces:
    """Pictures of faces and their annotations, all on one device.

    images (N, 48, 48) uint8; labels (N,) int64 in 0..6, or -1 where nothing is to be measured; vad
    (N, 3) float32 in -2..2 or None. votes (N, 7) uint8 or None: of the ten FER+ votes of a face
    those for each class; the others are for none of them. Raises ValueError for other shapes.
    """

    images: torch.Tensor
    labels: torch.Tensor
    vad: torch.Tensor | None
    votes: torch.Tensor | None = None

    def __len__(self):
        return len(self.labels)

    def __post_init__(self):
        count = len(self.labels)
        if self.images.shape != (count, FACE_SIZE, FACE_SIZE) or self.images.dtype != torch.uint8:
            raise ValueError(
                f"images must be uint8 ({count}, 48, 48), not {tuple(self.images.shape)}"
            )
        if self.vad is not None and self.vad.shape != (count, 3):
            raise ValueError(f"vad must be ({count}, 3), not {tuple(self.vad.shape)}")
        if self.votes is not None and self.votes.shape != (count, len(EMOTIONS)):
            raise ValueError(f"votes must be ({count}, 7), not {tuple(self.votes.shape)}")

    @classmethod
    def from_arrays(cls, images, labels, vad=None, votes=None):
        """From NumPy arrays of the shapes above; images may also be (N, 2304)."""
        images = torch.from_numpy(images).view(-1, FACE_SIZE, FACE_SIZE)
        vad = None if vad is None else torch.from_numpy(vad).float()
        votes = None if votes is None else torch.from_numpy(votes)
        return cls(images, torch.from_numpy(labels).long(), vad, votes)

    def select(self, rows):
        """The faces of `rows`: a slice, int64 numbers or a bool mask (N,)."""
        return self._changed(lambda part: part[rows])

    def spaced(self, limit):
        """No more than `limit` of the faces, evenly spaced; None: all."""
        if limit is None or limit >= len(self):
            return self
        return self.select(torch.arange(limit) * len(self) // limit)

    def to(self, device):
        """The same faces on `device`."""
        return self._changed(lambda part: part.to(device))

    def _changed(self, change):
        parts = vars(self).items()
        return Faces(**{name: None if part is None else change(part) for name, part in parts})

    def pixel_statistics(self):
        """{"mean", "std"} of all pixels, in units of 0..1, exact whatever the number of faces."""
        counts = sum(
            torch.bincount(block.flatten(), minlength=256) for block in self.images.split(BLOCK)
        )
        counts = counts.cpu().double()  # Apple's GPUs have no float64
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean).square()).sum() / counts.sum()
        return {"mean": mean.item(), "std": max(variance.sqrt().item(), 1 / 255)}

    def fingerprint(self):
        """SHA-256, as hexadecimal digits, of all pictures and annotations."""
        return fingerprint(self.images, self.labels, self.vad, self.votes)


def fingerprint(images, *annotations):
    """SHA-256, as hexadecimal digits, of images (N, H, W) and other tensors; None is left out."""
    digest = hashlib.sha256()
    for part in chain(images.split(BLOCK), annotations):
        if part is not None:
            digest.update(part.cpu().numpy())
    return digest.hexdigest()


def load_split(h5_path, split, limit=None):
    """One split of a data.h5 as `Faces` on the CPU; None when the file does not have it.

    limit: the number of faces, evenly spaced, since class folders are sorted; None: all. Raises
    UserError when the file is damaged.
    """
    names = ("pixel", "label", "VAD", "votes")
    try:
        with h5py.File(h5_path, "r") as h5:
            if f"{split}_label" not in h5:
                return None
            arrays = [
                h5[f"{split}_{name}"][:] if f"{split}_{name}" in h5 else None for name in names
            ]
        _check_ranges(*arrays[1:3])
        return Faces.from_arrays(*arrays).spaced(limit)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{h5_path} is damaged ({split}: {one_line(error)}): delete it, so that it is prepared "
            "again, or get it again"
        ) from error


def _check_ranges(labels, vad):
    """Raise ValueError unless the arrays of a split hold what `data.fer2013.store` describes."""
    if labels.dtype != np.int64 or not np.isin(labels, range(len(EMOTIONS))).all():
        raise ValueError("labels are not integers in 0..6")
    if vad is not None and not (np.abs(vad) <= VAD_LIMIT).all():
        raise ValueError("V/A/D are not in -2..2")
