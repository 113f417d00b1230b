"""Crops, flips and plans against per-image loops and torchvision."""

import numpy as np
import pytest
import torch
from torchvision import transforms

from data.batches import CROP_SIZE, center_crop, four_crop, normalise, plan_epoch, random_crops, ten_crop


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 48, 48), dtype=torch.uint8, generator=generator)


def test_ten_crop_equals_torchvision(images):
    expected = torch.stack([torch.stack(transforms.TenCrop(CROP_SIZE)(image)) for image in images])
    assert torch.equal(ten_crop(images), expected)


def test_ten_crop_equals_slices(images):
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    for image, crops in zip(images.numpy(), ten_crop(images).numpy(), strict=True):
        for number, (top, left) in enumerate(corners):
            window = slice(top, top + 44), slice(left, left + 44)
            assert np.array_equal(crops[number], image[window])
            assert np.array_equal(crops[number + 5], image[:, ::-1][window])


def test_center_crop_equals_slice(images):
    assert torch.equal(center_crop(images), images[:, None, 2:46, 2:46])


def test_random_crops_equal_a_loop_over_images(images):
    plan = plan_epoch(len(images), 5, seed=3, epoch=2)
    parts = plan.batch(0)
    order = parts.pop("order")
    crops = random_crops(images[order], **parts)
    assert crops.shape == (5, 1, 44, 44) and crops.dtype == torch.uint8
    rows = zip(crops, order, parts["top"], parts["left"], parts["flip"], strict=True)
    for crop, image, row, column, mirrored in rows:
        expected = images[image].numpy()[row : row + 44, column : column + 44]
        assert np.array_equal(crop[0].numpy(), expected[:, ::-1] if mirrored else expected)


def test_crops_are_turned_clockwise_and_then_mirrored(images):
    zero, quarter = torch.zeros(2, dtype=torch.int64), torch.full((2,), torch.pi / 2)
    crops = random_crops(images[zero], zero, zero, torch.tensor([False, True]), quarter, torch.ones(2))
    turned = np.rot90(images[0, :44, :44].numpy(), -1)
    assert np.array_equal(crops[0, 0].numpy(), turned) and np.array_equal(crops[1, 0].numpy(), turned[:, ::-1])


def test_turned_and_zoomed_crops_equal_scipy(images):
    map_coordinates = pytest.importorskip("scipy.ndimage").map_coordinates
    plan = plan_epoch(len(images), len(images), seed=3, epoch=2, rotation=40, scaling=0.4)
    order, *parts = plan.batch(0).values()
    chosen = images[order]
    centred = np.mgrid[:44, :44] - 21.5
    for crop, image, top, left, flip, turn, zoom in zip(random_crops(chosen, *parts), chosen, *parts, strict=True):
        angle = turn.item()
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom.item()
        places = np.tensordot(matrix, centred, 1) + np.array([top + 21.5, left + 21.5])[:, None, None]
        expected = map_coordinates(image.double().numpy(), places, order=1, mode="nearest")
        expected = expected[:, ::-1] if flip else expected
        assert np.abs(crop[0].numpy() - expected).max() < 0.51  # rounded


def test_turns_and_zooms_fill_their_ranges():
    plan = plan_epoch(4000, 64, seed=0, epoch=0, rotation=10, scaling=0.2)
    degrees = plan.turn.rad2deg()
    assert -10 <= degrees.min() < -9.9 and 9.9 < degrees.max() <= 10 and degrees.mean().abs() < 0.5
    assert 0.8 <= plan.zoom.min() < 0.801 and 1.199 < plan.zoom.max() <= 1.2 and (plan.zoom.mean() - 1).abs() < 0.01
    still = plan_epoch(40, 8, seed=0, epoch=0)
    assert not still.turn.any() and (still.zoom == 1).all()


def test_all_corners_and_both_flips_occur():
    plan = plan_epoch(4000, 64, seed=0, epoch=0)
    assert plan.top.min() == 0 and plan.top.max() == 4
    assert plan.left.min() == 0 and plan.left.max() == 4
    assert 0.45 < plan.flip.float().mean() < 0.55


def test_an_epoch_visits_every_image_once():
    plan = plan_epoch(100, 10, seed=0, epoch=5)
    seen = torch.cat([plan.batch(step)["order"] for step in range(plan.steps)])
    assert sorted(seen.tolist()) == list(range(100))


def test_plan_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return plan_epoch(50, 10, seed, epoch).order.tolist()

    torch.manual_seed(9)
    first = order(1, 2)
    torch.manual_seed(10)
    assert order(1, 2) == first
    assert order(1, 3) != first and order(2, 2) != first


@pytest.mark.parametrize(("count", "batch", "steps"), [(10, 3, 3), (9, 3, 3), (2, 3, 1), (1, 1, 1)])
def test_incomplete_last_batch_is_left_out_unless_alone(count, batch, steps):
    plan = plan_epoch(count, batch, 0, 0)
    assert plan.steps == steps
    assert len(plan.batch(0)["order"]) == min(count, batch)


def test_normalise_equals_formula(images):
    expected = (images.numpy() / 255 - 0.4) / 0.2
    assert np.allclose(normalise(images, mean=0.4, std=0.2).numpy(), expected, atol=1e-5)
    floats = images.float()
    assert np.allclose(normalise(floats, mean=0.4, std=0.2).numpy(), expected, atol=1e-5)
    assert torch.equal(floats, images.float()), "what was given stays as it was"


def test_the_four_crops_are_the_corners_two_of_them_mirrored(images):
    for image, crops in zip(images.numpy(), four_crop(images).numpy(), strict=True):
        assert np.array_equal(crops[0], image[:44, :44]) and np.array_equal(crops[1], image[4:, 4:])
        assert np.array_equal(crops[2], image[:44, 4:][:, ::-1]) and np.array_equal(crops[3], image[4:, :44][:, ::-1])
