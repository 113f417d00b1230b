"""Show emotion, valence, arousal and dominance of the faces in pictures and videos.

    python visualize.py photo.jpg                   # a line per face, and photo_emotion.png
    python visualize.py holiday/ --recursive --csv faces.csv
    python visualize.py talk.mp4                    # an annotated video, tables, a plot over time
    python visualize.py --webcam                    # or the address of a camera: rtsp://...

From Python: `from inference import EmotionRecognizer`.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from inference.checkpoints import RELEASED, describe_files
from inference.detection import CONFIDENCE, FACE_CHOICES
from inference.output import (
    COLUMNS,
    VIDEO_COLUMNS,
    OutputPaths,
    TableWriter,
    find_inputs,
    save_figure,
)
from inference.recognizer import SMOOTHING, EmotionRecognizer
from training.device import DEVICES, setup_device
from utils.files import UserError, as_text, exit_code, path_argument
from utils.images import Unreadable, is_image, is_video

SCALES = (
    "valence -2 unpleasant .. 2 pleasant; arousal -2 calm .. 2 excited; "
    "dominance -2 submissive .. 2 in control"
)
# Flags that have no effect beside another.
INCOMPATIBLE = {
    "webcam": ("inputs", "recursive", "out", "csv", "json", "no_pictures", "explain", "every"),
    "no_pictures": ("explain",),
}


def main(arguments):
    """Read everything that was asked for. Returns the exit code, 1 when a file was unreadable."""
    check_flags(arguments)
    log = print_nothing if arguments.quiet else tqdm.write
    pictures, videos = list_inputs(arguments, log)
    setup_device(arguments.device)
    recognizer = EmotionRecognizer(
        arguments.checkpoints,
        face=arguments.face,
        confidence=arguments.confidence,
        explain=arguments.explain,
        device=arguments.device,
    )
    log(f"Checkpoints: {describe_files(recognizer.networks)}")
    if any(network.dataset == "Demo" for network in recognizer.networks):
        log("They were trained on drawn faces: do not trust what they read in real ones.")
    if arguments.webcam is not None:
        from inference.video import watch_camera  # slow to import

        watch_camera(recognizer, arguments.webcam, arguments.smooth)
        return 0
    log(SCALES)
    columns, outputs = VIDEO_COLUMNS if videos else COLUMNS, OutputPaths(arguments.out)
    with ExitStack() as stack:
        tables = [
            stack.enter_context(TableWriter(path, columns, is_json=path is arguments.json))
            for path in (arguments.csv, arguments.json)
            if path is not None
        ]
        failures = show_pictures(recognizer, pictures, tables, outputs, arguments, log)
        for path in videos:
            failures += not show_video(recognizer, path, tables, outputs, arguments, log)
    if failures:
        total = len(pictures) + len(videos)
        print(f"{failures} of {total} could not be read", file=sys.stderr)
    return 1 if failures else 0


def print_nothing(text):
    """The log of --quiet."""


def list_inputs(arguments, log):
    """([path of a picture], [path of a video]). Raises UserError when there is nothing to read."""
    inputs, earlier = find_inputs(arguments.inputs, arguments.recursive)
    if earlier:
        log(f"Results of earlier runs that were left out: {len(earlier)}")
    if not inputs and arguments.webcam is None:
        raise UserError("Nothing to read: give pictures, videos or folders, or --webcam.")
    videos = [path for path in inputs if is_video(path)]
    pictures = [path for path in inputs if not is_video(path)]
    if arguments.explain and not pictures:
        raise UserError("--explain is for pictures, and there is none here: leave it out.")
    if arguments.every is not None and not videos:
        raise UserError("--every is for videos, and there is none here: leave it out.")
    if arguments.smooth != SMOOTHING and not videos and arguments.webcam is None:
        raise UserError("--smooth is for videos, and there is none here: leave it out.")
    return pictures, videos


def show_pictures(recognizer, paths, tables, outputs, arguments, log):
    """Print, tabulate and draw the faces of pictures. Returns how many could not be read."""
    failures = 0
    hides_bar = arguments.quiet or len(paths) < 2 or not sys.stderr.isatty()
    with tqdm(paths, unit=" pictures", disable=hides_bar, dynamic_ncols=True) as bar:
        for path, result in zip(bar, recognizer.iter_images(paths), strict=True):
            if result.error is not None:
                tqdm.write(f"error: {result.error}", file=sys.stderr)
                failures += 1
                continue
            show_faces(result, tables, log)
            if not arguments.no_pictures:
                draw_result(result, path, outputs, log)
    return failures


def show_faces(result, tables, log):
    """Print and tabulate the faces of a picture."""
    if result.more:
        log(f"{result.file}: only the first of its {result.more} is read")
    if not result.faces:
        log(f"{result.file}: no face found")
    for face in result.faces:
        for table in tables:
            table.add(face.to_dict())
        log(f"{result.file}  {describe_face(face)}")


def describe_face(face):
    """A face in one line: box, confidence, emotion, values."""
    left, top, right, bottom = face.box.rounded()
    parts = [f"[{left},{top} {right},{bottom}]"]
    if face.confidence is not None:
        parts.append(f"face {face.confidence:.0%}")
    parts.append(f"{face.emotion} {face.probability:.0%}")
    known = {name: value for name, value in face.dimensions.items() if value is not None}
    parts += [f"{name[0].upper()} {value:+.2f}" for name, value in known.items()]
    return "  ".join(parts + ["uncertain"] * face.uncertain)


def draw_result(result, path, outputs, log):
    """Draw the faces of a picture, beside it or in --out."""
    from inference.figures import plot_faces  # slow to import

    target = outputs.path(path, "_emotion.png")
    figure = plot_faces(result.image, result.faces, as_text(path.name), size=result.size)
    save_figure(figure, target, path)
    log(f"  written: {as_text(target)}")


def show_video(recognizer, path, tables, outputs, arguments, log):
    """Tabulate, annotate and plot the faces of a video. Returns whether it could be read."""
    from inference.video import save_video_results  # slow to import

    try:
        save_video_results(
            recognizer,
            path,
            outputs,
            tables,
            pictures=not arguments.no_pictures,
            log=log,
            every=arguments.every or 1,
            smoothing=arguments.smooth,
        )
    except Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def check_flags(arguments):
    """Raise UserError for flags that have no effect, or names of tables that cannot be."""
    given = {
        name
        for name, value in vars(arguments).items()
        if value is not None and value is not False and value != []
    }
    for mode, others in INCOMPATIBLE.items():
        for name in others:
            if {mode, name} <= given:
                flag = "FILE" if name == "inputs" else f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} cannot be combined with --{mode.replace('_', '-')}.")
    tables = {"--csv": arguments.csv, "--json": arguments.json}
    for flag, path in tables.items():
        if path is not None and (is_image(path) or is_video(path)):  # as of --csv *.jpg
            raise UserError(
                f"{flag} {path}: a table cannot be a picture or a video. Give another name, and "
                f"name the files to read before {flag}."
            )
    if {"csv", "json"} <= given and len({os.path.realpath(path) for path in tables.values()}) < 2:
        raise UserError(f"--csv and --json both name {arguments.csv}: give two names.")


def input_argument(text):
    """The `Path` of a file, a folder or a pattern, for `type=` of argparse."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"invalid file: {text} is a web address: save the picture or video and give its name "
            "(a camera's address goes with --webcam)"
        )
    return Path(path_argument(text))


