"""Prepare data.h5 from FER2013 as people have it, and report the rows that were dropped.

    python -m data.fer2013.prepare [SOURCE] [--h5 FILE.h5]

SOURCE is a folder, an archive, a table or an h5 file; default: the project's data folder.
"""

import argparse
import csv
import hashlib
import os
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.archives import DATA_FOLDER, REPORT_NAME, disk_files, open_files
from data.fer2013 import store
from data.fer2013.ferplus import votes_to_vad
from data.fer2013.sources import H5_SUFFIXES, NO_VAD, find_source
from utils.files import (
    UserError,
    as_user_error,
    atomic_write,
    exit_code,
    move_aside,
    path_argument,
    unfinished_files,
)
from utils.tasks import EMOTIONS, SPLITS

H5_NAMES = ("data.h5", "data_prepared.h5")  # the second where the first is somebody else's
MAX_UNUSED = 12  # lines about what is not used
UNFINISHED_SECONDS = 3600  # age at which a temporary file is surely nobody's
WRITE_REMEDY = "make room, or choose another place: python -m data.fer2013.prepare SOURCE --h5 FILE"
PUBLIC_SHARE = 0.1
PUBLIC_NOTE = "PublicTest is a tenth of the training faces, drawn by class with seed 0"


def ensure(place, h5_path=None, fallback=None):
    """Return the path of an up-to-date data.h5 of what is in `place`, preparing it when needed.

    place: a folder, an archive, a table or an h5 file; a prepared data.h5 is used as it is.
    h5_path: default data.h5 in the folder or beside the file, or in the folder `fallback` where
    that one is read-only. It is up to date while the files in `place` keep their names, sizes and
    times of change, and when there are no sources any more. Raises UserError when there is nothing
    to read, or something cannot be read.
    """
    place = Path(place)
    if place.is_file() and store.read_attributes(place):
        return place
    folder = place if place.is_dir() else place.parent
    paths = [Path(h5_path)] if h5_path else _default_paths(folder, fallback)
    if paths[-1].is_dir() or paths[-1].suffix not in H5_SUFFIXES:
        raise UserError(f"{paths[-1]} is a folder or not named .h5: give a name such as data.h5")
    current = fingerprint(place)
    attributes = {path: store.read_attributes(path) for path in paths}
    prepared = [path for path in paths if attributes[path]]
    for path in prepared:
        if attributes[path]["fingerprint"] == current:
            return path
    with open_files(place) as files:
        files = {name: file for name, file in files.items() if place / name not in prepared}
        source, unused = find_source(files)
        if source is None and prepared and prepared[0].parent == folder:
            return prepared[0]
        if source is None:
            raise UserError(nothing_found(place, unused))
        if prepared:
            print(f"Rebuilding {paths[-1]}: it does not match the files in {place}.")
        prepare(source, unused, paths[-1], current)
    return paths[-1]


def _default_paths(folder, fallback):
    """Where data.h5 of a folder may be; the last is where it is written."""
    names = [name for name in H5_NAMES if not store.is_foreign(folder / name)]
    path = folder / (names[0] if names else H5_NAMES[-1])  # which is moved aside
    is_effective = os.access in os.supports_effective_ids
    if fallback is None or os.access(folder, os.W_OK, effective_ids=is_effective):
        return [path]
    return [path, Path(fallback) / H5_NAMES[0]]


