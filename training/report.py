"""The report of a run: CSVs, data.txt, a workbook, curves and confusion matrices.

    write_tables(out, header, history, tasks, final)     # after every epoch
    write_pictures(out, folder, title, history, tasks)   # now and then, and at the end

Every file is a pure function of the arguments: a resumed run writes the same bytes. There are no
clock times, no software versions. matplotlib and XlsxWriter are imported where they are used.

`history` is a list of the results of epochs, each a plain dict:

    {"epoch": 0,
     "Training":    {"classify": {"Acc": 31.2, "Loss": 1.73}, "regressV": {"Loss": 0.81}, ...},
     "PublicTest":  {"classify": {"Acc": 30.1, "Loss": 1.75, "F1": 0.27, "confusion": ...}, ...},
     "PrivateTest": {...}}
"""

import io
from datetime import datetime
from itertools import zip_longest
from pathlib import Path

import numpy as np

from utils.files import FileInUse, as_user_error, atomic_write
from utils.tasks import DIMENSIONS, EMOTIONS, SPLITS, TASKS, TEST_SPLITS
from utils.text import decimal, to_csv

PREFIXES = dict(zip(SPLITS, ("Train", "Pubtest", "Pritest"), strict=True))
# {kind of task: the lines of data.txt with its best value and the epoch}
BEST_LINES = {
    "classification": ("best_{}_acc{}", "best_{}_acc_epoch{}"),
    "regression": ("best_{}_Averageloss{}", "best_{}_epoch_loss{}"),
}
# {(kind of task, metric): (name, unit)} in data.txt and above charts; others go by their own name.
WORDS = {
    ("classification", "Acc"): ("accuracy", "%"),
    ("classification", "Loss"): ("cross-entropy", ""),
    ("classification", "F1"): ("macro F1", ""),
    ("regression", "Loss"): ("mean squared error", ""),
}
DECIMALS = {"Acc": 3}  # percent; other metrics have six
CHOICES = {
    "PublicTest": "epoch chosen on PublicTest: honest",
    "PrivateTest": "epoch chosen on PrivateTest itself: optimistic",
}
DRAWN = (
    "NOTE: Demo shows drawn faces, no photographs of people; its figures say nothing about real "
    "faces."
)
# Of the splits; safe for colour-blind readers.
COLOURS = {"Training": "#7a7a7a", "PublicTest": "#0072b2", "PrivateTest": "#d55e00"}
CHART_ROWS = 15  # that a chart is high in the workbook


def write_tables(out, header, history, tasks, final=None):
    """Write AccProcess_<task>.csv and data.txt into the folder `out`, atomically.

    header: {key: value} for the head of data.txt, `dataset` among them; tasks: tuple of `Task`.
    final: None while the run goes on; at its end a dict of `folder` (of the checkpoints) and
    `tencrop` ({task name: {"epoch", "PublicTest": metrics, "PrivateTest": metrics}}, maybe empty).
    A file that another program has open (Windows) is left as it is, which is printed. Raises
    UserError when a file cannot be written for another reason.
    """
    for task in tasks:
        text = to_csv(task_table(history, task), decimals(task))
        write_file(Path(out) / f"AccProcess_{task.name}.csv", text.encode())
    text = report_text(header, history, tasks, final)
    # A path in the header may hold bytes that are not valid text.
    write_file(Path(out) / "data.txt", text.encode(errors="backslashreplace"))


def write_pictures(out, folder, title, history, tasks):
    """Write AccProcess.xlsx, AccProcess.png and the confusion matrices of the chosen epoch.

    out, folder: of the report and of the checkpoints; title: str above every chart. Raises
    UserError like `write_tables`.
    """
    tables = {task: task_table(history, task) for task in tasks}
    write_file(Path(out) / "AccProcess.xlsx", workbook(tables, title))
    write_file(Path(out) / "AccProcess.png", curves(tables, title, history))
    for task in tasks if history else ():
        epoch = best_epochs(history, task)["PublicTest"][0]
        for split in TEST_SPLITS if task.kind == "classification" else ():
            matrix = history[epoch][split][task.name]["confusion"]
            content = confusion(matrix, f"{title}\n{split}, epoch {epoch} (chosen on PublicTest)")
            write_file(Path(folder) / f"{split}_confusion.png", content)


def write_file(path, content):
    """Replace `path` by the bytes `content`, unless another program has it open, which is said."""
    with as_user_error(path, "make room or allow writing there, then continue with --resume"):
        try:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except FileInUse:
            print(
                f"{path.name} is open in another program and was not updated: close it. It is "
                "written again after the next epoch, or with --resume.",
                flush=True,
            )


