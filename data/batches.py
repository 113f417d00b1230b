"""Batches on the device: random crop, flip, turn and zoom, centre crop, ten-crop, normalisation.

Training and evaluation, and whoever shows a prediction, use these same functions.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

FACE_SIZE = 48
CROP_SIZE = 44


def normalise(pixels, mean, std):
    """uint8 pixels (any shape) to float32 (pixels / 255 - mean) / std; mean and std in units of 0..1."""
    return pixels.float().mul_(1 / (255 * std)).sub_(mean / std)


def center_crop(images):
    """(B, H, W) uint8 -> (B, 1, 44, 44) uint8."""
    top, left = (images.shape[1] - CROP_SIZE) // 2, (images.shape[2] - CROP_SIZE) // 2
    return images[:, None, top : top + CROP_SIZE, left : left + CROP_SIZE]


def ten_crop(images):
    """(B, H, W) uint8 -> (B, 10, 44, 44) uint8.

    Top left, top right, bottom left, bottom right, centre, then the mirror image of the whole
    picture cropped in the same order.
    """
    flipped = images.flip(2)
    crops = []
    for picture in (images, flipped):
        crops += [
            picture[:, :CROP_SIZE, :CROP_SIZE],
            picture[:, :CROP_SIZE, -CROP_SIZE:],
            picture[:, -CROP_SIZE:, :CROP_SIZE],
            picture[:, -CROP_SIZE:, -CROP_SIZE:],
            center_crop(picture)[:, 0],
        ]
    return torch.stack(crops, dim=1)


@dataclass(frozen=True)
class EpochPlan:
    """Which image goes where in an epoch and how it is cropped: (N,) tensors.

    A pure function of (images, seed, epoch), so that an epoch can be repeated or taken up in its
    middle and gives the same batches. Of each batch this process takes every `processes`-th image from
    number `rank` on, so that the processes together see what one would.
    """

    order: torch.Tensor  # int64, image numbers
    top: torch.Tensor  # int64, 0..shifts - 1
    left: torch.Tensor  # int64, 0..shifts - 1
    flip: torch.Tensor  # bool
    turn: torch.Tensor  # float32, radians
    zoom: torch.Tensor  # float32, 1: as it is
    batch_size: int
    rank: int = 0
    processes: int = 1

    @property
    def images_per_step(self):
        """Images in a batch, of all processes together."""
        return min(self.batch_size, len(self.order)) // self.processes * self.processes

    @property
    def steps(self):
        """Number of batches."""
        return steps_of(len(self.order), self.batch_size)

    def batch(self, step):
        """This process's part of batch `step`: (order, top, left, flip, turn, zoom), each (B / processes,)."""
        start = step * self.batch_size
        part = slice(start + self.rank, start + self.images_per_step, self.processes)
        return tuple(values[part] for values in (self.order, self.top, self.left, self.flip, self.turn, self.zoom))


def steps_of(count, batch_size):
    """Batches in an epoch of `count` images.

    An incomplete last one is left out, other images in each epoch, unless it is the only one.
    """
    return max(1, count // batch_size)


def epoch_generator(seed, epoch):
    """What all chance in an epoch comes from; on the CPU, so that it is the same on every device."""
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def plan_epoch(
    count, batch_size, seed, epoch, device="cpu", rank=0, processes=1,
    shifts=FACE_SIZE - CROP_SIZE + 1, rotation=0.0, scaling=0.0,
):  # fmt: skip
    """The `EpochPlan` of `count` images, on `device`.

    shifts: how many places a crop can have in each direction. rotation: the most that one is turned either way,
    degrees. scaling: the most that one is enlarged or made smaller, as a share.
    """
    generator = epoch_generator(seed, epoch)
    order = torch.randperm(count, generator=generator)
    top = torch.randint(shifts, (count,), generator=generator)
    left = torch.randint(shifts, (count,), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    turn = math.radians(rotation) * (2 * torch.rand(count, generator=generator) - 1)
    zoom = 1 + scaling * (2 * torch.rand(count, generator=generator) - 1)
    return EpochPlan(*(part.to(device) for part in (order, top, left, flip, turn, zoom)), batch_size, rank, processes)


def training_batches(faces, plan, device, first=0):
    """Yield (crops uint8 (B, 1, 44, 44), labels (B,), vad (B, 3) or None) on `device`, from step `first` on.

    faces: `Faces` on `device`, or on the CPU where the device has no room for all of them.
    """
    for step in range(first, plan.steps):
        order, *crop = plan.batch(step)
        parts = [faces.images[order], *crop, faces.labels[order], None if faces.vad is None else faces.vad[order]]
        if order.device != device:  # only from pinned memory does a copy to a GPU run beside its work
            parts = [None if part is None else part.pin_memory().to(device, non_blocking=True) for part in parts]
        images, *crop, labels, vad = parts
        yield random_crops(images, *crop), labels, vad


def random_crops(images, top, left, flip, turn, zoom):
    """Crop, mirror, turn and zoom in one sampling.

    images (B, 48, 48) uint8; top, left (B,) int64, flip (B,) bool, turn (B,) radians, zoom (B,) factors
    -> (B, 1, 44, 44) uint8. Crop b is images[b][top : top + 44, left : left + 44], enlarged zoom[b] times and
    turned clockwise by turn[b] about its centre (bilinear; what comes in from outside repeats the border), and then
    mirrored where flip[b].
    """
    middle = (CROP_SIZE - 1) / 2
    offsets = torch.arange(CROP_SIZE, device=images.device) - middle
    down, across = offsets[None, :, None], torch.where(flip[:, None], -offsets, offsets)[:, None, :]
    cosine, sine = (turn.cos() / zoom)[:, None, None], (turn.sin() / zoom)[:, None, None]
    rows = (top + middle)[:, None, None] + cosine * down - sine * across  # (B, 44, 44)
    columns = (left + middle)[:, None, None] + sine * down + cosine * across
    grid = torch.stack((columns, rows), dim=3) * (2 / (FACE_SIZE - 1)) - 1  # -1 and 1: the outermost pixels
    sampled = F.grid_sample(images[:, None].float(), grid, padding_mode="border", align_corners=True)
    return sampled.round().to(torch.uint8)