def fingerprint(place):
    """SHA-256, hexadecimal, of names, sizes and times of change of the sources; "" without any."""
    entries = []
    for name, path in disk_files(place):
        if path.suffix not in H5_SUFFIXES or store.is_foreign(path):
            stat = path.stat()
            entries.append((name, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(ascii(entries).encode()).hexdigest() if entries else ""


def nothing_found(place, unused):
    """The message about a place without faces of FER2013. unused: see `find_source`."""
    found = "; ".join(unused[:3]) or "there are no files in it, or only hidden ones"
    return (
        f"{place} holds no faces of FER2013 ({found}). Expected: a table with columns emotion and "
        "pixels (fer2013.csv, or the annotators' train, publictest and privatetest), class folders "
        "train/<class> and test/<class>, or an archive of these"
    )


def prepare(source, unused, h5_path, current):
    """Read a `Source` and write data.h5, with data_report.csv beside it.

    unused: sentences about other files, to be printed; current: the fingerprint of the files.
    Raises UserError when a split has no usable row, or the disk refuses.
    """
    started = time.perf_counter()
    more = [f"{len(unused) - MAX_UNUSED:,} more"] if len(unused) > MAX_UNUSED else []
    lines = [f"  not used: {sentence}" for sentence in unused[:MAX_UNUSED] + more]
    print(f"Reading {source.description}", *lines, sep="\n", flush=True)
    rows, dropped = defaultdict(list), []
    for row in tqdm(source.read(), desc="Reading", unit=" rows", leave=False, disable=None):
        if row.fault:
            dropped.append(row)
        else:
            rows[row.split].append(row.values)
    _check_splits(source, rows, dropped)
    splits = {split: to_arrays(rows.pop(split)) for split in SPLITS if split in rows}
    notes = []
    if not source.is_annotated and splits.keys() == {"Training", "PrivateTest"}:
        splits, notes = draw_public_split(splits), [PUBLIC_NOTE]
    notes += missing_classes(splits)
    with as_user_error(h5_path, WRITE_REMEDY):
        _move_aside_better(h5_path, source.vad_origin)
        with atomic_write(h5_path) as temporary:
            store.write(temporary, splits, source.vad_origin, notes, current)
        report = _write_report(h5_path.with_name(REPORT_NAME), dropped)
        _remove_unfinished(h5_path)
    seconds = time.perf_counter() - started
    counts = ", ".join(f"{len(arrays['label']):,} {split}" for split, arrays in splits.items())
    kinds = Counter(row.fault.partition(":")[0] for row in dropped)
    faults = "".join(f", {count:,} for {kind}" for kind, count in sorted(kinds.items()))
    print(f"{h5_path}: {counts} faces (V/A/D: {source.vad_origin}), {seconds:.1f} s")
    print(f"  rows dropped: {len(dropped):,}{faults}; {report}", *notes, sep="\n  ", flush=True)


def to_arrays(values):
    """{dataset of data.h5: array} of the `values` of rows; V/A/D derive from votes without them."""
    arrays = {}
    for name in values[0]:
        column = [value[name] for value in values]
        arrays[name] = np.array(column, store.DTYPES[name])
    if "votes" in arrays and "VAD" not in arrays:
        arrays["VAD"] = votes_to_vad(arrays["votes"])
    return arrays


def _check_splits(source, rows, dropped):
    """Raise UserError for a split without a usable row. rows: {split: those that are}."""
    files = {row.split: row.file for row in dropped if row.split} | source.files
    if not rows and not files:
        files = {"any split": source.description}
    for split, file in files.items():
        if split not in rows:
            faults = [row for row in dropped if row.split in (split, "")]
            first = f" (row {faults[0].number}: {faults[0].fault})" if faults else ""
            raise UserError(f"{file} has no usable row for {split}{first}: download it again")


def draw_public_split(splits):
    """{split: arrays} with a tenth of the training faces of each class as the public split.

    The seed is fixed. An image that occurs more than once is not taken, so that no face is in both.
    """
    training = splits["Training"]
    images = [face.tobytes() for face in training["pixel"]]
    counts = Counter(images)
    is_single = np.array([counts[image] == 1 for image in images])
    generator = np.random.RandomState(0)  # NumPy guarantees that its numbers never change
    is_drawn = np.zeros(len(images), bool)
    for label in range(len(EMOTIONS)):
        of_class = training["label"] == label
        size = round(PUBLIC_SHARE * of_class.sum())
        is_drawn[generator.permutation(np.flatnonzero(of_class & is_single))[:size]] = True
    if not is_drawn.any():
        is_drawn[np.flatnonzero(is_single)[:1]] = True
    return {
        "Training": {name: array[~is_drawn] for name, array in training.items()},
        "PublicTest": {name: array[is_drawn] for name, array in training.items()},
        "PrivateTest": splits["PrivateTest"],
    }


def missing_classes(splits):
    """Sentences about the classes of which a split has no face."""
    notes = []
    for split, arrays in splits.items():
        names = [name for label, name in enumerate(EMOTIONS) if label not in arrays["label"]]
        notes += [f"no {split} faces of {', '.join(names)}"] if names else []
    return notes


def _move_aside_better(h5_path, vad_origin):
    """Move somebody else's file aside, and one with V/A/D that one without would replace."""
    earlier = store.read_attributes(h5_path)
    is_worse = earlier and (vad_origin != NO_VAD or earlier["vad_origin"] == NO_VAD)
    if not is_worse and (folder := move_aside([h5_path], h5_path.parent)):
        print(f"The earlier {h5_path.name} was moved to {folder}.")


def _remove_unfinished(h5_path):
    """Remove what killed preparations left; a younger file may be of one that still works."""
    for name in (h5_path.name, REPORT_NAME):
        for path in unfinished_files(h5_path.parent, name):
            with suppress(OSError):  # another run has removed it, or a virus scanner holds it
                if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                    path.unlink()


def _write_report(path, dropped):
    """Write data_report.csv (UTF-8 with a byte-order mark, for Excel); return a clause about it."""
    order = (*SPLITS, "")
    dropped = sorted(dropped, key=lambda row: (order.index(row.split), row.file))
    options = {"encoding": "utf-8-sig", "errors": "backslashreplace", "newline": ""}
    try:
        with atomic_write(path) as temporary, open(temporary, "w", **options) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("split", "file", "row", "reason"))
            writer.writerows((row.split, row.file, row.number, row.fault) for row in dropped)
    except OSError as error:
        return f"{path} could not be written ({error.strerror})"
    return f"listed in {path}"


def main(arguments=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data.fer2013.prepare",
        description="Prepare data.h5 from the faces in SOURCE, unless it is up to date.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=path_argument,
        default=DATA_FOLDER,
        metavar="SOURCE",
        help="a folder, an archive, a table or an h5 file (default: the project's data folder)",
    )
    parser.add_argument(
        "--h5",
        type=path_argument,
        metavar="FILE.h5",
        help="what to write (default: data.h5 in the source's folder)",
    )
    args = parser.parse_args(arguments)
    return exit_code(lambda: _run(args.source, args.h5), "stopped; nothing was written")


def _run(source, h5_path):
    h5_path = ensure(source, h5_path)
    counts = store.read_attributes(h5_path)["counts"]
    faces = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"{h5_path} is ready: {faces}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
