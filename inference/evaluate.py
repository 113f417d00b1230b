"""Evaluate checkpoints on the test splits of FER2013, with bootstrap intervals.

    python -m inference.evaluate --checkpoints DIR --data PATH [--split PrivateTest] [--gold CSV]

Every metric is printed and written to evaluation.json with a 95% interval (percentile bootstrap
over faces, 10,000 samples, seed 0). Probabilities are those that `visualize.py` reports: divided by
the temperature of the checkpoint. Each split is evaluated against FER2013's labels, without the
faces whose photograph another split holds, and, with FER+ votes, against their majority.

Of a run's folder, the checkpoints that are best on the public split are taken: they were chosen
without the private split, which therefore stays an honest test. (`visualize.py` takes those that
are best on the private split: it has photographs to read and nothing left to test.)

--gold: a CSV of human ratings of V/A/D, see `read_ratings`.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import torch
import torch.nn.functional as F

from data import DATASETS
from data.copies import find_copies
from data.votes import majority_votes
from inference.checkpoints import (
    RELEASED,
    load_networks,
    predict_tasks,
    ready_to_predict,
    reason_of,
    temperature_of,
)
from training import metrics
from training.calibration import calibration_metrics, calibration_terms
from training.device import DEVICES, PRECISIONS, setup_device
from training.engine import CROPS
from utils.files import (
    UserError,
    as_text,
    as_user_error,
    atomic_write,
    exit_code,
    move_aside,
    one_line,
    path_argument,
    sha256_of,
)
from utils.tasks import DIMENSIONS, EMOTIONS, TASKS, TEST_SPLITS, VAD_LIMIT
from utils.text import counted

SAMPLES = 10_000
AT_A_TIME = 50  # samples


@dataclass(frozen=True)
class Block:
    """Ratings of faces of one split by one rater or group of raters.

    name: "" where the table has no column `block`; split: a name from `SPLITS`; rows (M,) int64 of
    the faces in the split; ratings (M, 3) float32 in -2..2.
    """

    name: str
    split: str
    rows: torch.Tensor
    ratings: torch.Tensor

    @property
    def title(self):
        """The heading of its metrics."""
        block = f" ({self.name})" if self.name else ""
        return f"human ratings of {len(self.rows)} {self.split} faces{block}"


def read_ratings(path, counts):
    """The `Block`s of a CSV with the columns index, Valence, Arousal and Dominance, in its order.

    index: the row of the split, from 0. Optional columns: split (default: PublicTest) and block.
    counts: {split: its number of faces}. Raises UserError.
    """
    columns, names = ["index", *DIMENSIONS], {"block": str, "split": str}
    try:
        table = pandas.read_csv(path, encoding="utf-8-sig", dtype=names, keep_default_na=False)
        values = table[columns].to_numpy("float64")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is no table of ratings ({one_line(error)}): it needs the columns "
            f"{', '.join(columns)}, all numbers."
        ) from error
    for name, default in (("block", ""), ("split", "PublicTest")):
        if name not in table:
            table[name] = default
    index, ratings = values[:, 0], values[:, 1:]
    size = table["split"].map(counts).to_numpy("float64")
    known = (index % 1 == 0) & (index >= 0) & (index < size)  # false for NaN
    in_range = (np.abs(ratings) <= VAD_LIMIT).all(axis=1)
    if not (len(table) and (known & in_range).all()) or table.duplicated([*names, "index"]).any():
        raise UserError(
            f"{path}: split must be one of {', '.join(counts)}, index must name different rows of "
            "it, from 0, and ratings must lie in -2..2."
        )
    groups = table.groupby(list(names), sort=False).indices.items()
    return [
        Block(*names, torch.from_numpy(index[rows]).long(), torch.from_numpy(ratings[rows]).float())
        for names, rows in groups
    ]


def main(arguments):
    """Evaluate, print, write evaluation.json. Returns the exit code."""
    runtime = setup_device(arguments.device, arguments.precision)
    networks = ready_to_predict(load_networks(arguments.checkpoints, TEST_SPLITS), runtime)
    dataset = DATASETS["FER2013"](arguments.data, out=arguments.out)
    counts = {name: len(faces) for name, faces in dataset.splits.items()}
    blocks = [] if arguments.gold is None else read_ratings(arguments.gold, counts)
    if blocks and not any(set(network.tasks) - {"classify"} for network in networks):
        raise UserError("--gold: these checkpoints predict no valence, arousal or dominance.")
    how = describe(networks, dataset, runtime, arguments.crops)
    print("\n".join(f"{name}: {text}" for name, text in how.items()))
    report = {"how": how}
    for split in arguments.split:
        images = dataset.splits[split].images
        outputs = predict_tasks(networks, images, runtime, arguments.crops, split)
        outputs["classify"] = outputs["classify"] / temperature_of(networks)
        report |= evaluate_split(split, dataset.splits, outputs)
        for block in (block for block in blocks if block.split == split):
            targets = {
                name: block.ratings[:, TASKS[name].dimension]
                for name in outputs.keys() - {"classify"}
            }
            report[block.title] = measure(select(outputs, block.rows), targets)
    for title in list(report)[1:]:
        print(f"\n{title}\n{as_table(report[title])}")
    for block in (block for block in blocks if block.split not in arguments.split):
        print(f"\n{block.title}: left out, {block.split} is not evaluated")
    write_report(report, arguments.out / "evaluation.json")
    return 0


def describe(networks, dataset, runtime, crops):
    """{what: text}: which networks were evaluated, on which faces, how."""
    texts = {}
    for network in networks:
        parts = [as_text(network.file), f"SHA-256 {sha256_of(network.file)}"]
        parts += [reason_of(network.file), f"trained on {network.dataset}"]
        parts += [f"epoch {network.epoch}"]
        texts |= dict.fromkeys(network.tasks, ", ".join(filter(None, parts)))
    counts = [f"{name} {len(faces):,}" for name, faces in dataset.splits.items()]
    faces = f"{dataset.description} ({', '.join(counts)})"
    return texts | {"faces": faces, "device": runtime.describe(), "crops": crops}


def evaluate_split(split, splits, outputs):
    """{title: {task: metrics}} of a test split: all faces, without copies, against FER+ votes.

    splits: {name: `Faces`}; outputs: {task: (N, width)} of the split, logits calibrated.
    """
    faces = splits[split]
    targets = {
        name: metrics.task_target(TASKS[name], faces.labels, faces.vad)
        for name in outputs
        if TASKS[name].dimension is None or faces.vad is not None
    }
    report = {split: measure(outputs, targets)}
    copied = is_copied(splits, split)
    if copied.any():
        what = f"the {counted(int(copied.sum()), 'face')} whose photograph another split holds, too"
        found = measure(select(outputs, ~copied), select(targets, ~copied))
        report[f"{split} without {what}"] = found
    if faces.votes is not None:
        majority = majority_votes(faces.votes)
        rows = majority >= 0
        found = measure(select(outputs, rows), {"classify": majority[rows]})
        report[f"{split}, majority of the FER+ votes"] = found
    return report


def select(columns, rows):
    """{name: (N, ...)} -> {name: the rows of it}."""
    return {name: column[rows] for name, column in columns.items()}


def is_copied(splits, split):
    """(N,) bool: the faces of a split whose photograph is in another split, too."""
    images = splits[split].images
    copied = torch.zeros(len(images), dtype=torch.bool)
    for other in splits.keys() - {split}:
        copied[find_copies(images, splits[other].images)[:, 0]] = True
    return copied


def measure(outputs, targets):
    """{task: {metric: {"value", "low", "high"}}} of the targets; classes: also "confusion".

    outputs: {task: (N, width)}; targets: {task: (N,)}. low and high bound the middle 95% of
    `SAMPLES` resamples of the faces. The recall of a class without faces is left out.
    """
    report = {}
    for name, target in targets.items():
        compute, output = METRICS[TASKS[name].kind], outputs[name].double()
        rows, random = torch.arange(len(target))[None], np.random.default_rng(0)
        values, samples = compute(output, target, rows), []
        for _ in range(SAMPLES // AT_A_TIME):
            rows = torch.from_numpy(random.integers(0, len(target), (AT_A_TIME, len(target))))
            samples.append(compute(output, target, rows))
        report[name] = {}
        for metric, value in values.items():
            if value.isfinite():
                drawn = torch.cat([each[metric] for each in samples])
                low, high = np.nanpercentile(drawn.numpy(), (2.5, 97.5)).tolist()
                report[name][metric] = {"value": value.item(), "low": low, "high": high}
        if name == "classify":
            confusion = metrics.confusion_matrix(output.argmax(dim=1), target)
            report[name]["confusion"] = confusion.tolist()
    return report


def classification_metrics(logits, labels, rows):
    """{metric: (S,)} of logits (N, 7) and labels (N,) in rows (S, M).

    Accuracy and recalls are in percent.
    """
    classes = len(EMOTIONS)
    cells = F.one_hot(labels * classes + logits.argmax(dim=1), classes**2).double()
    times = torch.zeros(len(rows), len(labels), dtype=torch.float64)
    times.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
    confusion = (times @ cells).view(-1, classes, classes)
    hits = confusion.diagonal(dim1=1, dim2=2)
    recalls = (100 * hits / confusion.sum(dim=2)).unbind(1)
    return {
        "Acc": 100 * hits.sum(dim=1) / rows.shape[1],
        "F1": metrics.macro_f1(confusion),
        **{f"recall {name}": recall for name, recall in zip(EMOTIONS, recalls, strict=True)},
        **calibration_metrics(times @ calibration_terms(logits, labels) / rows.shape[1]),
    }


def regression_metrics(values, target, rows):
    """{metric: (S,)} of values (N, 1) and targets (N,) in rows (S, M)."""
    x, y = values[rows, 0], target.double()[rows]
    return {
        "CCC": metrics.concordance(x, y),
        "PCC": metrics.pearson(x, y),
        "SAGR": metrics.sign_agreement(x, y),
        "MSE": (x - y).square().mean(dim=1),
    }


METRICS = {"classification": classification_metrics, "regression": regression_metrics}


def as_table(report):
    """{task: metrics} as text: a line per metric, then the confusion matrix."""
    table = pandas.DataFrame(
        [
            {"task": task, "metric": metric, **numbers}
            for task, found in report.items()
            for metric, numbers in found.items()
            if metric != "confusion"
        ]
    ).to_string(index=False, float_format="%.3f")
    if "classify" not in report:
        return table
    confusion = pandas.DataFrame(report["classify"]["confusion"], EMOTIONS, EMOTIONS)
    return f"{table}\nRows: true classes, columns: predicted ones.\n{confusion}"


def write_report(report, path):
    """Write evaluation.json; an earlier one is moved to previous/."""
    remedy = "make room, or choose another --out"
    with as_user_error(path, remedy), atomic_write(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8", newline="\n")
        moved = move_aside([path], path.parent)
    print(f"\nWritten: {path}" + (f"; the earlier one is in {moved}" if moved else ""))


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.evaluate",
        description="Evaluate checkpoints on the test splits of FER2013, with bootstrap intervals.",
    )
    parser.add_argument(
        "--checkpoints", type=path_argument, metavar="DIR",
        help="folder of .t7 files, of which those best on the public split are taken, or one file "
        f"(default: {RELEASED.name})",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=path_argument, metavar="PATH",
        help="archive, folder, table or data.h5 (default: data/)",
    )  # fmt: skip
    parser.add_argument("--split", nargs="+", choices=TEST_SPLITS, default=TEST_SPLITS)
    parser.add_argument("--gold", type=path_argument, metavar="CSV", help="human ratings of V/A/D")
    parser.add_argument("--crops", choices=tuple(CROPS), default="tencrop")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument(
        "--out", type=path_argument, default=Path("."), metavar="DIR",
        help="for evaluation.json, and data.h5 where --data is read-only (default: this folder)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
