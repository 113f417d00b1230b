"""The four variants of FERSNet over folds of subjects, in two protocols, beside their paper.

    python benchmarks/fersnet_table.py --out fersnet [--data CK+48] [--rules balanced by-name]
        [--seeds 0 1] [--folds 1 2] [--processes N] [--epochs N] [--recipe paper]
        [--model FERSNetHalf] ...

Each variant, way to make folds and seed is a run of mainpro_FER.py in a folder of its own below
--out; started again, the program goes on with what is missing. --show prints what the records
there have. The result is the accuracy of the last epoch on the held-out faces; "best" is that of
each fold's best epoch on these very faces, as the authors have it.
"""

import argparse
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.common import describe_machine, print_table
from data.subjects.folds import FOLD_RULES, FOLDS
from training.config import FERSNET_RECIPES

PAPER_SYNTHETIC = 21_000
# (name, --sharing of its run, what the columns of accuracies begin with); FERSNet* is FERSNet's own
# run, tuned.
VARIANTS = (
    ("Baseline", "none", ("Last", "Best")),
    ("Baseline*", "hard", ("Last", "Best")),
    ("FERSNet", "selective", ("Last", "Best")),
    ("FERSNet*", "selective", ("Tuned", "BestTuned")),
)
PUBLISHED = {"CK+": (94.66, 96.39, 97.42, 98.04), "Oulu-CASIA": (73.33, 77.92, 83.0, 87.63)}
PASSED_ON = ("data", "model", "recipe", "epochs", "bs", "lr", "pretrain", "device", "precision")
SECONDS = re.compile(r"fold \d+(?:, epoch \d+| guides| finished): ([\d.]+) s$")


@dataclass(frozen=True)
class Records:
    """What a run of some folds left: a row per fold of AccProcess_folds.csv; its seed, epochs,
    machine, seconds.
    """

    folds: pandas.DataFrame
    seed: int
    epochs: int
    machine: str
    seconds: float

    @classmethod
    def read(cls, folder):
        """The records of the run in a folder; None where no fold of it is finished."""
        try:
            folds = pandas.read_csv(folder / "AccProcess_folds.csv", dtype={"Fold": str})
        except FileNotFoundError:
            return None
        folds = folds[folds["Fold"] != "all"]
        if folds.empty:
            return None
        header = dict(
            line.partition(": ")[::2]
            for line in (folder / "data.txt").read_text("utf-8").splitlines()[:20]
        )
        machine = folder / "machine.txt"
        lines = (folder / "run.log").read_text("utf-8").splitlines()
        return cls(
            folds.astype({"Fold": int}).set_index("Fold"),
            int(header["seed"]),
            int(pandas.read_csv(folder / "AccProcess_classify.csv")["Epoch"].max()) + 1,
            f"{machine.read_text('utf-8')}, {header['device']}"
            if machine.exists()
            else header["device"],
            sum(float(found[1]) for line in lines if (found := SECONDS.search(line))),
        )

    def pooled(self, column):
        """Percent of all faces, or sequences, of the finished folds."""
        counts = self.folds["Sequences" if "Seq" in column else "Faces"]
        return (self.folds[column] * counts).sum(skipna=False) / counts.sum()


