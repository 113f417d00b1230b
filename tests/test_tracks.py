"""People in a video: who is who from frame to frame, and values over time, against what the video was made of."""

import math

import numpy as np
import pytest

from data.demo.drawing import draw_face
from inference.videos.detector import Box
from inference.videos.tracks import CUT, MOST_SMOOTHED, PATIENCE, Smoother, Tracker, look_of

CROPS = {name: draw_face(emotion, (0, 0, 0), seed) for name, emotion, seed in (("ann", 3, 1), ("bob", 0, 8))}


def box(x, y=200.0, side=100.0):
    return Box(x - side / 2, y - side / 2, side, confidence=1.0)


def follow(tracker, seconds, **middles):
    """The numbers of people whose faces have their middles at (x, y)."""
    boxes = [box(*middle) for middle in middles.values()]
    return tracker.update(boxes, [CROPS[name] for name in middles], seconds)


def test_faces_keep_their_numbers_whatever_their_order():
    tracker = Tracker()
    assert follow(tracker, 0.0, ann=(100,), bob=(400,)) == [1, 2]
    assert follow(tracker, 0.1, bob=(395,), ann=(110,)) == [2, 1]
    assert follow(tracker, 0.2, bob=(390,)) == [2]
    assert follow(tracker, 0.3, ann=(130,), bob=(385,)) == [1, 2]


@pytest.mark.parametrize("hidden", [0, 3, 8])
@pytest.mark.parametrize("step", [0.04, 0.1])
def test_two_who_cross_keep_their_numbers(hidden, step):
    """They pass each other, one before the other, who is not seen for `hidden` frames."""
    tracker, count = Tracker(), 41
    for frame in range(count):
        share = frame / (count - 1)
        people = {"ann": (100 + 400 * share, 200), "bob": (500 - 400 * share, 210)}
        if abs(frame - count // 2) <= hidden // 2 and hidden:
            del people["bob"]
        numbers = dict(zip(people, follow(tracker, frame * step, **people), strict=True))
        assert numbers["ann"] == 1 and numbers.get("bob", 2) == 2, frame


def test_who_was_away_too_long_or_jumps_or_shrinks_is_somebody_new():
    tracker = Tracker()
    assert follow(tracker, 0.0, ann=(100,)) == [1]
    assert follow(tracker, PATIENCE / 2) == []
    assert follow(tracker, PATIENCE, ann=(100,)) == [1]
    assert follow(tracker, 2 * PATIENCE) == [] == follow(tracker, 2.2 * PATIENCE)
    assert follow(tracker, 2.5 * PATIENCE, ann=(100,)) == [2]
    assert follow(tracker, 2.6 * PATIENCE, ann=(300,)) == [3]
    assert follow(tracker, 2.65 * PATIENCE, ann=(300, 200, 30.0)) == [4]


@pytest.mark.parametrize("apart", [1.5, 60.0])
def test_who_is_there_in_each_look_keeps_the_number_however_far_apart_looks_are(apart):
    tracker = Tracker()
    for look in range(5):
        assert follow(tracker, look * apart, ann=(100 + 9 * look,), bob=(400,)) == [1, 2]
    assert follow(tracker, 5 * apart, bob=(400,)) == [2]  # in one look somebody may be missed
    assert follow(tracker, 6 * apart, ann=(150,), bob=(400,)) == [1, 2]
    assert follow(tracker, 7 * apart, bob=(400,)) == [2] == follow(tracker, 8 * apart, bob=(400,))
    assert follow(tracker, 9 * apart, ann=(160,), bob=(400,)) == [3, 2]


def test_after_a_cut_everybody_is_new():
    tracker = Tracker()
    scenes = [np.full((240, 320), level, np.uint8) for level in (60, 60 + int(CUT) - 5, 200)]
    numbers = []
    for frame, scene in enumerate(scenes):
        cut = tracker.scene(scene)
        assert cut == (frame == 2)
        numbers += follow(tracker, frame / 25, ann=(100,))
    assert numbers == [1, 1, 2]


def test_a_face_goes_on_as_it_did():
    tracker = Tracker()
    for frame in range(20):
        follow(tracker, frame / 10, ann=(100 + 12 * frame,))
    (expected,) = tracker.expected(2.2)
    assert expected.middle[0] == pytest.approx(100 + 12 * 22, abs=2)


def test_how_a_face_looks_is_a_correlation():
    first, second = (look_of(CROPS[name]) for name in CROPS)
    assert first @ first == pytest.approx(1, abs=1e-5) and first @ second < 0.98
    assert look_of(255 - CROPS["ann"]) @ first == pytest.approx(-1, abs=0.01)
    assert not look_of(np.full((48, 48), 9, np.uint8)).any()


@pytest.mark.parametrize("times", [np.arange(30) / 25, np.cumsum(np.random.default_rng(1).uniform(0.01, 0.2, 30))])
def test_smoothing_is_the_exponential_mean_of_the_times(times):
    values = np.random.default_rng(2).normal(size=(30, 3))
    smoother, expected = Smoother(0.4), values[0]
    for number, (seconds, value) in enumerate(zip(times, values, strict=True)):
        if number:
            share = math.exp(-(seconds - times[number - 1]) / 0.4)
            expected = share * expected + (1 - share) * value
        assert np.allclose(smoother(1, value, seconds), expected)


def test_smoothing_is_each_persons_own_however_far_apart_looks_are():
    smoother = Smoother(10.0)
    assert smoother(1, np.array([1.0]), 0.0) == 1 and smoother(2, np.array([5.0]), 0.0) == 5
    assert 1 < smoother(1, np.array([2.0]), 0.1) < 1.1
    assert smoother(2, np.array([9.0]), 3 * PATIENCE) == pytest.approx(9 - 4 * math.exp(-0.3 * PATIENCE))
    assert Smoother(0)(1, np.array([3.0]), 1.0) == 3


def test_of_many_people_those_who_were_seen_longest_ago_are_forgotten():
    smoother = Smoother(10.0)
    for number in range(MOST_SMOOTHED):
        smoother(number, np.array([1.0]), 0.0)
    smoother(0, np.array([1.0]), 0.1)
    smoother(MOST_SMOOTHED, np.array([1.0]), 0.1)
    assert smoother(0, np.array([9.0]), 0.2) < 2  # who was seen lately is remembered
    assert smoother(1, np.array([9.0]), 0.2) == 9
