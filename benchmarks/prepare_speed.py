"""How long the preparation of data.h5 takes, beside what it can be compared with.

    python benchmarks/prepare_speed.py --archive data/data.rar [--quick]

Compares, alternating, and gives medians:

- ours: the archive to data.h5 and its report, everything included;
- read: merely reading and decompressing the archive, with rarfile, in blocks of 1 MiB;
- pandas: pandas.read_csv on the CSV texts, once they are in memory, and a Python loop that splits
  every pixel string; reading the archive and writing the result come on top. With --quick it is
  timed on a part of the rows and scaled up.
"""

import argparse
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import peak_memory
from data.archives import open_files
from data.fer2013.prepare import ensure

BLOCK = 1 << 20
QUICK_ROWS = 300  # of each split


def time_ours(archive, folder):
    (folder / "data.h5").unlink(missing_ok=True)
    started = time.perf_counter()
    ensure(archive, folder / "data.h5")
    return time.perf_counter() - started


def time_read(archive):
    """(seconds, bytes) of reading all members."""
    started, size = time.perf_counter(), 0
    with open_files(archive) as files:
        for file in files.values():
            with file.open() as stream:
                while block := stream.read(BLOCK):
                    size += len(block)
    return time.perf_counter() - started, size


def time_pandas(archive, rows):
    """Seconds for all rows; of `rows` (an int) of each member, scaled by bytes."""
    import pandas

    seconds = 0.0
    with open_files(archive) as files:
        for file in files.values():
            text = file.read()
            share = text if rows is None else b"".join(io.BytesIO(text).readlines()[: rows + 1])
            started = time.perf_counter()
            frame = pandas.read_csv(io.BytesIO(share))
            np.array([list(map(int, pixels.split())) for pixels in frame["pixels"]], np.uint8)
            seconds += (time.perf_counter() - started) * len(text) / len(share)
    return seconds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", type=Path, required=True, help="the archive to prepare")
    parser.add_argument(
        "--quick", action="store_true", help="three rounds, pandas on a part of the rows"
    )
    args = parser.parse_args()

    before = peak_memory()
    times = {"ours": [], "read": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4 if args.quick else 8):
            seconds, size = time_read(args.archive)
            times["read"].append(seconds)
            times["ours"].append(time_ours(args.archive, Path(folder)))
    memory = peak_memory()
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up
    times["pandas"] = [time_pandas(args.archive, QUICK_ROWS if args.quick else None)]

    megabytes = size / 1e6
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores{load}"
    )
    print(
        f"{args.archive.name}: {args.archive.stat().st_size / 1e6:.0f} MB, {megabytes:.0f} MB of "
        f"text"
    )
    ours = statistics.median(times["ours"])
    print(f"{'':8}{'runs':>5}{'median s':>10}{'least s':>9}{'MB/s':>7}{'  relative to ours':>18}")
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:8}{len(values):5}{median:10.3f}{min(values):9.3f}"
            f"{megabytes / median:7.0f}{median / ours:18.2f}"
        )
    print(f"ours / read: {ours / statistics.median(times['read']):.2f}")
    print(f"peak memory: {memory:.0f} MB, of which {before:.0f} MB before the first run")


if __name__ == "__main__":
    main()
