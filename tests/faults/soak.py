"""Two hundred epochs of a small Demo: memory, open files and the processor time of an epoch stay as they are.

    python -m tests.faults.soak [EPOCHS] [FACES]

Prints a line every twentieth of the run; exits with 1 when something grew.
"""

import statistics
import sys
import tempfile
import time

import psutil

import mainpro_FER
from training.config import build_parser
from training.run import Run

WARM_UP = 0.2  # share of the epochs, in which caches fill
MOST_GROWTH = 20e6  # bytes; what the history of the run itself takes, and the noise of the allocator
MOST_DRIFT = 0.15  # of the processor time of an epoch


def soak(epochs=200, faces=24):
    """Train in a temporary folder; {"memory": bytes, "files": number, "seconds": of processor time} of every epoch."""
    seen = {"memory": [], "files": [], "seconds": []}
    process, record = psutil.Process(), Run.record
    every, last = max(1, epochs // 20), time.process_time()

    def watched(run, results, *arguments):
        nonlocal last
        record(run, results, *arguments)
        now = time.process_time()
        memory, files, seconds = process.memory_info().rss, open_files(process), now - last
        for name, value in (("memory", memory), ("files", files), ("seconds", seconds)):
            seen[name].append(value)
        last, epoch = now, results["epoch"] + 1
        if epoch % every == 0:
            seconds = statistics.median(seen["seconds"][-every:])
            print(f"epoch {epoch:4}: {memory / 1e6:6.1f} MB resident, {files} open files, {seconds:.2f} s an epoch")

    Run.record = watched
    try:
        with tempfile.TemporaryDirectory() as out:
            flags = ["--dataset", "Demo", "--epochs", epochs, "--limit", faces, "--eval", "center", "--out", out]
            parser = build_parser()
            assert mainpro_FER.main(parser.parse_args([*map(str, flags), "--device", "cpu", "--bs", "8"])) == 0
    finally:
        Run.record = record
    return seen


def open_files(process):
    """How many files, pipes and sockets the process holds open."""
    return process.num_fds() if hasattr(process, "num_fds") else process.num_handles()


def grown(seen):
    """What grew between the first fifth after the warm-up and the last fifth of the epochs: [str]."""
    count = len(seen["memory"])
    early, late = slice(int(WARM_UP * count), int(2 * WARM_UP * count)), slice(int((1 - WARM_UP) * count), count)
    first, last = ({name: statistics.median(values[part]) for name, values in seen.items()} for part in (early, late))
    print(", ".join(f"{name} {first[name]:.6g} -> {last[name]:.6g}" for name in seen))
    return [
        name
        for name, most in (
            ("memory", first["memory"] + MOST_GROWTH),
            ("files", first["files"]),
            ("seconds", first["seconds"] * (1 + MOST_DRIFT)),
        )
        if last[name] > most
    ]


if __name__ == "__main__":
    growth = grown(soak(*map(int, sys.argv[1:])))
    print(f"grew: {', '.join(growth) or 'nothing'}")
    sys.exit(1 if growth else 0)
