"""The history of a run, reported in files: CSVs, data.txt, a workbook, curves, confusion matrices.

    write_records(out, header, history, tasks)              # after every epoch
    write_records(out, header, history, tasks, final)       # once more at the end

Every file is a pure function of the arguments, so a resumed run rewrites exactly the same bytes.
Columns derive from the table of tasks; only the wording of data.txt is particular to a kind of task.

`history` is a list of epoch results, each a plain dict with numbers at its leaves:

    {"epoch": 0,
     "Training":    {"classify": {"Acc": 31.2, "Loss": 1.73}, "regressV": {"Loss": 0.81}, ...},
     "PublicTest":  {"classify": {"Acc": 30.1, "Loss": 1.75, "F1": 0.27}, ...},
     "PrivateTest": {...}}

Entries that the table of tasks does not name (a confusion matrix, say) are left alone.
"""

import math
from pathlib import Path

from training import figures
from utils.files import UNFINISHED, FileInUse, as_user_error, atomic_write, unfinished_files
from utils.tasks import DIMENSIONS, EMOTIONS, SPLITS, TASKS, TEST_SPLITS
from utils.text import decimal, to_csv

PREFIXES = dict(zip(SPLITS, ("Train", "Pubtest", "Pritest"), strict=True))

# The lines of data.txt that name the best value and its epoch; a new kind of task needs its pair here.
BEST_LINES = {
    "classification": ("best_{split}_acc{letter}", "best_{split}_acc_epoch{letter}"),
    "regression": ("best_{split}_Averageloss{letter}", "best_{split}_epoch_loss{letter}"),
}
# What a run keeps in the folder of its checkpoints, where released networks stay.
RUN_FILES = (
    "last.t7", "P*Test_model_*.t7", "Fold*_model_*.t7", "*_confusion.png",
    "fold*/*.png", "processes/fold*", "tensorboard/events.out.tfevents.*",
)  # fmt: skip
HEADER_LINES = 20  # within which data.txt names dataset and model
HONEST = "epoch chosen on PublicTest: honest"
OPTIMISTIC = "epoch chosen on PrivateTest itself: optimistic"
DRAWN = "NOTE: Demo shows drawn faces, no photographs of people; its figures say nothing about real faces."


def write_records(out, header, history, tasks, final=None):
    """Write everything that is reported about a run into the folder `out`, each file atomically.

    out: folder, made when missing.
    header: {key: value} for the head of data.txt; `dataset` is required; with
        `model`, where given, it heads the pictures.
    history: list of epoch results as described at the top of this module.
    tasks: tuple of `Task`, the tasks of this run.
    final: None while the run goes on. At its end a dict of
        `tencrop` ({task name: {"epoch": int, "PublicTest": metrics, "PrivateTest": metrics}}, perhaps empty) and
        `folder` (str, where the checkpoints are).

    A file that another program keeps open is left as it is, and that is said. Raises ValueError when a metric is
    missing or not finite, before anything is written; UserError when a file cannot be written for any other reason.
    """
    out = Path(out)
    tables = [_table(history, task) for task in tasks]
    report = _report(header, history, tasks, final)
    files = [(f"AccProcess_{table.task.name}.csv", _csv(table).encode()) for table in tables]
    # A path in the header may hold bytes that are no valid text; they must not stop a run.
    files.append(("data.txt", report.encode(errors="backslashreplace")))
    title = _title(header)
    files.append(("AccProcess.xlsx", figures.workbook(tables, title)))
    files.append(("AccProcess.png", figures.curves(tables, title)))
    held = "its rows are written once it is closed, at the end of an epoch"
    if final is not None:
        held = "it lacks the last rows: close it, then run again with --resume"
    for name, content in files:
        write_file(out / name, content, held)


def write_confusion(path, matrix, title, names=EMOTIONS):
    """Draw a confusion matrix as a PNG: counts, and percentages of each row.

    path: file to write. matrix: square, ints, rows true, columns predicted emotions of `names`. title: str above it.
    Raises ValueError when the matrix has another shape, UserError when the file cannot be written.
    """
    write_file(Path(path), figures.confusion(matrix, title, names), "it still shows an earlier epoch")


