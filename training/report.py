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
import textwrap
from datetime import datetime
from itertools import zip_longest
from pathlib import Path

from utils.files import FileInUse, as_user_error, atomic_write
from utils.tasks import DIMENSIONS, EMOTIONS, SPLITS, TASKS, TEST_SPLITS
from utils.text import decimal, to_csv

PREFIXES = dict(zip(SPLITS, ("Train", "Pubtest", "Pritest"), strict=True))
# {kind of task: the lines of data.txt with its best value and the epoch}
BEST_LINES = {
    "classification": ("best_{split}_acc{letter}", "best_{split}_acc_epoch{letter}"),
    "regression": ("best_{split}_Averageloss{letter}", "best_{split}_epoch_loss{letter}"),
}
# {(kind of task, metric): (name, unit)} in data.txt and above charts; others go by their own name.
WORDS = {
    ("classification", "Acc"): ("accuracy", "%"),
    ("classification", "Loss"): ("cross-entropy", ""),
    ("classification", "F1"): ("macro F1", ""),
    ("regression", "Loss"): ("mean squared error", ""),
}
DECIMALS = {"Acc": 3}  # percent; other metrics have six
HONEST = "epoch chosen on PublicTest: honest"
OPTIMISTIC = "epoch chosen on PrivateTest itself: optimistic"
DRAWN = (
    "NOTE: Demo shows drawn faces, no photographs of people; its figures say nothing about real "
    "faces."
)
# Of the splits; safe for colour-blind readers.
COLOURS = {"Training": "#7a7a7a", "PublicTest": "#0072b2", "PrivateTest": "#d55e00"}
FEW_EPOCHS = 15  # up to here every epoch has a marker: a line through one point is invisible
CHART = {"width": 520, "height": 320}  # pixels, in the workbook


def write_tables(out, header, history, tasks, final=None):
    """Write AccProcess_<task>.csv and data.txt into the folder `out`, atomically.

    header: {key: value} for the head of data.txt, `dataset` among them; tasks: tuple of `Task`.
    final: None while the run goes on; at its end a dict of `folder` (of the checkpoints) and
    `tencrop` ({task name: {"epoch", "PublicTest": metrics, "PrivateTest": metrics}}, maybe empty).
    A file that another program has open (Windows) is left as it is, which is printed. Raises
    UserError when a file cannot be written for another reason.
    """
    held = "its rows are written once it is closed, at the end of an epoch"
    if final is not None:
        held = "it lacks the last rows: close it, then run again with --resume"
    for task in tasks:
        table = task_table(history, task)
        decimals = {heading(task, *column): places(column[0]) for column in columns(task)}
        text = to_csv(table.reset_index(), decimals)
        write_file(Path(out) / f"AccProcess_{task.name}.csv", text.encode(), held)
    report = _report(header, history, tasks, final)
    # A path in the header may hold bytes that are not valid text.
    write_file(Path(out) / "data.txt", report.encode(errors="backslashreplace"), held)


def write_pictures(out, folder, title, history, tasks):
    """Write AccProcess.xlsx, AccProcess.png and the confusion matrices of the chosen epoch.

    out, folder: of the report and of the checkpoints; title: str above every chart. Raises
    UserError like `write_tables`.
    """
    held = "it still shows an earlier epoch"
    tables = {task: task_table(history, task) for task in tasks}
    write_file(Path(out) / "AccProcess.xlsx", workbook(tables, title), held)
    write_file(Path(out) / "AccProcess.png", curves(tables, title, history), held)
    for task in tasks if history else ():
        epoch = best_epochs(history, task)["PublicTest"][0]
        for split in TEST_SPLITS if task.kind == "classification" else ():
            matrix = history[epoch][split][task.name]["confusion"]
            content = confusion(matrix, f"{title}: {split}, epoch {epoch} (chosen on PublicTest)")
            write_file(Path(folder) / f"{split}_confusion.png", content, held)


def write_file(path, content, held):
    """Replace `path` by the bytes `content`; where another program has it open, print `held`."""
    with as_user_error(path, "make room or allow writing there, then continue with --resume"):
        try:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except FileInUse:
            print(f"{path.name} is open in another program; {held}", flush=True)


def best_epochs(history, task):
    """The best epoch of `task` on each test split by its decisive metric; the first of equal ones.

    Returns {"PublicTest": (epoch, value), "PrivateTest": (epoch, value)}, (None, None) where
    `history` is empty.
    """
    best = dict.fromkeys(TEST_SPLITS, (None, None))
    for result in history:
        best = _update_best(best, result, task)
    return best


def _update_best(best, result, task):
    """The best epochs, given those before and one more result."""
    updated = dict(best)
    for split, (_, value) in best.items():
        new = result[split][task.name][task.rules.decisive]
        if task.better(new, value):
            updated[split] = (result["epoch"], new)
    return updated


def title_of(header):
    """The title of the pictures: dataset and model."""
    drawn = " (drawn faces)" if header["dataset"] == "Demo" else ""
    return f"{header['dataset']}{drawn}, {header['model']}"


