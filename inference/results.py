"""What was read from faces, as rows of a CSV or objects of a JSON file, written while they come."""

import csv
import json
import sys
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, repeat

from utils.files import UserError, as_text, as_user_error, move_aside, replacing
from utils.tasks import DIMENSIONS, EMOTIONS

COLUMNS = (
    "file", "frame", "seconds", "face", "left", "top", "right", "bottom", "emotion", "probability",
    *EMOTIONS, *DIMENSIONS,
)  # fmt: skip


def row(file, number, face, frame=None, seconds=None):
    """{column: value} of the face `number` (from 1) in `file`; frame and its time where it is a video."""
    left, top, right, bottom = face.box.rounded()
    return {
        "file": as_text(file), "frame": frame, "seconds": seconds, "face": number,
        "left": left, "top": top, "right": right, "bottom": bottom,
        "emotion": face.emotion, "probability": face.probability,
        **face.probabilities, **{name: face.dimensions[name.lower()] for name in DIMENSIONS},
    }  # fmt: skip


@contextmanager
def table(csv_path=None, json_path=None):
    """A function that adds a `row` to the CSV and the JSON file (None: not wanted).

    Both appear complete at the end; files that stand there are moved to previous/ first. Raises UserError when one
    cannot be written.
    """
    with ExitStack() as stack:
        kinds = ((csv_path, _csv), (json_path, _json))
        sinks = [stack.enter_context(_sink(path, kind)) for path, kind in kinds if path is not None]

        def add(values):
            for sink in sinks:
                sink(values)

        yield add


@contextmanager
def _sink(path, kind):
    """A function that adds a row to the file at `path`; kind: `_csv` or `_json`."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: choose another name.")

    def told():
        return as_user_error(path, "make room, or choose another place")

    with ExitStack() as stack:
        with told():
            write = kind(stack, path)

        def add(values):
            with told():
                write(values)

        try:
            yield add
        except BaseException:
            with suppress(OSError):  # a full disk refuses what was not yet written once more
                stack.pop_all().__exit__(*sys.exc_info())
            raise
        with told():
            stack.pop_all().close()


def _open(stack, path, encoding):
    """A stream to the file that will stand at `path` when the stack ends well."""
    temporary = stack.enter_context(_moving_aside(path))
    return stack.enter_context(open(temporary, "w", encoding=encoding, newline=""))


@contextmanager
def _moving_aside(path):
    with replacing(path) as temporary:
        yield temporary
        moved = move_aside([path], path.parent)
        if moved:
            print(f"The earlier {path.name} was moved to {moved}")


def _csv(stack, path):
    writer = csv.DictWriter(_open(stack, path, "utf-8-sig"), COLUMNS, lineterminator="\n")  # Excel knows the mark
    writer.writeheader()
    return lambda values: writer.writerow({name: _plain(value) for name, value in values.items()})


def _plain(value):
    """Numbers with few digits, empty for what there is not."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def _json(stack, path):
    stream = _open(stack, path, "utf-8")
    separators = iter(chain(["[\n"], repeat(",\n")))
    stack.callback(lambda: stream.write("\n]\n" if next(separators) != "[\n" else "[]\n"))
    return lambda values: stream.write(next(separators) + json.dumps(values))
