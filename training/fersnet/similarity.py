"""Structural similarity of pictures (Wang, Bovik, Sheikh and Simoncelli, 2004)."""

import torch
from torch.nn.functional import conv2d

WINDOW, SIGMA = 11, 1.5  # of the Gaussian window, in pixels
K1, K2 = 0.01, 0.03


def structural_similarity(x, y):
    """Structural similarity of each pair, float64 (B,), 1 where they are equal.

    x, y: (B, 1, H, W) floats in 0..1, H and W at least 11. The mean over all places where the
    window lies within the picture. In float64: variances are small differences of large numbers.
    Raises ValueError for other shapes.
    """
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < WINDOW:
        raise ValueError(
            "expected two pictures of shape (B, 1, H, W), at least 11x11, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    x, y = x.double(), y.double()
    mean_x, mean_y, square_x, square_y, product = map(window_means, (x, y, x * x, y * y, x * y))
    variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def window_means(pictures):
    """Gaussian mean in each window, (B, 1, H, W) -> (B, 1, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW).to(pictures) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA).square())
    weights = weights / weights.sum()
    return conv2d(conv2d(pictures, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