def best_epochs(history, task):
    """The best epoch of `task` on each test split by its decisive metric; the first of equal ones.

    Returns {"PublicTest": (epoch, value), "PrivateTest": (epoch, value)}, (None, None) where
    `history` is empty.
    """
    best = {}
    for split in TEST_SPLITS:
        values = [result[split][task.name][task.rules.decisive] for result in history]
        epoch = max(range(len(values)), key=lambda n: task.rules.sign * values[n], default=None)
        best[split] = epoch, None if epoch is None else values[epoch]
    return best


def title_of(header):
    """The title of the pictures: dataset and model."""
    drawn = " (drawn faces)" if header["dataset"] == "Demo" else ""
    return f"{header['dataset']}{drawn}, {header['model']}"


def columns(task):
    """{heading: (metric, split)} of a task's table in the order of its CSV."""
    return {
        f"{PREFIXES[split]}{metric}{task.letter}": (metric, split)
        for metric in task.rules.test_metrics
        for split in SPLITS
        if metric in task.rules.metrics(split)
    }


def decimals(task):
    """{heading: number of decimals} of a task's table."""
    return {name: DECIMALS.get(metric, 6) for name, (metric, _) in columns(task).items()}


def task_table(history, task):
    """A pandas DataFrame of the metrics of a task: a row an epoch, the columns of its CSV."""
    import pandas

    cells = {"Epoch": [result["epoch"] for result in history]}
    for name, (metric, split) in columns(task).items():
        cells[name] = [float(result[split][task.name][metric]) for result in history]
    return pandas.DataFrame(cells)


# ---------------------------------------------------------------- data.txt


def report_text(header, history, tasks, final):
    """The text of data.txt."""
    drawn = header["dataset"] == "Demo"
    lines = [DRAWN, ""] if drawn else []
    lines += [f"{key}: {' '.join(str(value).splitlines())}" for key, value in header.items()]
    for count, result in enumerate(history, start=1):
        lines += ["", f"Epoch {result['epoch']}"]
        for split in SPLITS:
            lines.append(f"{split} results")
            lines += [
                f"  {_task_name(task)}: {_in_words(task, split, result[split][task.name])}"
                for task in tasks
            ]
        for task in tasks:
            lines += _best_lines(task, best_epochs(history[:count], task))
    if final is not None:
        lines += _final_lines(history, tasks, final)
    if drawn:
        lines += ["", DRAWN]
    return "\n".join(lines) + "\n"


def _task_name(task):
    return task.name if task.dimension is None else f"{task.name} ({DIMENSIONS[task.dimension]})"


def _in_words(task, split, metrics):
    """Metrics on one line, for example `accuracy 31.200 %, cross-entropy 1.730000`."""
    return ", ".join(_phrase(task, name, metrics[name]) for name in task.rules.metrics(split))


def _phrase(task, metric, value):
    name, unit = WORDS.get((task.kind, metric), (metric, ""))
    return f"{name} {decimal(value, DECIMALS.get(metric, 6))} {unit}".rstrip()


def _best_lines(task, best):
    value_line, epoch_line = BEST_LINES[task.kind]
    for split, (epoch, value) in best.items():
        number = decimal(value, DECIMALS.get(task.rules.decisive, 6))
        yield f"{value_line.format(split, task.letter)}: {number}"
        yield f"{epoch_line.format(split, task.letter)}: {epoch}"


def _final_lines(history, tasks, final):
    """What a finished run adds: the chosen models and their results on the private split."""
    best = {task: best_epochs(history, task) for task in tasks}
    yield from ("", "best model is:")
    for task, chosen in best.items():
        epoch, value = chosen["PublicTest"]
        reached = _phrase(task, task.rules.decisive, value)
        checkpoint = f"{final['folder']}/{task.checkpoint('PublicTest')}"
        yield f"  {_task_name(task)}: {checkpoint}, epoch {epoch}, PublicTest {reached}"
    for task, chosen in best.items():
        yield from ("", f"PrivateTest results of {_task_name(task)}")
        for split, (epoch, _) in chosen.items():
            words = _in_words(task, "PrivateTest", history[epoch]["PrivateTest"][task.name])
            yield f"  {CHOICES[split]}; epoch {epoch}, {words}"
    if final["tencrop"]:
        yield from ("", "Ten-crop evaluation of the chosen models")
    for name, chosen in final["tencrop"].items():
        for split in TEST_SPLITS:
            words = _in_words(TASKS[name], split, chosen[split])
            yield f"  {_task_name(TASKS[name])}, epoch {chosen['epoch']}, {split}: {words}"


# ---------------------------------------------------------------- workbook and pictures


