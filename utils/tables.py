"""Tables as CSV that people open in Excel: plain decimal numbers, whatever the locale."""

import math


def decimal(number, places):
    """A number with so many decimals: no exponent, no minus before a zero; "" for None and for what is no number."""
    if number is None or math.isnan(number):
        return ""
    return f"{round(number, places) + 0.0:.{places}f}"  # + 0.0 turns -0.0 into 0.0


def to_csv(frame, decimals, header=True):
    """A pandas DataFrame as the text of a CSV.

    decimals: {column: digits after its point}; columns that are not named are written as they are. What is missing is
    an empty cell. header: whether the names of the columns come first.
    """
    cells = {name: frame[name].map(lambda value, places=places: decimal(value, places))
             for name, places in decimals.items()}  # fmt: skip
    return frame.assign(**cells).to_csv(index=False, lineterminator="\n", header=header)
