"""Show emotion, valence, arousal and dominance of the faces in pictures and videos.

    python visualize.py photo.jpg                    # a line a face, and photo_emotion.png beside the photo
    python visualize.py holiday/ --recursive --csv faces.csv
    python visualize.py talk.mp4                     # an annotated video, a table, a plot over time
    python visualize.py --webcam
    python visualize.py photo.jpg --synthesize all   # each face with other expressions (FERSNet)
    python visualize.py --export onnx

From Python:

    from visualize import EmotionRecognizer
    for face in EmotionRecognizer().recognize("photo.jpg"):
        print(face.box, face.emotion, face.probabilities, face.valence, face.arousal, face.dominance)
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from inference import detector, results
from inference.networks import RELEASED, RELEASED_SYNTHESIZER, load_networks
from inference.places import OutputPaths, expand, marks, placing, save_figure
from inference.recognizer import EmotionRecognizer, Face
from training.engine import CROPS
from training.runtime import DEVICES, PRECISIONS
from utils import pictures
from utils.files import UserError, as_text, exit_code, given_path
from utils.pictures import Unreadable, is_video, prefetch

__all__ = ["EmotionRecognizer", "Face"]

CALIBRATION_FACES = 512  # of the training, for a network with 8 bits
BATCH = 16  # pictures or frames whose faces go through the network together
# Flags that mean nothing beside one that does something else instead.
IDLE = {
    "export": ("inputs", "recursive", "webcam", "synthesize", "csv", "json", "no_pictures", "show"),
    "webcam": ("inputs", "recursive", "synthesize", "out", "csv", "json", "no_pictures", "show"),
    "synthesize": ("csv", "json", "no_pictures", "show"),
}
MEANING = "valence -2 unpleasant .. 2 pleasant; arousal -2 calm .. 2 excited; dominance -2 submissive .. 2 in control"


def main(arguments):
    """Read everything that was asked for. Returns the exit code: 1 when something could not be read."""
    check_flags(arguments)
    output_paths = OutputPaths(arguments.out)
    if arguments.export:
        return export(output_paths, arguments)
    inputs = list(expand(arguments.inputs, arguments.recursive))
    stills = [path for path in inputs if not is_video(path)]
    if not (stills if arguments.synthesize else inputs) and arguments.webcam is None:
        kinds = "pictures or folders" if arguments.synthesize else "pictures, folders or videos, or --webcam"
        raise UserError(f"Nothing to look at: give {kinds}.")
    if arguments.synthesize:
        return synthesize(stills, output_paths, arguments)
    recognizer = EmotionRecognizer(
        arguments.checkpoints, arguments.face, arguments.face_model, arguments.crops, arguments.device,
        arguments.precision,
    )  # fmt: skip
    warn_of_drawn_faces(recognizer, arguments)
    if arguments.webcam is not None:
        return watch_camera(recognizer, arguments)
    print_line(arguments, MEANING)
    failures = 0
    with results.table(arguments.csv, arguments.json) as add:
        for seen in read_stills(recognizer, stills):
            failures += report_picture(seen, add, output_paths, arguments)
        for path in filter(is_video, inputs):
            failures += not read_video(recognizer, path, add, output_paths, arguments)
    if failures:
        print(f"{failures} of {len(inputs)} could not be read", file=sys.stderr)
    return 1 if failures else 0


def export(output_paths, arguments):
    """Write the network as ONNX, and with 8 bits where training faces are there to calibrate it. Returns the code."""
    from data.faces import load_split
    from data.fer2013.sources import HOME
    from inference.export import export_int8, export_onnx

    [path] = output_paths.beside(Path("emotion.onnx"), "", ".onnx")
    export_onnx(load_networks(arguments.checkpoints), path)
    print(f"written: {path}")
    if (HOME / "data.h5").exists():
        [small] = output_paths.beside(Path("emotion.onnx"), "_int8", ".onnx")
        export_int8(path, small, load_split(HOME / "data.h5", "Training", limit=CALIBRATION_FACES).images)
        print(f"written: {small}, four times smaller, with 8-bit convolutions")
    else:
        print("no 8-bit network: its ranges are measured on training faces, and data/ has no data.h5")
    return 0


@dataclass(frozen=True)
class Seen:
    """What became of one picture: `error`, or what is drawn of it, its height and width, and its faces and a remark
    (None: nothing to remark).
    """

    path: Path
    picture: np.ndarray | None = None
    size: tuple = ()
    faces: tuple = ()
    remark: str | None = None
    error: str | None = None


def read_stills(recognizer, paths):
    """Yield what is `Seen` in each picture, in order. Pictures are read and searched ahead in another thread."""

    def look(path):
        try:
            picture = pictures.read_picture(path)
            grey = pictures.to_grey(picture)
            return pictures.thinned(picture), grey.shape, recognizer.find(grey)
        except Unreadable as error:
            return str(error)

    quiet = len(paths) < 2 or not sys.stderr.isatty()
    with tqdm(total=len(paths), unit=" pictures", disable=quiet, dynamic_ncols=True) as bar:
        for batch in in_batches(zip(paths, prefetch(look, paths), strict=True), BATCH):
            yield from read_batch(recognizer, batch)
            bar.update(len(batch))


def read_batch(recognizer, batch):
    """[(path, error text or (picture, size, `Found`))] -> what is `Seen` in each."""
    faces = iter(recognizer.read_faces([looked[2] for _, looked in batch if not isinstance(looked, str)]))
    for path, looked in batch:
        if isinstance(looked, str):
            yield Seen(path, error=looked)
        else:
            picture, size, found = looked
            yield Seen(path, picture, size, tuple(next(faces)), found.remark)


def report_picture(seen, add, output_paths, arguments):
    """Print, tabulate and draw one picture's faces. Returns whether it could not be read."""
    if seen.error:
        print(f"error: {seen.error}", file=sys.stderr)
        return True
    if seen.remark:
        print_line(arguments, f"{seen.path}: {seen.remark}")
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


