"""People in a video: faces that keep their number from frame to frame.

Faces are followed, not recognised: who is missed for longer than `PATIENCE` and in more than one look, and whoever is
there after a cut, gets a new number.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

PATIENCE = 1.0  # seconds for which somebody may not be seen
REACH = 0.75  # how far from where it is expected a face may be, in its sides
GROWTH = 1.6  # by how many times its side may change
LIKENESS = 0.5  # weight of how different two faces look, beside their distance in sides
SHARE = 0.4  # of a new speed in the one that is remembered
THUMBNAIL = 12  # pixels
CUT = 35.0  # grey levels by which two small copies of frames differ on average when the scene is another
FRAME_COPY = (32, 18)
SMOOTH = 0.5  # seconds, the time constant over which values are smoothed
MOST_SMOOTHED = 1000  # people whose values are remembered


@dataclass
class Track:
    """Somebody who is followed: where, and when, the face was seen last, its speed in pixels per second, its look."""

    number: int
    box: object
    seconds: float
    look: np.ndarray
    speed: np.ndarray

    def expected(self, seconds):
        """The `Box` at that time, if the face goes on as it did."""
        return self.box.moved(*(self.speed * (seconds - self.seconds)))

    def distance(self, box, look, seconds):
        """How little a face fits: its distance from where it is expected in sides, and how different it looks (0..2,
        weighted). Infinite where it cannot be the same."""
        there = self.expected(seconds)
        away = math.dist(there.middle, box.middle) / max(there.side, box.side)
        growth = max(there.side, box.side) / min(there.side, box.side)
        if away > REACH or growth > GROWTH:
            return math.inf
        return away + LIKENESS * (1 - float(look @ self.look))

    def follow(self, box, look, seconds):
        """The face was seen again."""
        passed = seconds - self.seconds
        if passed > 0:
            speed = (np.array(box.middle) - self.box.middle) / passed
            self.speed = self.speed + SHARE * (speed - self.speed)
        look = self.look + SHARE * (look - self.look)
        self.box, self.seconds, self.look = box, seconds, look / max(1e-6, np.linalg.norm(look))


class Tracker:
    """Gives the faces of frame after frame their numbers, from 1."""

    def __init__(self):
        self.tracks, self._count, self._copy, self._looks = [], 0, None, [-math.inf] * 2

    def expected(self, seconds):
        """[`Box`] where faces should be at that time."""
        return [replace(track.expected(seconds), angle=0.0) for track in self.tracks]

    def scene(self, grey):
        """Look at a frame, uint8 (H, W). Returns whether there was a cut before it, after which nobody is followed."""
        copy = cv2.resize(grey, FRAME_COPY, interpolation=cv2.INTER_AREA).astype(np.float32)
        cut = self._copy is not None and float(np.abs(copy - self._copy).mean()) > CUT
        self._copy = copy
        if cut:
            self.tracks = []
        return cut

    def update(self, boxes, crops, seconds):
        """[number] of the faces in a frame. boxes: [`Box`]; crops: uint8 (S, S) of each; seconds: when."""
        # Looks may be further apart than the patience, as those at every 30th frame: one of them may miss somebody.
        self.tracks = [one for one in self.tracks if one.seconds >= min(seconds - PATIENCE, self._looks[0])]
        self._looks = [self._looks[1], seconds]
        looks = [look_of(crop) for crop in crops]
        pairs = sorted(
            (track.distance(box, look, seconds), place, track.number)
            for track in self.tracks
            for place, (box, look) in enumerate(zip(boxes, looks, strict=True))
        )
        known, numbers = {track.number: track for track in self.tracks}, {}
        for distance, place, number in pairs:  # the best fit first
            if distance < math.inf and place not in numbers and number not in numbers.values():
                known[number].follow(boxes[place], looks[place], seconds)
                numbers[place] = number
        for place in set(range(len(boxes))) - set(numbers):
            self._count += 1
            numbers[place] = self._count
            self.tracks.append(Track(self._count, boxes[place], seconds, looks[place], np.zeros(2)))
        return [numbers[place] for place in range(len(boxes))]


def look_of(crop):
    """A face, uint8 (S, S), as a vector of length 1 whose product with another's is their correlation."""
    small = cv2.resize(crop, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / max(1e-6, float(np.linalg.norm(small)))


class Smoother:
    """Values of each person, smoothed over time: an exponential mean whose weights fall by e within `constant` seconds.

    The first value stands as it is. Of more than `MOST_SMOOTHED` people those are forgotten who were seen longest ago.
    """

    def __init__(self, constant):
        self.constant, self._last = constant, {}

    def __call__(self, number, values, seconds):
        """values: float array of the person `number`. Returns their smoothed ones."""
        if self.constant <= 0:
            return values
        before, since = self._last.pop(number, (values, seconds))
        smooth = before + (1 - math.exp(-max(0.0, seconds - since) / self.constant)) * (values - before)
        self._last[number] = smooth, seconds  # behind all others
        if len(self._last) > MOST_SMOOTHED:
            del self._last[next(iter(self._last))]
        return smooth