# ---------------------------------------------------------------- tables


def columns(task):
    """[(metric, split)] of the columns of a task's table, in the order of the CSV."""
    rules = task.rules
    pairs = [(metric, split) for metric in rules.test_metrics for split in SPLITS]
    return [
        (metric, split)
        for metric, split in pairs
        if split != "Training" or metric in rules.training_metrics
    ]


def heading(task, metric, split):
    """The name of a column, for example PubtestCCCV."""
    return f"{PREFIXES[split]}{metric}{task.letter}"


def places(metric):
    """How many decimals a metric is written with."""
    return DECIMALS.get(metric, 6)


def task_table(history, task):
    """A pandas DataFrame of the metrics of a task: a row an epoch, the columns of its CSV."""
    import pandas

    rows = [
        [float(result[split][task.name][metric]) for metric, split in columns(task)]
        for result in history
    ]
    epochs = pandas.Index([result["epoch"] for result in history], name="Epoch", dtype=int)
    headings = [heading(task, *column) for column in columns(task)]
    return pandas.DataFrame(rows, epochs, headings, dtype=float)


# ---------------------------------------------------------------- data.txt


def _report(header, history, tasks, final):
    """The text of data.txt."""
    drawn = header["dataset"] == "Demo"
    lines = [DRAWN, ""] if drawn else []
    lines += [f"{key}: {' '.join(str(value).splitlines())}" for key, value in header.items()]
    best = {task: best_epochs([], task) for task in tasks}
    for result in history:
        lines += ["", f"Epoch {result['epoch']}", *_epoch_lines(result, tasks)]
        for task in tasks:
            best[task] = _update_best(best[task], result, task)
            lines += _best_lines(task, best[task])
    if final is not None:
        lines += _final_lines(history, best, final)
    if drawn:
        lines += ["", DRAWN]
    return "\n".join(lines) + "\n"


def _epoch_lines(result, tasks):
    for split in SPLITS:
        yield f"{split} results"
        for task in tasks:
            yield f"  {_task_name(task)}: {_in_words(task, split, result[split][task.name])}"


def _task_name(task):
    return task.name if task.dimension is None else f"{task.name} ({DIMENSIONS[task.dimension]})"


def _in_words(task, split, metrics):
    """Metrics on one line, for example `accuracy 31.200 %, cross-entropy 1.730000`."""
    rules = task.rules
    names = rules.training_metrics if split == "Training" else rules.test_metrics
    return ", ".join(_phrase(task, name, metrics[name]) for name in names)


def _phrase(task, metric, value):
    name, unit = WORDS.get((task.kind, metric), (metric, ""))
    return f"{name} {decimal(value, places(metric))} {unit}".rstrip()


def _best_lines(task, best):
    value_line, epoch_line = BEST_LINES[task.kind]
    for split, (epoch, value) in best.items():
        names = {"split": split, "letter": task.letter}
        yield f"{value_line.format(**names)}: {decimal(value, places(task.rules.decisive))}"
        yield f"{epoch_line.format(**names)}: {epoch}"


def _final_lines(history, best, final):
    """What a finished run adds: the chosen models and their results on the private split."""
    yield from ("", "best model is:")
    for task, chosen in best.items():
        epoch, value = chosen["PublicTest"]
        reached = _phrase(task, task.rules.decisive, value)
        checkpoint = f"{final['folder']}/{task.checkpoint('PublicTest')}"
        yield f"  {_task_name(task)}: {checkpoint}, epoch {epoch}, PublicTest {reached}"
    for task, chosen in best.items():
        yield from ("", f"PrivateTest results of {_task_name(task)}")
        for split, choice in zip(TEST_SPLITS, (HONEST, OPTIMISTIC), strict=True):
            epoch = chosen[split][0]
            words = _in_words(task, "PrivateTest", history[epoch]["PrivateTest"][task.name])
            yield f"  {choice}; epoch {epoch}, {words}"
    if final["tencrop"]:
        yield from ("", "Ten-crop evaluation of the chosen models")
    for name, chosen in final["tencrop"].items():
        for split in TEST_SPLITS:
            words = _in_words(TASKS[name], split, chosen[split])
            yield f"  {_task_name(TASKS[name])}, epoch {chosen['epoch']}, {split}: {words}"


# ---------------------------------------------------------------- workbook


def workbook(tables, title):
    """The bytes of an Excel workbook: a sheet a task with its table and a line chart a metric.

    tables: {`Task`: its table}; title: str above every chart. A sheet prints on landscape pages,
    the table on the first ones and all charts on one of their own.
    """
    import pandas

    buffer, options = io.BytesIO(), {"options": {"in_memory": True}}
    with pandas.ExcelWriter(buffer, engine="xlsxwriter", engine_kwargs=options) as writer:
        writer.book.set_properties({"title": title, "created": datetime(2000, 1, 1)})
        for task, table in tables.items():
            sheet = _add_sheet(writer, task, table)
            for number, metric in enumerate(task.rules.test_metrics if len(table) else ()):
                chart = _chart(writer.book, task, metric, len(table), title)
                down, right = divmod(number, 2)
                place = {"x_offset": right * CHART["width"], "y_offset": down * CHART["height"]}
                sheet.insert_chart(1, 1 + len(table.columns), chart, place)
    return buffer.getvalue()


