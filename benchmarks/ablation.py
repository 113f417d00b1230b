"""What each part of the training is worth: the same budget and seeds with and without it.

    python benchmarks/ablation.py training --data data/ --out ablation.jsonl [--faces N]
        [--epochs N] [--width N] [--pooled] [--seeds 0 1 ...] [--processes N] [--only NAME ...]
        [--gold CSV --block NAME]
    python benchmarks/ablation.py objective ...

Each run trains on N training faces, evenly spaced, and is measured on the whole public split by
the centre crop after its last epoch. Runs are written to --out as they end, with all that defines
them; started again, the program goes on with what is missing. The table gives mean and standard
deviation over seeds, and the paired difference from the first line with its 95% interval (t
distribution).
"""

import argparse
import itertools
import math
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, print_table, record_run, recorded_runs
from data.archives import DATA_FOLDER
from data.faces import load_split
from data.fer2013.prepare import ensure
from inference.evaluate import read_ratings
from models.multitask import MultiTask
from training.config import RECIPES
from training.device import setup_device
from training.engine import evaluate, predict, train_one_epoch
from training.learner import MultiTaskLearner
from training.metrics import concordance
from utils.tasks import SPLITS, TASKS

PAPER = {
    name: value
    for name, value in vars(RECIPES["paper"]).items()
    if name not in ("epochs", "width", "pooled")
}
# {study: {line of the table: changes to the default recipe; "tasks" are those that are trained}}
STUDIES = {
    "training": {
        "default": {},
        "SGD, batch 64, rate 0.02": {"optimizer": "sgd", "batch_size": 64, "learning_rate": 0.02},
        "no averaged weights": {"averaging": 0.0},
        "faces neither turned nor zoomed": {"rotation": 0.0, "scaling": 0.0},
        "no label smoothing": {"label_smoothing": 0.0},
        "constant rate": {"schedule": "staircase"},
        "no decay of the kernels": {"kernel_decay": 0.0},
        "kernel decay 0.2": {"kernel_decay": 0.2},
        "rate 0.015": {"learning_rate": 0.015},
        "rate 0.06": {"learning_rate": 0.06},
        "batch 64, rate 0.02": {"batch_size": 64, "learning_rate": 0.02},
        "batch 256, rate 0.08": {"batch_size": 256, "learning_rate": 0.08},
    },
    "objective": {
        "default (table, 0.1)": {},
        "no constraint": {"consistency": 0.0},
        "table, 1": {"consistency": 1.0},
        "original, 0.1": {"constraint": "original"},
        "original, 1": {"constraint": "original", "consistency": 1.0},
        "classification alone": {"tasks": ("classify",)},
        "V/A/D of the class": {"of_class": True},
        "valence alone": {"tasks": ("regressV",)},
        "arousal alone": {"tasks": ("regressA",)},
        "dominance alone": {"tasks": ("regressD",)},
        "V/A/D by squared error only": {"ccc_weight": 0.0},
        "V/A/D at 0.25": {"dimension_weight": 0.25},
        "V/A/D at 0.1": {"dimension_weight": 0.1},
        "orthogonality 0.001": {"orthogonality": 0.001},
        "orthogonality 0.01": {"orthogonality": 0.01},
        "orthogonality 0.1": {"orthogonality": 0.1},
        "orthogonality 0.5": {"orthogonality": 0.5},
        "four trunks": {"sharing": "none"},
        "recipe paper": PAPER,
        "recipe paper, no orthogonality": PAPER | {"orthogonality": 0.0},
    },
}
FIGURES = {"classify": "Acc", "regressV": "CCC", "regressA": "CCC", "regressD": "CCC"}


def line_recipe(changes, epochs, width, pooled):
    """(tasks, whether V/A/D are the mean of the class, `Recipe`) of a line of the table."""
    changes = dict(changes)
    tasks, of_class = changes.pop("tasks", tuple(TASKS)), changes.pop("of_class", False)
    return (
        tasks,
        of_class,
        replace(RECIPES["default"], epochs=epochs, width=width, pooled=pooled, **changes),
    )


