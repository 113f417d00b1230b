"""Faces: one split of a dataset, its pictures in memory or in the file that they came from."""

import hashlib
from dataclasses import dataclass, replace
from itertools import chain

import h5py
import numpy as np
import torch

from data.batches import FACE_SIZE
from data.mapped import MappedImages

BLOCK = 8192  # pictures at a time where all are looked at once


@dataclass(frozen=True)
class Faces:
    """images (N, 48, 48) uint8, labels (N,) int64 in 0..6, vad (N, 3) float32 in -2..2 or None.

    images are a tensor, or `MappedImages` that are read as they are needed.
    """

    images: torch.Tensor | MappedImages
    labels: torch.Tensor
    vad: torch.Tensor | None

    def __len__(self):
        return len(self.labels)

    def __post_init__(self):
        count = len(self.labels)
        if self.images.shape != (count, FACE_SIZE, FACE_SIZE) or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 ({count}, 48, 48), not {tuple(self.images.shape)}")
        if self.vad is not None and self.vad.shape != (count, 3):
            raise ValueError(f"vad must be ({count}, 3), not {tuple(self.vad.shape)}")

    @classmethod
    def from_arrays(cls, images, labels, vad=None):
        """From NumPy arrays of the shapes above; images may also be (N, 2304)."""
        images = torch.from_numpy(images).view(-1, FACE_SIZE, FACE_SIZE)
        vad = None if vad is None else torch.from_numpy(vad).float()
        return cls(images, torch.from_numpy(labels).long(), vad)

    @property
    def in_file(self):
        """Whether the pictures are still in their file."""
        return isinstance(self.images, MappedImages)

    def part(self, start, stop):
        """Faces start to stop - 1; pictures in a file stay there."""
        images = self.images.part(start, stop) if self.in_file else self.images[start:stop]
        return Faces(images, self.labels[start:stop], None if self.vad is None else self.vad[start:stop])

    def to(self, device):
        """The same faces on `device`, read from their file if they are there."""
        vad = None if self.vad is None else self.vad.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), vad=vad)

    def pixel_statistics(self):
        """Mean and standard deviation of all pixels, in units of 0..1, exact whatever the number of faces."""
        return pixel_statistics(self.images)

    def fingerprint(self):
        """SHA-256, as hexadecimal digits, of all pictures and annotations."""
        return fingerprint(self.images, self.labels, self.vad)


def pixel_statistics(images):
    """{"mean", "std"} of all pixels of images (N, H, W) uint8, a tensor or `MappedImages`, in units of 0..1."""
    counts = sum(torch.bincount(block.flatten(), minlength=256) for block in images.split(BLOCK))
    counts = counts.double().cpu()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    variance = (counts * (values - mean).square()).sum() / counts.sum()
    return {"mean": mean.item(), "std": max(variance.sqrt().item(), 1 / 255)}


def fingerprint(images, *annotations):
    """SHA-256, as hexadecimal digits, of images (a tensor or `MappedImages`) and of tensors; None is passed over."""
    digest = hashlib.sha256()
    for part in chain(images.split(BLOCK), annotations):
        if part is not None:
            digest.update(part.cpu().numpy())
    return digest.hexdigest()


def load_split(h5_path, split, drop_repeated=False, limit=None):
    """One split of a checked data.h5, its pictures left in the file; None when the file does not have it.

    drop_repeated: leave out the images that another split holds too. limit: keep the first ones (None: all).
    """
    with h5py.File(h5_path, "r") as h5:
        if f"{split}_label" not in h5:
            return None
        pixels = h5[f"{split}_pixel"]  # contiguous in the file, which `store.check` makes sure of
        rows = np.flatnonzero(h5[f"{split}_repeated"][:] == 0)[:limit] if drop_repeated else None
        stored = len(pixels) if drop_repeated or limit is None else min(limit, len(pixels))
        images = MappedImages(h5_path, pixels.id.get_offset(), (stored, FACE_SIZE, FACE_SIZE), rows)
        kept = slice(stored) if rows is None else rows
        vad = torch.from_numpy(h5[f"{split}_VAD"][:][kept]).float() if f"{split}_VAD" in h5 else None
        return Faces(images, torch.from_numpy(h5[f"{split}_label"][:][kept]).long(), vad)
