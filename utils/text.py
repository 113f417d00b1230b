"""Numbers as text: for people, and for CSV files that open in Excel whatever the locale."""

import math


def counted(number, noun):
    """A number with its noun, given in the singular: "1 face", "1,200 faces"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def spell_duration(seconds):
    """A duration in its two largest units: 45 s, 4 min 40 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def decimal(number, places):
    """A number with `places` decimals, without exponent or negative zero; "" for None and NaN."""
    if number is None or math.isnan(number):
        return ""
    return f"{round(number, places) + 0.0:.{places}f}"  # + 0.0 turns -0.0 into 0.0


def to_csv(frame, decimals, header=True):
    """A pandas DataFrame as CSV text; missing values become empty cells.

    decimals: {column: number of decimals}; other columns are written as they are.
    header: whether to write the column names.
    """
    frame = frame.copy(deep=False)
    for name, places in decimals.items():
        frame[name] = frame[name].apply(decimal, args=(places,))
    return frame.to_csv(index=False, lineterminator="\n", header=header)
