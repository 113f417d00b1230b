"""Tracking: who is who from frame to frame, smoothed values, summaries; against known films."""

import math

import numpy as np
import pandas
import pytest

from data.demo.drawing import draw_face
from inference.detection import Box
from inference.tracking import CUT_DIFFERENCE, MAX_GAP, Smoother, Tracker, summarize
from utils.tasks import DIMENSIONS, EMOTIONS

CROPS = {"ann": draw_face(3, (0, 0, 0), 1), "bob": draw_face(0, (0, 0, 0), 8)}


def follow(tracker, seconds, **middles):
    """The numbers of people whose faces have their middles at (x, y=200) and this side (100)."""
    boxes = []
    for middle in middles.values():
        x, y, side = (*middle, *(None, 200.0, 100.0)[len(middle) :])
        boxes.append(Box(x - side / 2, y - side / 2, side, confidence=1.0))
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
    assert follow(tracker, MAX_GAP / 2) == []
    assert follow(tracker, MAX_GAP, ann=(100,)) == [1]
    assert follow(tracker, 2 * MAX_GAP) == [] == follow(tracker, 2.2 * MAX_GAP)
    assert follow(tracker, 2.5 * MAX_GAP, ann=(100,)) == [2]
    assert follow(tracker, 2.6 * MAX_GAP, ann=(300,)) == [3]
    assert follow(tracker, 2.65 * MAX_GAP, ann=(300, 200, 30.0)) == [4]


@pytest.mark.parametrize("apart", [1.5, 60.0])
def test_who_is_in_each_frame_keeps_the_number_however_far_apart_frames_are(apart):
    tracker = Tracker()
    for frame in range(5):
        assert follow(tracker, frame * apart, ann=(100 + 9 * frame,), bob=(400,)) == [1, 2]
    assert follow(tracker, 5 * apart, bob=(400,)) == [2]  # a face may be missed once
    assert follow(tracker, 6 * apart, ann=(150,), bob=(400,)) == [1, 2]
    assert follow(tracker, 7 * apart, bob=(400,)) == [2] == follow(tracker, 8 * apart, bob=(400,))
    assert follow(tracker, 9 * apart, ann=(160,), bob=(400,)) == [3, 2]


def test_after_a_cut_everybody_is_new():
    tracker, numbers = Tracker(), []
    levels = (60, 60 + int(CUT_DIFFERENCE) - 5, 200)
    for frame, level in enumerate(levels):
        assert tracker.is_cut(np.full((240, 320), level, np.uint8)) == (frame == 2)
        numbers += follow(tracker, frame / 25, ann=(100,))
    assert numbers == [1, 1, 2]


def test_smoothing_is_the_exponential_mean_of_each_person():
    rng = np.random.default_rng(1)
    times, values = np.cumsum(rng.uniform(0.01, 0.2, 30)), rng.normal(size=(30, 3))
    smoother, expected = Smoother(0.4), values[0]
    for number, (seconds, value) in enumerate(zip(times, values, strict=True)):
        if number:
            share = math.exp(-(seconds - times[number - 1]) / 0.4)
            expected = share * expected + (1 - share) * value
        assert np.allclose(smoother(1, value, seconds), expected)
        assert np.allclose(smoother(2, values[0], seconds), values[0])
    unsmoothed = Smoother(0)
    assert all(np.array_equal(unsmoothed(1, each, 0.0), each) for each in values)


def test_a_summary_has_means_shares_and_the_longest_stretch():
    """Stretches are broken neither by other people nor by frames far apart."""
    rows = []
    for number, emotion in enumerate(["Happy"] * 5 + ["Sad"] * 3 + ["Happy"] * 9 + ["Sad"] * 8):
        for face, smoothed in ((1, emotion), (7, "Fear")):
            values = {name.lower(): 0.01 * number * face for name in (*EMOTIONS, *DIMENSIONS)}
            row = {"file": "a.mp4", "face": face, "frame": number, "time": number * 1.5}
            rows.append(row | {"smoothed_emotion": smoothed} | values)
    first, second = summarize(pandas.DataFrame(rows)).to_dict("records")
    assert (first["face"], first["frames"], first["start"], first["end"]) == (1, 25, 0, 36)
    assert first["emotion"] == first["longest_emotion"] == "Happy"
    assert (first["longest_start"], first["longest_end"]) == (12, 24)
    assert first["share_happy"] == pytest.approx(14 / 25) and first["share_fear"] == 0
    assert first["mean_valence"] == pytest.approx(0.12) == second["mean_angry"] / 7
    assert (second["face"], second["longest_emotion"], second["share_fear"]) == (7, "Fear", 1)
