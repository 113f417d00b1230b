"""What a video says of each person as a whole: means, the share of each emotion, the longest stretch of one."""

import math
from dataclasses import dataclass, field

from inference.videos import results
from utils.files import as_text
from utils.tasks import DIMENSIONS, EMOTIONS
from utils.text import counted

MOST_POINTS = 4000  # of a person's time line; more are thinned, since no figure shows them
COLUMNS = (
    "file", "face", "frames", "from", "to", "emotion", "longest emotion", "longest from", "longest seconds",
    *(f"share {name}" for name in EMOTIONS), *(f"mean {name}" for name in (*EMOTIONS, *DIMENSIONS)),
)  # fmt: skip


@dataclass
class _Person:
    """What is known of one person. points: [(seconds, valence, arousal, dominance, emotion's number)] of every `step`th
    frame, of smoothed values (nan: not known)."""

    frames: int = 0
    first: float = 0.0
    last: float = -math.inf
    sums: dict = field(default_factory=dict)
    counts: dict = field(default_factory=lambda: dict.fromkeys(EMOTIONS, 0))
    stretch: tuple = ("", 0.0)  # the emotion that goes on, and since when
    longest: tuple = (-1.0, "", 0.0)  # seconds, emotion, since when
    points: list = field(default_factory=list)
    step: int = 1

    def add(self, person, seconds):
        emotion = person.smooth.emotion
        if self.frames == 0:
            self.first = seconds
        if emotion != self.stretch[0]:
            self.stretch = emotion, seconds
        self.longest = max(self.longest, (seconds - self.stretch[1], emotion, self.stretch[1]), key=lambda one: one[0])
        self.last = seconds
        self.counts[emotion] += 1
        values = results.of_values(person.face)
        for name in (*EMOTIONS, *DIMENSIONS):
            if values[name] is not None:
                self.sums[name] = self.sums.get(name, 0.0) + values[name]
        if self.frames % self.step == 0:
            shown = [math.nan if value is None else value for value in person.smooth.dimensions.values()]
            self.points.append((seconds, *shown, EMOTIONS.index(emotion)))
            if len(self.points) > MOST_POINTS:
                self.points, self.step = self.points[::2], self.step * 2
        self.frames += 1


class Summary:
    """What was seen of each person, in memory that does not grow with the video."""

    def __init__(self):
        self.people, self.frames = {}, 0

    def add(self, moment):
        """Take in a `Moment` that was looked at."""
        self.frames += bool(moment.people)
        for person in moment.people:
            self.people.setdefault(person.number, _Person()).add(person, moment.seconds)

    def rows(self, file):
        """[{column: value}] of `COLUMNS`, a person each: means of raw values, shares and stretches of smoothed ones."""
        return [
            {
                "file": as_text(file), "face": number, "frames": one.frames, "from": one.first, "to": one.last,
                "emotion": max(one.counts, key=one.counts.get), "longest emotion": one.longest[1],
                "longest from": one.longest[2], "longest seconds": one.longest[0],
                **{f"share {name}": count / one.frames for name, count in one.counts.items()},
                **{f"mean {name}": value / one.frames for name, value in one.sums.items()},
            }
            for number, one in sorted(self.people.items())
        ]  # fmt: skip


def sentence(row):
    """A line about one person, of a row."""
    shares = sorted(((row[f"share {name}"], name) for name in EMOTIONS), reverse=True)
    told = ", ".join(f"{name} {share:.0%}" for share, name in shares[:3] if share >= 0.01)
    values = "  ".join(f"{name[0]} {row[f'mean {name}']:+.2f}" for name in DIMENSIONS if f"mean {name}" in row)
    return (
        f"  face {row['face']}: {counted(row['frames'], 'frame')} from {row['from']:.1f} to {row['to']:.1f} s; {told}; "
        f"longest {row['longest emotion']}, {row['longest seconds']:.1f} s from {row['longest from']:.1f} s; "
        f"mean {values}"
    )