def run(folder, rule, sharing, seed, arguments):
    """Train and test the folds that a run still lacks. Ends the program when it fails."""
    known = Records.read(folder)
    missing = [fold for fold in arguments.folds if known is None or fold not in known.folds.index]
    if not missing:
        return
    flags = [
        "--dataset",
        arguments.dataset,
        "--sharing",
        sharing,
        "--folds",
        rule,
        "--seed",
        seed,
        "--out",
        folder,
    ]
    flags += ["--synthetic", arguments.synthetic] if sharing == "selective" else []
    for name in PASSED_ON:
        flags += (
            [f"--{name}", getattr(arguments, name)] if getattr(arguments, name) is not None else []
        )
    program = [sys.executable, str(ROOT / "mainpro_FER.py"), *map(str, flags)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.txt").write_text(describe_machine(), "utf-8")

    def train(fold):
        resume = ["--resume"] if any(folder.glob(f"*/last_fold{fold}.t7")) else []
        return subprocess.run([*program, "--fold", str(fold), *resume]).returncode

    with ThreadPoolExecutor(arguments.processes) as pool:
        code = max(pool.map(train, missing))
    if code:
        sys.exit(code)


def summarize(done, dataset):
    """(headings, rows) of the table. done: {(rule, sharing): [`Records`, one per seed]}."""
    headings = [
        "folds",
        "",
        "done",
        "seeds",
        "epochs",
        "last %",
        "of sequences",
        "best %",
        "of sequences",
        "last, to the line above",
        "L1 (unchanged)",
        "min a fold",
        "paper",
    ]
    rows = []
    for rule in FOLD_RULES:
        before = None
        for variant, published in zip(VARIANTS, PUBLISHED[dataset], strict=True):
            name, sharing, kinds = variant
            column = f"{kinds[0]}Acc"
            runs = [
                each for each in done.get((rule, sharing), ()) if each.folds[column].notna().all()
            ]
            if runs:
                rows.append([rule, name, *_cells(runs, kinds, before), f"{published:.2f}"])
                before = (runs, column)
    return headings, rows


def _cells(runs, kinds, before):
    """Cells of a variant. runs: its `Records`; before: (runs, column) of the variant above."""
    last, best = kinds
    cells = [
        " ".join(str(len(each.folds)) for each in runs),
        " ".join(str(each.seed) for each in runs),
        " ".join(str(each.epochs) for each in runs),
    ]
    for column in (
        f"{last}Acc",
        f"{last}SeqAcc",
        f"{best}AccOptimistic",
        f"{best}SeqAccOptimistic",
    ):
        cells.append(mean_and_interval([each.pooled(column) for each in runs]))
    cells.append(paired(runs, before, f"{last}Acc"))
    if last != "Last":
        return [*cells, "", ""]
    minutes = sum(each.seconds for each in runs) / sum(len(each.folds) for each in runs) / 60
    return [*cells, _synthesis(runs), f"{minutes:.0f}"]


def _synthesis(runs):
    """The L1 distance of synthesized faces, mean of seeds; blank where there are none."""
    own = statistics.mean(each.pooled("L1") for each in runs)
    copy = statistics.mean(each.pooled("CopyL1") for each in runs)
    return "" if own != own else f"{own:.3f} ({copy:.3f})"


def mean_and_interval(values):
    """The mean over seeds, and with two of them or more half its 95% interval, as text."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.2f} +- {half:.2f}"


def paired(runs, before, column):
    """The difference to another variant over their common folds and seeds, with its 95% interval.

    Of a fold the mean over seeds counts, since they have its people and the pre-training in
    common, and as often as it has faces, so that this is the difference of the accuracies of all
    faces. The interval is that of such a weighted mean of independent folds (t distribution, one
    degree of freedom less than folds).
    """
    others, other_column = before or ((), "")
    of_seeds = [
        mine.folds[column] - other.folds[other_column]
        for mine in runs
        for other in others
        if mine.seed == other.seed
    ]
    if not of_seeds:
        return ""
    gained = pandas.concat(of_seeds, axis=1).mean(axis=1).dropna()
    faces = pandas.concat([each.folds["Faces"] for each in runs], axis=1).max(axis=1)[gained.index]
    mean, count = (faces * gained).sum() / faces.sum(), len(gained)
    if count < 2:
        return f"{mean:+.2f}"
    error = (count / (count - 1) * (faces * (gained - mean)).pow(2).sum()) ** 0.5 / faces.sum()
    return f"{mean:+.2f} +- {stats.t.ppf(0.975, count - 1) * error:.2f}"


def show(done, dataset):
    """Print the table and where it was measured."""
    print_table(*summarize(done, dataset))
    for (rule, sharing), runs in done.items():
        for each in runs:
            print(
                f"{rule}, {sharing}, seed {each.seed}: {each.machine}; {each.seconds / 3600:.2f} h"
            )


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=tuple(PUBLISHED), default="CK+")
    parser.add_argument(
        "--out", type=Path, default=Path("fersnet"), help="runs that are done (default: fersnet/)"
    )
    parser.add_argument(
        "--folds", type=int, nargs="+", default=list(range(1, FOLDS + 1)), help="default: all ten"
    )
    parser.add_argument(
        "--rules",
        nargs="+",
        choices=tuple(FOLD_RULES),
        default=tuple(FOLD_RULES),
        help="ways to make folds, by-name being the authors' (default: both)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=("none", "hard", "selective"),
        default=("none", "hard", "selective"),
        help="default: all",
    )
    parser.add_argument(
        "--synthetic", type=int, default=PAPER_SYNTHETIC, help=f"default: {PAPER_SYNTHETIC}"
    )
    parser.add_argument("--processes", type=int, default=1, help="folds at a time (default: 1)")
    parser.add_argument("--recipe", choices=tuple(FERSNET_RECIPES))
    for name, kind in zip(
        PASSED_ON, (Path, str, None, int, int, float, Path, str, str), strict=True
    ):
        if kind:
            parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--show", action="store_true", help="only print what is recorded in --out")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    done = {}
    for rule in arguments.rules:
        for sharing in arguments.variants:
            for seed in arguments.seeds:
                folder = arguments.out / rule / sharing / f"seed{seed}"
                if not arguments.show:
                    run(folder, rule, sharing, seed, arguments)
                records = Records.read(folder)
                if records:
                    done.setdefault((rule, sharing), []).append(records)
    show(done, arguments.dataset)


if __name__ == "__main__":
    main()
