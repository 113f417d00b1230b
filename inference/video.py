"""The faces of a video: found, followed, recognized, smoothed, drawn."""

import math
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import cv2
import numpy as np
import pandas
from tqdm import tqdm

from inference.detection import crop_faces
from inference.figures import COLOURS, plot_timelines
from inference.output import VIDEO_COLUMNS, TableWriter, save_figure, to_row, video_metadata
from inference.recognizer import SMOOTHING, Result
from inference.tracking import PEOPLE_COLUMNS, Smoother, Tracker, summarize
from inference.video_io import CameraReader, VideoReader, write_video
from utils.files import UserError, as_text
from utils.images import to_grey
from utils.tasks import EMOTIONS

CROPS = "center"  # per face and frame: values are smoothed over frames anyway
SEARCH_INTERVAL = 0.2  # seconds between searches of whole frames; else only near expected faces
FONT = cv2.FONT_HERSHEY_SIMPLEX
READABLE = 0.9  # share of the stated duration; a video of which less can be read is damaged


class FaceVideoAnalyzer:
    """Finds, follows and recognizes the faces of frame after frame.

    file: the path that results name; every: analyze each Nth frame; smoothing: time constant in
    seconds, 0 for none. Whole frames are searched now and then, and after a cut; in between only
    where faces are expected. Raises UserError.
    """

    def __init__(self, recognizer, file=None, *, every=1, smoothing=SMOOTHING):
        if not 0 <= smoothing < math.inf:
            raise UserError(f"smoothing must be 0 or more seconds, got {smoothing}.")
        if every < 1:
            raise UserError(f"every must be 1 or more frames, got {every}.")
        self.recognizer, self.file, self.every = recognizer, file, every
        self._tracker, self._smoother = Tracker(), Smoother(smoothing)
        self._searched, self._has_lost = -math.inf, False

    def analyze(self, frames):
        """Yield the `Result` of each of (number, seconds, uint8 (H, W, 3) RGB).

        Its faces are None where a frame was not analyzed.
        """
        for number, seconds, image in frames:
            result = Result(self.file, None, image, image.shape[:2], number, seconds)
            if number % self.every == 0:
                result = replace(result, faces=self._recognize(result))
            yield result

    def _recognize(self, result):
        """[`Face`] of a frame, by the number of the person."""
        grey = to_grey(result.image)
        boxes = self._detect(result.image, grey, result.time)
        crops = crop_faces(grey, boxes)
        numbers = self._tracker.update(boxes, crops, result.time)
        faces = self.recognizer.predict(crops, boxes, crops=CROPS)
        place = {"file": result.file, "frame": result.frame, "time": result.time}
        numbered = sorted(zip(numbers, faces, strict=True), key=lambda each: each[0])
        return [
            replace(face, number=number, smoothed=self._smooth(face, number, result.time), **place)
            for number, face in numbered
        ]

    def _detect(self, image, grey, seconds):
        """[`Box`] of the faces of a frame."""
        detector, is_cut = self.recognizer.detector, self._tracker.is_cut(grey)
        if is_cut or self._has_lost or seconds - self._searched >= SEARCH_INTERVAL - 1e-6:
            self._searched, self._has_lost = seconds, False
            return detector.detect(image, thorough=False)
        expected = self._tracker.predict(seconds)
        boxes = detector.detect_near(image, expected)
        self._has_lost = len(boxes) < len(expected)
        return boxes

    def _smooth(self, face, person, seconds):
        """A `Face` with the smoothed values of a person."""
        known = {name: value for name, value in face.dimensions.items() if value is not None}
        values = np.array([*face.probabilities.values(), *known.values()])
        smoothed = self._smoother(person, values, seconds).tolist()
        dimensions = dict(zip(known, smoothed[len(EMOTIONS) :], strict=True))
        probabilities = dict(zip(EMOTIONS, smoothed, strict=False))
        return replace(face, probabilities=probabilities, **dimensions)


def analyze_video(recognizer, path, *, every=1, smoothing=SMOOTHING):
    """Yield the `Result` of each Nth frame of a video file. Raises UserError."""
    analyzer = FaceVideoAnalyzer(recognizer, as_text(path), every=every, smoothing=smoothing)
    results = analyzer.analyze(VideoReader(path))
    return (result for result in results if result.faces is not None)