def camera_argument(text):
    """The number of a camera, or its address, for `type=` of argparse."""
    if not text.isdecimal() and "://" not in text:
        raise argparse.ArgumentTypeError(
            f"invalid camera: {text!r} is no number and no address (rtsp://... or http://...)"
        )
    return int(text) if text.isdecimal() else text


def count_argument(text):
    """A whole number from 1, for `type=` of argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"invalid count: {text!r} is no whole number from 1")
    return int(text)


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="visualize.py",
        description="Show emotion, valence, arousal and dominance of the faces in pictures and "
        "videos.",
        epilog=f"Scales: {SCALES}.",
    )
    add = parser.add_argument
    add("inputs", nargs="*", type=input_argument, metavar="FILE", help="pictures, videos, folders")
    add("--recursive", action="store_true", help="also the folders below a folder")
    add(
        "--webcam",
        nargs="?",
        type=camera_argument,
        const=0,
        metavar="N",
        help="watch camera N (default: 0), or the one at rtsp://... or http://...",
    )
    add_recognizer_flags(parser.add_argument_group("faces and network").add_argument)
    add_output_flags(parser)
    return parser


def add_recognizer_flags(add):
    """How faces are found and read."""
    add(
        "--face",
        choices=FACE_CHOICES,
        default="auto",
        help="find faces, or none: take the centre square of each picture (default: auto)",
    )
    add(
        "--confidence",
        type=float,
        default=CONFIDENCE,
        metavar="T",
        help=f"detections below are discarded, 0 to 1 (default: {CONFIDENCE})",
    )
    add(
        "--checkpoints",
        action="append",
        type=path_argument,
        metavar="DIR",
        help=f"folder of .t7 files, or a file; several: repeat it (default: {RELEASED.name})",
    )
    add("--device", choices=DEVICES, default="auto", help="default: auto")


def add_output_flags(parser):
    """What is read of videos, and what is written."""
    add = parser.add_argument_group("videos and cameras").add_argument
    add("--every", type=count_argument, metavar="N", help="read every Nth frame (default: 1)")
    add(
        "--smooth",
        type=float,
        default=SMOOTHING,
        metavar="SECONDS",
        help=f"time over which values are smoothed, 0: not at all (default: {SMOOTHING})",
    )
    add = parser.add_argument_group("output").add_argument
    folder_help = "folder for results (default: beside each file)"
    add("--out", type=path_argument, metavar="DIR", help=folder_help)
    add("--csv", type=path_argument, metavar="FILE", help="also write a table, a row per face")
    add("--json", type=path_argument, metavar="FILE", help="the same as JSON")
    add("--no-pictures", action="store_true", help="draw no pictures, annotate no videos")
    add("--explain", action="store_true", help="draw what spoke for each emotion (Grad-CAM)")
    add("--quiet", action="store_true", help="print errors only")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
