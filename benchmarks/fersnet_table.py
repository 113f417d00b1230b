"""The four variants of FERSNet over folds of subjects, next to what their paper reports.

    python benchmarks/fersnet_table.py --dataset CK+ --data data/ --out fersnet [--folds 1 2 ...] [--epochs N]
                                       [--model FERSNetHalf] [--pretrain FILE] [--synthetic N] [--seed N]

Each variant and fold is a run of mainpro_FER.py in a folder of its own below --out; started again, the program goes on
with what is missing. Accuracies are those of the last epoch on the held-out fold, in percent.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import describe_machine, print_table  # noqa: E402
from training.recipes import FERSNET_RECIPES  # noqa: E402

PAPER_SYNTHETIC = 21_000
# (name, --sharing of its run, column of AccProcess_folds.csv); FERSNet* is FERSNet's own run, tuned.
VARIANTS = (
    ("Baseline", "none", "LastAcc"),
    ("Baseline*", "hard", "LastAcc"),
    ("FERSNet", "selective", "LastAcc"),
    ("FERSNet*", "selective", "TunedAcc"),
)
PUBLISHED = {"CK+": (94.66, 96.39, 97.42, 98.04), "Oulu-CASIA": (73.33, 77.92, 83.0, 87.63)}


def run(folder, sharing, fold, arguments):
    """Train and test one fold, or go on with it, or find it done. Returns its row of AccProcess_folds.csv."""
    table = folder / "AccProcess_folds.csv"
    if not (table.exists() and len(read(table)) > 1):
        flags = ["--dataset", arguments.dataset, "--sharing", sharing, "--fold", fold, "--out", folder]
        flags += ["--synthetic", arguments.synthetic] if sharing == "selective" else []
        for name in ("data", "model", "epochs", "bs", "lr", "pretrain", "seed", "recipe"):
            if getattr(arguments, name) is not None:
                flags += [f"--{name}", getattr(arguments, name)]
        if any(folder.glob("*/last.t7")):
            flags.append("--resume")
        code = subprocess.run([sys.executable, ROOT / "mainpro_FER.py", *map(str, flags)]).returncode
        if code:
            sys.exit(code)
    return read(table)[0]


def read(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def show(done, dataset):
    """Print the table. done: {sharing: [row of AccProcess_folds.csv, one per fold]}."""
    lines = []
    for (name, sharing, column), published in zip(VARIANTS, PUBLISHED[dataset], strict=True):
        rows = [row for row in done.get(sharing, ()) if row[column]]
        if not rows:
            continue
        values, faces = [float(row[column]) for row in rows], [int(row["Faces"]) for row in rows]
        pooled = sum(value * count for value, count in zip(values, faces, strict=True)) / sum(faces)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        line = [name, str(len(rows)), f"{pooled:.2f}", f"{statistics.mean(values):.2f}", f"{spread:.2f}"]
        measured = column == "LastAcc"  # tuning has neither epochs of its own nor faces
        line += [f"{mean_of(rows, figure):.{digits}f}" if measured and rows[0][figure] else ""
                 for figure, digits in (("BestAccOptimistic", 2), ("L1", 4), ("SSIM", 3), ("ReadAsTarget", 1),
                                        ("JudgeAccOnReal", 1))]  # fmt: skip
        lines.append([*line, f"{published:.2f}"])
    print_table(
        ["", "folds", "% of all", "mean", "sd", "best epoch", "L1", "SSIM", "read as wanted", "judge on real", "paper"],
        lines,
    )


def mean_of(rows, figure):
    return statistics.mean(float(row[figure]) for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=tuple(PUBLISHED), default="CK+")
    parser.add_argument("--data", type=Path, help="folder or ZIP of the dataset (default: data/)")
    parser.add_argument("--out", type=Path, default=Path("fersnet"), help="runs that are done (default: fersnet/)")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(1, 11)), help="default: all ten")
    parser.add_argument("--model", help="as for mainpro_FER.py, like the following")
    parser.add_argument("--recipe", choices=tuple(FERSNET_RECIPES))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--bs", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--pretrain", type=Path)
    parser.add_argument("--synthetic", type=int, default=PAPER_SYNTHETIC, help=f"default: {PAPER_SYNTHETIC}")
    parser.add_argument("--variants", nargs="+", choices=("none", "hard", "selective"),
                        default=("none", "hard", "selective"), help="sharings to run (default: all)")  # fmt: skip
    arguments = parser.parse_args()

    done = {}
    for fold in arguments.folds:
        for sharing in arguments.variants:
            row = run(arguments.out / sharing / f"fold{fold:02d}", sharing, fold, arguments)
            done.setdefault(sharing, []).append(row)
    print(describe_machine())
    show(done, arguments.dataset)


if __name__ == "__main__":
    main()
