"""What remains of a picture for eyes that are not sharp. Pictures are floats (B, 1, S, S) in 0..1.

Patterns of single pixels, which a network may read and people do not see, do not survive it.
"""

import torch
import torch.nn.functional as F

from training.fersnet.similarity import gaussian_means

SIGMA = 1.0  # of the blur, in pixels of a picture of 48
MOST_SIGMA, MOST_SHIFT, MOST_NOISE = 1.5, 3, 0.1  # of a glimpse
SIDE = 48


def blurred(pictures, sigma=SIGMA):
    """Pictures after a Gaussian blur, mirrored at their edges; sigma: in pixels of a picture of 48x48."""
    sigma = sigma * pictures.shape[-1] / SIDE
    reach = max(1, round(3 * sigma))
    return gaussian_means(F.pad(pictures, (reach,) * 4, mode="reflect"), sigma, reach)


def halved(pictures):
    """Pictures made smaller, to 24x24, each pixel the mean of what it covers, and enlarged again."""
    small = F.interpolate(pictures, size=SIDE // 2, mode="area")
    return F.interpolate(small, size=pictures.shape[-1], mode="bilinear", align_corners=False)


# {what is added to the name of a figure: the view of the pictures that it is about}
VIEWS = {"": lambda pictures: pictures, "Halved": halved, "Blurred": blurred}


def any_view(pictures):
    """Pictures in one of the `VIEWS`, by chance."""
    return list(VIEWS.values())[int(torch.randint(len(VIEWS), ()))](pictures)


def glimpse(pictures):
    """Pictures blurred, shifted and with noise, each as much as chance has it, the same for all of them."""
    sigma, noise = (torch.rand(2) * torch.tensor([MOST_SIGMA, MOST_NOISE])).tolist()
    top, left = torch.randint(2 * MOST_SHIFT + 1, (2,)).tolist()
    size = pictures.shape[-1]
    padded = F.pad(blurred(pictures, max(sigma, 0.1)), (MOST_SHIFT,) * 4, mode="replicate")
    return padded[..., top : top + size, left : left + size] + noise * torch.randn(pictures.shape).to(pictures)
