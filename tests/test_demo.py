"""The drawn faces: form, determinism, noise; their annotations can be read from them."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier

from data.demo.demo import draw_faces, load
from data.demo.drawing import CLASS_VAD, draw_face
from utils.tasks import EMOTIONS, SPLITS, VAD_LIMIT

COUNT = 800


@pytest.fixture(scope="module")
def faces():
    return draw_faces(COUNT, 7)


def test_form(faces):
    images, labels, vad = faces
    assert images.shape == (COUNT, 48, 48) and images.dtype == np.uint8
    assert labels.shape == (COUNT,) and labels.dtype == np.int64
    assert vad.shape == (COUNT, 3) and vad.dtype == np.float32
    assert np.abs(vad).max() <= VAD_LIMIT
    assert images.reshape(COUNT, -1).std(1).min() > 8  # none is all one tone
    assert np.bincount(labels, minlength=len(EMOTIONS)).min() > 0.6 * COUNT / len(EMOTIONS)


def test_a_face_depends_on_seed_and_index_alone(faces):
    state = np.random.get_state()[1].copy()
    for whole, part in zip(faces, draw_faces(20, 7), strict=True):
        assert np.array_equal(whole[:20], part)
    assert np.array_equal(np.random.get_state()[1], state)
    assert not np.array_equal(faces[0][:20], draw_faces(20, 8)[0])


def test_the_dataset_shares_no_face_between_its_splits():
    dataset = load(limit=30)
    assert dataset.has_vad and "drawn" in dataset.description and tuple(dataset.splits) == SPLITS
    images = [bytes(face) for part in dataset.splits.values() for face in part.images.numpy()]
    assert len(set(images)) == 90


def test_annotations_can_be_read_from_the_pictures(faces):
    """By ridge regression on the pixels of half the size, brightness and contrast removed."""
    images, labels, vad = faces
    small = images.reshape(COUNT, 24, 2, 24, 2).mean((2, 4)).reshape(COUNT, -1)
    small = (small - small.mean(1, keepdims=True)) / small.std(1, keepdims=True)
    found = Ridge(100).fit(small[:600], vad[:600]).predict(small[600:])
    assert np.diag(np.corrcoef(found.T, vad[600:].T)[:3, 3:]).min() > 0.4
    assert (
        RidgeClassifier(100).fit(small[:600], labels[:600]).score(small[600:], labels[600:]) > 0.5
    )


@pytest.mark.parametrize("size", (8, 33, 480))
def test_any_size(size):
    face = draw_face(3, CLASS_VAD[3], 11, size)
    assert face.shape == (size, size) and face.dtype == np.uint8 and face.std() > 8


def test_a_large_face_is_the_small_one_with_more_detail():
    large = draw_face(3, CLASS_VAD[3], 11, 480).reshape(48, 10, 48, 10).mean((1, 3))
    assert np.abs(large - draw_face(3, CLASS_VAD[3], 11)).mean() < 4


def test_vad_beyond_the_range_counts_as_its_end():
    assert np.array_equal(draw_face(3, (9, 9, -9), 1), draw_face(3, (2, 2, -2), 1))


@pytest.mark.parametrize("emotion, size", ((-1, 48), (7, 48), (0, 7)))
def test_what_cannot_be_drawn_is_refused(emotion, size):
    with pytest.raises(ValueError, match="emotion must be 0-6, size at least 8"):
        draw_face(emotion, (0, 0, 0), 1, size)
