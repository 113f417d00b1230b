"""Videos and cameras, frame by frame, through OpenCV."""

from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from inference.figures import COLOURS
from inference.places import placing
from utils.files import UserError
from utils.pictures import AGAIN, Unreadable

FALLBACK_RATE = 25.0  # frames per second, where a file does not say


def read_frames(source):
    """Yield (number from 0, seconds, uint8 (H, W, 3) RGB) of a video file, or of a camera's number.

    Raises Unreadable when it cannot be opened or has no frames.
    """
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        if not capture.isOpened():
            what = f"Camera {source} cannot be opened: give the number of another with --webcam."
            raise Unreadable(what if isinstance(source, int) else f"{source} cannot be opened as a video: {AGAIN}.")
        rate, number = frame_rate(capture), 0
        while True:
            good, frame = capture.read()
            if not good:
                break
            yield number, number / rate, np.ascontiguousarray(frame[:, :, ::-1])
            number += 1
        if number == 0:
            raise Unreadable(f"{source} has no frames that OpenCV can read: {AGAIN}.")
    finally:
        capture.release()


def frame_rate(capture):
    """Frames per second of an opened capture."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else FALLBACK_RATE


def count_frames(path):
    """(frames as the file says, 0 if it does not; frames per second)."""
    capture = cv2.VideoCapture(str(path))
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), frame_rate(capture)
    finally:
        capture.release()


def annotate(frame, faces):
    """A copy of an RGB frame with a box and a line of text for each face."""
    frame = frame.copy()
    thickness = max(1, round(min(frame.shape[:2]) / 240))
    for face in faces:
        left, top, right, bottom = face.box.rounded()
        colour = tuple(int(COLOURS[face.emotion][place : place + 2], 16) for place in (1, 3, 5))
        cv2.rectangle(frame, (left, top), (right, bottom), colour, thickness)
        known = {name[0].upper(): value for name, value in face.dimensions.items() if value is not None}
        values = " ".join(f"{letter} {value:+.1f}" for letter, value in known.items())
        for line, text in enumerate((f"{face.emotion} {face.probability:.0%}", values)):
            place = (max(0, left), max(12, top - 6) if line == 0 else min(frame.shape[0] - 4, bottom + 16 * thickness))
            cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * thickness, (0, 0, 0), thickness + 2)
            cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * thickness, colour, thickness)
    return frame


@contextmanager
def video_writer(path, rate):
    """A function that adds an RGB frame to the video that appears at `path` (.mp4) when the block ends well."""
    path = Path(path)
    with placing(path) as temporary:
        unfinished = temporary.with_suffix(".unfinished.mp4")  # OpenCV chooses the format by the suffix
        writer = None

        def add(frame):
            nonlocal writer
            if writer is None:
                size = frame.shape[1], frame.shape[0]
                writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise UserError(f"{path} cannot be written: this OpenCV has no MP4 encoder, or the folder refuses.")
            writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

        try:
            yield add
            if writer is not None:
                writer.release()
            unfinished.replace(temporary)
        finally:
            if writer is not None:
                writer.release()
            unfinished.unlink(missing_ok=True)
