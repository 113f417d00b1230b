"""Evaluate checkpoints on the test splits of FER2013, with bootstrap intervals.

    python -m inference.evaluate --checkpoints DIR --data PATH [--split PrivateTest] [--gold CSV]

Every metric is printed and written to evaluation.json with a 95% interval (percentile bootstrap
over faces, 10,000 samples, seed 0). Probabilities are those that `visualize.py` reports: divided by
the temperature of the checkpoint. Each split is evaluated against FER2013's labels, without the
faces whose photograph another split holds, and, with FER+ votes, against their majority.

Of a run's folder, the checkpoints that are best on the public split are taken: they were chosen
without the private split, which therefore stays an honest test. (`visualize.py` takes those that
are best on the private split: it has photographs to read and nothing left to test.)

--gold: a CSV of human ratings of V/A/D, see `inference.ratings`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas
import torch
import torch.nn.functional as F

from data import DATASETS
from data.copies import find_copies
from data.votes import majority_votes
from inference.networks import (
    RELEASED,
    load_networks,
    predict_tasks,
    ready_to_predict,
    temperature_of,
)
from inference.ratings import read_ratings
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
    path_argument,
    sha256_of,
)
from utils.tasks import EMOTIONS, TASKS, TEST_SPLITS
from utils.text import counted

SAMPLES = 10_000
BLOCK = 50  # samples at a time
CHOSEN = {
    "PublicTest": "best on PublicTest, so that PrivateTest is an honest test",
    "PrivateTest": "best on PrivateTest, whose metrics are therefore optimistic",
}


def main(arguments):
    """Evaluate, print, write evaluation.json. Returns the exit code."""
    runtime = setup_device(arguments.device, arguments.precision)
    networks = ready_to_predict(load_networks(arguments.checkpoints, TEST_SPLITS), runtime)
    dataset = DATASETS["FER2013"](arguments.data, out=arguments.out)
    blocks = []
    if arguments.gold is not None:
        blocks = read_ratings(arguments.gold, {n: len(f) for n, f in dataset.splits.items()})
        if all(TASKS[task].dimension is None for network in networks for task in network.tasks):
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
        file = network.file
        chosen = [text for split, text in CHOSEN.items() if file.name.startswith(split)]
        parts = [file.name, f"trained on {network.dataset}", f"epoch {network.epoch}", *chosen]
        texts |= dict.fromkeys(network.tasks, f"{', '.join(parts)}, from {as_text(file.parent)}")
        texts[f"SHA-256 of {as_text(file)}"] = sha256_of(file)
    return texts | {
        "data": dataset.description,
        "faces": ", ".join(f"{name} {len(faces):,}" for name, faces in dataset.splits.items()),
        "device": runtime.describe(),
        "crops": crops,
    }


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
        make_terms, compute = METRICS[TASKS[name].kind]
        terms = make_terms(outputs[name].double(), target)
        values, samples = compute(terms.mean(dim=0)), compute(bootstrap_means(terms))
        known = [metric for metric, value in values.items() if value.isfinite()]
        report[name] = {each: interval(values[each].item(), samples[each]) for each in known}
        if name == "classify":
            confusion = metrics.confusion_matrix(outputs[name].argmax(dim=1), target)
            report[name]["confusion"] = confusion.tolist()
    return report


def bootstrap_means(terms):
    """Means (SAMPLES, K) of terms (N, K) over faces drawn with replacement."""
    random, count, means = np.random.default_rng(0), len(terms), []
    for _ in range(SAMPLES // BLOCK):
        rows = torch.from_numpy(random.integers(0, count, (BLOCK, count)))
        times = torch.zeros(BLOCK, count, dtype=torch.float64)
        times.scatter_add_(1, rows, torch.ones_like(times))
        means.append(times @ terms / count)
    return torch.cat(means)


def interval(value, samples):
    """A metric with the middle 95% of its bootstrap samples (SAMPLES,)."""
    low, high = np.nanpercentile(samples.numpy(), (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}


def classification_terms(logits, labels):
    """(N, K) whose means `classification_metrics` takes: cells of the confusion, calibration."""
    classes = len(EMOTIONS)
    cells = F.one_hot(labels * classes + logits.argmax(dim=1), classes**2)
    return torch.cat((cells.double(), calibration_terms(logits, labels)), dim=1)


def classification_metrics(means):
    """{metric: (...)} of means (..., K): accuracy and recalls in percent, macro F1, calibration."""
    classes = len(EMOTIONS)
    confusion = means[..., : classes**2].unflatten(-1, (classes, classes))
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    true, predicted = confusion.sum(dim=-1), confusion.sum(dim=-2)
    recalls = (100 * hits / true).unbind(-1)
    return {
        "Acc": 100 * hits.sum(dim=-1),
        "F1": (2 * hits / (true + predicted)).nanmean(dim=-1),
        **{f"recall {name}": recall for name, recall in zip(EMOTIONS, recalls, strict=True)},
        **calibration_metrics(means[..., classes**2 :]),
    }


def regression_terms(values, target):
    """(N, 6) of values (N, 1) and targets (N,): the moments from which the metrics follow."""
    x, y = values[:, 0], target.double()
    agree = metrics.signs(x) == metrics.signs(y)
    return torch.stack((x, y, x * x, y * y, x * y, agree.double()), dim=1)


def regression_metrics(means):
    """{metric: (...)} of means (..., 6); CCC and PCC of a constant are 0."""
    x, y, xx, yy, xy, agree = means.unbind(-1)
    x_variance, y_variance = (xx - x * x).clamp_min(0), (yy - y * y).clamp_min(0)
    covariance, tiny = xy - x * y, 1e-12
    spread = x_variance + y_variance + (x - y).square()
    return {
        "CCC": 2 * covariance / spread.clamp_min(tiny),
        "PCC": covariance / (x_variance * y_variance).sqrt().clamp_min(tiny),
        "SAGR": agree,
        "MSE": xx - 2 * xy + yy,
    }


METRICS = {
    "classification": (classification_terms, classification_metrics),
    "regression": (regression_terms, regression_metrics),
}


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