def line(path, face):
    """One line about one face."""
    left, top, right, bottom = face.box.rounded()
    values = "  ".join(
        f"{name[0].upper()} {value:+.2f}" for name, value in face.dimensions.items() if value is not None
    )
    return f"{path}  [{left},{top} {right},{bottom}]  {face.emotion} {face.probability:.0%}  {values}"


def synthesize(inputs, output_paths, arguments):
    """Draw every face of every picture with other expressions. Returns the exit code."""
    from inference.synthesize import FaceSynthesizer
    from training.fersnet.sheet import contact_sheet

    synthesizer = FaceSynthesizer(arguments.checkpoints or RELEASED_SYNTHESIZER, arguments.device, arguments.precision)
    expressions = synthesizer.expressions(arguments.synthesize)
    locate, failures = detector.Finder(arguments.face, arguments.face_model), 0
    for path in inputs:
        try:
            grey = pictures.to_grey(pictures.read_picture(path))
        except Unreadable as error:
            print(f"error: {error}", file=sys.stderr)
            failures += 1
            continue
        boxes, remark = locate(grey)
        if remark:
            print_line(arguments, f"{path}: {remark}")
        if boxes:
            faces = np.stack([detector.crop_face(grey, box, synthesizer.size) for box in boxes])
            synthesized = synthesizer.synthesize(faces, expressions)
            rows = [(str(number), [face, *others])
                    for number, (face, others) in enumerate(zip(faces, synthesized, strict=True), 1)]  # fmt: skip
            [target] = output_paths.beside(path, "_emotion_drawn", ".png")
            with placing(target) as temporary:
                temporary.write_bytes(contact_sheet(rows, ("input", *expressions), marks(path)))
            print_line(arguments, f"{path}: {len(faces)} faces, synthesized: {target}")
    return 1 if failures else 0


