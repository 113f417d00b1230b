"""Tables of a run as an Excel workbook and as pictures, returned as bytes.

Equal tables give equal bytes: no clock times, no software versions, no global drawing state.
matplotlib and XlsxWriter are imported where they are used, since most commands need neither.
"""

import io
import textwrap
from dataclasses import dataclass
from datetime import datetime

from utils.tasks import EMOTIONS, SPLITS, Task

# What a reader is told: (name, unit). A metric that is not listed goes by its own name.
WORDS = {
    ("classification", "Acc"): ("accuracy", "%"),
    ("classification", "Loss"): ("cross-entropy", ""),
    ("classification", "F1"): ("macro F1", ""),
    ("regression", "Loss"): ("mean squared error", ""),
}
DECIMALS = {"Acc": 3}  # percent; every other metric has six
COLOURS = dict(zip(SPLITS, ("#7a7a7a", "#0072b2", "#d55e00"), strict=True))  # safe for colour-blind readers
MARKERS = dict(zip(SPLITS, ("o", "s", "^"), strict=True))
CHART, GAP = (520, 320), 15  # width and height of a chart in the workbook, and between two, pixels
FEW_EPOCHS = 15  # up to here every epoch gets a marker: a line through one point is invisible


@dataclass(frozen=True)
class Table:
    """The figures of one task, as they stand in its CSV.

    frame: a pandas DataFrame with a row an epoch and a column (metric, split), in the order of the CSV.
    headings: the name of every column. chosen: the epoch that is best on PublicTest, None before the first one.
    """

    task: Task
    frame: "pandas.DataFrame"  # noqa: F821 - not imported before there is something to write
    headings: list
    chosen: int | None

    def curves(self, metric):
        """{split: values} for the splits on which `metric` is measured, in the order of `SPLITS`."""
        return {split: self.frame[metric, split] for split in SPLITS if (metric, split) in self.frame}


def label(task, metric):
    """A metric in words with its unit, for example `accuracy (%)`."""
    name, unit = WORDS.get((task.kind, metric), (metric, ""))
    return f"{name} ({unit})" if unit else name


def decimals(metric):
    """How many decimals a metric is written with."""
    return DECIMALS.get(metric, 6)


def workbook(tables, title):
    """An Excel workbook with a sheet a task: its table, and beside it a line chart for every metric.

    tables: list of `Table`. title: str that heads every chart. A sheet prints on landscape pages, the table on the
    first ones and all charts on one of their own. Returns the bytes of an `.xlsx`.
    """
    import pandas

    buffer = io.BytesIO()
    with pandas.ExcelWriter(buffer, engine="xlsxwriter", engine_kwargs={"options": {"in_memory": True}}) as writer:
        book = writer.book
        book.set_properties({"title": title, "created": datetime(2000, 1, 1)})
        bold = book.add_format({"bold": True, "align": "right", "bottom": 1})
        for table in tables:
            name, frame = table.task.name, table.frame.set_axis(table.headings, axis="columns").reset_index()
            for heading, (metric, _) in zip(table.headings, table.frame, strict=True):
                frame[heading] = frame[heading].round(decimals(metric))
            frame.to_excel(writer, sheet_name=name, index=False, header=False, startrow=1)
            sheet = writer.sheets[name]
            sheet.write_row(0, 0, frame.columns, bold)
            sheet.freeze_panes(1, 1)
            sheet.set_column(0, 0, 8)
            for column, (heading, (metric, _)) in enumerate(zip(table.headings, table.frame, strict=True), start=1):
                number = book.add_format({"num_format": "0." + "0" * decimals(metric)})
                sheet.set_column(column, column, len(heading) + 3, number)
            if len(frame):  # a chart of no rows is an error in Excel
                _add_charts(book, sheet, table, title)
            _set_pages(sheet, 1 + len(table.headings))
    return buffer.getvalue()


def _set_pages(sheet, columns):
    """Landscape pages on A4, as large as still shows all `columns` of a table, or all charts, beside each other."""
    sheet.set_landscape()
    sheet.set_paper(9)
    sheet.set_margins(left=0.4, right=0.4, top=0.5, bottom=0.5)
    sheet.set_print_scale(85)
    sheet.set_v_pagebreaks([columns])
    sheet.repeat_rows(0)


