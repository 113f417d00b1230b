"""Measure checkpoints on the test splits, with intervals, and on human ratings.

    python -m inference.evaluate --checkpoints DIR --data PATH [--split PublicTest PrivateTest] [--gold CSV]

Prints every figure with a 95% interval (percentile bootstrap over faces, 1,000 samples, seed 0) and writes them to
evaluation.json in --out. Of a run's folder the checkpoints that the public split chose are measured. A gold CSV has
the columns index, Valence, Arousal, Dominance, where index is the row of the public test split, from 0. Against it,
figures are given for the values as predicted, and stretched to the spread of published ratings (see
`spread_stretch`), since CCC punishes values that vary too little.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import DATASETS
from inference.networks import RELEASED, load_networks, predict_tasks, ready_to_predict
from training import metrics
from training.engine import CROPS
from training.runtime import DEVICES, PRECISIONS, decide
from utils.files import UserError, as_user_error, exit_code, given_path, write_text
from utils.tasks import DIMENSIONS, EMOTIONS, PUBLISHED_VAD, TASKS, TEST_SPLITS, VAD_LIMIT

SAMPLES = 1000
GOLD_SPLIT = "PublicTest"


def main(arguments):
    """Evaluate, print, write. Returns the exit code."""
    runtime = decide(arguments.device, arguments.precision, "off")
    networks = ready_to_predict(load_networks(arguments.checkpoints, TEST_SPLITS), runtime)
    if arguments.gold and all(TASKS[name].dimension is None for network in networks for name in network.tasks):
        raise UserError("--gold: these checkpoints predict no valence, arousal or dominance. Leave --gold out.")
    dataset = DATASETS["FER2013"](arguments.data)
    gold = None if arguments.gold is None else read_gold(arguments.gold, len(dataset.splits[GOLD_SPLIT]))
    how = origins(networks) | {"device": runtime.describe(), "crops": arguments.crops}
    print("\n".join(f"{name}: {text}" for name, text in how.items()))
    outputs, report = {}, {}
    for split in dict.fromkeys((*arguments.split, *((GOLD_SPLIT,) if gold else ()))):
        outputs[split] = predict_tasks(networks, dataset.splits[split].images, runtime, arguments.crops, split)
    for split in arguments.split:
        faces = dataset.splits[split]
        report[split] = {
            name: figures_of(TASKS[name], output, metrics.task_target(TASKS[name], faces.labels, faces.vad))
            for name, output in outputs[split].items()
            if TASKS[name].dimension is None or faces.vad is not None
        }
    if gold is not None:
        report |= compare_with_people(outputs[GOLD_SPLIT], *gold, dataset.splits["Training"])
    print(spell(report))
    path = arguments.out / "evaluation.json"
    with as_user_error(path, "make room, or choose another --out"):
        write_text(path, json.dumps({"how": how} | report, indent=1) + "\n")
    print(f"written: {path}")
    return 0


def origins(networks):
    """{task: which network predicts it, trained on what, and on which split its epoch was chosen}."""
    described = {}
    for network in networks:
        split = next((split for split in TEST_SPLITS if network.file.name.startswith(split)), None)
        text = f"{network.file.name}, trained on {network.dataset}"
        text += "" if network.epoch is None else f", epoch {network.epoch}"
        text += "" if split is None else f" (chosen on {split}, whose figures are optimistic)"
        described |= dict.fromkeys(network.tasks, text)
    return {name: described[name] for name in TASKS if name in described}


def compare_with_people(outputs, rows, ratings, training):
    """{title: {task: figures}} of the faces `rows` against human ratings, as predicted and stretched.

    outputs: {task: (N, width)} of the public split; rows, ratings: as `read_gold` gives them; training: `Faces`.
    Stretched only where those have V/A/D.
    """
    predicted = {name: output[rows] for name, output in outputs.items() if TASKS[name].dimension is not None}
    changes = {"": lambda name, values: values}
    if training.vad is not None:
        changes[", stretched"] = spread_stretch(training)
    return {
        f"human ratings of {len(rows)} {GOLD_SPLIT} faces{title}": {
            name: figures_of(TASKS[name], change(name, values), ratings[:, TASKS[name].dimension])
            for name, values in predicted.items()
        }
        for title, change in changes.items()
    }


def spread_stretch(training):
    """A function (task name, (N, 1) values) -> values stretched to the spread that published ratings have.

    Annotations derived by a regression vary less than people's ratings do, and so does a network that learnt them.
    The factor of a dimension is the spread over the training faces of their classes' published coordinates
    (`utils.tasks.PUBLISHED_VAD`), divided by that of the classes' mean annotations; the stretch is about the
    mean annotation. Nothing of it is fitted to ratings of the faces that are measured. training: `Faces`.
    """
    labels, vad = training.labels.cpu(), training.vad.cpu().double()
    published = VAD_LIMIT * torch.tensor(PUBLISHED_VAD, dtype=torch.float64)
    means = torch.stack([vad[labels == label].mean(dim=0) for label in range(len(EMOTIONS))])
    spreads = [values[labels].std(dim=0, correction=0) for values in (published, means)]
    factors, middle = spreads[0] / spreads[1].clamp_min(1e-6), vad.mean(dim=0)

    def stretch(name, values):
        dimension = TASKS[name].dimension
        stretched = middle[dimension] + factors[dimension] * (values - middle[dimension])
        return stretched.clamp(-VAD_LIMIT, VAD_LIMIT).float()

    return stretch


def figures_of(task, output, target):
    """{figure: {"value", "low", "high"}} of a task, plus its confusion matrix (rows: true class) for categories.

    output (N, width), target (N,). low and high bound the middle 95% of `SAMPLES` resamples of the faces.
    """
    samples = torch.from_numpy(np.random.default_rng(0).integers(0, len(target), (SAMPLES, len(target))))
    if task.kind == "classification":
        predicted, losses = output.argmax(dim=1), F.cross_entropy(output.double(), target, reduction="none")
        matrices = torch.stack([metrics.confusion_matrix(predicted[sample], target[sample]) for sample in samples])
        whole = metrics.confusion_matrix(predicted, target)
        values = _category_figures(whole[None].double()) | {"cross-entropy": losses.mean()}
        resampled = _category_figures(matrices.double()) | {"cross-entropy": losses[samples].mean(dim=1)}
        extra = {"confusion": whole.tolist()}
    else:
        values = {name: torch.tensor([value]) for name, value in _dimension_figures(output, target).items()}
        each = [_dimension_figures(output[sample], target[sample]) for sample in samples]
        resampled = {name: torch.tensor([figures[name] for figures in each]) for name in values}
        extra = {}
    known = [name for name, value in values.items() if not value.isnan()]  # the recall of an absent class is not
    return {name: _interval(values[name].item(), resampled[name]) for name in known} | extra


def _category_figures(matrices):
    """{figure: (S,)} of confusion matrices (S, 7, 7): accuracy, macro F1, recall of each class, percent but for F1."""
    hits, true = matrices.diagonal(dim1=1, dim2=2), matrices.sum(dim=2)
    recalls = 100 * hits / true  # not a number where a resample has no face of the class
    named = {f"recall {name}": recalls[:, place] for place, name in enumerate(EMOTIONS)}
    f1 = torch.stack([metrics.macro_f1(matrix) for matrix in matrices])
    return {"Acc": 100 * hits.sum(dim=1) / true.sum(dim=1), "F1": f1, **named}


def _dimension_figures(output, target):
    figures = metrics.regression_metrics(output, target)
    return {"CCC": figures["CCC"], "PCC": figures["PCC"], "SAGR": figures["SAGR"], "MSE": figures["Loss"],
            "RMSE": figures["Loss"] ** 0.5}  # fmt: skip


def _interval(value, resampled):
    low, high = np.nanpercentile(resampled.double().numpy(), (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}


def read_gold(path, count):
    """(rows (M,) int64, ratings (M, 3) float32) of a gold CSV about `count` faces. Raises UserError."""
    import pandas

    columns = ["index", *DIMENSIONS]
    try:
        frame = pandas.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False, usecols=columns)
        table = torch.from_numpy(frame[columns].astype("float32").to_numpy(copy=True))
    except OSError as error:
        raise UserError(f"--gold {path} cannot be read: {error.strerror}.") from error
    except (ValueError, pandas.errors.ParserError) as error:
        raise UserError(
            f"--gold {path} must have the columns {', '.join(columns)}, all numbers ({str(error)[:100]})."
        ) from error
    if not len(table):
        raise UserError(f"--gold {path} has no rows: it needs the columns {', '.join(columns)}.")
    rows = table[:, 0].nan_to_num(-1).clamp(-1, count).long()
    known = (rows == table[:, 0]) & (rows >= 0) & (rows < count)
    good = known[:, None] & (table[:, 1:].abs() <= VAD_LIMIT)  # false for NaN, too
    if not good.all() or len(rows.unique()) < len(rows):
        raise UserError(
            f"--gold {path}: index must name different rows of {GOLD_SPLIT} (0 to {count - 1}), ratings lie in -2..2."
        )
    return rows, table[:, 1:]


def spell(report):
    """The report as lines for people."""
    lines = []
    for split, tasks in report.items():
        lines += ["", split]
        for name, figures in tasks.items():
            for figure, value in figures.items():
                if figure != "confusion":
                    digits = 2 if figure == "Acc" or figure.startswith("recall") else 3
                    best, low, high = (f"{value[key]:.{digits}f}" for key in ("value", "low", "high"))
                    lines.append(f"  {name:10} {figure:16} {best:>7}  [{low}, {high}]")
            if "confusion" in figures:
                lines.append(f"  {name} confusion (rows true, columns predicted: {', '.join(EMOTIONS)})")
                lines += ["    " + " ".join(f"{cell:5}" for cell in row) for row in figures["confusion"]]
    return "\n".join(lines)


def build_parser():
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.evaluate", description="Measure checkpoints on the test splits, with intervals."
    )
    parser.add_argument("--checkpoints", type=given_path, metavar="DIR", help=f"default: {RELEASED.name}")
    parser.add_argument(
        "--data", type=given_path, metavar="PATH", help="archive, folder, CSV or data.h5 (default: data/)"
    )
    parser.add_argument("--split", nargs="+", choices=TEST_SPLITS, default=TEST_SPLITS, help="default: both")
    parser.add_argument("--gold", type=given_path, metavar="CSV", help="human ratings of public test faces")
    parser.add_argument("--crops", choices=tuple(CROPS), default="tencrop", help="default: tencrop")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    parser.add_argument("--out", type=given_path, default=Path("."), metavar="DIR", help="default: the current folder")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(build_parser().parse_args())))