def train(tasks, of_class, recipe, seed, h5_path, faces, ratings, threads):
    """Train once.

    {"public": {task: figure}, "half": the same after half of the epochs, "people": CCC with a
    block of ratings, "training": accuracy of the last epoch, "loss": cross-entropy on the public
    split, "seconds": of training}.
    """
    torch.set_num_threads(threads)
    runtime = setup_device("auto", "auto")
    epochs = recipe.epochs
    training = load_split(h5_path, "Training", limit=faces).to(runtime.device)
    public = load_split(h5_path, "PublicTest").to(runtime.device)
    if of_class:
        means = [training.vad[training.labels == label].mean(dim=0) for label in range(7)]
        training = replace(training, vad=torch.stack(means)[training.labels])
    torch.manual_seed(seed)
    model = MultiTask(tasks, recipe.sharing, base=recipe.width, pooled=recipe.pooled)
    learner = MultiTaskLearner(model, recipe, training, seed, runtime)
    preprocessing = learner.preprocessing
    seconds, figures = 0.0, []
    for epoch in range(epochs):
        learnt, position = train_one_epoch(learner, epoch, None)
        seconds += position["seconds"]
        if epoch + 1 in (epochs // 2, epochs):
            network = runtime.for_inference(learner.averaged)
            results = evaluate(network, public, preprocessing, runtime)
            figures.append({task: results[task][FIGURES[task]] for task in tasks})
    found = {"half": figures[0], "public": figures[-1], "seconds": seconds}
    if "classify" in tasks:
        found |= {"training": learnt["classify"]["Acc"], "loss": results["classify"]["Loss"]}
    if ratings is not None:
        outputs = predict(network, public.images[ratings.rows], preprocessing, runtime)
        found["people"] = {
            name: concordance(
                outputs[name][:, 0].cpu(), ratings.ratings[:, TASKS[name].dimension]
            ).item()
            for name in tasks
            if TASKS[name].dimension is not None
        }
    return found


def setting(tasks, of_class, recipe, faces):
    """All that defines a run besides its seed and the data, as plain values: runs of equal ones
    may be compared.
    """
    return {"tasks": list(tasks), "of_class": of_class, **vars(recipe), "faces": faces}


def known_runs(path, lines, faces):
    """{(line, seed): result} of the runs in the file `path` that were made as `lines` say, with so
    many faces.
    """
    runs = {}
    for known in recorded_runs(path):
        line = known["line"]
        if line in lines and known.get("setting") == setting(*lines[line], faces):
            runs[line, known["seed"]] = known["result"]
    return runs


def difference(values, baseline):
    """Mean paired difference with its 95% interval, as text; the runs must be of the same seeds."""
    pairs = [a - b for a, b in zip(values, baseline, strict=True)]
    mean = statistics.mean(pairs)
    if len(pairs) < 2:
        return f"{mean:+.2f}"
    half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{mean:+.2f} +- {half:.2f}"


def show(lines, runs, seeds):
    """Print the table. runs: {(line, seed): what `train` returned}."""
    headings = ["", "runs"]
    for task, figure in FIGURES.items():
        headings += [f"{figure}{TASKS[task].letter} % (sd)", "difference"]
    headings += ["CCC with people %", "Training Acc %", "cross-entropy", "seconds"]
    first = next(iter(lines))
    known = {}
    for line in lines:
        known[line] = {seed: runs[line, seed] for seed in seeds if (line, seed) in runs}
    print_table(headings, [table_row(line, done, known[first]) for line, done in known.items()])


def table_row(line, done, baseline):
    """The row of a line. done, baseline: {seed: what `train` returned}, the latter of the first."""
    row = [line, str(len(done))]
    for task, figure in FIGURES.items():
        row += figure_cells(task, 1 if figure == "Acc" else 100, done, baseline)
    people = []
    for name in list(FIGURES)[1:]:
        values = [run["people"][name] for run in done.values() if name in run.get("people", {})]
        people += [f"{100 * statistics.mean(values):.1f}"] if values else []
    row.append(" / ".join(people))
    for key, digits in (("training", 1), ("loss", 3), ("seconds", 0)):
        values = [run[key] for run in done.values() if key in run]
        row.append(f"{statistics.mean(values):.{digits}f}" if values else "")
    return row


def figure_cells(task, scale, done, baseline):
    """[mean (standard deviation), paired difference from the baseline] of a task, as text."""
    ours = {seed: scale * run["public"].get(task, math.nan) for seed, run in done.items()}
    theirs = {seed: scale * run["public"].get(task, math.nan) for seed, run in baseline.items()}
    values = [value for value in ours.values() if not math.isnan(value)]
    if not values:
        return ["", ""]
    spread = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
    both = [seed for seed in ours if seed in theirs] if done is not baseline else []
    pairs = [ours[seed] for seed in both], [theirs[seed] for seed in both]
    return [f"{statistics.mean(values):.1f}{spread}", difference(*pairs) if both else ""]


def read_block(path, name):
    """The block of human ratings of the public split; None without a file."""
    if path is None:
        return None
    blocks = read_ratings(path, {split: 10**6 for split in SPLITS})
    return next(block for block in blocks if (block.split, block.name) == ("PublicTest", name))


def train_missing(arguments, lines, runs):
    """Train what `runs` lacks, several at a time, and record each run in arguments.out."""
    pairs = itertools.product(arguments.only or lines, arguments.seeds)
    missing = [pair for pair in pairs if pair not in runs]
    h5_path, ratings = ensure(arguments.data), read_block(arguments.gold, arguments.block)
    threads = max(1, torch.get_num_threads() // arguments.processes)
    same = h5_path, arguments.faces, ratings, threads
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(arguments.processes, spawn) as pool,
        open(arguments.out, "a", encoding="utf-8") as out,
    ):
        futures = {}
        for line, seed in missing:
            futures[pool.submit(train, *lines[line], seed, *same)] = line, seed
        for future in as_completed(futures):
            line, seed = futures[future]
            result = runs[line, seed] = future.result()
            made_with = setting(*lines[line], arguments.faces)
            record_run(out, {"line": line, "seed": seed, "setting": made_with, "result": result})
            print(
                f"{time.strftime('%H:%M:%S')} {line}, seed {seed}: {result['public']}", flush=True
            )


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=tuple(STUDIES))
    parser.add_argument(
        "--data", type=Path, default=DATA_FOLDER, help="archive, folder, table or data.h5"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("ablation.jsonl"), help="runs that are done"
    )
    parser.add_argument("--faces", type=int, help="training faces (default: all)")
    parser.add_argument("--epochs", type=int, default=RECIPES["default"].epochs)
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--pooled", action="store_true", help="with a pooled stem")
    parser.add_argument("--gold", type=Path, help="CSV of human ratings, see inference.evaluate")
    parser.add_argument("--block", default="", help="block of ratings of the public split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--only", nargs="+", help="lines of the table to run")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    size = arguments.epochs, arguments.width, arguments.pooled
    study = STUDIES[arguments.study]
    lines = {name: line_recipe(changes, *size) for name, changes in study.items()}
    runs = known_runs(arguments.out, lines, arguments.faces)
    train_missing(arguments, lines, runs)
    print(describe_machine())
    stem = "pooled" if arguments.pooled else "not pooled"
    print(
        f"faces {arguments.faces or 'all'}, epochs {arguments.epochs}, width {arguments.width}, "
        f"stem {stem}"
    )
    show(lines, runs, arguments.seeds)


if __name__ == "__main__":
    main()
