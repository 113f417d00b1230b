"""Videos and cameras: their frames, the people in them, and annotated copies."""

import math
import os
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from inference.figures import COLOURS
from inference.videos import results
from inference.videos.detector import is_face_already, suppressed
from inference.videos.places import placing
from inference.videos.recognizer import Face
from inference.videos.tracks import SMOOTH, Smoother, Tracker
from utils.files import UserError, as_text, rename
from utils.images import AGAIN, Unreadable, check_file, in_batches, prefetch, to_grey
from utils.tasks import DIMENSIONS, EMOTIONS

FALLBACK_RATE = 25.0  # frames per second, where a file does not say
FASTEST = 120.0  # frames per second of an annotated video
CROPS = "center"  # of each face; that values are smoothed over frames is worth more than several crops of one
SEARCH = 0.2  # seconds from one search of whole frames to the next; in between only where faces are expected
AROUND = 2.0  # sides of what is searched where a face is expected
NEARBY_FACE = 56  # pixels to which a face is brought for that
BATCH = 8  # frames of a file whose faces go through the network together


@dataclass(frozen=True)
class Person:
    """Somebody in a frame: a number that is kept from frame to frame, the `Face`, and the same with smoothed values."""

    number: int
    face: Face
    smooth: Face

    def to_dict(self):
        """{column: plain value}, as in a row of the tables."""
        return results.row("", self.number, self.face, smooth=self.smooth)


@dataclass(frozen=True)
class Moment:
    """A frame of a video: its number from 0, its time in seconds as the file has it, uint8 (H, W, 3) RGB, and the
    `Person`s in it; None where it was not looked at.
    """

    number: int
    seconds: float
    frame: np.ndarray
    people: list | None

    def to_dict(self):
        """{"frame": number, "seconds": time, "people": [{column: plain value}]}."""
        people = [] if self.people is None else [person.to_dict() for person in self.people]
        return {"frame": self.number, "seconds": self.seconds, "people": people}


