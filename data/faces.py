"""Faces: one split of a dataset as tensors."""

from dataclasses import dataclass, replace

import h5py
import numpy as np
import torch

from data.batches import FACE_SIZE


@dataclass(frozen=True)
class Faces:
    """images (N, 48, 48) uint8, labels (N,) int64 in 0..6, vad (N, 3) float32 in -2..2 or None."""

    images: torch.Tensor
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

    def select(self, index):
        """The faces that `index` (slice, bool mask or int64 tensor) picks."""
        vad = None if self.vad is None else self.vad[index]
        return replace(self, images=self.images[index], labels=self.labels[index], vad=vad)

    def to(self, device):
        """The same faces on `device`."""
        vad = None if self.vad is None else self.vad.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), vad=vad)

    def pixel_statistics(self):
        """Mean and standard deviation of all pixels, in units of 0..1, exact whatever the number of faces."""
        counts = torch.bincount(self.images.flatten().int(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean).square()).sum() / counts.sum()
        return {"mean": mean.item(), "std": max(variance.sqrt().item(), 1 / 255)}


def load_split(h5_path, split, drop_repeated=False, limit=None):
    """Read one split of a checked data.h5, or None when the file does not have it.

    drop_repeated: leave out the images that another split holds too. limit: keep the first ones (None: all).
    """
    with h5py.File(h5_path, "r") as h5:
        if f"{split}_label" not in h5:
            return None
        rows = np.arange(len(h5[f"{split}_label"]))
        if drop_repeated:
            rows = rows[h5[f"{split}_repeated"][:] == 0]
        rows = rows[:limit]
        stop = rows[-1] + 1 if len(rows) else 0  # one contiguous read, then a selection in memory
        vad = h5[f"{split}_VAD"][:stop][rows] if f"{split}_VAD" in h5 else None
        return Faces.from_arrays(h5[f"{split}_pixel"][:stop][rows], h5[f"{split}_label"][:stop][rows], vad)
