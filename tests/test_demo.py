"""The drawn faces: form, determinism, noise; their annotations can be read from them."""

import numpy as np
import pytest

from data.demo.demo import LABEL_NOISE, VAD_NOISE, demo_splits, draw_faces, load
from data.demo.drawing import CLASS_VAD, draw_face
from utils.tasks import EMOTIONS, SPLITS, VAD_LIMIT

COUNT = 800
NEUTRAL = EMOTIONS.index("Neutral")


@pytest.fixture(scope="module")
def faces():
    return draw_faces(COUNT, 7)


@pytest.fixture(scope="module")
def clean():
    return draw_faces(COUNT, 7, noisy=False)


def _features(images):
    """Quarter-size pixels of each picture, with its own brightness and contrast removed."""
    count, height, width = images.shape
    small = images.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4)).reshape(count, -1)
    return (small - small.mean(1, keepdims=True)) / small.std(1, keepdims=True)


def _held_out_ccc(images, vad, penalty, held_out):
    """Concordance per dimension of a ridge regression from pixels, on the last `held_out` faces."""
    x = _features(images)
    centre, mean = x[:-held_out].mean(0), vad[:-held_out].mean(0)
    x = x - centre
    seen, unseen = x[:-held_out], x[-held_out:]
    gram = seen.T @ seen + penalty * np.eye(x.shape[1])
    predicted = unseen @ np.linalg.solve(gram, seen.T @ (vad[:-held_out] - mean)) + mean
    target = vad[-held_out:]
    covariance = ((predicted - predicted.mean(0)) * (target - target.mean(0))).mean(0)
    apart = (predicted.mean(0) - target.mean(0)) ** 2
    return 2 * covariance / (predicted.var(0) + target.var(0) + apart)


def test_form(faces):
    images, labels, vad = faces
    assert images.shape == (COUNT, 48, 48) and images.dtype == np.uint8
    assert labels.shape == (COUNT,) and labels.dtype == np.int64
    assert vad.shape == (COUNT, 3) and vad.dtype == np.float32
    assert labels.min() == 0 and labels.max() == len(EMOTIONS) - 1
    assert np.abs(vad).max() <= VAD_LIMIT
    assert images.reshape(COUNT, -1).std(1).min() > 8  # none is all one tone
    assert np.bincount(labels).min() > 0.6 * COUNT / len(EMOTIONS)


def test_the_faces_stay_what_they_were(faces):
    """Whoever compares results of the demo compares results on the same faces."""
    images, labels, vad = (part[:50] for part in faces)
    assert images.mean() == pytest.approx(125.8895, abs=0.01)
    assert np.abs(images[:3, 24, 24] - np.array([143, 121, 191])).max() <= 1
    assert np.bincount(labels).tolist() == [9, 6, 9, 8, 9, 2, 7]
    assert vad[7] == pytest.approx([0.46188, 1.44948, -0.03423], abs=1e-4)


def test_a_face_depends_on_seed_and_index_alone(faces):
    state = np.random.get_state()[1].copy()
    for whole, part in zip(faces, draw_faces(20, 7), strict=True):
        assert np.array_equal(whole[:20], part)
    assert np.array_equal(np.random.get_state()[1], state)
    assert not np.array_equal(faces[0][:20], draw_faces(20, 8)[0])


def test_splits_share_no_face():
    splits = demo_splits(training=60, test=30, seed=3)
    assert tuple(splits) == SPLITS
    assert [len(split[1]) for split in splits.values()] == [60, 30, 30]
    assert len({image.tobytes() for split in splits.values() for image in split[0]}) == 120


def test_the_dataset_is_made_of_these_faces():
    dataset = load(limit=10)
    assert dataset.has_vad and "drawn" in dataset.description
    for split, (images, labels, vad) in demo_splits(limit=10).items():
        faces = dataset.splits[split]
        assert np.array_equal(faces.images.numpy(), images) and np.array_equal(faces.vad, vad)
        assert faces.labels.tolist() == labels.tolist() and len(faces) == 10


def test_smaller_splits_begin_the_larger_ones():
    splits, limited = demo_splits(12, 8, seed=3), demo_splits(12, 8, seed=3, limit=10)
    for split in SPLITS:
        count = min(10, len(splits[split][1]))
        for array, part in zip(splits[split], limited[split], strict=True):
            assert np.array_equal(array[:count], part)
    assert not np.array_equal(splits["Training"][0], demo_splits(12, 1, seed=4)["Training"][0])


def test_noise_is_in_the_annotations_alone(faces, clean):
    assert np.array_equal(faces[0], clean[0])
    wrong = (faces[1] != clean[1]).mean()
    assert abs(wrong - LABEL_NOISE) < 4 * np.sqrt(LABEL_NOISE / COUNT)
    inside = (np.abs(clean[2]) < VAD_LIMIT - 4 * VAD_NOISE).all(1)
    assert (faces[2] - clean[2])[inside].std() == pytest.approx(VAD_NOISE, rel=0.15)


def test_annotations_can_be_read_from_the_pictures(faces):
    images, _, vad = faces
    assert _held_out_ccc(images, vad, penalty=100, held_out=200).min() > 0.35


@pytest.mark.parametrize("size", (8, 33, 96, 200, 480))
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