def best_epochs(history, task):
    """The best epoch of `task` on each test split, by its decisive metric; the earliest wins ties.

    Returns {"PublicTest": (epoch, value), "PrivateTest": (epoch, value)}, (None, None) where `history`
    is empty. Raises ValueError when the metric is missing or not finite.
    """
    best = dict.fromkeys(TEST_SPLITS, (None, None))
    for result in history:
        best = _updated(best, result, task)
    return best


def owned_files(out, run_name):
    """Paths of all files that a run named `run_name` writes into `out`, whether they exist or not.

    What is in `out/run_name` is what is found there now.
    """
    kept = [path for kind in RUN_FILES for path in (Path(out) / run_name).glob(kind)]
    return [*record_files(out), Path(out) / "run.log", *sorted(kept)]


def record_files(out):
    """Paths of what is reported about a run in the folder `out`, whether they exist or not."""
    tables = [f"AccProcess_{name}.csv" for name in (*TASKS, "folds")]
    return [Path(out) / name for name in (*tables, "AccProcess.xlsx", "AccProcess.png", "folds.csv", "data.txt")]


def reported_run(out):
    """The name of the run that the records in the folder `out` are about; None where they do not say."""
    try:
        lines = (Path(out) / "data.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    header = dict(line.partition(": ")[::2] for line in lines[:HEADER_LINES])
    return f"{header['dataset']}_{header['model']}" if {"dataset", "model"} <= header.keys() else None


def discard_unfinished(out, run_name):
    """Remove what a run named `run_name` was writing into `out` when it was killed."""
    unfinished = [path for record in record_files(out) for path in unfinished_files(record)]
    unfinished += [path for kind in RUN_FILES for path in (Path(out) / run_name).glob(f"{kind}.????????{UNFINISHED}")]
    for path in unfinished:
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- from history to tables


def _columns(task):
    """(metric, split) of every column after the epoch, in the order of the CSV."""
    measured = {split: task.rules.test_metrics for split in TEST_SPLITS}
    measured["Training"] = task.rules.training_metrics
    return [(metric, split) for metric in task.rules.test_metrics for split in SPLITS if metric in measured[split]]


def _number(metrics, metric, where):
    """The finite float that `metrics[metric]` is; `where` begins the message when it is not."""
    try:
        number = float(metrics[metric])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}: no number for {metric}") from error
    if not math.isfinite(number):
        raise ValueError(f"{where}: {metric} is {number}, not a finite number")
    return number


def _value(result, split, task, metric):
    where = f"epoch {result['epoch']}, {split}, {task.name}"
    return _number(result.get(split, {}).get(task.name, {}), metric, where)


def _updated(best, result, task):
    """`best` (as of the epochs before) brought up to date with one more epoch."""
    now = {}
    for split, (epoch, value) in best.items():
        new = _value(result, split, task, task.rules.decisive)
        now[split] = (result["epoch"], new) if task.better(new, value) else (epoch, value)
    return now


def _table(history, task):
    import pandas

    names = _columns(task)
    rows = [[_value(result, split, task, metric) for metric, split in names] for result in history]
    epochs = pandas.Index([result["epoch"] for result in history], name="Epoch", dtype=int)
    frame = pandas.DataFrame(rows, epochs, pandas.MultiIndex.from_tuples(names), dtype=float)
    headings = [f"{PREFIXES[split]}{metric}{task.letter}" for metric, split in names]
    return figures.Table(task, frame, headings, best_epochs(history, task)["PublicTest"][0])


def _csv(table):
    decimals = [figures.decimals(metric) for metric, _ in table.frame]
    frame = table.frame.set_axis(table.headings, axis="columns").reset_index()
    return to_csv(frame, dict(zip(table.headings, decimals, strict=True)))


