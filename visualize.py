"""Show emotion, valence, arousal and dominance of the faces in pictures and videos.

    python visualize.py photo.jpg                    # a line a face, and photo_emotion.png beside the photo
    python visualize.py holiday/ --recursive --csv faces.csv
    python visualize.py talk.mp4                     # an annotated video, tables, a plot over time for each person
    python visualize.py --webcam                     # or the address of a camera: rtsp://...

From Python:

    from visualize import EmotionRecognizer
    for face in EmotionRecognizer().recognize("photo.jpg"):
        print(face.box, face.emotion, face.probabilities, face.valence, face.arousal, face.dominance)
"""

import argparse
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from inference.checkpoints import RELEASED, describe_files
from inference.videos import detector, results
from inference.videos.places import PEOPLE, OutputPaths, expand, given_input, save_figure
from inference.videos.recognizer import EmotionRecognizer, Face
from inference.videos.tracks import SMOOTH
from training.device import DEVICES, PRECISIONS, setup_device
from training.engine import CROPS
from utils.files import UserError, as_text, exit_code, path_argument
from utils.images import Unreadable, in_batches, is_image, is_video, prefetch, read_first, subsample
from utils.text import counted

__all__ = ["EmotionRecognizer", "Face"]

BATCH = 16  # pictures whose faces go through the network together
READABLE = 0.9  # of what a video states; where less can be read, that is said
# Flags that mean nothing beside one that does something else instead.
IDLE = {
    "webcam": ("inputs", "recursive", "out", "csv", "json", "no_pictures", "show", "explain", "every"),
    "no_pictures": ("show", "explain"),
}
MEANING = "valence -2 unpleasant .. 2 pleasant; arousal -2 calm .. 2 excited; dominance -2 submissive .. 2 in control"


def main(arguments):
    """Read everything that was asked for. Returns the exit code: 1 when something could not be read."""
    check_flags(arguments)
    output_paths = OutputPaths(arguments.out)
    inputs, results_left_out = expand(arguments.inputs, arguments.recursive)
    stills, videos = [path for path in inputs if not is_video(path)], [path for path in inputs if is_video(path)]
    if results_left_out:
        print_line(arguments, f"Results of earlier runs that were left out: {results_left_out}")
    if not inputs and arguments.webcam is None:
        raise UserError("Nothing to look at: give pictures, folders or videos, or --webcam.")
    setup_device(arguments.device, arguments.precision)  # the settings of this process, which is ours
    recognizer = EmotionRecognizer(
        arguments.checkpoints, arguments.face, arguments.face_model, arguments.crops, arguments.device,
        arguments.precision, arguments.confidence, arguments.explain,
    )  # fmt: skip
    print_line(arguments, f"Checkpoints: {describe_files(recognizer.networks)}")
    warn_of_drawn_faces(recognizer, arguments)
    if arguments.webcam is not None:
        return watch_camera(recognizer, arguments)
    print_line(arguments, MEANING)
    check_kinds(stills, videos, arguments)
    columns, failures = results.VIDEO_COLUMNS if videos else results.COLUMNS, 0
    with results.table(arguments.csv, arguments.json, columns, partial(print_line, arguments)) as add:
        for seen in read_stills(recognizer, stills):
            failures += report_picture(seen, add, output_paths, arguments)
        for path in videos:
            failures += not read_video(recognizer, path, add, output_paths, arguments)
    if failures:
        print(f"{failures} of {len(inputs)} could not be read", file=sys.stderr)
    return 1 if failures else 0


@dataclass(frozen=True)
class Seen:
    """What became of one picture: `error`, or what is drawn of it, its height and width, and its faces.

    follows: of what its file has more than the first one, which was read: frames, pages, or None.
    """

    path: Path
    picture: np.ndarray | None = None
    size: tuple = ()
    faces: tuple = ()
    error: str | None = None
    follows: str | None = None