class Watcher:
    """Finds the faces of frame after frame, and follows them.

    recognizer: an `EmotionRecognizer`; smooth: time constant in seconds, 0 for none. Whole frames are searched now and
    then, and after a cut; in between only where faces are expected.
    """

    def __init__(self, recognizer, smooth=SMOOTH):
        if not 0 <= smooth < math.inf:
            raise UserError(f"--smooth {smooth} is no time: give seconds, or 0 to smooth nothing.")
        self.recognizer, self._tracker, self._smoother = recognizer, Tracker(), Smoother(smooth)
        self._searched, self._missed = -math.inf, False

    def find(self, frame, seconds):
        """(`Found`, numbers of its faces) of a frame, uint8 (H, W, 3) RGB."""
        grey = to_grey(frame)
        cut = self._tracker.scene(grey)
        expected = [] if cut else self._tracker.expected(seconds)
        late = seconds - self._searched
        if cut or self._missed or late < 0 or late >= SEARCH - 1e-6:
            boxes = self.recognizer.locate(frame, turned=False)
            self._searched, self._missed = seconds, False
        else:
            boxes = self._look_again(frame, expected)
            self._missed = len(boxes) < len(expected)
        found = self.recognizer.cut(grey, boxes)
        return found, self._tracker.update(boxes, found.crops, seconds)

    def _look_again(self, frame, expected):
        """[`Box`] of faces near the expected ones."""
        locate = self.recognizer.locate
        if not locate.searches or is_face_already(frame):
            return locate(frame)
        boxes = []
        for there in expected:
            x, y = there.middle
            reach = there.side * AROUND / 2
            left, top = max(0, round(x - reach)), max(0, round(y - reach))
            part = frame[top : max(0, round(y + reach)), left : max(0, round(x + reach))]
            scale = NEARBY_FACE / there.side
            if min(part.shape[:2]) * scale < NEARBY_FACE / 2:
                continue
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=way)
            boxes += [box.moved(0, 0, 1 / scale).moved(left, top) for box in locate.detector(small, NEARBY_FACE // 2)]
        return suppressed([box for box in boxes if box.confidence >= locate.confidence])

    def read(self, found):
        """[[`Person`]] of [(seconds, `Found`, numbers)] of frames in order; all go through the network together."""
        crops = self.recognizer.crops or CROPS
        faces = self.recognizer.read_faces([one for _, one, _ in found], crops)
        return [
            sorted((self._person(number, face, seconds) for number, face in zip(numbers, seen, strict=True)),
                   key=lambda person: person.number)
            for (seconds, _, numbers), seen in zip(found, faces, strict=True)
        ]  # fmt: skip

    def _person(self, number, face, seconds):
        names = [name.lower() for name in DIMENSIONS]
        values = [*face.probabilities.values(), *(math.nan if face.dimensions[n] is None else face.dimensions[n]
                                                  for n in names)]  # fmt: skip
        smooth = self._smoother(number, np.array(values), seconds).tolist()
        dimensions = {n: None if math.isnan(value) else value
                      for n, value in zip(names, smooth[len(EMOTIONS) :], strict=True)}  # fmt: skip
        probabilities = dict(zip(EMOTIONS, smooth[: len(EMOTIONS)], strict=True))
        return Person(number, face, replace(face, probabilities=probabilities, **dimensions))


def watch(watcher, frames, every=1, batch=BATCH):
    """Yield the `Moment` of each of `frames`, (number, seconds, uint8 (H, W, 3) RGB); of every `every`th with people.

    batch: how many frames go to the network at a time, while the faces of the next are searched; with 1 no frame waits
    for another.
    """

    def read(part):
        people = iter(watcher.read([(seconds, *found) for _, seconds, _, found in part if found is not None]))
        return [Moment(number, seconds, frame, None if found is None else next(people))
                for number, seconds, frame, found in part]  # fmt: skip

    searched = (
        (number, seconds, frame, watcher.find(frame, seconds) if number % every == 0 else None)
        for number, seconds, frame in frames
    )
    for moments in prefetch(read, in_batches(searched, batch), ahead=min(1, batch - 1)):
        yield from moments


def watch_file(recognizer, path, every=1, smooth=SMOOTH):
    """Yield the `Moment`s of a file that are looked at. Raises UserError, Unreadable where it is the file's fault."""
    if every < 1:
        raise UserError(f"every={every} is no count of frames: give a whole number from 1.")
    moments = watch(Watcher(recognizer, smooth), read_frames(path), every)
    return (moment for moment in moments if moment.people is not None)


def name_for_opencv(path):
    """The absolute path as text. Raises Unreadable where it is none: OpenCV would crash.

    Absolute, since FFmpeg takes a relative "Interview: Anna.mp4" for the protocol of an address.
    """
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        remedy = "rename the file, or the folder in which it is"
        raise Unreadable(f"{as_text(path)} cannot be opened, since its path is not text in UTF-8: {remedy}.") from error
    return name


def opened(source):
    """The `cv2.VideoCapture` of a file (`Path`), a camera's number or its address (str). Raises Unreadable."""
    if isinstance(source, Path):
        check_file(source, "a video")
    capture = cv2.VideoCapture(name_for_opencv(source) if isinstance(source, Path) else source)
    if capture.isOpened():
        return capture
    capture.release()
    if isinstance(source, int):
        raise Unreadable(f"Camera {source} cannot be opened: give the number of another with --webcam.")
    if isinstance(source, str):
        raise Unreadable(f"The camera {source} cannot be opened: is it on, and is its address the one of the stream?")
    raise Unreadable(f"{source} cannot be opened as a video: {AGAIN}.")


def read_frames(path):
    """Yield (number from 0, seconds, uint8 (H, W, 3) RGB) of the video file `path`; the times are those of the file.

    Raises Unreadable when it cannot be opened or has no frames.
    """
    capture = opened(Path(path))
    try:
        step, number, last = 1 / frame_rate(capture), 0, -math.inf
        while True:
            good, frame = capture.read()
            if not good:
                break
            seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if not last < seconds < math.inf:  # the file does not say
                seconds = 0.0 if number == 0 else last + step
            yield number, seconds, np.ascontiguousarray(frame[:, :, ::-1])
            number, last = number + 1, seconds
        if number == 0:
            raise Unreadable(f"{path} has no frames that OpenCV can read: {AGAIN}.")
    finally:
        capture.release()


def frame_rate(capture):
    """Frames per second of an opened capture."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else FALLBACK_RATE


def count_frames(path):
    """(frames as the file says, 0 if it does not; frames per second). Raises Unreadable when it cannot be opened."""
    capture = opened(Path(path))
    try:
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return int(count) if 0 < count < 1e9 else 0, frame_rate(capture)
    finally:
        capture.release()


class Newest:
    """The newest frame of a camera: a thread reads all, so that none waits in a queue. source: number or address."""

    def __init__(self, source):
        self._capture = opened(source)
        self._frame, self._new, self._done = None, threading.Condition(), False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while not self._done:
            good, frame = self._capture.read()
            with self._new:
                self._frame, self._done = (frame if good else self._frame), self._done or not good
                self._new.notify()

    def __iter__(self):
        """Yield uint8 (H, W, 3) RGB: whatever is newest whenever asked; ends with the camera."""
        while True:
            with self._new:
                self._new.wait_for(lambda: self._frame is not None or self._done)
                frame, self._frame = self._frame, None
            if frame is None:
                return
            yield np.ascontiguousarray(frame[:, :, ::-1])

    def close(self):
        """Stop reading."""
        self._done = True
        self._thread.join(timeout=5)
        self._capture.release()


def annotate(frame, people):
    """A copy of an RGB frame with a box and two lines of text for each `Person`."""
    frame = frame.copy()
    thickness = max(1, round(min(frame.shape[:2]) / 240))
    for person in people:
        face, smooth = person.face, person.smooth
        colour = tuple(int(COLOURS[smooth.emotion][place : place + 2], 16) for place in (1, 3, 5))
        cv2.polylines(frame, [face.box.corners().round().astype(np.int32)], True, colour, thickness)
        known = {name[0].upper(): value for name, value in smooth.dimensions.items() if value is not None}
        values = " ".join(f"{letter} {value:+.1f}" for letter, value in known.items())
        title = f"{person.number} {smooth.emotion} {smooth.probability:.0%}{'?' if smooth.unsure else ''}"
        left, top, _, bottom = face.box.rounded()
        for line, text in enumerate((title, values)):
            place = (max(0, left), max(12, top - 6) if line == 0 else min(frame.shape[0] - 4, bottom + 16 * thickness))
            cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * thickness, (0, 0, 0), thickness + 2)
            cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * thickness, colour, thickness)
    return frame


class Recording:
    """A video that is being written; `codec` is "H.264" or "MPEG-4", None before the first frame."""

    def __init__(self, file, path, rate):
        self._file, self._path, self._rate = file, path, min(rate, FASTEST)
        self.codec, self._writer, self._written = None, None, 0

    def add(self, frame, seconds):
        """Add an RGB frame, once or more often or not at all, as its time in the video has it."""
        if self._writer is None:
            self._start(frame.shape[1], frame.shape[0])
            self._began = seconds
        due = round((seconds - self._began) * self._rate) + 1
        colours = np.ascontiguousarray(frame[:, :, ::-1])
        while self._written < due:
            self._writer.write(colours)
            self._written += 1

    def _start(self, width, height):
        name = name_for_opencv(self._file)
        for codec, spoken in (("avc1", "H.264"), ("mp4v", "MPEG-4")):
            with silent_libraries():
                writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*codec), self._rate, (width, height))
            if writer.isOpened():
                self._writer, self.codec = writer, spoken
                return
        raise UserError(f"{self._path} cannot be written: this OpenCV has no MP4 encoder, or the folder refuses.")

    def close(self):
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def silent_libraries():
    """Nothing that C libraries print on stderr is seen: FFmpeg complains of each encoder that a machine has not."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@contextmanager
def video_writer(path, rate):
    """The `Recording` of the video that appears at `path` (.mp4) when the block ends well."""
    path = Path(path)
    with placing(path) as temporary:
        unfinished = temporary.with_suffix(".unfinished.mp4")  # OpenCV chooses the format by the suffix
        recording = Recording(unfinished, path, rate)
        try:
            yield recording
            recording.close()
            rename(unfinished, temporary, held=path)
        finally:
            recording.close()
            with suppress(PermissionError):  # a virus scanner may hold it
                unfinished.unlink(missing_ok=True)
