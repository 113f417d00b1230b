"""Structural similarity of pictures (Wang, Bovik, Sheikh and Simoncelli, 2004)."""

import torch
from torch.nn.functional import conv2d

WINDOW, SIGMA = 11, 1.5  # of the Gaussian window, in pixels
K1, K2 = 0.01, 0.03


def structural_similarity(x, y):
    """Structural similarity of each pair, float64 (B,), 1 where they are equal.

    x, y: (B, 1, H, W) floats in 0..1, H and W at least 11. The mean over all places where the window lies
    within the picture. In double precision: the variances are small differences of large numbers. Raises ValueError
    for other shapes.
    """
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < WINDOW:
        raise ValueError(f"pictures must be two of (B, 1, H, W), at least 11x11: {tuple(x.shape)}, {tuple(y.shape)}")
    x, y = x.double(), y.double()
    mean_x, mean_y, square_x, square_y, product = (
        gaussian_means(values, SIGMA, WINDOW // 2) for values in (x, y, x * x, y * y, x * y)
    )
    variance_x, variance_y = square_x - mean_x.square(), square_y - mean_y.square()
    covariance = product - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def gaussian_means(pictures, sigma, reach):
    """Gaussian mean around each pixel that has a whole window, (B, 1, H, W) floats -> (B, 1, H - 2 reach, W - 2 reach).

    The window goes `reach` pixels to each side; sigma: in pixels.
    """
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(pictures) / sigma).square())
    weights = weights / weights.sum()
    return conv2d(conv2d(pictures, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