def workbook(tables, title):
    """The bytes of an Excel workbook: a sheet a task with its table and a line chart a metric.

    tables: {`Task`: its table}; title: str above every chart.
    """
    import pandas

    buffer, options = io.BytesIO(), {"options": {"in_memory": True}}
    with pandas.ExcelWriter(buffer, engine="xlsxwriter", engine_kwargs=options) as writer:
        writer.book.set_properties({"title": title, "created": datetime(2000, 1, 1)})
        for task, table in tables.items():
            rounded = table.round(decimals(task))
            rounded.to_excel(writer, sheet_name=task.name, index=False, freeze_panes=(1, 1))
            sheet = writer.sheets[task.name]
            sheet.autofit()
            for number, metric in enumerate(task.rules.test_metrics if len(table) else ()):
                chart = _chart(writer.book, task, metric, len(table), title)
                sheet.insert_chart(1 + CHART_ROWS * number, 1 + len(table.columns), chart)
    return buffer.getvalue()


def _chart(book, task, metric, epochs, title):
    """A line chart of a metric over the epochs."""
    chart = book.add_chart({"type": "line"})
    for column, (name, split) in enumerate(columns(task).values(), start=1):
        if name == metric:
            colour = {"color": COLOURS[split]}
            marker = {"type": "circle", "size": 4, "fill": colour, "border": colour}
            rows = [task.name, 1, column, epochs, column]
            chart.add_series({"name": split, "values": rows, "line": colour, "marker": marker})
    chart.set_title({"name": f"{title}: {_label(task, metric)}", "name_font": {"size": 11}})
    chart.set_x_axis({"name": "epoch", "label_position": "low"})
    return chart


def _label(task, metric):
    """A task and a metric in words, with its unit, for example `classify: accuracy (%)`."""
    name, unit = WORDS.get((task.kind, metric), (metric, ""))
    return f"{task.name}: {name}" + (f" ({unit})" if unit else "")


def curves(tables, title, history):
    """The bytes of a PNG with all curves: a row a task, a panel a metric, the chosen epoch marked.

    tables: {`Task`: its table}; title: str above the picture.
    """
    from matplotlib.figure import Figure

    panels = max(len(task.rules.test_metrics) for task in tables)
    figure = Figure((4 * panels, 2.7 * len(tables) + 1.1), layout="constrained")
    grid = figure.subplots(len(tables), panels, squeeze=False)
    for row, (task, table) in zip(grid, tables.items(), strict=True):
        epoch = best_epochs(history, task)["PublicTest"][0]
        for axes, metric in zip_longest(row, task.rules.test_metrics):
            if metric is None:
                axes.set_axis_off()
            else:
                _draw_panel(axes, task, metric, table, epoch)
    figure.suptitle(title, fontsize=14)
    lines = grid[0, 0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(lines[0]), frameon=False)
    return to_png(figure)


def _draw_panel(axes, task, metric, table, epoch):
    """Draw a metric on every split. epoch: that PublicTest chose, or None."""
    for heading, (name, split) in columns(task).items():
        if name == metric:  # with points, since a line through one point is invisible
            axes.plot(table["Epoch"], table[heading], ".-", color=COLOURS[split], label=split)
    if epoch is not None:
        axes.axvline(epoch, color="black", linestyle=":", label="epoch chosen on PublicTest")
    axes.set(title=_label(task, metric), xlabel="epoch")
    axes.locator_params(axis="x", integer=True)
    axes.grid(color="#dddddd")


def confusion(matrix, title, names=EMOTIONS):
    """The bytes of a PNG of a confusion matrix: counts, and percentages of each row.

    matrix: square, ints, rows true and columns predicted classes `names`; title: str above it.
    """
    from matplotlib.figure import Figure

    matrix = np.array(matrix)
    # A class without faces has no shares: its row is zero.
    shares = 100 * matrix / matrix.sum(axis=1, keepdims=True).clip(1)
    figure = Figure((8.2, 7.6), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (true, predicted), share in np.ndenumerate(shares):
        text, colour = (
            f"{matrix[true, predicted]}\n{share:.1f}%",
            "white" if share > 55 else "black",
        )
        axes.text(predicted, true, text, ha="center", va="center", color=colour)
    ticks = range(len(names))
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set(xlabel="Predicted", ylabel="True", title=title)
    figure.colorbar(picture, label="share of the true class (%)", shrink=0.8)
    return to_png(figure)


def to_png(figure):
    """The bytes of a PNG of a matplotlib figure, 100 pixels an inch."""
    buffer = io.BytesIO()
    # matplotlib would write its version into the file.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()