def _add_charts(book, sheet, table, title):
    """Two charts side by side, then the next two below, to the right of the table."""
    order = list(table.frame)
    last = len(table.frame)
    for number, metric in enumerate(table.task.rules.test_metrics):
        chart = book.add_chart({"type": "line"})
        for split in table.curves(metric):
            column = 1 + order.index((metric, split))
            chart.add_series(
                {
                    "name": split,
                    "categories": [table.task.name, 1, 0, last, 0],
                    "values": [table.task.name, 1, column, last, column],
                    "line": {"color": COLOURS[split], "width": 1.75},
                    "marker": _chart_marker(split, last),
                }
            )
        heading = f"{_short(title, 60)}: {table.task.name}, {label(table.task, metric)}"
        chart.set_title({"name": heading, "name_font": {"size": 11}, "overlay": False})
        chart.set_x_axis({"name": "epoch", "interval_unit": max(1, last // 10), "label_position": "low"})
        chart.set_y_axis({"name": label(table.task, metric), "num_format": "General"})
        chart.set_legend({"position": "bottom"})
        chart.set_size({"width": CHART[0], "height": CHART[1]})
        position = {"x_offset": (number % 2) * (CHART[0] + GAP), "y_offset": (number // 2) * (CHART[1] + GAP)}
        sheet.insert_chart(1, 1 + len(table.headings), chart, position)


def _chart_marker(split, epochs):
    if epochs > FEW_EPOCHS:
        return {"type": "none"}
    shape = {"o": "circle", "s": "square", "^": "triangle"}[MARKERS[split]]
    return {"type": shape, "size": 6, "fill": {"color": COLOURS[split]}, "border": {"color": COLOURS[split]}}


def curves(tables, title):
    """All curves of a run: a row a task, a panel a metric, the epoch chosen on PublicTest marked.

    tables: list of `Table`. title: str above the picture. Returns the bytes of a PNG.
    """
    from matplotlib.lines import Line2D

    panels = max(len(table.task.rules.test_metrics) for table in tables)
    width, height = 4 * panels, 2.7 * len(tables) + 1.1  # inches
    figure = _figure(width, height)
    sides = {"left": 0.7 / width, "right": 1 - 0.2 / width, "bottom": 0.5 / height, "top": 1 - 1.1 / height}
    grid = figure.add_gridspec(len(tables), panels, hspace=0.42, wspace=0.24, **sides)
    for row, table in enumerate(tables):
        for column, metric in enumerate(table.task.rules.test_metrics):
            _draw_panel(figure.add_subplot(grid[row, column]), table, metric)
    figure.suptitle(_short(title, 24 * panels), y=1 - 0.14 / height, va="top", fontsize=14, parse_math=False)
    mark = Line2D([], [], color="black", linestyle=":", linewidth=1.2)
    lines = [Line2D([], [], color=COLOURS[split], marker=MARKERS[split], markersize=5) for split in SPLITS]
    figure.legend(
        [*lines, mark],
        [*SPLITS, "epoch chosen on PublicTest"],
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.4 / height),
        ncols=4,
        frameon=False,
        fontsize=11,
    )
    return _png(figure)


def _draw_panel(axes, table, metric):
    from matplotlib.ticker import MaxNLocator

    epochs = table.frame.index
    few = len(epochs) <= FEW_EPOCHS
    for split, values in table.curves(metric).items():
        marker = MARKERS[split] if few else None
        axes.plot(epochs, values, color=COLOURS[split], marker=marker, markersize=5, linewidth=1.4)
    heading = f"{table.task.name}: {label(table.task, metric)}"
    if table.chosen is not None:
        axes.axvline(table.chosen, color="black", linestyle=":", linewidth=1.2)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    if table.chosen is not None and metric == table.task.rules.decisive:
        heading += f", chosen epoch {table.chosen}"
        best = table.frame.loc[table.chosen, (metric, "PublicTest")]
        ring = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.5}
        axes.plot([table.chosen], [best], marker="o", color="black", **ring)
    # Fixed places: searching free ones for 15 panels takes a third of the whole drawing time.
    axes.set_title(heading, fontsize=11, y=1.0)
    axes.set_xlabel("epoch", fontsize=10)
    axes.xaxis.set_label_coords(0.5, -0.13)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=9)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.margins(y=0.08)


def confusion(matrix, title, names=EMOTIONS):
    """A confusion matrix as a picture: in every cell the count and its share of the true class.

    matrix: square, one row per true and one column per predicted emotion of `names`, counts as ints.
    title: str. Returns the bytes of a PNG. Raises ValueError when the matrix has another shape.
    """
    rows = [[int(count) for count in row] for row in matrix]
    if [len(row) for row in rows] != [len(names)] * len(names):
        raise ValueError(f"a confusion matrix has {len(names)} rows and columns, one for each emotion")
    # A class without faces has no shares: its row stays at zero instead of dividing by it.
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in rows]

    figure = _figure(8.2, 7.6)
    axes = figure.add_axes((0.15, 0.1, 0.72, 0.78))
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for true, row in enumerate(rows):
        for predicted, count in enumerate(row):
            share = shares[true][predicted]
            colour = "white" if share > 55 else "black"
            text = f"{count}\n{share:.1f}%"
            axes.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=10.5)
    axes.set_xticks(range(len(names)), names, fontsize=11)
    axes.set_yticks(range(len(names)), names, fontsize=11)
    axes.set_xlabel("Predicted", fontsize=12)
    axes.set_ylabel("True", fontsize=12)
    wrapped = "\n".join(textwrap.wrap(title, 70, max_lines=2, placeholder=" ..."))
    axes.set_title(wrapped, fontsize=13, pad=10, parse_math=False)
    bar = figure.colorbar(picture, cax=figure.add_axes((0.89, 0.1, 0.025, 0.78)))
    bar.set_label("share of the true class (%)", fontsize=10)
    return _png(figure)


def _figure(width, height):
    """An empty white figure (inches) that belongs to no window and to no global list."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, facecolor="white")


def _png(figure):
    buffer = io.BytesIO()
    # matplotlib would write its version into the file.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _short(text, width):
    return textwrap.shorten(text, width, placeholder=" ...")
