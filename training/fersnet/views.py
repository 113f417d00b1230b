"""Blurred views of pictures, floats (B, 1, S, S) in 0..1.

Patterns of single pixels, which a network may read and people do not see, do not survive them.
Blur and shift are matrix products: differentiable, and deterministic on every device.
"""

import torch

# Of a random view: the largest blur and shift, in pixels of 48x48, and noise, of 0..1.
MAX_SIGMA, MAX_SHIFT, MAX_NOISE = 1.5, 3, 0.1
MIN_SIGMA = 0.1
SIDE = 48


def blur_matrix(sigma, size):
    """(size, size): Gaussian blur along one side, within three standard deviations.

    sigma: a tensor (), in pixels of a picture of 48x48, at most `MAX_SIGMA`. Beyond the edge the
    pixels are those of the mirror image, without the edge itself.
    """
    sigma = sigma * (size / SIDE)
    reach = max(1, round(3 * MAX_SIGMA * size / SIDE))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma).square())
    weights = weights * (offsets.abs() <= (3 * sigma).round().clamp_min(1))
    pixels = torch.arange(size, device=sigma.device)
    neighbours = (pixels + offsets[:, None]).abs()  # (2 reach + 1, size)
    neighbours = size - 1 - (size - 1 - neighbours).abs()
    chosen = (neighbours[..., None] == pixels).flatten(1).float()  # one-hot
    return ((weights / weights.sum()) @ chosen).view(size, size)


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
