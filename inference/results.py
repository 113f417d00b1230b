"""What was read from faces, as rows of a CSV or objects of a JSON file."""

import json
import tempfile
from contextlib import ExitStack, contextmanager

from utils.files import UserError, as_text, as_user_error, move_aside, replacing
from utils.tables import to_csv
from utils.tasks import DIMENSIONS, EMOTIONS

DECIMALS = dict.fromkeys(("seconds", "probability", *EMOTIONS, *DIMENSIONS), 4)
COLUMNS = (
    "file", "frame", "seconds", "face", "left", "top", "right", "bottom", "emotion", "probability",
    *EMOTIONS, *DIMENSIONS,
)  # fmt: skip
REMEDY = "make room, or choose another place"


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

    Both are written at the end, or when Ctrl-C ends the block; files that stand there are moved to previous/ first.
    Raises UserError when one cannot be written: where that is known at the beginning, then.
    """
    wanted = [(path, write) for path, write in ((csv_path, _write_csv), (json_path, _write_json)) if path is not None]
    for path, _ in wanted:
        _check_place(path)
    rows = []
    try:
        yield rows.append
    except KeyboardInterrupt:  # what was read so far is kept
        _write(wanted, rows)
        raise
    _write(wanted, rows)


def _write(wanted, rows):
    """Write the rows to each of the [(path, function that writes)], all of them or none."""
    import pandas

    frame = pandas.DataFrame(rows, columns=COLUMNS, dtype=object)  # a whole number beside an empty cell stays one
    with ExitStack() as stack:
        for path, write in wanted:
            stack.enter_context(as_user_error(path, REMEDY))
            temporary = stack.enter_context(replacing(path))
            with as_user_error(path, REMEDY):
                write(frame, temporary)
        for path, _ in wanted:
            moved = move_aside([path], path.parent)
            if moved:
                print(f"The earlier {path.name} was moved to {moved}")


def _check_place(path):
    """Raise UserError unless a file can be made in the place of `path`."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: choose another name.")
    with as_user_error(path, REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def _write_csv(frame, path):
    to_csv(frame, DECIMALS, path, encoding="utf-8-sig")  # by its mark Excel knows UTF-8


def _write_json(frame, path):
    objects = ",\n".join(json.dumps(values) for values in frame.to_dict("records"))
    path.write_text(f"[\n{objects}\n]\n" if objects else "[]\n", encoding="utf-8", newline="\n")
