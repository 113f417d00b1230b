"""Pictures that stay in their file: for datasets larger than the memory of the device."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

AHEAD = 3  # batches that are read while the device works


class MappedImages:
    """uint8 pictures (N, height, width) in a file, read when they are indexed.

    path: the file; offset: where its pictures begin, in bytes; shape: (pictures in the file, height, width);
    rows: int64 numbers of those to show, in order (None: all).
    """

    dtype = torch.uint8

    def __init__(self, path, offset, shape, rows=None):
        self.path, self.offset, self.stored = path, offset, tuple(shape)
        self.rows = rows
        self.shape = torch.Size((shape[0] if rows is None else len(rows), *shape[1:]))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        """The pictures that `index` (a slice, or a (B,) int64 tensor) picks, as a tensor (B, height, width)."""
        index = index if isinstance(index, slice) else index.numpy()
        if self.rows is not None:
            index = self.rows[index]
        # Mapped anew each time: pages of a mapping that is kept would count as this process's memory.
        pictures = np.memmap(self.path, np.uint8, "r", self.offset, self.stored)
        return torch.from_numpy(np.array(pictures[index]))

    def part(self, start, stop):
        """Pictures start to stop - 1, still in their file."""
        rows = np.arange(self.stored[0]) if self.rows is None else self.rows
        return MappedImages(self.path, self.offset, self.stored, rows[start:stop])

    def split(self, size):
        """Yield the pictures in tensors of `size`, the last perhaps smaller; the next ones are read meanwhile."""
        parts = [slice(start, start + size) for start in range(0, len(self), size)]
        return prefetch(self.__getitem__, parts)

    def to(self, device):
        """All pictures as one tensor on `device`."""
        return self[:].to(device)


def prefetch(read, items):
    """Yield read(item) for each of `items`, in order, calling `read` ahead of time in another thread."""
    with ThreadPoolExecutor(1) as reader:
        waiting = deque()
        for item in items:
            waiting.append(reader.submit(read, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
