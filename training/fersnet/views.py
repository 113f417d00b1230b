"""Blurred views of pictures, floats (B, 1, S, S) in 0..1.

Patterns of single pixels, which a network may read and people do not see, do not survive them.
Blur and shift are matrix products: differentiable, and deterministic on every device.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F

SIGMA = 1.0  # of the blur, in pixels of a picture of 48x48
# Of a random view: the largest blur (in such pixels), shift (pixels) and noise (of 0..1).
MAX_SIGMA, MAX_SHIFT, MAX_NOISE = 1.5, 3, 0.1
MIN_SIGMA = 0.1
SIDE = 48


@lru_cache
def neighbours(size, reach, device):
    """(2 reach + 1, size * size) float32: per offset, a matrix that picks each pixel's neighbour.

    Beyond the edge the pixels are those of the mirror image, without the edge itself.
    """
    offsets = torch.arange(-reach, reach + 1)[:, None]
    places = (torch.arange(size) + offsets).abs()  # (2 reach + 1, size)
    places = size - 1 - (size - 1 - places).abs()
    return F.one_hot(places, size).flatten(1).float().to(device)


def blur_matrix(sigma, size):
    """(size, size): Gaussian blur along one side, within three standard deviations.

    sigma: a tensor (), in pixels of a picture of 48x48, at most `MAX_SIGMA`.
    """
    scale = size / SIDE
    reach = max(1, round(3 * MAX_SIGMA * scale))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    sigma = sigma * scale
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights = weights * (offsets.abs() <= (3 * sigma).round().clamp_min(1))
    weights = weights / weights.sum()
    return (weights @ neighbours(size, reach, sigma.device)).view(size, size)


def blurred(pictures, sigma=SIGMA):
    """Pictures after a Gaussian blur, mirrored at their edges; sigma: as in `blur_matrix`."""
    sigma = torch.full((), sigma, device=pictures.device)
    matrix = blur_matrix(sigma, pictures.shape[-1]).to(pictures.dtype)
    return matrix @ pictures @ matrix.T


def random_blurred_view(pictures):
    """Pictures blurred, shifted and noisy, at random strengths, the same for all of them."""
    size, device = pictures.shape[-1], pictures.device
    strengths = torch.rand(2, device=device)
    sigma, noise = strengths[0] * MAX_SIGMA, strengths[1] * MAX_NOISE
    shifts = torch.randint(2 * MAX_SHIFT + 1, (2,), device=device) - MAX_SHIFT
    places = torch.arange(size, device=device) + shifts[:, None]  # beyond the edge: the edge
    matrix = blur_matrix(sigma.clamp_min(MIN_SIGMA), size).to(pictures.dtype)
    down, across = matrix[places.clamp(0, size - 1)]
    return down @ pictures @ across.T + noise * torch.randn(pictures.shape, device=device)
