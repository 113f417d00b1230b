"""People in a video: faces keep their number, their values are smoothed, each gets a summary.

Faces are followed, not recognised: who is missed for longer than `MAX_GAP` and more than once, and
everybody after a cut, gets a new number.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pandas

from inference.output import VALUES
from utils.tasks import EMOTIONS

MAX_GAP = 1.0  # seconds for which a face may not be seen
MAX_DISTANCE = 0.75  # of a face from where it is expected, in its sides
MAX_GROWTH = 1.6  # factor by which its side may change
APPEARANCE_WEIGHT = 0.5  # of how different two faces look, beside their distance in sides
UPDATE_WEIGHT = 0.4  # of the newest speed and appearance in those that are remembered
THUMBNAIL = 12  # pixels
CUT_DIFFERENCE = 35.0  # mean difference in grey levels of two small frames of different scenes
SMALL_FRAME = (32, 18)
PEOPLE_COLUMNS = (
    *("file", "face", "frames", "start", "end", "emotion"),
    *("longest_emotion", "longest_start", "longest_end"),
    *(f"share_{name.lower()}" for name in EMOTIONS),
    *(f"mean_{name}" for name in VALUES),
)


@dataclass
class Track:
    """A face that is followed: where and when it was seen last, its speed in pixels per second."""

    number: int
    box: object
    seconds: float
    appearance: np.ndarray
    speed: np.ndarray

    def predict(self, seconds):
        """The `Box` at that time if the face moves on as it did."""
        return self.box.moved(*(self.speed * (seconds - self.seconds)))

    def cost(self, box, appearance, seconds):
        """How little a face fits: distance in sides and difference; infinite for another face."""
        expected = self.predict(seconds)
        small, large = sorted((expected.side, box.side))
        distance = math.dist(expected.middle, box.middle) / large
        if distance > MAX_DISTANCE or large > MAX_GROWTH * small:
            return math.inf
        return distance + APPEARANCE_WEIGHT * (1 - float(appearance @ self.appearance))

    def update(self, box, appearance, seconds):
        """The face was seen again."""
        if seconds > self.seconds:
            speed = (np.array(box.middle) - self.box.middle) / (seconds - self.seconds)
            self.speed += UPDATE_WEIGHT * (speed - self.speed)
        mean = self.appearance + UPDATE_WEIGHT * (appearance - self.appearance)
        self.box, self.seconds = box, seconds
        self.appearance = mean / max(1e-6, np.linalg.norm(mean))


class Tracker:
    """Numbers the faces of frame after frame, from 1."""

    def __init__(self):
        self.tracks, self._count = [], 0
        self._small_frame, self._times = None, [-math.inf] * 2  # of the last two updates

    def is_cut(self, grey):
        """Whether a frame, uint8 (H, W), begins another scene; then all tracks end."""
        small = cv2.resize(grey, SMALL_FRAME, interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._small_frame = self._small_frame, small
        if before is None or np.abs(small - before).mean() <= CUT_DIFFERENCE:
            return False
        self.tracks = []
        return True

    def predict(self, seconds):
        """[`Box`] where faces are expected at that time."""
        return [replace(track.predict(seconds), angle=0.0) for track in self.tracks]

    def update(self, boxes, crops, seconds):
        """The number of each face of a frame. boxes: [`Box`]; crops: [uint8 (S, S)]."""
        # Frames may be further apart than the gap, and a face may be missed in one of them.
        oldest = min(seconds - MAX_GAP, self._times[0])
        self.tracks = [track for track in self.tracks if track.seconds >= oldest]
        self._times = [self._times[1], seconds]
        faces = list(zip(boxes, map(describe_face, crops), strict=True))
        costs = [
            (track.cost(*face, seconds), place, track.number, track)
            for track in self.tracks
            for place, face in enumerate(faces)
        ]
        numbers = {}
        for cost, place, number, track in sorted(costs, key=lambda each: each[:3]):
            if cost < math.inf and place not in numbers and number not in numbers.values():
                track.update(*faces[place], seconds)
                numbers[place] = number
        for place, (box, appearance) in enumerate(faces):
            if place not in numbers:
                self._count += 1
                numbers[place] = self._count
                self.tracks.append(Track(self._count, box, seconds, appearance, np.zeros(2)))
        return [numbers[place] for place in range(len(faces))]


def describe_face(crop):
    """A face, uint8 (S, S), as a unit vector; the product of two is their correlation."""
    small = cv2.resize(crop, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    small = small.astype(np.float32).ravel() - small.mean()
    return small / max(1e-6, float(np.linalg.norm(small)))


class Smoother:
    """Exponential means over time: weights fall by e within `constant` seconds; 0: no smoothing."""

    def __init__(self, constant):
        self.constant, self._last = constant, {}

    def __call__(self, number, values, seconds):
        """The smoothed values of a person; values: float array."""
        if number in self._last and self.constant > 0:
            before, since = self._last[number]
            values = before + (1 - math.exp((since - seconds) / self.constant)) * (values - before)
        self._last[number] = values, seconds
        return values


def summarize(rows):
    """`PEOPLE_COLUMNS` of each person, from the rows of a video: both DataFrames.

    Means are of the values of single frames; shares and stretches of the smoothed emotion.
    """
    people, emotion = rows.groupby("face"), rows["smoothed_emotion"]
    summary = people.agg(
        file=("file", "first"), frames=("frame", "size"), start=("time", "min"), end=("time", "max")
    )
    stretch = (emotion != people["smoothed_emotion"].shift()).groupby(rows["face"]).cumsum()
    stretches = rows.groupby(["face", stretch.rename("stretch")]).agg(
        longest_emotion=("smoothed_emotion", "first"),
        longest_start=("time", "min"),
        longest_end=("time", "max"),
    )
    seconds = stretches["longest_end"] - stretches["longest_start"]
    is_longest = seconds.groupby("face").rank("first", ascending=False) == 1
    shares = pandas.crosstab(rows["face"], emotion, normalize="index").reindex(columns=EMOTIONS)
    shares = shares.fillna(0.0)
    summary["emotion"] = shares.idxmax(axis=1) if len(shares) else None
    shares = shares.rename(columns=str.lower).add_prefix("share_")
    means = people[list(VALUES)].mean().add_prefix("mean_")
    summary = summary.join([stretches[is_longest].droplevel("stretch"), shares, means])
    return summary.reset_index()[list(PEOPLE_COLUMNS)]