def read_stills(recognizer, paths):
    """Yield what is `Seen` in each picture, in order. Pictures are read and searched ahead in another thread."""

    def look(path):
        try:
            picture, follows = read_first(path)
            return subsample(picture), picture.shape[:2], recognizer.find(picture), follows
        except Unreadable as error:
            return str(error)

    quiet = len(paths) < 2 or not sys.stderr.isatty()
    with tqdm(total=len(paths), unit=" pictures", disable=quiet, dynamic_ncols=True) as bar:
        for batch in in_batches(zip(paths, prefetch(look, paths), strict=True), BATCH):
            yield from read_batch(recognizer, batch)
            bar.update(len(batch))


def read_batch(recognizer, batch):
    """[(path, error text or (picture, size, `Found`, what follows))] -> what is `Seen` in each."""
    faces = iter(recognizer.read_faces([looked[2] for _, looked in batch if not isinstance(looked, str)]))
    for path, looked in batch:
        if isinstance(looked, str):
            yield Seen(path, error=looked)
        else:
            picture, size, _, follows = looked
            yield Seen(path, picture, size, tuple(next(faces)), follows=follows)


def report_picture(seen, add, output_paths, arguments):
    """Print, tabulate and draw one picture's faces. Returns whether it could not be read."""
    if seen.error:
        print(f"error: {seen.error}", file=sys.stderr)
        return True
    tell_what_follows(seen.path, seen.follows, arguments)
    if not seen.faces:
        print_line(arguments, f"{seen.path}: no face found")
    for number, face in enumerate(seen.faces, 1):
        add(results.row(seen.path, number, face))
        print_line(arguments, line(seen.path, face))
    if not arguments.no_pictures:
        from inference.figures import draw  # drawing is slow to import, and the lines above need not wait for it

        [path] = output_paths.beside(seen.path, "_emotion", ".png")
        figure = draw(seen.picture, seen.faces, as_text(seen.path.name), size=seen.size)
        save_figure(figure, path, seen.path)
        print_line(arguments, f"  drawn: {path}")
        if arguments.show:
            show(path)
    return False


def tell_what_follows(path, follows, arguments):
    """Say so where a file has more frames or pages than the first. follows: as `read_first` gives it."""
    if follows:
        print_line(arguments, f"{path}: only the first of its {follows} is looked at")


def line(path, face):
    """One line about one face."""
    left, top, right, bottom = face.box.rounded()
    values = "  ".join(
        f"{name[0].upper()} {value:+.2f}" for name, value in face.dimensions.items() if value is not None
    )
    sure = "" if face.confidence is None else f"  face {face.confidence:.0%}"
    unsure = "  unsure" if face.unsure else ""
    return f"{path}  [{left},{top} {right},{bottom}]{sure}  {face.emotion} {face.probability:.0%}  {values}{unsure}"


