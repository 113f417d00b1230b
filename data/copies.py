"""The same photograph in two splits: identical, moved by a few pixels, encoded anew or with another watermark.

FER2013 was collected from the web, where pictures are copied: a test face that was trained on in another copy flatters.
"""

import torch
import torch.nn.functional as F

from data import FACE_SIZE

CELL = 4  # pixels a side of the cells whose means tell which pictures are worth a closer look
NEIGHBOURS = 5  # that are looked at
REACH = 4  # pixels that a copy may be moved by, either way
WINDOW = FACE_SIZE - 2 * REACH
CORRELATION = 0.93  # of two pictures that are one photograph; below 0.92 there are others among them, seen by eye
QUERIES, PAIRS = 1024, 256  # pictures and pairs at a time


def find_copies(images, others):
    """Pairs (M, 2) int64 of an image and another that show the same photograph: their numbers, in the order of images.

    images (N, 48, 48) and others (K, 48, 48) uint8, on one device. Of each image the `NEIGHBOURS` are looked at whose
    means over cells correlate most with its own; they show the same photograph if its middle correlates with what they
    have there, at some place within `REACH` pixels, by `CORRELATION` at least. Faces of one colour have no copies.
    """
    described, found = _describe(others), []
    for start, part in zip(range(0, len(images), QUERIES), images.split(QUERIES), strict=True):
        near = (_describe(part) @ described.T).topk(min(NEIGHBOURS, len(others)), dim=1).indices
        pairs = torch.stack((torch.arange(len(part), device=near.device).repeat_interleave(near.shape[1]),
                             near.flatten()), dim=1)  # fmt: skip
        for some in pairs.split(PAIRS):
            alike = best_correlation(part[some[:, 0]], others[some[:, 1]]) >= CORRELATION
            found.append(some[alike] + torch.tensor([start, 0], device=some.device))
    return torch.cat(found)


def _describe(images):
    """Means over cells (N, 144), of mean 0 and length 1 where they vary."""
    cells = F.avg_pool2d(images[:, None].float(), CELL).flatten(1)
    return F.normalize(cells - cells.mean(dim=1, keepdim=True), dim=1)


def best_correlation(images, others):
    """Pearson's correlation of the middle 40x40 pixels of images with the most alike 40x40 of others: (P,), pairwise.

    images, others: (P, 48, 48) uint8. 0 where one of them is of one colour.
    """
    middle = images[:, REACH:-REACH, REACH:-REACH].float()
    middle = middle - middle.mean(dim=(1, 2), keepdim=True)
    others = others.float() - others.float().mean(dim=(1, 2), keepdim=True)  # small numbers: their squares stay exact
    products = F.conv2d(others[None], middle[:, None], groups=len(middle))[0]
    means, squares = (F.avg_pool2d(values[:, None], WINDOW, stride=1)[:, 0] for values in (others, others.square()))
    lengths = (squares - means.square()).clamp_min(0).sqrt() * WINDOW * middle.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(lengths > 0, products / lengths, 0).amax(dim=(1, 2))
