"""Measure checkpoints on the test splits, with intervals, and on human ratings.

    python -m inference.evaluate --checkpoints DIR --data PATH [--split PublicTest PrivateTest] [--gold CSV]

Prints every figure with a 95% interval (percentile bootstrap over faces, 10,000 samples, seed 0) and writes them to
evaluation.json in --out; an earlier one is moved to previous/. Of a run's folder the checkpoints that the public split
chose are measured. Probabilities are measured as the network gives them and with the temperature of its checkpoint.
Each split is measured once more without the faces that another split holds, too, pixel by pixel, and without those
whose photograph is there, also moved or encoded anew. A gold CSV has the columns index, Valence, Arousal, Dominance,
where index is the row of a split, from 0; columns `split` (else PublicTest) and `block` tell apart ratings of several
splits and origins. Beside each block stands what can be reached without reading V/A/D from the picture
(`inference.ratings.floors`). --compare DIR measures the difference from other checkpoints, face by face.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import DATASETS
from data.copies import find_copies
from data.votes import majority_votes
from inference.networks import RELEASED, load_networks, predict_tasks, ready_to_predict, temperature_of
from inference.ratings import floors, read_ratings
from training import metrics
from training.calibration import calibration_error, calibration_metrics, calibration_terms, confidence_bins
from training.device import DEVICES, PRECISIONS, setup_device
from training.engine import CROPS
from utils.files import UserError, as_text, as_user_error, atomic_write, exit_code, move_aside, path_argument, sha256_of
from utils.tasks import EMOTIONS, TASKS, TEST_SPLITS
from utils.text import counted

SAMPLES = 10_000
BLOCK = 50  # of them at a time
DRAWS = 1000  # of labels, for the calibration error by chance


def main(arguments):
    """Evaluate, print, write. Returns the exit code."""
    runtime = setup_device(arguments.device, arguments.precision)
    networks = ready_to_predict(load_networks(arguments.checkpoints, TEST_SPLITS), runtime)
    others = None
    if arguments.compare is not None:
        others = ready_to_predict(load_networks(arguments.compare, TEST_SPLITS), runtime)
    if arguments.gold and all(TASKS[name].dimension is None for network in networks for name in network.tasks):
        raise UserError("--gold: these checkpoints predict no valence, arousal or dominance. Leave --gold out.")
    dataset = DATASETS["FER2013"](arguments.data, out=arguments.out)
    blocks = []
    if arguments.gold is not None:
        blocks = read_ratings(arguments.gold, {name: len(faces) for name, faces in dataset.splits.items()})
    how = provenance(networks, others or [], dataset) | {"device": runtime.describe(), "crops": arguments.crops}
    print("\n".join(f"{name}: {text}" for name, text in how.items()))
    for block in blocks:
        if block.split not in TEST_SPLITS:
            print(f"{block.title}: left out, since these faces were trained on")
    blocks = [block for block in blocks if block.split in TEST_SPLITS]
    splits = [name for name in TEST_SPLITS if name in arguments.split or any(name == block.split for block in blocks)]

    def predict(networks):
        return {
            split: predict_tasks(networks, dataset.splits[split].images, runtime, arguments.crops, split)
            for split in splits
        }

    outputs = predict(networks)
    samples = list(all_samples(arguments.split, dataset, blocks, outputs))
    temperature = temperature_of(networks)
    report = {sample.title: sample.figures(temperature) for sample in samples}
    for block in blocks:
        report |= floor_figures(block, dataset, outputs[block.split], temperature)
    if others is not None:
        compared = predict(others)
        report |= {
            f"{sample.title}, difference from {arguments.compare}": sample.differences(compared[sample.split])
            for sample in samples
        }
    print(spell(report))
    write({"how": how} | report, arguments.out / "evaluation.json")
    return 0


def write(report, path):
    """Write the report to `path` and say so. What stands there is moved to previous/, which is said, too."""
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder: move it away, or choose another --out.")
    with as_user_error(path, "make room, or choose another --out"), atomic_write(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8", newline="\n")
        moved = move_aside([path], path.parent)
    if moved:
        print(f"The earlier {path.name} was moved to {moved}")
    print(f"written: {path}")


class Sample:
    """Faces of one split that are measured together.

    rows: which, (M,) int64; targets: {task: (M,)}; outputs: {task: (N, width)} of the whole split.
    """

    def __init__(self, title, split, rows, targets, outputs):
        self.title, self.split, self.rows = title, split, rows
        self.targets = {name: target for name, target in targets.items() if name in outputs}
        self.outputs = self._of(outputs)

    def _of(self, outputs):
        return {name: outputs[name][self.rows] for name in self.targets if name in outputs}

    def figures(self, temperature):
        """{task: figures}, as `figures_of` gives them."""
        return {
            name: figures_of(TASKS[name], output, self.targets[name], temperature)
            for name, output in self.outputs.items()
        }

    def differences(self, outputs):
        """{task: what these outputs have more than others of the same faces}, see `difference_of`."""
        others = self._of(outputs)
        return {
            name: difference_of(TASKS[name], self.outputs[name], other, self.targets[name])
            for name, other in others.items()
        }


def all_samples(splits, dataset, blocks, outputs):
    """Yield the `Sample`s to measure: test splits, without repeated faces, against votes, blocks of human ratings."""
    for split in splits:
        faces = dataset.splits[split]
        known = [task for task in TASKS.values() if task.dimension is None or faces.vad is not None]
        parts = {split: torch.ones(len(faces), dtype=torch.bool)}
        identical = occurs_elsewhere(dataset.splits, split)
        for repeated, what in (
            (identical, "that another split holds, too"),
            (identical | is_copied_elsewhere(dataset.splits, split), "whose photograph another split holds, too"),
        ):
            if repeated.any():
                parts[f"{split} without the {counted(int(repeated.sum()), 'face')} {what}"] = ~repeated
        for title, chosen in parts.items():
            rows = chosen.nonzero()[:, 0]
            targets = {task.name: metrics.task_target(task, faces.labels, faces.vad)[rows] for task in known}
            yield Sample(title, split, rows, targets, outputs[split])
        if faces.votes is not None:
            labels = majority_votes(faces.votes)
            rows = (labels >= 0).nonzero()[:, 0]
            title = f"{split}, majority of the FER+ votes"
            yield Sample(title, split, rows, {"classify": labels[rows]}, outputs[split])
    for block in blocks:
        targets = {name: block.ratings[:, task.dimension] for name, task in TASKS.items() if task.dimension is not None}
        yield Sample(block.title, block.split, block.rows, targets, outputs[block.split])


def occurs_elsewhere(splits, name):
    """(N,) bool: which pictures of the split `name` of {split: `Faces`} are also in another, pixel by pixel."""
    others = {
        image.tobytes() for other, faces in splits.items() if other != name for image in faces.images.cpu().numpy()
    }
    return torch.tensor([image.tobytes() in others for image in splits[name].images.cpu().numpy()])


def is_copied_elsewhere(splits, name):
    """(N,) bool: the same of photographs, also moved by some pixels or encoded anew; see `data.copies.find_copies`."""
    copied = torch.zeros(len(splits[name]), dtype=torch.bool)
    for other, faces in splits.items():
        if other != name:
            copied[find_copies(splits[name].images, faces.images)[:, 0].cpu()] = True
    return copied


def floor_figures(block, dataset, outputs, temperature):
    """{title: {task: figures}} of what stands beside a block of ratings, see `ratings.floors`."""
    labels = dataset.splits[block.split].labels[block.rows].cpu()
    logits = outputs.get("classify")
    probabilities = None if logits is None else (logits[block.rows] / temperature).softmax(dim=1)
    found = {}
    for what, values in floors(block.ratings, labels, probabilities, dataset.splits["Training"]).items():
        found[f"{block.title}: {what}"] = {
            name: figures_of(task, values[:, [task.dimension]], block.ratings[:, task.dimension])
            for name, task in TASKS.items()
            if task.dimension is not None and name in outputs
        }
    return found


def provenance(networks, others, dataset):
    """{what: text} of the `Network`s, of those that they are compared with, and of the faces of a `Dataset`."""
    files = dict.fromkeys(network.file for network in (*networks, *others))
    return {
        **origins(networks),
        **{f"{name}, compared with": text for name, text in origins(others).items()},
        **{f"SHA-256 of {as_text(file)}": sha256_of(file) for file in files},
        "data": dataset.description,
        **{f"fingerprint of {name}": faces.fingerprint() for name, faces in dataset.splits.items()},
    }


def origins(networks):
    """{task: which network predicts it, trained on what, on which split its epoch was chosen, and its folder}."""
    described = {}
    for network in networks:
        split = next((split for split in TEST_SPLITS if network.file.name.startswith(split)), None)
        text = f"{network.file.name}, trained on {network.dataset}"
        text += "" if network.epoch is None else f", epoch {network.epoch}"
        text += "" if split is None else f" (chosen on {split}, whose figures are optimistic)"
        text += f", from {as_text(network.file.parent)}"
        described |= dict.fromkeys(network.tasks, text)
    return {name: described[name] for name in TASKS if name in described}


def figures_of(task, output, target, temperature=1.0):
    """{figure: {"value", "low", "high"}} of a task, plus its confusion matrix (rows: true class) for categories.

    output (N, width), target (N,). temperature: of the probabilities that are called calibrated; 1: there are none.
    low and high bound the middle 95% of `SAMPLES` resamples of the faces.
    """
    values, resampled = _resampled(task, output, target, temperature)
    known = [name for name, value in values.items() if not math.isnan(value)]  # the recall of an absent class is not
    figures = {name: _interval(values[name], resampled[name]) for name in known}
    if task.kind == "classification":
        figures["ECE by chance"] = _error_by_chance(output)
        if temperature != 1:
            figures["ECE by chance calibrated"] = _error_by_chance(output / temperature)
        figures["confusion"] = metrics.confusion_matrix(output.argmax(dim=1), target).tolist()
    return figures


def difference_of(task, output, other, target):
    """{figure: {"value", "low", "high"}} of output minus those of other, (N, width) both, on the same resamples.

    For categories also the faces that only one of them has right, with the two-sided p of the exact test of McNemar
    (1947) that both err as often.
    """
    (values, resampled), (before, resampled_before) = (_resampled(task, some, target) for some in (output, other))
    figures = {
        name: _interval(value - before[name], resampled[name] - resampled_before[name])
        for name, value in values.items()
        if not math.isnan(value)
    }
    if task.kind == "classification":
        right, right_before = (some.argmax(dim=1) == target for some in (output, other))
        gained, lost = (right & ~right_before).sum().item(), (~right & right_before).sum().item()
        figures["McNemar"] = {"only these right": gained, "only the others": lost, "p": mcnemar(gained, lost)}
    return figures


def mcnemar(gained, lost):
    """Two-sided p of the exact binomial test that a face decided differently is won as often as lost."""
    count, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)


def _resampled(task, output, target, temperature=1.0):
    """({figure: value}, {figure: (S,)}) of all faces and of `SAMPLES` resamples of them, the same for equal counts."""
    if task.kind == "classification":
        measure = _category_measure(output, target, temperature)
    else:
        measure = _dimension_measure(output[:, 0].double(), target.double())
    values = {name: value.item() for name, value in measure(torch.arange(len(target))[None]).items()}
    chance, shape = np.random.default_rng(0), (BLOCK, len(target))
    blocks = [measure(torch.from_numpy(chance.integers(0, len(target), shape))) for _ in range(SAMPLES // BLOCK)]
    return values, {name: torch.cat([block[name] for block in blocks]) for name in values}


def _dimension_measure(values, target):
    """A function of rows (S, M) int64 that gives {figure: (S,)} of values (N,) and target (N,)."""

    def measure(rows):
        x, y = values[rows], target[rows]
        error = (x - y).square().mean(dim=1)
        return {"CCC": metrics.concordance(x, y), "PCC": metrics.pearson(x, y), "SAGR": metrics.sign_agreement(x, y),
                "MSE": error, "RMSE": error.sqrt()}  # fmt: skip

    return measure


def _category_measure(logits, labels, temperature):
    """A function of rows (S, M) int64 that gives {figure: (S,)} of logits (N, 7) and labels (N,)."""
    classes = logits.shape[1]
    cells = F.one_hot(labels * classes + logits.argmax(dim=1), classes**2).double()  # of the confusion matrix
    terms = {"": calibration_terms(logits, labels)}
    if temperature != 1:
        terms[" calibrated"] = calibration_terms(logits.double() / temperature, labels)

    def measure(rows):
        times = torch.zeros(len(rows), len(labels), dtype=torch.float64)
        times.scatter_add_(1, rows, torch.ones_like(rows, dtype=torch.float64))
        figures = _category_figures((times @ cells).view(-1, classes, classes))
        for suffix, each in terms.items():
            means = times @ each / rows.shape[1]
            figures |= {name + suffix: value for name, value in calibration_metrics(means).items()}
        return figures

    return measure


def _error_by_chance(logits):
    """The ECE of labels that are drawn from the probabilities: what calibrated ones have with so few faces.

    As a figure: the mean of `DRAWS` draws, and their middle 95%.
    """
    confidence, chance = logits.double().softmax(dim=1).amax(dim=1), np.random.default_rng(0)
    right = torch.from_numpy(chance.random((DRAWS, len(confidence)))) < confidence
    drawn = calibration_error((right.double() - confidence) @ confidence_bins(confidence) / len(confidence))
    return _interval(drawn.mean().item(), drawn)


def _category_figures(matrices):
    """{figure: (S,)} of confusion matrices (S, 7, 7): accuracy, macro F1, recall of each class, percent but for F1."""
    hits, true = matrices.diagonal(dim1=1, dim2=2), matrices.sum(dim=2)
    recalls = 100 * hits / true  # not a number where a resample has no face of the class
    named = {f"recall {name}": recalls[:, place] for place, name in enumerate(EMOTIONS)}
    return {"Acc": 100 * hits.sum(dim=1) / true.sum(dim=1), "F1": metrics.macro_f1(matrices), **named}


def _interval(value, resampled):
    low, high = np.nanpercentile(resampled.double().numpy(), (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}


def spell(report):
    """The report as lines for people."""
    lines = []
    for split, tasks in report.items():
        lines += ["", split]
        for name, figures in tasks.items():
            for figure, value in figures.items():
                if figure == "McNemar":
                    counts = f"{value['only these right']} and {value['only the others']}"
                    lines.append(f"  {name:10} faces that only one has right: {counts}, p = {value['p']:.2g} (McNemar)")
                elif figure != "confusion":
                    digits = 2 if figure == "Acc" or figure.startswith("recall") else 3
                    best, low, high = (f"{value[key]:.{digits}f}" for key in ("value", "low", "high"))
                    lines.append(f"  {name:10} {figure:24} {best:>7}  [{low}, {high}]")
            if "confusion" in figures:
                lines.append(f"  {name} confusion (rows true, columns predicted: {', '.join(EMOTIONS)})")
                lines += ["    " + " ".join(f"{cell:5}" for cell in row) for row in figures["confusion"]]
    return "\n".join(lines)


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.evaluate", description="Measure checkpoints on the test splits, with intervals."
    )
    parser.add_argument("--checkpoints", type=path_argument, metavar="DIR", help=f"default: {RELEASED.name}")
    parser.add_argument(
        "--data", type=path_argument, metavar="PATH", help="archive, folder, CSV or data.h5 (default: data/)"
    )
    parser.add_argument("--split", nargs="+", choices=TEST_SPLITS, default=TEST_SPLITS, help="default: both")
    parser.add_argument("--gold", type=path_argument, metavar="CSV", help="human ratings of test faces")
    parser.add_argument("--compare", type=path_argument, metavar="DIR", help="other checkpoints, compared face by face")
    parser.add_argument("--crops", choices=tuple(CROPS), default="tencrop", help="default: tencrop")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    parser.add_argument("--out", type=path_argument, default=Path("."), metavar="DIR",
                        help="also for data.h5 where --data cannot be written to (default: the current "
                             "folder)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
