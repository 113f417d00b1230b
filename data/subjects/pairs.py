"""Pairs for joint recognition and synthesis: each face with a face of the same subject to be synthesized from it."""

import torch

# {size of a picture: the most that it is shifted}, as in a cut of 96x96 from 110x110; about as much at 48
MARGINS = {48: 4, 96: 7}


def shifts(size):
    """Where a crop as large as the picture itself, (size, size), can begin: `places` of `plan_epoch`."""
    return range(-MARGINS[size], MARGINS[size] + 1)


def choose_targets(labels, subjects, classes, generator):
    """What is to be synthesized from each image: (target, target class), (N,) int64 each, for `plan_epoch`.

    labels (N,) in 0..classes-1, subjects (N,). The class of a target is uniform over the other classes that the
    subject shows, the target over the faces of the subject in that class. Where the subject shows no other class, the
    class is uniform over all others, and the target is -1.
    """
    labels, subjects, count = labels.cpu(), subjects.cpu(), len(labels)
    group = subjects * classes + labels  # the faces of a subject in a class
    members = group.argsort(stable=True)  # image numbers, group by group
    sizes = torch.bincount(group, minlength=(int(subjects.max()) + 1) * classes)
    starts = sizes.cumsum(0) - sizes

    shown = sizes.view(-1, classes)[subjects] > 0  # (N, classes)
    shown[torch.arange(count), labels] = False
    choices = shown.sum(1)
    number = (torch.rand(count, generator=generator, dtype=torch.float64) * choices).long()
    paired = (shown.cumsum(1) > number[:, None]).long().argmax(1)  # the class before which `number` others are shown
    anything = (labels + torch.randint(1, classes, (count,), generator=generator)) % classes
    target_class = torch.where(choices > 0, paired, anything)

    group = subjects * classes + target_class
    number = (torch.rand(count, generator=generator, dtype=torch.float64) * sizes[group]).long()
    place = (starts[group] + number).clamp(max=count - 1)  # beyond the end only where there is no target
    return torch.where(choices > 0, members[place], -1), target_class
