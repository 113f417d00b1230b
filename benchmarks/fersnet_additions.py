"""What each addition to FERSNet's training is worth for synthesized faces, at reduced size.

    python benchmarks/fersnet_additions.py [--data CK+48] --out additions.jsonl
        [--folds 1 2 3] [--epochs N] [--base N] [--only NAME ...]

Each line of the table changes the default recipe in one thing and is trained from scratch, on the
same folds with the same seeds. Two networks that guided nothing read the synthesized faces of
held-out people: the released FER2013 network, which has seen no face of these people (see
fersnet_judge.py), and the judge of a cross-validation, which learnt from the training faces of the
same fold. Folds are written to --out as they end; started again, the program goes on with what is
missing. The table gives means over folds and, in brackets, the paired difference from the first
line with its 95% interval.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ablation import difference
from benchmarks.common import (
    add_faces_with_subjects,
    describe_machine,
    print_table,
    record_run,
    recorded_runs,
)
from benchmarks.fersnet_judge import reader, shares
from benchmarks.judge import VIEWS, judge_network, judged, synthesize_others
from data import DATASETS
from data.subjects.folds import FOLD_RULES, FOLDS
from inference.checkpoints import teacher
from mainpro_FER import largest_face
from models.fersnet import Discriminator, FERSNet
from training.config import FERSNET_RECIPES
from training.device import setup_device
from training.engine import train_one_epoch
from training.fersnet.engine import evaluate_fold
from training.fersnet.guides import expression_network, identity_network
from training.fersnet.learner import FERSNetLearner

DEFAULT, PAPER = FERSNET_RECIPES["default"], FERSNET_RECIPES["paper"]
LOSSES = ("reconstruction", "adversarial", "cycle", "discriminator_steps", "expression")
# {line of the table: changes to the default recipe; "guides": networks that read the expression,
# one in the default; "smoothness": weight of the total variation}
LINES = {
    "default": {},
    "no guide": {"expression": 0.0, "guides": 0},
    "two guides": {"guides": 2},
    "total variation": {"smoothness": DEFAULT.reconstruction / 10},
    "labels not smoothed": {"label_smoothing": 0.0},
    "the paper's schedule": {name: getattr(PAPER, name) for name in ("schedule", "averaging")},
    "the paper's losses": {name: getattr(PAPER, name) for name in LOSSES} | {"guides": 0},
}
READERS = {"Wanted": "FER2013 network", "TargetShare": "judge"}
SHARES = {  # figures in percent and their headings
    f"{figure}{view}": f"{reader}{view and ', '}{view.lower()} %"
    for figure, reader in READERS.items()
    for view in VIEWS
}
FIGURES = {"Acc": 1, "L1": 3, "SSIM": 3} | dict.fromkeys(SHARES, 1)  # and their digits in the table


class Committee(nn.ModuleList):
    """Several classifiers as one: (B, 1, S, S) to the mean of their logits (B, classes)."""

    def forward(self, faces):
        return torch.stack([network(faces) for network in self]).mean(0)


class SmoothLearner(FERSNetLearner):
    """A `FERSNetLearner` that adds the mean total variation of the synthesized face, `smoothness`
    times.
    """

    smoothness = 0.0

    def _weighted(self, parts):
        return super()._weighted(parts) + self.smoothness * parts["Variation"]

    def _synthesis_losses(self, batch, synthesized):
        variation = synthesized.diff(dim=2).abs().mean() + synthesized.diff(dim=3).abs().mean()
        return super()._synthesis_losses(batch, synthesized) | {"Variation": variation}


def describe(line, epochs):
    """(recipe, number of guides, smoothness) of a line of the table."""
    changes = dict(LINES[line])
    guides, smoothness = changes.pop("guides", 1), changes.pop("smoothness", 0.0)
    return replace(DEFAULT, epochs=epochs, **changes), guides, smoothness


def train(recipe, count, smoothness, base, training, seed, identity, guides, runtime):
    """The network that a line of the table, as `describe` gives it, makes of the training faces,
    to evaluate.

    identity, guides: what the fold's `identity_network` and `count` or more times
    `expression_network` gave.
    """
    classes = len(training.class_names)
    torch.manual_seed(seed)
    network = FERSNet(("classify",), recipe.sharing, classes=classes, size=training.size, base=base)
    committee = Committee(guides[:count]) if count else None
    learner = SmoothLearner(
        network,
        (Discriminator(classes, base), identity, committee),
        recipe,
        training,
        seed,
        runtime,
    )
    learner.smoothness = smoothness
    for epoch in range(recipe.epochs):
        train_one_epoch(learner, epoch, None)
    return runtime.for_inference(learner.averaged)


def measure(network, read, judge, tested, runtime):
    """{figure of `FIGURES`: value} of a network on the held-out faces; read: see
    `fersnet_judge.reader`.

    judge: see `benchmarks.judge.judged`.
    """
    synthesized = synthesize_others(network, tested, runtime)
    found = evaluate_fold(network, tested, runtime) | judged(judge, tested, *synthesized, runtime)
    read_as = shares(read, tested, *synthesized)["all"]
    found |= {f"Wanted{view}": share for view, (*_, share) in read_as.items()}
    return {name: found[name] for name in FIGURES}


def summarize(runs):
    """(headings, rows) of the table. runs: {(line, fold): {figure: value, "seconds": value}}."""
    known = {line: {} for line in LINES}
    for (line, fold), figures in sorted(runs.items()):
        known[line][fold] = figures
    baseline = next(iter(known.values()))
    rows = [table_row(line, done, baseline) for line, done in known.items() if done]
    return ["", "folds", "Acc %", "L1", "SSIM", *SHARES.values(), "min"], rows


def table_row(line, done, baseline):
    """The row of a line. done, baseline: {fold: its figures}, the latter of the first line."""
    row = [line, " ".join(str(fold + 1) for fold in done)]
    both = [fold for fold in done if fold in baseline] if done is not baseline else []
    for name, digits in FIGURES.items():
        cell = f"{mean_of(done.values(), name):.{digits}f}"
        if both and name in SHARES:
            ours, theirs = (
                [done[fold][name] for fold in both],
                [baseline[fold][name] for fold in both],
            )
            cell += f" ({difference(ours, theirs)})"
        row.append(cell)
    return [*row, f"{mean_of(done.values(), 'seconds') / 60:.1f}"]


def mean_of(figures, name):
    return statistics.mean(each[name] for each in figures)


def train_missing(arguments, faces, runs, settings, runtime):
    """Train and measure the lines of each fold that `runs` lacks; record them in arguments.out."""
    fold_of = FOLD_RULES[DEFAULT.folds](faces.labels, faces.subjects, FOLDS)
    read = reader(teacher(), runtime)
    for fold in (number - 1 for number in arguments.folds):
        missing = [line for line in arguments.only if (line, fold) not in runs]
        if not missing:
            continue
        training, tested = faces.select(fold_of != fold), faces.select(fold_of == fold)
        identity = identity_network(training, fold, runtime)
        count = max(settings[line]["guides"] for line in missing)
        guides = [
            expression_network(training, fold + FOLDS * number, runtime) for number in range(count)
        ]
        judge = runtime.for_inference(judge_network(training, fold, runtime))
        for line in missing:
            began = time.perf_counter()
            recipe = describe(line, arguments.epochs)
            network = train(*recipe, arguments.base, training, fold, identity, guides, runtime)
            seconds = time.perf_counter() - began
            figures = measure(network, read, judge, tested, runtime) | {"seconds": seconds}
            record = {"line": line, "fold": fold, "setting": settings[line], "figures": figures}
            with open(arguments.out, "a", encoding="utf-8") as out:
                record_run(out, record)
            print(f"{time.strftime('%H:%M:%S')} fold {fold + 1}, {line}: {figures}", flush=True)
            runs[line, fold] = figures


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_faces_with_subjects(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("additions.jsonl"), help="runs that are done"
    )
    parser.add_argument(
        "--folds", type=int, nargs="+", choices=range(1, FOLDS + 1), default=[1, 2, 3]
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--base", type=int, default=16, help="channels of the stem (default: 16)")
    parser.add_argument("--only", nargs="+", choices=tuple(LINES), default=tuple(LINES))
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    runtime = setup_device("auto", "auto")
    faces = DATASETS[arguments.dataset](arguments.data, largest_face).to(runtime.device)
    made_with = {
        "base": arguments.base,
        "precision": runtime.precision,
        "data": faces.fingerprint(),
    }
    settings = {}
    for line in LINES:
        recipe, count, smoothness = describe(line, arguments.epochs)
        settings[line] = {**vars(recipe), "guides": count, "smoothness": smoothness, **made_with}
    runs = {
        (known["line"], known["fold"]): known["figures"]
        for known in recorded_runs(arguments.out)
        if known["setting"] == settings.get(known["line"])
    }
    train_missing(arguments, faces, runs, settings, runtime)
    print(describe_machine())
    print(
        f"{arguments.epochs} epochs, {arguments.base} channels, from scratch, seed 0, "
        f"{runtime.precision}"
    )
    print_table(*summarize(runs))


if __name__ == "__main__":
    main()
