"""What the benchmarks share: describing the machine, timing in turn, runs kept in a file, printing
a table.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings

import numpy as np
import torch
from scipy.stats import DegenerateDataWarning, bootstrap

from data import DATASETS
from utils.files import UserError, as_user_error, move_aside, write_text

# ResNet-18 with a stride-1 stem on one grey 44x44 face; a training step costs three times as much.
FORWARD_FLOP = 2.19e9
TRAINING_FLOP = 3 * FORWARD_FLOP
TOLERANCE, MAX_WARM_UPS = 0.05, 10  # relative difference of two rates; calls before timing


def asked_for_quick(doc):
    """Parse the command line of a benchmark whose one flag is --quick. doc: its docstring."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and less work in each")
    return parser.parse_args().quick


def add_faces_with_subjects(parser):
    """Add --dataset, one whose faces have subjects, and --data to an argument parser."""
    parser.add_argument(
        "--dataset",
        choices=[name for name, load in DATASETS.items() if load.has_subjects],
        default="CK+",
    )
    parser.add_argument("--data", help="as for mainpro_FER.py")


def describe_machine():
    """One line: processor, cores in use, GPU if any, PyTorch."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            name = next(
                line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")
            )
    except (OSError, StopIteration):
        pass
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{name}, {cores}{gpu}, PyTorch {torch.__version__}"


def peak_memory():
    """Largest resident size of this process so far, MB. Not on Windows."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def recorded_runs(path):
    """Yield the records that `record_run` wrote to the file `path`, if there is one, but none that
    was cut off.
    """
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:  # the line that was being written when the program was killed
            continue


def record_run(stream, record):
    """Add a record, a dictionary of plain values, to a file that is open for appending."""
    stream.write("\n" + json.dumps(record))  # the line before may be half of one
    stream.flush()


def mean_interval(values):
    """{"value", "low", "high"}: mean of values (N,), 95% percentile bootstrap of 10,000 samples."""
    values = np.asarray(values, float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            (values,), np.mean, n_resamples=10_000, batch=100, method="percentile", random_state=0
        ).confidence_interval
    return {"value": values.mean(), "low": float(interval.low), "high": float(interval.high)}


def spell(interval):
    """The dictionary that `mean_interval` returns, as text: 59.0 [57.6, 60.3]."""
    return f"{interval['value']:.1f} [{interval['low']:.1f}, {interval['high']:.1f}]"


def write_json(content, path):
    """Write plain values to a JSON file; an earlier one is moved to previous/. Raises UserError."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: choose another --out.")
    with as_user_error(path, "make room, or choose another --out"):
        moved = move_aside([path], path.parent)
        write_text(path, json.dumps(content, indent=1) + "\n")
    print(f"written: {path}" + (f" (the earlier one was moved to {moved})" if moved else ""))


def time_in_turn(programs, rounds):
    """Time each of {name: function} `rounds` times, in turn, after each has warmed up.

    A function returns how many images it handled. Returns {name: [images per second, one per
    round]}: a machine whose speed drifts slows all of them alike, so ratios within a round hold.
    """
    for name, program in programs.items():
        if not warm_up(program):
            print(f"{name}: throughput varies, no two of {MAX_WARM_UPS} calls agree within 5%")
    rates = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            rates[name].append(rate_of(program))
    return rates


def warm_up(program):
    """Call a function until two rates in a row agree: the first calls build kernels.

    Returns whether they did.
    """
    earlier = rate_of(program)
    for _ in range(MAX_WARM_UPS - 1):
        rate = rate_of(program)
        if abs(rate - earlier) <= TOLERANCE * max(rate, earlier):
            return True
        earlier = rate
    return False


def rate_of(program):
    """Images per second of one call of a function that returns how many it handled."""
    start = time.perf_counter()
    images = program()
    return images / (time.perf_counter() - start)


def print_rates(title, unit, rates, ours, flop):
    """Print median, range, ratio of `ours` to each (median over rounds) and TFLOP/s; flop: per
    counted image.
    """
    rows = []
    for name, values in rates.items():
        rate = statistics.median(values)
        ratio = statistics.median(a / b for a, b in zip(rates[ours], values, strict=True))
        spread = f"{min(values):.1f}..{max(values):.1f}"
        rows.append([name, f"{rate:.1f}", spread, f"{ratio:.2f}", f"{rate * flop / 1e12:.3f}"])
    print_table([title, unit, "range", "ours / it", "TFLOP/s of one network"], rows)


def print_table(headings, rows):
    """Print rows of text in aligned columns, the first to the left, the others to the right."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [row[0].ljust(widths[0])] + [
            cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)
        ]
        print("  ".join(cells).rstrip())