def read_video(recognizer, path, add, output_paths, arguments):
    """Tabulate the faces of a video and its people, annotate it, plot them. Returns whether it could be read."""
    from inference.videos import video
    from inference.videos.summary import COLUMNS, Summary, sentence

    drawn, tell = not arguments.no_pictures, partial(print_line, arguments)
    endings = (".csv", PEOPLE, ".mp4", ".png") if drawn else (".csv", PEOPLE)
    table, people, *pictured = output_paths.beside(path, "_emotion", *endings)
    summary, shown, stopped = Summary(), [], None
    try:
        total, rate = video.count_frames(path)
        bar = tqdm(total=total or None, unit=" frames", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        with (
            bar,
            video.video_writer(pictured[0], rate) if drawn else nullcontext() as recording,
            results.table(table, columns=results.VIDEO_COLUMNS, tell=tell) as add_here,
        ):
            try:
                watcher = video.Watcher(recognizer, arguments.smooth if arguments.smooth is not None else SMOOTH)
                for moment in video.watch(watcher, video.read_frames(path), arguments.every or 1):
                    shown = shown if moment.people is None else moment.people  # those of the last look
                    if drawn:
                        recording.add(video.annotate(moment.frame, shown), moment.seconds)
                    if moment.people is not None:
                        for person in moment.people:
                            row = results.row(path, person.number, person.face, moment.number, moment.seconds,
                                              person.smooth)  # fmt: skip
                            add_here(row)
                            add(row)
                        summary.add(moment)
                    bar.update()
                tell_what_is_missing(path, moment, total, rate)
            except KeyboardInterrupt as error:  # what was seen so far is written
                if drawn and recording.codec is None:  # no frame
                    raise
                stopped = error
    except Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    rows = summary.rows(path)
    with results.table(people, columns=COLUMNS, tell=tell) as add_person:
        for row in rows:
            add_person(row)
    if drawn:
        from inference.figures import draw_timelines

        points = {number: one.points for number, one in summary.people.items()}
        save_figure(draw_timelines(points, as_text(path.name)), pictured[1], path)
    written = ", ".join(str(one) if place == 0 else one.name for place, one in enumerate((table, people, *pictured)))
    print_line(arguments, f"{path}: {counted(summary.frames, 'frame')} with faces. Written: {written}")
    for row in rows:
        print_line(arguments, sentence(row))
    if drawn:
        print_line(arguments, f"  {SPOKEN[recording.codec]}")
    if stopped is not None:
        raise stopped
    return True


def tell_what_is_missing(path, last, total, rate):
    """Say so where a video ends with the `Moment` `last`, long before the end that it states. total, rate: what
    `count_frames` gives. Editors that trim without loss leave what they hide in the file.
    """
    seconds, stated = last.seconds + 1 / rate, total / rate
    # Its frames are counted, too, since the last one may be meant to stay.
    if seconds < READABLE * stated and last.number + 1 < READABLE * total:
        why = "it was trimmed, or is damaged"
        tqdm.write(f"{path}: {seconds:.1f} of the {stated:.1f} s that it states could be read: {why}", file=sys.stderr)


SPOKEN = {
    "H.264": "The annotated video is H.264, without sound.",
    "MPEG-4": "The annotated video is MPEG-4 part 2, since this OpenCV writes no H.264: VLC plays it, browsers do not. "
    "It has no sound.",
}


def watch_camera(recognizer, arguments):
    """Show what the camera sees in a window until it is closed."""
    from matplotlib import pyplot

    from inference.videos.video import Newest, Watcher, annotate, watch

    if not has_window(pyplot):
        raise UserError("--webcam needs a window, and there is no display here: record a video and give its file.")
    print("Opening the camera, which can take some seconds", flush=True)
    camera = Newest(arguments.webcam)
    figure, axes = pyplot.subplots()
    axes.set_axis_off()
    shown = None
    watcher = Watcher(recognizer, SMOOTH if arguments.smooth is None else arguments.smooth)
    began = time.monotonic()
    frames = ((number, time.monotonic() - began, frame) for number, frame in enumerate(camera))
    try:
        for moment in watch(watcher, frames, batch=1):
            picture = annotate(moment.frame, moment.people)
            if shown is None:
                shown = axes.imshow(picture)
            shown.set_data(picture)
            pyplot.pause(0.001)
            if not pyplot.fignum_exists(figure.number):
                break
    finally:
        camera.close()
    if shown is None:
        raise UserError(f"Camera {arguments.webcam} gives no picture: close other programs that use it, and allow "
                        "programs the camera in the privacy settings of the system.")  # fmt: skip
    return 0


def show(path):
    """Open a window with a picture, where there is a display, until it is closed."""
    from matplotlib import pyplot

    if not has_window(pyplot):
        print(f"There is no display for a window; the picture is {path}")
        return
    figure = pyplot.figure(figsize=(12.8, 7.2))
    figure.figimage(pyplot.imread(path))
    pyplot.show()


def has_window(pyplot):
    """Whether this matplotlib can open windows here."""
    return pyplot.get_backend().lower() not in ("agg", "pdf", "ps", "svg", "template", "cairo")


def warn_of_drawn_faces(recognizer, arguments):
    """Say so when the network has never seen a real face."""
    if any(network.dataset == "Demo" for network in recognizer.networks):
        print_line(arguments, f"{arguments.checkpoints} was trained on drawn faces: do not trust what follows.")


def print_line(arguments, text):
    """Print a line unless --quiet."""
    if not arguments.quiet:
        tqdm.write(text)


def check_flags(arguments):
    """Raise UserError for a flag that means nothing beside another."""
    given = {
        name for name, value in vars(arguments).items() if value is not None and value is not False and value != []
    }
    for mode, idle in IDLE.items():
        foreign = [name for name in idle if mode in given and name in given]
        if foreign:
            shown = "a FILE" if foreign[0] == "inputs" else f"--{foreign[0].replace('_', '-')}"
            raise UserError(f"{shown} means nothing with --{mode.replace('_', '-')}: leave one of them out.")
    if {"csv", "json"} <= given and os.path.realpath(arguments.csv) == os.path.realpath(arguments.json):
        raise UserError(f"--csv and --json both name {arguments.csv}: give two names.")
    for flag, path in (("--csv", arguments.csv), ("--json", arguments.json)):
        if path is not None and (is_image(path) or is_video(path)):  # of several that a pattern stood for, perhaps
            raise UserError(f"{flag} {path}: a table would take the place of that file: give another name, such as "
                            f"faces.{flag[2:]}, and the files to look at before {flag}.")  # fmt: skip


def check_kinds(stills, videos, arguments):
    """Raise UserError for a flag that means nothing for what is looked at."""
    for flag, asked, meant, kind in (("--explain", arguments.explain, stills, "pictures"),
                                     ("--every", arguments.every is not None, videos, "videos"),
                                     ("--smooth", arguments.smooth is not None, videos, "videos")):  # fmt: skip
        if asked and not meant:
            raise UserError(f"{flag} is for {kind}, and there is none here: leave it out.")


def given_camera(text):
    """The number of a camera, or its address; for `type=` of argparse."""
    if text.isdecimal():
        return int(text)
    if "://" not in text:
        raise argparse.ArgumentTypeError(
            f"invalid camera: {text!r} is no number and no address (rtsp://... or http://...)"
        )
    return text


def given_count(text):
    """A whole number from 1; for `type=` of argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"invalid count: {text!r} is no whole number from 1")
    return int(text)


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="visualize.py",
        description="Show emotion, valence, arousal and dominance of the faces in pictures and videos.",
        epilog=f"Scales: {MEANING}.",
    )
    parser.add_argument(
        "inputs", nargs="*", type=given_input, metavar="FILE", help="pictures, videos, or folders of them"
    )
    parser.add_argument("--recursive", action="store_true", help="also the folders below a folder")
    parser.add_argument("--webcam", nargs="?", type=given_camera, const=0, metavar="N",
                        help="watch camera N (default: 0), or the one at rtsp://... or http://...")  # fmt: skip

    faces = parser.add_argument_group("faces and network")
    faces.add_argument("--face", choices=detector.FACE_CHOICES, default="auto",
                       help="find faces, or none: take the middle square of each picture (default: auto)")  # fmt: skip
    faces.add_argument(
        "--face-model", type=path_argument, metavar="FILE", help="find faces with this YuNet model (.onnx)"
    )
    faces.add_argument("--confidence", type=float, default=detector.CONFIDENCE, metavar="T",
                       help=f"what is less surely a face is none, 0 to 1 (default: {detector.CONFIDENCE})")  # fmt: skip
    faces.add_argument("--checkpoints", type=path_argument, metavar="DIR",
                       help=f"folder of .t7 files, or one file (default: {RELEASED.name})")  # fmt: skip
    faces.add_argument("--crops", choices=tuple(CROPS),
                       help="1, 2, 4 or the evaluation's 10 views of each face (default: fourcrop; of videos and "
                            "cameras center)")  # fmt: skip
    faces.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    faces.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")

    videos = parser.add_argument_group("videos and cameras")
    videos.add_argument("--every", type=given_count, metavar="N", help="look at every Nth frame only (default: 1)")
    videos.add_argument("--smooth", type=float, metavar="SECONDS",
                        help=f"time over which values are smoothed, 0: not at all (default: {SMOOTH})")  # fmt: skip

    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", type=path_argument, metavar="DIR", help="folder for results (default: beside each file)"
    )
    output.add_argument("--csv", type=path_argument, metavar="FILE", help="also write a table, a row a face")
    output.add_argument("--json", type=path_argument, metavar="FILE", help="the same as JSON")
    output.add_argument("--no-pictures", action="store_true", help="do not draw pictures, nor annotate videos")
    output.add_argument("--explain", action="store_true",
                        help="also draw what in each face spoke for its emotion (Grad-CAM)")  # fmt: skip
    output.add_argument("--show", action="store_true", help="open each drawn picture in a window")
    output.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
