"""Pairs for synthesis: each face with another face of the same subject as its target."""

import torch

# {image size: the largest shift of a crop}: 96x96 cut from 110x110, and about as much at 48
MARGINS = {48: 4, 96: 7}


def shifts(size):
    """Offsets of a crop of the size of the image, (size, size): `places` of `plan_epoch`."""
    return range(-MARGINS[size], MARGINS[size] + 1)


def choose_targets(labels, subjects, classes, generator):
    """What to synthesize from each image: (target image, target class), (N,) int64 each.

    labels: (N,) int64 in 0..classes-1; subjects: (N,) int64. The target class is uniform over the
    other classes that the subject shows, the target over the subject's faces of that class. Where
    the subject shows no other class, the target is -1 and its class uniform over all others.
    """
    labels, subjects, count = labels.cpu(), subjects.cpu(), len(labels)
    group = subjects * classes + labels  # the faces of a subject in a class
    members = group.argsort(stable=True)  # image indices, group by group
    sizes = torch.bincount(group, minlength=(int(subjects.max()) + 1) * classes)
    starts = sizes.cumsum(0) - sizes

    shown = sizes.view(-1, classes)[subjects] > 0  # (N, classes)
    shown[torch.arange(count), labels] = False
    choices = shown.sum(1)
    chosen = (torch.rand(count, generator=generator, dtype=torch.float64) * choices).long()
    # The class before which `chosen` other classes are shown.
    paired = (shown.cumsum(1) > chosen[:, None]).long().argmax(1)
    anything = (labels + torch.randint(1, classes, (count,), generator=generator)) % classes
    target_class = torch.where(choices > 0, paired, anything)

    group = subjects * classes + target_class
    chosen = (torch.rand(count, generator=generator, dtype=torch.float64) * sizes[group]).long()
    index = (starts[group] + chosen).clamp(max=count - 1)  # too large only without a target
    return torch.where(choices > 0, members[index], -1), target_class