def annotate(image, faces):
    """A copy of a frame with a box and its smoothed values for each `Face` of a video."""
    image = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 240))
    for face in faces:
        smooth = face.smoothed
        colour = [int(COLOURS[smooth.emotion][place : place + 2], 16) for place in (1, 3, 5)]
        corners = face.box.corners().round().astype(np.int32)
        cv2.polylines(image, [corners], True, colour, thickness)
        values = [f"{n[0].upper()}{v:+.1f}" for n, v in smooth.dimensions.items() if v is not None]
        mark = "?" if smooth.uncertain else ""
        title = f"{face.number} {smooth.emotion} {smooth.probability:.0%}{mark}"
        left, top, _, bottom = face.box.rounded()
        lines = ((title, max(12, top - 6)), (" ".join(values), bottom + 16 * thickness))
        for text, height in lines:
            for shade, width in (((0, 0, 0), thickness + 2), (colour, thickness)):
                place = max(0, left), min(height, len(image) - 4)
                cv2.putText(image, text, place, FONT, 0.45 * thickness, shade, width)
    return image


def save_video_results(recognizer, path, outputs, tables, *, pictures=True, log=print, **options):
    """Write what a video shows: its table, the people in it, and the annotated video and a plot.

    outputs: `OutputPaths`; tables: [`TableWriter`] that get the rows, too; pictures: whether to
    draw; options: of `FaceVideoAnalyzer`. What was read until Ctrl-C is written. Raises UserError.
    """
    reader = VideoReader(path)
    analyzer = FaceVideoAnalyzer(recognizer, as_text(path), **options)
    table = outputs.path(path, "_emotion.csv", VIDEO_COLUMNS)
    people = outputs.path(path, "_emotion_people.csv", PEOPLE_COLUMNS)
    film, written, stopped = nullcontext(), [table, people], None
    if pictures:
        written += [outputs.path(path, "_emotion.mp4"), outputs.path(path, "_emotion.png")]
        film = write_video(written[2], path, video_metadata(path, written[2]))
    with TableWriter(table, VIDEO_COLUMNS) as rows, film as writer:
        try:
            _save_frames(analyzer.analyze(reader), reader, [rows, *tables], writer)
        except KeyboardInterrupt as error:
            if writer is not None and writer.is_empty:
                raise  # a video without frames is none
            stopped = error
    frame = pandas.read_csv(table)
    summary = summarize(frame).to_dict("records")
    with TableWriter(people, PEOPLE_COLUMNS) as rows:
        for person in summary:
            rows.add(person)
    if pictures:
        save_figure(plot_timelines(frame, as_text(path.name)), written[3], path)
    log(f"{path}: people: {len(summary)}. Written: {', '.join(map(str, written))}")
    for person in summary:
        log("  face {face}: {start:.1f} to {end:.1f} s, mostly {emotion}".format(**person))
    if stopped is not None:
        raise stopped
    _report_damage(reader)


def _report_damage(reader):
    if reader.end < READABLE * reader.duration:
        read = f"only {reader.end:.1f} of {reader.duration:.1f} s could be read"
        print(f"{reader.path}: {read}, it is damaged or was trimmed", file=sys.stderr)


def _save_frames(results, reader, tables, writer):
    """Write the rows of results to tables, and the annotated frames; writer: None for none."""
    shown, total = [], round(reader.duration * reader.rate) or None
    for result in tqdm(results, total=total, unit=" frames", disable=not sys.stderr.isatty()):
        for face in result.faces or ():
            for table in tables:
                table.add(to_row(face))
        if writer is not None:
            shown = shown if result.faces is None else result.faces
            writer.add(annotate(result.image, shown), result.time)


def watch_camera(recognizer, source, smoothing=SMOOTHING):
    """Show what a camera sees in a window, until that is closed. Raises UserError.

    source: the number of a camera, or its address.
    """
    from matplotlib import pyplot

    if pyplot.get_backend().lower() in ("agg", "pdf", "ps", "svg", "template", "cairo"):
        raise UserError("A camera needs a window, and there is no display: give a video instead.")
    camera, shown, start = CameraReader(source), None, time.monotonic()
    analyzer = FaceVideoAnalyzer(recognizer, smoothing=smoothing)
    frames = ((number, time.monotonic() - start, image) for number, image in enumerate(camera))
    figure, axes = pyplot.subplots()
    axes.set_axis_off()
    try:
        for result in analyzer.analyze(frames):
            image = annotate(result.image, result.faces)
            shown = shown or axes.imshow(image)
            shown.set_data(image)
            pyplot.pause(0.001)
            if not pyplot.fignum_exists(figure.number):
                break
    finally:
        camera.close()
    if shown is None:
        raise UserError(
            f"Camera {source} gives no picture: close other programs that use it, and allow "
            "programs the camera in the privacy settings of the system."
        )
