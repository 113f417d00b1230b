"""Batches on the device: random crops and corruption, centre and ten crops, normalisation.

Training and evaluation, and whoever shows a prediction, use these same functions.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from data import FACE_SIZE
from data.corruptions import corrupt, draw_corruptions

CROP_SIZE = 44


def normalise(pixels, mean, std):
    """Pixels 0..255 to float32 (pixels / 255 - mean) / std; mean and std in units of 0..1."""
    return pixels.mul(1 / (255 * std)).sub_(mean / std)


def center_crop(images):
    """(B, H, W) uint8 -> (B, 1, 44, 44) uint8."""
    top, left = (images.shape[1] - CROP_SIZE) // 2, (images.shape[2] - CROP_SIZE) // 2
    return images[:, None, top : top + CROP_SIZE, left : left + CROP_SIZE]


def corner_crops(images):
    """[top left, top right, bottom left, bottom right] of (B, H, W), each (B, 44, 44)."""
    sides = slice(CROP_SIZE), slice(-CROP_SIZE, None)
    return [images[:, rows, columns] for rows in sides for columns in sides]


def four_crop(images):
    """(B, H, W) uint8 -> (B, 4, 44, 44) uint8: two corners, and the mirror images of the others.

    With the released network within 0.2 points of the ten crops, for two fifths of the work.
    """
    top_left, top_right, bottom_left, bottom_right = corner_crops(images)
    return torch.stack((top_left, bottom_right, top_right.flip(2), bottom_left.flip(2)), dim=1)


def ten_crop(images):
    """(B, H, W) uint8 -> (B, 10, 44, 44) uint8.

    Top left, top right, bottom left, bottom right, centre, then the mirror image of the whole
    picture cropped in the same order.
    """
    crops = []
    for pictures in (images, images.flip(2)):
        crops += [*corner_crops(pictures), center_crop(pictures)[:, 0]]
    return torch.stack(crops, dim=1)


@dataclass(frozen=True)
class EpochPlan:
    """Which image goes where in an epoch and how it is cropped: (N,) tensors.

    A pure function of (images, seed, epoch), so that an epoch can be repeated or continued in its
    middle. Of each batch this process takes every `processes`-th image from number `rank` on, so
    that the processes together see what one would.
    """

    order: torch.Tensor  # int64, image numbers
    top: torch.Tensor  # int64, the row of the picture where the crop begins; may lie outside
    left: torch.Tensor  # int64, the column
    flip: torch.Tensor  # bool
    turn: torch.Tensor  # float32, radians
    zoom: torch.Tensor  # float32, 1: as it is
    batch_size: int
    rank: int = 0
    processes: int = 1
    target: torch.Tensor | None = None  # int64, the image to be synthesized from it, -1: none
    target_class: torch.Tensor | None = None  # int64, the class to be synthesized from it
    corruption: torch.Tensor | None = None  # float32 (N, 9), see `draw_corruptions`
    noise_seed: int = 0

    @property
    def images_per_step(self):
        """Images in a batch, of all processes together."""
        return min(self.batch_size, len(self.order)) // self.processes * self.processes

    @property
    def steps(self):
        """Number of batches.

        An incomplete last one is left out, other images in each epoch, unless it is the only one.
        """
        return max(1, len(self.order) // self.batch_size)

    def batch(self, step):
        """{name: (B / processes,)} of the tensors above: this process's part of batch `step`."""
        start = step * self.batch_size
        part = slice(start + self.rank, start + self.images_per_step, self.processes)
        fields = vars(self).items()
        return {name: values[part] for name, values in fields if isinstance(values, torch.Tensor)}

    def noise(self, step, size, device):
        """(B / processes, size, size) float32, standard normal: this process's part for a batch."""
        generator = torch.Generator(device).manual_seed(self.noise_seed + step)
        shape = self.images_per_step, size, size
        return torch.randn(shape, generator=generator, device=device)[self.rank :: self.processes]


def plan_epoch(
    count, batch_size, seed, epoch, device="cpu", rank=0, processes=1,
    places=range(FACE_SIZE - CROP_SIZE + 1), rotation=0.0, scaling=0.0, targets=None,
    corruption=0.0,
):  # fmt: skip
    """The `EpochPlan` of `count` images, on `device`.

    places: the rows and columns at which a crop can begin. rotation: the most that one is turned
    either way, degrees. scaling: the most that one is enlarged or reduced, as a share. targets:
    function of the random generator, returns (target, target class), (count,) each, of the images
    in their order. corruption: the share that is corrupted, see `data.corruptions`.
    """
    # On the CPU, so that it is the same on every device.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    pairs = () if targets is None else [values[order] for values in targets(generator)]
    top, left = (
        places.start + places.step * torch.randint(len(places), (count,), generator=generator)
        for _ in range(2)
    )
    flip = torch.rand(count, generator=generator) < 0.5
    turn = math.radians(rotation) * (2 * torch.rand(count, generator=generator) - 1)
    zoom = 1 + scaling * (2 * torch.rand(count, generator=generator) - 1)
    order, top, left, flip, turn, zoom, *pairs = (
        values.to(device) for values in (order, top, left, flip, turn, zoom, *pairs)
    )
    plan = EpochPlan(order, top, left, flip, turn, zoom, batch_size, rank, processes, *pairs)
    if not corruption:
        return plan
    drawn = draw_corruptions(count, corruption, generator).to(device)
    noise_seed = torch.randint(2**48, (), generator=generator).item()
    return replace(plan, corruption=drawn, noise_seed=noise_seed)


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
