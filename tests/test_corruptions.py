"""Corrupted training faces against Pillow and SciPy, and which faces are corrupted how."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from data.batches import draw_crops, plan_epoch, training_batches
from data.corruptions import NEUTRAL, SIDES, corrupt, draw_corruptions
from data.demo.demo import draw_faces

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def crops():
    images = torch.from_numpy(draw_faces(24, seed=0)[0]).view(-1, 48, 48)
    return images[:, None, 2:46, 2:46]


def corrupted(crops, noise=None, **changes):
    """The crops, all corrupted alike, as a (B, 44, 44) array of ints."""
    parameters = torch.tensor([list((NEUTRAL | changes).values())]).repeat(len(crops), 1)
    noise = torch.zeros(len(crops), 44, 44) if noise is None else noise
    return corrupt(crops, parameters, noise)[:, 0].numpy().astype(int)


def by_pillow(crops, change):
    """The crops, each changed by a function from one Pillow image to another."""
    changed = [change(Image.fromarray(crop)) for crop in crops[:, 0].numpy()]
    return np.stack([np.asarray(image) for image in changed]).astype(int)


@pytest.mark.parametrize("quality", [5, 60])
def test_jpeg_is_that_of_pillow_but_for_rounding(crops, quality):
    def encode(image):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    difference = np.abs(corrupted(crops, quality=quality) - by_pillow(crops, encode))
    damage = np.abs(by_pillow(crops, encode) - crops[:, 0].numpy())
    assert difference.mean() < 0.1 * damage.mean()


def test_the_blocks_of_jpeg_can_begin_anywhere(crops):
    """A face whose blocks begin 3 pixels before it is that part of a larger face."""
    larger = torch.nn.functional.pad(crops.float(), (3, 0, 3, 0), mode="replicate").to(torch.uint8)
    parameters = torch.tensor([list((NEUTRAL | {"quality": 20.0}).values())]).repeat(len(crops), 1)
    whole = corrupt(larger, parameters, torch.zeros(len(crops), 47, 47))[:, 0, 3:, 3:]
    assert np.abs(corrupted(crops, quality=20, shift=3) - whole.numpy().astype(int)).mean() < 0.01


@pytest.mark.parametrize("sigma", [0.3, 1.8])
def test_blur_is_that_of_scipy(crops, sigma):
    inner = slice(8, -8)  # they differ in what they see beyond the border
    grey = crops[:, 0].numpy().astype(float)
    expected = np.stack([gaussian_filter(crop, sigma, truncate=8) for crop in grey])
    difference = corrupted(crops, sigma=sigma) - expected
    assert np.abs(difference[:, inner, inner]).max() < 0.51  # rounded


@pytest.mark.parametrize("side", [14, 44])
@pytest.mark.parametrize(("number", "method"), [(1, Image.BILINEAR), (2, Image.BICUBIC)])
def test_resizing_is_like_that_of_pillow(crops, side, number, method):
    small = (round(side * 44 / 48),) * 2

    def resize(image):
        return image.resize(small, Image.BILINEAR).resize((44, 44), method)

    found = corrupted(crops, resizing=2 * SIDES.index(side) + number)
    # PyTorch's cubic has another coefficient (-0.75 for -0.5), and Pillow rounds in between.
    assert np.abs(found - by_pillow(crops, resize)).mean() < (0.6 if number == 1 else 1.5)


def test_exposure_and_noise_equal_their_formulas(crops):
    grey = crops[:, 0].numpy().astype(float)
    assert np.abs(corrupted(crops, gamma=2) - 255 * (grey / 255) ** 2).max() < 0.51
    mean = grey.mean(axis=(1, 2), keepdims=True)
    expected = (mean + 0.4 * (grey - mean) + 30).clip(0, 255)
    assert np.abs(corrupted(crops, contrast=0.4, brightness=30) - expected).max() < 0.51
    noise = torch.randn(len(crops), 44, 44)
    expected = (grey + 12 * noise.numpy()).clip(0, 255)
    for when in ("early_noise", "late_noise"):
        assert np.abs(corrupted(crops, noise, **{when: 12}) - expected).max() < 0.51
    grey = crops // 2 + 60  # nothing is cut off at 0 and 255
    smooth = corrupted(grey, noise, early_noise=12, sigma=1.5) - corrupted(grey, sigma=1.5)
    assert smooth.std() < 6


def test_a_share_of_the_faces_is_corrupted_within_the_ranges():
    drawn = draw_corruptions(20_000, 0.3, torch.Generator().manual_seed(0))
    is_changed = drawn != torch.tensor(list(NEUTRAL.values()))
    assert 0.29 < is_changed.any(dim=1).float().mean() < 0.31
    columns = dict(zip(NEUTRAL, drawn.unbind(dim=1), strict=True))
    ranges = {"sigma": (0.3, 1.8), "late_noise": (2, 30), "gamma": (0.4, 2.5), "quality": (5, 60)}
    for name, (low, high) in ranges.items():
        values = columns[name][columns[name] != NEUTRAL[name]]
        assert low <= values.min() < 1.2 * low and 0.95 * high < values.max() <= high
    assert set(columns["resizing"].tolist()) == set(range(63))


def test_a_share_of_zero_leaves_all_faces_as_they_are(crops):
    drawn = draw_corruptions(24, 0.0, torch.Generator().manual_seed(0))
    assert (drawn == torch.tensor(list(NEUTRAL.values()))).all()
    assert torch.equal(corrupt(crops, drawn, torch.randn(24, 44, 44)), crops)
    images = torch.nn.functional.pad(crops[:, 0], (2, 2, 2, 2))
    plain, same = batches(images), batches(images, corruption=0.0)
    assert all(torch.equal(*pair) for pair in zip(plain, same, strict=True))
    almost = batches(images, corruption=1e-9)  # drawn for all, used on none
    assert all(torch.equal(*pair) for pair in zip(plain, almost, strict=True))


def batches(images, seed=0, epoch=0, first=0, **options):
    plan = plan_epoch(len(images), 8, seed, epoch, partial(draw_crops, **options))
    return [crops for (crops,) in training_batches(plan, images, first=first)]


def test_corruption_is_a_function_of_seed_and_epoch_also_from_the_middle():
    images = torch.from_numpy(draw_faces(32, seed=0)[0]).view(-1, 48, 48)
    whole = batches(images, corruption=0.8)
    torch.manual_seed(7)
    rest = batches(images, corruption=0.8, first=2)
    assert all(torch.equal(*pair) for pair in zip(whole[2:], rest, strict=True))
    plain = batches(images)
    is_same = (torch.cat(whole) == torch.cat(plain)).all(dim=(1, 2, 3))
    assert 0 < is_same.sum() < 20  # 0.2 of 32 on average; the rest of the plan is the same
    assert not torch.equal(batches(images, epoch=1, corruption=0.8)[0], whole[0])


def test_the_processes_together_see_the_noise_of_one(monkeypatch):
    images = torch.from_numpy(draw_faces(16, seed=0)[0]).view(-1, 48, 48)
    whole = batches(images, corruption=1.0)
    parts = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append(batches(images, corruption=1.0))
    for step, batch in enumerate(whole):
        together = torch.stack([part[step] for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(batch, together)
