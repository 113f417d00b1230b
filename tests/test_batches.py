"""Crops, flips and plans against slices of single images and SciPy."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from data.batches import (
    center_crop,
    draw_crops,
    four_crop,
    normalise,
    plan_epoch,
    random_crops,
    ten_crop,
)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 48, 48), dtype=torch.uint8, generator=generator)


def test_crops_of_evaluation_are_slices(images):
    first, last = slice(44), slice(4, 48)
    corners = [(first, first), (first, last), (last, first), (last, last), (slice(2, 46),) * 2]
    for number, image in enumerate(images.numpy()):
        upright = [image[place] for place in corners]
        mirrored = [image[:, ::-1][place] for place in corners]
        assert np.array_equal(ten_crop(images)[number], np.stack(upright + mirrored))
        assert np.array_equal(center_crop(images)[number], upright[4][None])
        others = [upright[0], upright[3], upright[1][:, ::-1], upright[2][:, ::-1]]
        assert np.array_equal(four_crop(images)[number], np.stack(others))


def crops_of_plan(images, **options):
    """[(crop, its image, top, left, flip, turn, zoom)] of a plan, in its order."""
    plan = plan_epoch(len(images), len(images), 3, 2, partial(draw_crops, **options))
    order, *parts = plan.batch(0).values()
    return zip(
        random_crops(images[order], *parts)[:, 0].numpy(),
        images[order].numpy(),
        *parts,
        strict=True,
    )


def test_random_crops_are_slices(images):
    for crop, image, top, left, flip, _, _ in crops_of_plan(images):
        expected = image[top : top + 44, left : left + 44]
        assert np.array_equal(crop, expected[:, ::-1] if flip else expected)


def test_turned_and_zoomed_crops_equal_scipy(images):
    centred = np.mgrid[:44, :44] - 21.5
    for crop, image, top, left, flip, turn, zoom in crops_of_plan(images, rotation=40, scaling=0.4):
        cosine, sine = np.cos(turn.item()), np.sin(turn.item())
        matrix = np.array([[cosine, -sine], [sine, cosine]]) / zoom.item()
        middle = np.array([top + 21.5, left + 21.5])[:, None, None]
        places = np.tensordot(matrix, centred, 1) + middle
        expected = map_coordinates(image.astype(float), places, order=1, mode="nearest")
        assert np.abs(crop - (expected[:, ::-1] if flip else expected)).max() < 0.51  # rounded


def test_random_numbers_fill_their_ranges():
    plan = plan_epoch(4000, 64, 0, 0, partial(draw_crops, rotation=10, scaling=0.2)).columns
    degrees, zoom = plan["turn"].rad2deg(), plan["zoom"]
    assert -10 <= degrees.min() < -9.9 and 9.9 < degrees.max() <= 10 and degrees.mean().abs() < 0.5
    assert (
        0.8 <= zoom.min() < 0.801 and 1.199 < zoom.max() <= 1.2 and (zoom.mean() - 1).abs() < 0.01
    )
    assert set(plan["top"].tolist()) == set(plan["left"].tolist()) == set(range(5))
    assert 0.45 < plan["flip"].float().mean() < 0.55


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    def order(seed, epoch):
        plan = plan_epoch(100, 10, seed, epoch)
        return torch.cat([plan.batch(step)["order"] for step in range(plan.steps)]).tolist()

    torch.manual_seed(9)
    first = order(1, 2)
    torch.manual_seed(10)
    assert order(1, 2) == first and sorted(first) == list(range(100))
    assert order(1, 3) != first and order(2, 2) != first


@pytest.mark.parametrize(("count", "batch", "steps"), [(10, 3, 3), (9, 3, 3), (2, 3, 1), (1, 1, 1)])
def test_incomplete_last_batch_is_left_out_unless_alone(count, batch, steps):
    plan = plan_epoch(count, batch, 0, 0)
    assert plan.steps == steps and len(plan.batch(0)["order"]) == min(count, batch)


def test_normalise_equals_formula_and_changes_nothing(images):
    expected = (images.numpy() / 255 - 0.4) / 0.2
    for pixels in (images, images.float()):
        before = pixels.clone()
        assert np.allclose(normalise(pixels, mean=0.4, std=0.2).numpy(), expected, atol=1e-5)
        assert torch.equal(pixels, before)