def read_video(recognizer, path, add, output_paths, arguments):
    """Annotate a video, tabulate its faces, plot them over time. Returns whether it could be read."""
    from inference.figures import draw_timeline
    from inference.video import annotate, count_frames, read_frames, video_writer

    video, table, plot = output_paths.beside(path, "_emotion", ".mp4", ".csv", ".png")
    rows, stopped = [], None
    try:
        total, rate = count_frames(path)
        bar = tqdm(total=total or None, unit=" frames", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        with bar, video_writer(video, rate) as write, results.table(table) as add_here:
            try:
                for frames in in_batches(read_frames(path), BATCH):
                    greys = [pictures.to_grey(frame) for _, _, frame in frames]
                    read = recognizer.read_faces([recognizer.find(grey) for grey in greys])
                    for (number, seconds, frame), faces in zip(frames, read, strict=True):
                        write(annotate(frame, faces))
                        for place, face in enumerate(faces, 1):
                            row = results.row(path, place, face, number, seconds)
                            add_here(row)
                            add(row)
                            rows += [row] if place == 1 else []
                    bar.update(len(frames))
            except KeyboardInterrupt as error:  # what was seen so far is written
                stopped = error
    except Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    save_figure(draw_timeline(rows, as_text(path.name)), plot, path)
    print_line(arguments, f"{path}: {len(rows)} frames with faces. Written: {video}, {table.name}, {plot.name}")
    if stopped is not None:
        raise stopped
    return True


def watch_camera(recognizer, arguments):
    """Show what the camera sees in a window until it is closed."""
    from matplotlib import pyplot

    from inference.video import annotate, read_frames

    if not has_window(pyplot):
        raise UserError("--webcam needs a window, and there is no display here: record a video and give its file.")
    figure, axes = pyplot.subplots()
    axes.set_axis_off()
    shown = None
    for _, _, frame in read_frames(arguments.webcam):
        picture = annotate(frame, recognizer.recognize(frame))
        if shown is None:
            shown = axes.imshow(picture)
        shown.set_data(picture)
        pyplot.pause(0.001)
        if not pyplot.fignum_exists(figure.number):
            break
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


def in_batches(items, size):
    """Lists of up to `size` items."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


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
            raise UserError(f"{shown} means nothing with --{mode}: leave one of them out.")


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="visualize.py",
        description="Show emotion, valence, arousal and dominance of the faces in pictures and videos.",
        epilog=f"Scales: {MEANING}.",
    )
    parser.add_argument(
        "inputs", nargs="*", type=given_path, metavar="FILE", help="pictures, videos, or folders of them"
    )
    parser.add_argument("--recursive", action="store_true", help="also the folders below a folder")
    parser.add_argument("--webcam", nargs="?", type=int, const=0, metavar="N", help="watch camera N (default: 0)")

    faces = parser.add_argument_group("faces and network")
    faces.add_argument("--face", choices=detector.FACE_CHOICES, default="auto",
                       help="find faces, or none: take the middle square of each picture (default: auto)")  # fmt: skip
    faces.add_argument("--face-model", type=given_path, metavar="FILE", help="find faces with this YuNet model (.onnx)")
    faces.add_argument("--checkpoints", type=given_path, metavar="DIR",
                       help=f"folder of .t7 files, or one file (default: {RELEASED.name}; with --synthesize "
                            f"{RELEASED_SYNTHESIZER.name})")  # fmt: skip
    faces.add_argument("--crops", choices=tuple(CROPS), default="fourcrop",
                       help="1, 2, 4 or the evaluation's 10 views of each face (default: fourcrop)")  # fmt: skip
    faces.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    faces.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")

    output = parser.add_argument_group("output")
    output.add_argument("--out", type=given_path, metavar="DIR", help="folder for results (default: beside each file)")
    output.add_argument("--csv", type=given_path, metavar="FILE", help="also write a table, a row a face")
    output.add_argument("--json", type=given_path, metavar="FILE", help="the same as JSON")
    output.add_argument("--no-pictures", action="store_true", help="do not draw pictures")
    output.add_argument("--show", action="store_true", help="open each drawn picture in a window")
    output.add_argument("--quiet", action="store_true", help="print errors only")
    output.add_argument("--synthesize", nargs="+", metavar="EXPRESSION",
                        help="synthesize each face with these expressions, or all, by a FERSNet, instead")  # fmt: skip
    output.add_argument("--export", choices=("onnx",), help="write the network as emotion.onnx instead")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
