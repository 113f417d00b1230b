"""Faces that stay in their file give what faces in memory give, and take no memory."""

import numpy as np
import pytest
import torch

from data.batches import plan_epoch, training_batches
from data.faces import Faces, load_split
from data.mapped import MappedImages, prefetch
from training.runtime import decide


@pytest.fixture
def stored(tmp_path):
    """40 pictures behind a header of 13 bytes: the `MappedImages`, and the same as an array."""
    pictures = np.random.default_rng(0).integers(0, 256, (40, 48, 48), dtype=np.uint8)
    path = tmp_path / "pictures.bin"
    path.write_bytes(b"x" * 13 + pictures.tobytes())
    return MappedImages(path, 13, pictures.shape), pictures


def with_annotations(images):
    labels = torch.arange(len(images)) % 7
    return Faces(images, labels, torch.linspace(-2, 2, 3 * len(images)).view(-1, 3))


def test_indexing_equals_that_of_an_array(stored):
    images, pictures = stored
    rows = MappedImages(images.path, 13, pictures.shape, np.array([5, 39, 0, 7]))
    assert len(images) == 40 and rows.shape == (4, 48, 48)
    assert np.array_equal(images[torch.tensor([3, 3, 1])].numpy(), pictures[[3, 3, 1]])
    assert np.array_equal(images[10:20].numpy(), pictures[10:20])
    assert np.array_equal(rows[torch.tensor([1, 0])].numpy(), pictures[[39, 5]])
    assert np.array_equal(rows.part(1, 3)[:].numpy(), pictures[[39, 0]])
    assert np.array_equal(torch.cat(list(images.part(4, 33).split(8))).numpy(), pictures[4:33])


@pytest.mark.parametrize("first", [0, 2])
def test_batches_from_a_file_equal_batches_from_memory(stored, first):
    images, pictures = stored
    plan = plan_epoch(40, 8, seed=0, epoch=3)
    kept = training_batches(with_annotations(torch.from_numpy(pictures)), plan, torch.device("cpu"), first)
    read = training_batches(with_annotations(images), plan, torch.device("cpu"), first)
    for one, other in zip(kept, read, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_statistics_and_fingerprint_do_not_depend_on_the_place(stored):
    images, pictures = stored
    kept = with_annotations(torch.from_numpy(pictures))
    assert with_annotations(images).pixel_statistics() == kept.pixel_statistics()
    assert with_annotations(images).fingerprint() == kept.fingerprint()
    pictures[39, 47, 47] += 1
    assert with_annotations(torch.from_numpy(pictures)).fingerprint() != with_annotations(images).fingerprint()


def test_what_goes_wrong_while_reading_ahead_is_told():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 / item, [1, 0, 1]))


@pytest.mark.parametrize(("free", "in_file"), [(10**9, False), (100_000, True)])
def test_faces_stay_in_their_file_when_memory_is_short(stored, monkeypatch, free, in_file):
    class Memory:
        available = free

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    splits, reason = decide("cpu").keep({"Training": with_annotations(stored[0])})
    assert splits["Training"].in_file == in_file
    assert ("file" in reason) == in_file


def test_a_limit_and_repeated_faces_are_left_out(tmp_path):
    import h5py

    with h5py.File(tmp_path / "data.h5", "w") as h5:
        h5["Training_pixel"] = np.arange(6, dtype=np.uint8)[:, None].repeat(2304, 1)
        h5["Training_label"] = np.arange(6)
        h5["Training_repeated"] = np.array([0, 1, 0, 0, 1, 0], np.uint8)
    for repeated, limit, expected in [(False, None, range(6)), (False, 4, range(4)), (True, 3, [0, 2, 3])]:
        faces = load_split(tmp_path / "data.h5", "Training", repeated, limit)
        assert faces.images[:][:, 0, 0].tolist() == faces.labels.tolist() == list(expected)
