"""Minutes of training to a given accuracy: runs the program, then reads what it recorded.

    python benchmarks/time_to_accuracy.py --out timed [--quick] [options of mainpro_FER.py]

Minutes are those of training alone (run.log); evaluation, checkpoints and records are told apart.
The epoch is chosen on the public split. With --quick: 2,000 faces a split and two epochs. To read
a run that is there already, give its folder with --out and add --read.
"""

import argparse
import csv
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, print_table

PROGRAM = Path(__file__).resolve().parent.parent / "mainpro_FER.py"
THRESHOLDS = (50.0, 60.0, 64.5, 67.0, 70.0)
LOGGED = re.compile(r"epoch (\d+): training ([\d.]+) s .* evaluation ([\d.]+) s")


def read_run(out):
    """[(epoch, minutes of training so far, minutes in all, public accuracy, private accuracy)] of
    a run.
    """
    seconds = {
        int(e): (float(t), float(v)) for e, t, v in LOGGED.findall((out / "run.log").read_text())
    }
    rows, training, everything = [], 0.0, 0.0
    with open(out / "AccProcess_classify.csv", newline="") as table:
        for row in csv.DictReader(table):
            spent, evaluated = seconds[int(row["Epoch"])]
            training, everything = training + spent, everything + spent + evaluated
            accuracies = float(row["PubtestAcc"]), float(row["PritestAcc"])
            rows.append((int(row["Epoch"]), training / 60, everything / 60, *accuracies))
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--quick", action="store_true", help="2,000 faces a split, two epochs")
    parser.add_argument("--read", action="store_true", help="do not train; read the run in --out")
    arguments, passed_on = parser.parse_known_args()
    if not arguments.read:
        quick = ["--limit", "2000", "--epochs", "2"] if arguments.quick else []
        subprocess.run(
            [sys.executable, PROGRAM, "--out", arguments.out, *quick, *passed_on], check=True
        )

    print(describe_machine())
    rows = read_run(arguments.out)
    print_table(
        ["epoch", "training min", "with evaluation", "public %", "private %"],
        [
            [str(e), f"{t:.1f}", f"{a:.1f}", f"{public:.2f}", f"{private:.2f}"]
            for e, t, a, public, private in rows
        ],
    )
    for threshold in THRESHOLDS:
        # As a person would use it: stop at the first epoch whose public accuracy is there, report
        # the private one.
        reached = next((row for row in rows if row[3] >= threshold), None)
        told = (
            "not reached"
            if reached is None
            else f"{reached[1]:.1f} min (private there: {reached[4]:.2f}%)"
        )
        print(f"public accuracy {threshold}%: {told}")
    best = max(rows, key=lambda row: row[3])
    print(
        f"epoch chosen on the public split: {best[0]}, private accuracy {best[4]:.2f}% after "
        f"{best[1]:.1f} min"
    )


if __name__ == "__main__":
    main()
