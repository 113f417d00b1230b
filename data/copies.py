"""The same photograph in two splits: identical, moved by a few pixels or encoded anew.

FER2013 was collected from the web, where pictures are copied: a test face that was trained on in
another copy flatters.
"""

import torch
import torch.nn.functional as F

from data import FACE_SIZE

CELL = 4  # pixels a side of the cells whose means tell which pictures are worth a closer look
NEIGHBOURS = 5  # that are looked at
REACH = 4  # pixels that a copy may be moved by, either way
WINDOW = FACE_SIZE - 2 * REACH
CORRELATION = 0.93  # of copies; below 0.92 there are different photographs, seen by eye
QUERIES, PAIRS = 1024, 256  # pictures and pairs at a time


def find_copies(images, others):
    """Pairs (M, 2) int64 of the indices of an image and another that show the same photograph.

    images (N, 48, 48) and others (K, 48, 48) uint8, on one device. Of each image the `NEIGHBOURS`
    are looked at whose means over cells correlate most with its own. They are copies if its middle
    correlates with theirs, moved by up to `REACH` pixels, by `CORRELATION` at least. Faces of one
    colour have no copies. The pairs are in the order of images.
    """
    described, found = _describe(others), []
    for start, part in zip(range(0, len(images), QUERIES), images.split(QUERIES), strict=True):
        near = (_describe(part) @ described.T).topk(min(NEIGHBOURS, len(others)), dim=1).indices
        indices = torch.arange(len(part), device=near.device).repeat_interleave(near.shape[1])
        for some in torch.stack((indices, near.flatten()), dim=1).split(PAIRS):
            alike = best_correlation(part[some[:, 0]], others[some[:, 1]]) >= CORRELATION
            found.append(some[alike] + torch.tensor([start, 0], device=some.device))
    return torch.cat(found)


def _describe(images):
    """Means over cells (N, 144), of mean 0 and length 1 where they vary."""
    cells = F.avg_pool2d(images[:, None].float(), CELL).flatten(1)
    return F.normalize(cells - cells.mean(dim=1, keepdim=True), dim=1)


def best_correlation(images, others):
    """Pearson's correlation of the middle 40x40 of images with the most alike 40x40 of others.

    images, others: (P, 48, 48) uint8. Returns (P,), pairwise; 0 where one is of one colour.
    """
    middle = images[:, REACH:-REACH, REACH:-REACH].float()
    middle = middle - middle.mean(dim=(1, 2), keepdim=True)
    # Small numbers, so that their squares stay exact.
    others = others.float() - others.float().mean(dim=(1, 2), keepdim=True)
    products = F.conv2d(others[None], middle[:, None], groups=len(middle))[0]
    means = F.avg_pool2d(others[:, None], WINDOW, stride=1)[:, 0]
    squares = F.avg_pool2d(others[:, None].square(), WINDOW, stride=1)[:, 0]
    deviations = (squares - means.square()).clamp_min(0).sqrt()
    lengths = deviations * WINDOW * middle.flatten(1).norm(dim=1)[:, None, None]
    return torch.where(lengths > 0, products / lengths, 0).amax(dim=(1, 2))
