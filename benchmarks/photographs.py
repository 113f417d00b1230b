"""Accuracy of checkpoints on labelled photographs, read as visualize.py reads them.

    python benchmarks/photographs.py FOLDER CHECKPOINT ... [--shrink SIDE] [--out FILE.json]

FOLDER holds the photographs and labels.csv with the columns `file` and `emotion` (a class name).
Of each photograph the largest face counts; where none is found, the answer is wrong. Accuracy and
mean recall (percent) are over the photographs of five classes: those of Disgust and Fear are
reported apart, by their recalls. --shrink: each photograph is reduced first, so that its shorter
side has so many pixels, and enlarged again. Intervals: 95%, bootstrap over photographs; a
difference is paired, from the first checkpoint.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    describe_machine,
    mean_interval,
    print_table,
    spell,
    write_json,
)
from inference.detection import crop_faces
from inference.recognizer import EmotionRecognizer
from training.device import DEVICES, setup_device
from utils.files import UserError, exit_code, path_argument
from utils.images import in_batches, prefetch, read_image, to_grey
from utils.progress import Progress
from utils.tasks import EMOTIONS

BATCH = 64  # photographs
APART = ("Disgust", "Fear")
MEASURED = tuple(name for name in EMOTIONS if name not in APART)
MISSED = "no face found"


def read_labels(folder):
    """A DataFrame with `file` and `emotion`. Raises UserError."""
    path = folder / "labels.csv"
    try:
        labels = pandas.read_csv(path, dtype=str)[["file", "emotion"]]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} must be a table with the columns file and emotion: {error}."
        ) from error
    unknown = sorted(set(labels["emotion"].fillna("")) - set(EMOTIONS))
    if unknown or labels.empty:
        raise UserError(
            f"{path}: each emotion must be one of {', '.join(EMOTIONS)}, not {unknown[:3]}."
        )
    return labels


def shrink(picture, side):
    """A picture (H, W, 3) reduced to a shorter side of `side` pixels and enlarged again."""
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return picture
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def read_emotions(recognizers, paths, side):
    """{name: the emotion that a recognizer reads in each photograph, or `MISSED`}.

    recognizers: {name: `EmotionRecognizer`}; the first one finds the faces. side: see `shrink`.
    """

    def read(path):
        return read_image(path) if side is None else shrink(read_image(path), side)

    detector = next(iter(recognizers.values())).detector
    emotions = {name: [] for name in recognizers}
    with Progress("photographs", len(paths)) as progress:
        for pictures in in_batches(prefetch(read, paths), BATCH):
            found = [detector.detect(picture)[:1] for picture in pictures]
            boxes = [box for each in found for box in each]
            pairs = zip(pictures, found, strict=True)
            crops = np.concatenate([crop_faces(to_grey(picture), each) for picture, each in pairs])
            for name, recognizer in recognizers.items():
                faces = iter(recognizer.predict(crops, boxes))
                emotions[name] += [next(faces).emotion if each else MISSED for each in found]
            progress.add(len(pictures))
    return {name: np.array(values) for name, values in emotions.items()}


def weigh(truth):
    """(N,) float, weights of the photographs with which the mean of hits is the mean recall."""
    counts = {name: (truth == name).sum() for name in np.unique(truth)}
    return np.array([len(truth) / (len(counts) * counts[name]) for name in truth])


def measure(truth, emotions):
    """{figure: value} of the true emotions (N,) and those that were read (N,)."""
    present = [name for name in EMOTIONS if (truth == name).any()]
    counts = pandas.crosstab(truth, emotions)
    return {
        **summarize(truth, emotions == truth),
        "recalls": {name: 100 * (emotions == name)[truth == name].mean() for name in present},
        "photographs": {name: int((truth == name).sum()) for name in present},
        "missed": int((emotions == MISSED).sum()),
        "read": counts.loc[present].T.to_dict(),
    }


def summarize(truth, gained):
    """Accuracy and mean recall over `MEASURED`; gained (N,): hits, or the difference of two."""
    rows = np.isin(truth, MEASURED)
    gained = 100.0 * gained[rows]
    weighted = gained * weigh(truth[rows])
    return {"accuracy": mean_interval(gained), "mean recall": mean_interval(weighted)}


def print_figures(report, names):
    """Print a row for each checkpoint."""
    rows = []
    for name in names:
        found = report[name]
        recalls = [f"{recall:.1f}" for recall in found["recalls"].values()]
        spelled = [spell(found[figure]) for figure in ("accuracy", "mean recall")]
        rows.append([name, *spelled, *recalls, str(found["missed"])])
    classes = report[names[0]]["photographs"]
    headings = [f"{name} ({count})" for name, count in classes.items()]
    print_table(["", "accuracy %", "mean recall %", *headings, "missed"], rows)


def main(arguments):
    """Measure, print and write. Returns the exit code."""
    setup_device(arguments.device)
    labels = read_labels(arguments.folder)
    truth = labels["emotion"].to_numpy()
    recognizers = {
        str(path): EmotionRecognizer(path, device=arguments.device)
        for path in arguments.checkpoints
    }
    paths = [arguments.folder / name for name in labels["file"]]
    emotions = read_emotions(recognizers, paths, arguments.shrink)
    report = {"machine": describe_machine(), "shrink": arguments.shrink}
    report |= {name: measure(truth, values) for name, values in emotions.items()}
    print_figures(report, list(emotions))
    first, *others = emotions
    for name in others:
        gained = (emotions[name] == truth) - 1.0 * (emotions[first] == truth)
        report[f"{name}, difference from {first}"] = found = summarize(truth, gained)
        spelled = ", ".join(f"{figure} {spell(value)}" for figure, value in found.items())
        print(f"{name}, difference from {first}: {spelled}")
    write_json(report, arguments.out)
    return 0


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=path_argument, metavar="FOLDER")
    parser.add_argument("checkpoints", nargs="+", type=path_argument, metavar="CHECKPOINT")
    parser.add_argument("--shrink", type=int, metavar="SIDE", help="pixels of the shorter side")
    parser.add_argument(
        "--out", type=path_argument, default=Path("photographs.json"), metavar="FILE"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
