"""Structural similarity of pictures (Wang, Bovik, Sheikh and Simoncelli, 2004)."""

import torch
from torch.nn.functional import conv2d

WINDOW, SIGMA = 11, 1.5  # of the Gaussian window, in pixels
C1, C2 = 0.01**2, 0.03**2


def structural_similarity(x, y):
    """Structural similarity of each pair, float64 (B,), 1 where they are equal.

    x, y: (B, 1, H, W) floats in 0..1, H and W at least 11. The mean over all places where the
    window lies within the picture. In float64: variances are small differences of large numbers.
    """
    x, y = x.double(), y.double()
    mean_x, mean_y, square_x, square_y, product = map(window_means, (x, y, x * x, y * y, x * y))
    variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return (luminance * structure).mean((1, 2, 3))


def window_means(pictures):
    """Gaussian mean in each window, (B, 1, H, W) -> (B, 1, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW).to(pictures) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA).square())
    weights = weights / weights.sum()
    return conv2d(conv2d(pictures, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
