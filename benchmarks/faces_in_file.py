"""Faces that stay in their file: throughput next to faces in memory, and memory against the number of faces.

    python benchmarks/faces_in_file.py [--quick]

Generated faces are written to a temporary folder: 2.3 GB for the million (--quick: 100,000 and 0.23 GB). Each
number of faces is handled by a process of its own, which reads every face as training does: their statistics and
fingerprint, then all batches of an epoch.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import describe_machine, peak_memory, print_table  # noqa: E402
from data.batches import plan_epoch, training_batches  # noqa: E402
from data.faces import load_split  # noqa: E402
from models import MODELS  # noqa: E402
from training.engine import train_one_epoch  # noqa: E402
from training.learner import Learner  # noqa: E402
from training.losses import constraint_tables  # noqa: E402
from training.recipes import RECIPES  # noqa: E402
from training.runtime import decide  # noqa: E402
from training.settings import DEFAULT_MODEL  # noqa: E402
from utils.tasks import TASKS  # noqa: E402

FER2013 = 28_709  # training faces


def write_faces(path, count):
    """A data.h5 whose Training split has `count` random pictures."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as h5:
        pixels = h5.create_dataset("Training_pixel", (count, 2304), np.uint8)
        for start in range(0, count, 10_000):
            stop = min(start + 10_000, count)
            pixels[start:stop] = rng.integers(0, 256, (stop - start, 2304), dtype=np.uint8)
        h5["Training_label"] = rng.integers(0, 7, count)
        h5["Training_VAD"] = rng.uniform(-2, 2, (count, 3)).astype(np.float32)


def read_all(path):
    """Read every face of the file as a run does; print peak memory before and after, MB, and faces per second."""
    before, started = peak_memory(), time.perf_counter()
    faces = load_split(path, "Training")
    faces.pixel_statistics()
    faces.fingerprint()
    plan = plan_epoch(len(faces), 128, 0, 0)
    seen = sum(len(labels) for _, labels, _ in training_batches(faces, plan, torch.device("cpu")))
    print(f"{before:.0f} {peak_memory():.0f} {seen / (time.perf_counter() - started):.0f}")


def compare_throughput(path, rounds, steps):
    """[(rate with faces in memory, rate with faces in their file)] of training, images per second."""
    runtime, recipe = decide(training=True), RECIPES["default"]
    in_file = load_split(path, "Training")
    model = MODELS[DEFAULT_MODEL](tuple(TASKS), recipe.sharing)
    learner = Learner(model, tuple(TASKS), recipe, constraint_tables(in_file.labels, in_file.vad), runtime)
    places = (in_file.to(runtime.device), in_file)
    preprocessing = in_file.pixel_statistics()
    rates = []
    for number in range(rounds + 1):
        rates.append([])
        for faces in places:
            plan = learner.plan(len(faces), 0, number, faces.labels.device)
            few = slice(steps * recipe.batch_size)  # of all faces, wherever in the file they are
            parts = {name: part[few] for name, part in vars(plan).items() if isinstance(part, torch.Tensor)}
            _, position = train_one_epoch(learner, faces, replace(plan, **parts), preprocessing, 0)
            rates[-1].append(steps * recipe.batch_size / position["seconds"])
    return rates[1:]  # the first round warms up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, 100,000 faces instead of a million")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read_all(arguments.read)
        return
    print(describe_machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (FER2013, 100_000 if arguments.quick else 1_000_000):
            path = Path(folder) / f"{count}.h5"
            write_faces(path, count)
            command = [sys.executable, __file__, "--read", path]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            before, after, rate = map(float, told.split())
            rows.append([f"{count:,}", f"{count * 2304 / 1e6:,.0f}", f"{before:.0f}", f"{after:.0f}", f"{rate:,.0f}"])
        # Last: a child's peak is at least what its parent needed before.
        rates = compare_throughput(Path(folder) / f"{FER2013}.h5", 3 if arguments.quick else 7, 4)
    print_table(["faces", "MB of pictures", "peak MB before", "peak MB after", "faces/s read"], rows)
    memory, file = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(b / a for a, b in rates)
    print(f"training, {len(rates)} rounds: {memory:.1f} images/s in memory, {file:.1f} from the file: {ratio:.3f}")


if __name__ == "__main__":
    main()
