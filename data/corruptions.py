"""What cameras do to faces, as augmentation: blur, few pixels, noise, compression, exposure.

`draw_corruptions` decides on the CPU which training faces are corrupted and how strongly;
`corrupt` does it to a batch on its device. Blur, resizing and the cosine transform of JPEG are
linear along rows and along columns: each is one matrix per face, a batch a few matrix products.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F

# Columns of the parameters of a face, and the values that leave it as it is.
NEUTRAL = {
    "gamma": 1.0,
    "contrast": 1.0,  # about the mean grey of the face
    "brightness": 0.0,  # grey levels
    "sigma": 0.0,  # of the Gaussian blur, pixels
    "resizing": 0.0,  # number of a matrix of `resizing_matrices`
    "early_noise": 0.0,  # standard deviation before blur and resizing, grey levels
    "late_noise": 0.0,  # the same after them
    "quality": 0.0,  # of JPEG, 1 to 100; 0: not compressed
    "shift": 0.0,  # of the 8x8 blocks of JPEG, 0 to 7 pixels
}
SIDES = range(14, 45)  # to which a face of 48 pixels is reduced
ENLARGEMENTS = ("bilinear", "bicubic")
SIDE = 48
# Quantisation of luminance, ITU-T T.81, Table K.1.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def draw_corruptions(count, share, generator):
    """Parameters of `count` faces, (count, 9) float32 in the order of `NEUTRAL`.

    A `share` of them, 0..1, is corrupted in one to three of six ways: blur, resizing, noise, JPEG,
    gamma, contrast with brightness. generator: on the CPU.
    """

    def uniform(low, high):
        return low + (high - low) * torch.rand(count, generator=generator)

    is_corrupted, number = uniform(0, 1) < share, uniform(0, 1)
    ways = 1 + (number > 0.5).long() + (number > 0.8).long()
    ranks = torch.rand((count, 6), generator=generator).argsort(dim=1).argsort(dim=1)
    chosen = (ranks < ways[:, None]) & is_corrupted[:, None]
    blurred, resized, noisy, compressed, darkened, faded = chosen.unbind(dim=1)
    matrices = len(SIDES) * len(ENLARGEMENTS)
    is_early = torch.rand(count, generator=generator) < 0.5
    drawn = {
        "gamma": (darkened, uniform(math.log(0.4), math.log(2.5)).exp()),
        "contrast": (faded, uniform(math.log(0.25), math.log(1.4)).exp()),
        "brightness": (faded, uniform(-40, 40)),
        "sigma": (blurred, uniform(0.3, 1.8)),
        "resizing": (resized, torch.randint(1, matrices + 1, (count,), generator=generator)),
        "early_noise": (noisy & is_early, uniform(2, 30)),
        "late_noise": (noisy & ~is_early, uniform(2, 30)),
        "quality": (compressed, uniform(5, 60)),
        "shift": (compressed, torch.randint(8, (count,), generator=generator)),
    }
    columns = [
        torch.where(mask, values, torch.tensor(NEUTRAL[name]))
        for name, (mask, values) in drawn.items()
    ]
    return torch.stack(columns, dim=1)


def corrupt(crops, parameters, noise):
    """Corrupted crops, (B, 1, S, S) uint8; those with the values of `NEUTRAL` stay as they are.

    crops (B, 1, S, S) uint8; parameters (B, 9) as `draw_corruptions` gives them; noise (B, S, S),
    standard normal. In the order of a camera: exposure, lens and sensor, compression.
    """
    columns = dict(zip(NEUTRAL, parameters[:, :, None, None].unbind(dim=1), strict=True))
    size, device = crops.shape[-1], crops.device
    faces = expose(crops[:, 0].float(), columns)
    faces = faces + columns["early_noise"] * noise
    resizing = resizing_matrices(size, device)[columns["resizing"][:, 0, 0].long()]
    matrices = resizing @ blur_matrices(columns["sigma"], size)
    faces = matrices @ faces @ matrices.mT + columns["late_noise"] * noise
    faces = faces.clamp(0, 255).round()
    return compress(faces, columns["quality"], columns["shift"]).to(torch.uint8)[:, None]


def expose(faces, columns):
    """Gamma, then contrast and brightness. faces (B, S, S) float in 0..255, columns (B, 1, 1)."""
    faces = 255 * (faces / 255) ** columns["gamma"]
    mean = faces.mean(dim=(1, 2), keepdim=True)
    return (mean + (faces - mean) * columns["contrast"] + columns["brightness"]).clamp(0, 255)


def blur_matrices(sigma, size):
    """(B, size, size): Gaussian blur along one side. sigma (B, 1, 1), pixels, 0: none."""
    places = torch.arange(size, device=sigma.device, dtype=torch.float32)
    distances = (places[:, None] - places) / sigma.clamp_min(1e-3)
    return (-distances.square() / 2).softmax(dim=2)


@lru_cache
def resizing_matrices(size, device):
    """(63, size, size) float32: the identity, then each of `SIDES` and back, by `ENLARGEMENTS`."""
    identity = torch.eye(size, device=device)
    matrices = [identity]
    for side in SIDES:
        pixels = max(1, round(side * size / SIDE))
        small = F.interpolate(identity[None, None], (pixels, size), mode="bilinear", antialias=True)
        matrices += [F.interpolate(small, (size, size), mode=mode)[0, 0] for mode in ENLARGEMENTS]
    return torch.stack(matrices)


def compress(faces, quality, shift):
    """JPEG without its file: cosine transform of 8x8 blocks, quantised.

    faces (B, S, S) float, whole numbers in 0..255. quality (B, 1, 1): 1 to 100, as libjpeg scales
    the table; 0: the face stays as it is. shift (B, 1, 1): rows and columns by which the first
    block begins before the face; what is outside repeats its border.
    """
    transforms = _block_transforms(faces.shape[-1], faces.device)
    forward, backward = (table[shift[:, 0, 0].long()] for table in transforms)
    used = quality.clamp_min(1)
    scale = torch.where(used < 50, 5000 / used, 200 - 2 * used)
    blocks = forward.shape[1] // 8
    table = torch.tensor(LUMINANCE, device=faces.device).repeat(blocks, blocks)
    steps = ((table * scale + 50) / 100).floor().clamp(1, 255)
    coefficients = forward @ (faces - 128) @ forward.mT
    quantised = (coefficients / steps).round() * steps
    decoded = (backward @ quantised @ backward.mT + 128).clamp(0, 255).round()
    return torch.where(quality > 0, decoded, faces)


@lru_cache
def _block_transforms(size, device):
    """((8, P, size), (8, size, P)): cosine transform of blocks of 8 and back, by shift."""
    padded = -(-(size + 7) // 8) * 8
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    cosines = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    transform = torch.block_diag(*[cosines] * (padded // 8))
    shifts = torch.arange(8)[:, None]
    sources = (torch.arange(padded) - shifts).clamp(0, size - 1)
    forward = transform @ F.one_hot(sources, size).float()
    backward = torch.stack([transform.T[shift : shift + size] for shift in range(8)])
    return forward.to(device), backward.to(device)