def _add_sheet(writer, task, table):
    """Add the table of a task to a workbook, and return its sheet."""
    places_of = {heading(task, *column): places(column[0]) for column in columns(task)}
    table.round(places_of).to_excel(writer, sheet_name=task.name, header=False, startrow=1)
    book, sheet = writer.book, writer.sheets[task.name]
    bold = book.add_format({"bold": True, "align": "right", "bottom": 1})
    sheet.write_row(0, 0, ["Epoch", *places_of], bold)
    for number, (name, decimals) in enumerate(places_of.items(), start=1):
        shown = book.add_format({"num_format": "0." + "0" * decimals})
        sheet.set_column(number, number, len(name) + 3, shown)
    sheet.freeze_panes(1, 1)
    sheet.set_landscape()
    sheet.set_paper(9)  # A4
    sheet.set_margins(left=0.4, right=0.4, top=0.5, bottom=0.5)
    sheet.set_print_scale(85)
    sheet.set_v_pagebreaks([1 + len(places_of)])
    sheet.repeat_rows(0)
    return sheet


def _chart(book, task, metric, epochs, title):
    """A line chart of a metric over the epochs."""
    chart = book.add_chart({"type": "line"})
    for number, column in enumerate(columns(task), start=1):
        if column[0] == metric:
            colour = {"color": COLOURS[column[1]]}
            circle = {"type": "circle", "size": 6, "fill": colour, "border": colour}
            chart.add_series(
                {
                    "name": column[1],
                    "categories": [task.name, 1, 0, epochs, 0],
                    "values": [task.name, 1, number, epochs, number],
                    "line": {**colour, "width": 1.75},
                    "marker": circle if epochs <= FEW_EPOCHS else {"type": "none"},
                }
            )
    name = f"{_shorten(title, 60)}: {task.name}, {_label(task, metric)}"
    chart.set_title({"name": name, "name_font": {"size": 11}, "overlay": False})
    interval = max(1, epochs // 10)
    chart.set_x_axis({"name": "epoch", "interval_unit": interval, "label_position": "low"})
    chart.set_y_axis({"name": _label(task, metric), "num_format": "General"})
    chart.set_legend({"position": "bottom"})
    chart.set_size(CHART)
    return chart


def _label(task, metric):
    """A metric in words with its unit, for example `accuracy (%)`."""
    name, unit = WORDS.get((task.kind, metric), (metric, ""))
    return f"{name} ({unit})" if unit else name


# ---------------------------------------------------------------- pictures


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
                _draw_panel(axes, task, table, metric, epoch)
    figure.suptitle(_shorten(title, 24 * panels), fontsize=14, parse_math=False)
    lines = grid[0, 0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(lines[0]), frameon=False)
    return _png(figure)


def _draw_panel(axes, task, table, metric, epoch):
    """Draw a metric on every split. epoch: that PublicTest chose, or None."""
    marker = "o" if len(table) <= FEW_EPOCHS else None
    for split, colour in COLOURS.items():
        if (metric, split) in columns(task):
            values = table[heading(task, metric, split)]
            axes.plot(values, color=colour, marker=marker, markersize=5, label=split)
    if epoch is not None:
        axes.axvline(epoch, color="black", linestyle=":", label="epoch chosen on PublicTest")
    axes.set(title=f"{task.name}: {_label(task, metric)}", xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="#dddddd")


def confusion(matrix, title, names=EMOTIONS):
    """The bytes of a PNG of a confusion matrix: counts, and percentages of each row.

    matrix: square, ints, rows true and columns predicted classes `names`; title: str above it.
    """
    from matplotlib.figure import Figure

    # A class without faces has no shares: its row is zero.
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in matrix]
    figure = Figure((8.2, 7.6), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for true, row in enumerate(matrix):
        for predicted, count in enumerate(row):
            share = shares[true][predicted]
            text, colour = f"{count}\n{share:.1f}%", "white" if share > 55 else "black"
            axes.text(predicted, true, text, ha="center", va="center", color=colour)
    ticks = range(len(names))
    axes.set(xlabel="Predicted", ylabel="True", xticks=ticks, yticks=ticks)
    axes.set(xticklabels=names, yticklabels=names)
    wrapped = "\n".join(textwrap.wrap(title, 70, max_lines=2, placeholder=" ..."))
    axes.set_title(wrapped, fontsize=13, parse_math=False)
    figure.colorbar(picture, label="share of the true class (%)", shrink=0.8)
    return _png(figure)


def _png(figure):
    buffer = io.BytesIO()
    # matplotlib would write its version into the file.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _shorten(text, width):
    return textwrap.shorten(text, width, placeholder=" ...")
