"""How long the preparation of data.h5 takes, beside what it can be compared with.

    python benchmarks/prepare_speed.py --archive data/data.rar [--quick]

Compares, alternating, and gives medians:

- ours: the archive to data.h5 and its report, everything included;
- read: merely reading and decompressing the archive, with rarfile, in blocks of 1 MiB;
- pandas: pandas.read_csv on the CSV texts, once they are in memory, and a Python loop that splits every pixel
  string; reading the archive and writing the result come on top. With --quick it is timed on a
  part of the rows and scaled up.
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

from benchmarks.common import peak_memory  # noqa: E402
from data.fer2013.prepare import prepare  # noqa: E402
from data.fer2013.sources import survey  # noqa: E402

BLOCK = 1 << 20
QUICK_ROWS = 300  # of each split


def time_ours(source, folder):
    started = time.perf_counter()
    prepare(source, folder / "data.h5", progress=False)
    return time.perf_counter() - started


def time_read(source):
    started = time.perf_counter()
    with survey(source) as found:
        for part in found.source.parts:
            with part.entry.open() as stream:
                while stream.read(BLOCK):
                    pass
    return time.perf_counter() - started


def time_pandas(source, rows):
    """Seconds for all rows; with `rows` (an int), measured on the first rows of each part and scaled by bytes."""
    import pandas

    seconds = 0.0
    with survey(source) as found:
        for part in found.source.parts:
            with part.entry.open() as stream:
                text = b"".join(iter(lambda stream=stream: stream.read(BLOCK), b""))
            share = text if rows is None else b"".join(io.BytesIO(text).readlines()[: rows + 1])
            started = time.perf_counter()
            frame = pandas.read_csv(io.BytesIO(share))
            np.array([[int(value) for value in pixels.split()] for pixels in frame["pixels"]], np.uint8)
            seconds += (time.perf_counter() - started) * len(text) / len(share)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="the archive to prepare")
    parser.add_argument("--quick", action="store_true", help="three rounds, pandas on a part of the rows")
    args = parser.parse_args()

    before = peak_memory()
    times = {"ours": [], "read": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4 if args.quick else 8):
            times["read"].append(time_read(args.archive))
            times["ours"].append(time_ours(args.archive, Path(folder)))
    memory = peak_memory()
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up
    times["pandas"] = [time_pandas(args.archive, QUICK_ROWS if args.quick else None)]

    with survey(args.archive) as found:
        megabytes = sum(part.entry.size for part in found.source.parts) / 1e6
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores{load}")
    print(f"{args.archive.name}: {args.archive.stat().st_size / 1e6:.0f} MB, {megabytes:.0f} MB of text")
    ours = statistics.median(times["ours"])
    print(f"{'':8}{'runs':>5}{'median s':>10}{'least s':>9}{'MB/s':>7}{'  relative to ours':>18}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:8}{len(values):5}{median:10.3f}{min(values):9.3f}{megabytes / median:7.0f}{median / ours:18.2f}")
    print(f"ours / read: {ours / statistics.median(times['read']):.2f}")
    print(f"peak memory: {memory:.0f} MB, of which {before:.0f} MB before the first run")


if __name__ == "__main__":
    main()
