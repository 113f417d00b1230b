"""How long it takes from the command to the first training step, where data.h5 is there.

    python benchmarks/start_speed.py [--data PATH] [--quick]

The program is started as a user starts it, with the default recipe, and ended where its first step
would begin. Faces are read, checked, and their statistics taken by then; the network stands on the
device.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, print_table
from data.archives import DATA_FOLDER
from data.fer2013.prepare import ensure

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import os, sys
import mainpro_FER
from training.learner import MultiTaskLearner

def end(*arguments):
    os._exit(0)

MultiTaskLearner.step = end
sys.exit(mainpro_FER.command_line())
"""


def seconds_to_first_step(h5_path):
    """How long the program takes to its first step."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            "--recipe",
            "default",
            "--data",
            h5_path,
            "--out",
            out,
        ]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA_FOLDER,
        help="archive, folder, CSV or data.h5 (default: data/)",
    )
    parser.add_argument("--quick", action="store_true", help="three rounds instead of seven")
    arguments = parser.parse_args()
    h5_path = ensure(arguments.data).resolve()
    first, *seconds = [seconds_to_first_step(h5_path) for _ in range(4 if arguments.quick else 8)]
    print(describe_machine())
    rows = [["the first time", f"{first:.2f}", ""]]
    rows.append(
        ["then", f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}..{max(seconds):.2f}"]
    )
    print_table(["command to first training step", "s", "range"], rows)


if __name__ == "__main__":
    main()
