"""Batches for joint recognition and synthesis: each face with a face of the same subject to be drawn from it."""

from dataclasses import dataclass

import torch

from data.batches import FACE_SIZE, epoch_generator, steps_of

MARGIN = 4  # the most that a picture of 48 pixels is shifted; a larger one in proportion


@dataclass(frozen=True)
class PairPlan:
    """Which image goes where in an epoch, what is to be drawn from it, and how both are shifted: (N,) tensors.

    A pure function of (labels, subjects, seed, epoch), so that an epoch can be repeated or taken up in its middle.
    """

    order: torch.Tensor  # int64, image numbers
    target: torch.Tensor  # int64, the image to be drawn; -1 where the subject does not show that expression
    target_class: torch.Tensor  # int64, the class of the target, where there is none the class to be drawn
    top: torch.Tensor  # int64, 0..2 * MARGIN
    left: torch.Tensor  # int64, 0..2 * MARGIN
    flip: torch.Tensor  # bool
    batch_size: int

    @property
    def steps(self):
        """Number of batches."""
        return steps_of(len(self.order), self.batch_size)

    def batch(self, step):
        """(order, target, target_class, top, left, flip) of batch `step`, each (B,)."""
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        parts = (self.order, self.target, self.target_class, self.top, self.left, self.flip)
        return tuple(values[part] for values in parts)


def plan_pairs(labels, subjects, classes, batch_size, seed, epoch, unpaired=0.0, device="cpu"):
    """The `PairPlan` of the images with these labels (N,) in 0..classes-1 and subjects (N,), on `device`.

    The class of a target is uniform over the other classes that the subject shows, the target over the faces of
    the subject in that class. For a share `unpaired` of the images, and where the subject shows no other class, it is
    uniform over all other classes instead.
    """
    generator = epoch_generator(seed, epoch)
    labels, subjects, count = labels.cpu(), subjects.cpu(), len(labels)
    order = torch.randperm(count, generator=generator)
    target, target_class = _draw_targets(labels, subjects, classes, unpaired, generator)
    top = torch.randint(2 * MARGIN + 1, (count,), generator=generator)
    left = torch.randint(2 * MARGIN + 1, (count,), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    parts = (order, target[order], target_class[order], top, left, flip)
    return PairPlan(*(part.to(device) for part in parts), batch_size)


def _draw_targets(labels, subjects, classes, unpaired, generator):
    """(target, target class), (N,) int64 each, of image 0..N-1; target -1 where there is none."""
    count = len(labels)
    group = subjects * classes + labels  # the faces of a subject in a class
    members = group.argsort(stable=True)  # image numbers, group by group
    sizes = torch.bincount(group, minlength=(int(subjects.max()) + 1) * classes)
    starts = sizes.cumsum(0) - sizes

    everyone = torch.arange(count)
    shown = sizes.view(-1, classes)[subjects] > 0  # (N, classes)
    shown[everyone, labels] = False
    choices = shown.sum(1)
    number = (torch.rand(count, generator=generator, dtype=torch.float64) * choices).long()
    drawn = (shown.cumsum(1) > number[:, None]).long().argmax(1)  # the class before which `number` others are shown
    anything = (labels + torch.randint(1, classes, (count,), generator=generator)) % classes
    free = (choices == 0) | (torch.rand(count, generator=generator) < unpaired)
    target_class = torch.where(free, anything, drawn)

    group = subjects * classes + target_class
    number = (torch.rand(count, generator=generator, dtype=torch.float64) * sizes[group]).long()
    place = (starts[group] + number).clamp(max=count - 1)  # beyond the end only where there is no target
    return torch.where(shown[everyone, target_class], members[place], -1), target_class


def shifted(images, rows, top, left, flip):
    """Shift and mirror in one gather; what comes in from outside repeats the border.

    images (N, S, S) uint8 with S 48 or 96; rows, top, left (B,) int64, flip (B,) bool -> (B, 1, S, S) uint8.
    Picture b is images[rows[b]], padded by MARGIN on all sides, from row top[b] and column left[b] on, then
    mirrored where flip[b]; at S = 96 all three count twice. A row of -1 gives some picture, to be left out
    of account.
    """
    size = images.shape[-1]
    offsets, step = torch.arange(size, device=images.device), size // FACE_SIZE
    vertical = (offsets + (step * (top - MARGIN))[:, None]).clamp(0, size - 1)  # (B, S)
    columns = torch.where(flip[:, None], offsets.flip(0), offsets)
    horizontal = (columns + (step * (left - MARGIN))[:, None]).clamp(0, size - 1)  # (B, S)
    rows = rows.clamp(min=0)
    return images[rows[:, None, None], vertical[:, :, None], horizontal[:, None, :]][:, None]