# ---------------------------------------------------------------- data.txt


def _is_demo(header):
    return header["dataset"] == "Demo"


def _title(header):
    title = header["dataset"] + (" (drawn faces)" if _is_demo(header) else "")
    return f"{title}, {header['model']}" if header.get("model") else title


def _report(header, history, tasks, final):
    """The whole text of data.txt."""
    lines = [DRAWN, ""] if _is_demo(header) else []
    lines += [f"{key}: {' '.join(str(value).splitlines())}" for key, value in header.items()]
    best = {task.name: best_epochs([], task) for task in tasks}
    for result in history:
        best = {task.name: _updated(best[task.name], result, task) for task in tasks}
        lines += ["", f"Epoch {result['epoch']}", *_epoch_lines(result, tasks)]
        lines += [line for task in tasks for line in _best_lines(task, best[task.name])]
    if final is not None:
        lines += _final_lines(history, tasks, best, final)
    if _is_demo(header):
        lines += ["", DRAWN]
    return "\n".join(lines) + "\n"


def _epoch_lines(result, tasks):
    for split in SPLITS:
        yield f"{split} results"
        for task in tasks:
            yield f"  {_named(task)}: {_in_words(task, split, result[split][task.name])}"


def _named(task):
    return task.name if task.dimension is None else f"{task.name} ({DIMENSIONS[task.dimension]})"


def _in_words(task, split, metrics):
    """One line of figures, for example `accuracy 31.200 %, cross-entropy 1.730000`."""
    names = task.rules.training_metrics if split == "Training" else task.rules.test_metrics
    return ", ".join(_phrase(task, name, _number(metrics, name, f"{split}, {task.name}")) for name in names)


def _phrase(task, metric, number):
    name, unit = figures.WORDS.get((task.kind, metric), (metric, ""))
    return f"{name} {decimal(number, figures.decimals(metric))} {unit}".rstrip()


def _best_lines(task, best):
    value_line, epoch_line = BEST_LINES[task.kind]
    for split, (epoch, value) in best.items():
        named = {"split": split, "letter": task.letter}
        yield f"{value_line.format(**named)}: {decimal(value, figures.decimals(task.rules.decisive))}"
        yield f"{epoch_line.format(**named)}: {epoch}"


def _final_lines(history, tasks, best, final):
    """What a finished run adds: the chosen models and what they reach on the private split."""
    by_epoch, tencrop = {result["epoch"]: result for result in history}, final["tencrop"]
    yield from ("", "best model is:")
    for task in tasks:
        epoch, value = best[task.name]["PublicTest"]
        reached = _phrase(task, task.rules.decisive, value)
        checkpoint = f"{final['folder']}/{task.checkpoint('PublicTest')}"
        yield f"  {_named(task)}: {checkpoint}, epoch {epoch}, PublicTest {reached}"
    for task in tasks:
        yield from ("", f"PrivateTest results of {_named(task)}")
        for split, how in zip(TEST_SPLITS, (HONEST, OPTIMISTIC), strict=True):
            epoch = best[task.name][split][0]
            words = _in_words(task, "PrivateTest", by_epoch[epoch]["PrivateTest"][task.name])
            yield f"  {how}; epoch {epoch}, {words}"
    if tencrop:
        yield from ("", "Ten-crop evaluation of the chosen models")
    for task in tasks:
        for split in TEST_SPLITS if task.name in tencrop else ():
            chosen = tencrop[task.name]
            words = _in_words(task, split, chosen[split])
            yield f"  {_named(task)}, epoch {chosen['epoch']}, {split}: {words}"


# ---------------------------------------------------------------- to disk


def write_file(path, content, held):
    """Replace `path` by `content` (bytes), or say that another program holds it.

    held: str, what the user should know or do in that case. Raises UserError when it cannot be written otherwise.
    """
    with as_user_error(path, "make room for it or allow writing there, then continue with --resume"):
        try:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except FileInUse:
            print(f"{path.name} is open in another program; {held}", flush=True)
