"""Batches on the device: random crops and corruption, centre and ten crops, normalisation.

Training and evaluation, and whoever shows a prediction, use these same functions.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data import FACE_SIZE
from data.corruptions import corrupt, draw_corruptions
from utils.distributed import ranks

CROP_SIZE = 44


def normalise(pixels, mean, std):
    """Pixels 0..255 to float32 (pixels / 255 - mean) / std; mean and std in units of 0..1."""
    return pixels.mul(1 / (255 * std)).sub_(mean / std)


def center_crop(images):
    """(B, H, W) uint8 -> (B, 1, 44, 44) uint8."""
    top, left = (images.shape[1] - CROP_SIZE) // 2, (images.shape[2] - CROP_SIZE) // 2
    return images[:, None, top : top + CROP_SIZE, left : left + CROP_SIZE]


def four_crop(images):
    """(B, H, W) uint8 -> (B, 4, 44, 44) uint8: two corners, and the mirror images of the others.

    With the released network within 0.2 points of the ten crops, for two fifths of the work.
    """
    first, last = slice(CROP_SIZE), slice(-CROP_SIZE, None)
    crops = (
        images[:, first, first],
        images[:, last, last],
        images[:, first, last].flip(2),
        images[:, last, first].flip(2),
    )
    return torch.stack(crops, dim=1)


def ten_crop(images):
    """(B, H, W) uint8 -> (B, 10, 44, 44) uint8.

    Top left, top right, bottom left, bottom right, centre, then the mirror image of the whole
    picture cropped in the same order.
    """
    from torchvision.transforms.v2 import functional  # slow to import

    return torch.stack(functional.ten_crop(images, CROP_SIZE), dim=1)


@dataclass(frozen=True)
class EpochPlan:
    """Which image goes where in an epoch, and what is done to it.

    columns: {name: (N,) or (N, ...) tensor}; "order", int64, holds the numbers of the images.
    noise_seed: of the noise that corrupts them. Of each batch this process takes every
    `processes`-th image from number `rank` on, so that the processes together see what one would.
    """

    columns: dict
    batch_size: int
    noise_seed: int
    rank: int
    processes: int

    @property
    def images_per_step(self):
        """Images in a batch, of all processes together."""
        count = min(self.batch_size, len(self.columns["order"]))
        return count // self.processes * self.processes

    @property
    def steps(self):
        """Number of batches.

        An incomplete last one is left out, other images in each epoch, unless it is the only one.
        """
        return max(1, len(self.columns["order"]) // self.batch_size)

    def batch(self, step):
        """{name: (B / processes, ...)} of the columns: this process's part of batch `step`."""
        start = step * self.batch_size
        part = slice(start + self.rank, start + self.images_per_step, self.processes)
        return {name: values[part] for name, values in self.columns.items()}

    def noise(self, step, size, device):
        """(B / processes, size, size) float32, standard normal: this process's part for a batch."""
        generator = torch.Generator(device).manual_seed(self.noise_seed + step)
        shape = self.images_per_step, size, size
        return torch.randn(shape, generator=generator, device=device)[self.rank :: self.processes]


def draw_crops(
    order,
    generator,
    places=range(FACE_SIZE - CROP_SIZE + 1),
    rotation=0.0,
    scaling=0.0,
    corruption=0.0,
):
    """What is done to each image of an epoch: arguments of `random_crops`, and "corruption".

    Returns {name: (N, ...)} for (N,) numbers of images. places: the rows and columns at which a
    crop can begin. rotation: the most that one is turned either way, degrees. scaling: the most
    that one is enlarged or reduced, as a share. corruption: the share of images that are corrupted,
    see `data.corruptions`.
    """
    count = len(order)
    top, left = (
        places.start + places.step * torch.randint(len(places), (count,), generator=generator)
        for _ in range(2)
    )
    flip = torch.rand(count, generator=generator) < 0.5
    turn = math.radians(rotation) * (2 * torch.rand(count, generator=generator) - 1)
    zoom = 1 + scaling * (2 * torch.rand(count, generator=generator) - 1)
    drawn = {"top": top, "left": left, "flip": flip, "turn": turn, "zoom": zoom}
    if corruption:
        drawn["corruption"] = draw_corruptions(count, corruption, generator)
    return drawn


def plan_epoch(count, batch_size, seed, epoch, draw=draw_crops, device="cpu"):
    """The `EpochPlan` of `count` images on `device`, for this process.

    A function of its arguments alone, so that an epoch can be repeated, or continued in its middle.
    draw: gives the columns beside "order", from that (N,) int64 and a random generator.
    """
    # On the CPU, so that it is the same on every device.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    columns = {"order": order, **draw(order, generator)}
    noise_seed = torch.randint(2**48, (), generator=generator).item()
    columns = {name: values.to(device) for name, values in columns.items()}
    return EpochPlan(columns, batch_size, noise_seed, *ranks())


def training_batches(plan, images, *annotations, size=CROP_SIZE, first=0):
    """Yield (crops uint8 (B, 1, size, size), *annotations (B, ...)) from step `first` on.

    images (N, S, S) uint8 and annotations (N, ...), of which any may be None, are on the device of
    the plan.
    """
    for step in range(first, plan.steps):
        parts = plan.batch(step)
        order, corruption = parts.pop("order"), parts.pop("corruption", None)
        crops = random_crops(images[order], **parts, size=size)
        if corruption is not None:
            crops = corrupt(crops, corruption, plan.noise(step, size, images.device))
        yield crops, *(None if values is None else values[order] for values in annotations)


def random_crops(images, top, left, flip, turn, zoom, size=CROP_SIZE):
    """Crop, mirror, turn and zoom in one sampling.

    images (B, S, S) uint8; top, left (B,) int64, flip (B,) bool, turn (B,) radians, zoom (B,)
    factors -> (B, 1, size, size) uint8. Crop b is images[b][top : top + size, left : left + size],
    enlarged zoom[b] times and turned clockwise by turn[b] about its centre (bilinear; outside, the
    border is repeated), and then mirrored where flip[b].
    """
    middle = (size - 1) / 2
    offsets = torch.arange(size, device=images.device) - middle
    down, across = offsets[None, :, None], torch.where(flip[:, None], -offsets, offsets)[:, None, :]
    cosine, sine = (turn.cos() / zoom)[:, None, None], (turn.sin() / zoom)[:, None, None]
    rows = (top + middle)[:, None, None] + cosine * down - sine * across  # (B, size, size)
    columns = (left + middle)[:, None, None] + sine * down + cosine * across
    # -1 and 1 are the outermost pixels.
    grid = torch.stack((columns, rows), dim=3) * (2 / (images.shape[-1] - 1)) - 1
    pixels = images[:, None].float()
    sampled = F.grid_sample(pixels, grid, padding_mode="border", align_corners=True)
    return sampled.round().to(torch.uint8)
