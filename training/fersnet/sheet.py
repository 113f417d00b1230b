"""Faces side by side in one picture, with titles."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

ENLARGED = 2
GAP = 8  # pixels between cells, and between titles and cells
TITLE_SIZE = 16  # pixels


def contact_sheet(rows, columns, marks=None):
    """The bytes of a PNG of faces in rows and columns, enlarged twice, on white.

    rows: at least one (row title, faces), a face per column: uint8 (S, S), all of one size, or None
    for an empty cell; columns: their titles; marks: {name: text} to be kept inside the PNG. Raises
    ValueError when a row has not as many faces as there are columns.
    """
    faces = [face for _, row in rows for face in row if face is not None]
    side = ENLARGED * len(faces[0]) if faces else 0
    font = ImageFont.load_default(TITLE_SIZE)
    widths = [max(side, _width(title, font)) for title in columns]
    lefts = (
        GAP
        + _width_of_titles([title for title, _ in rows], font)
        + np.cumsum([0, *(w + GAP for w in widths)])
    )
    tops = GAP + TITLE_SIZE + GAP + (max(side, TITLE_SIZE) + GAP) * np.arange(len(rows) + 1)

    sheet = Image.new("L", (int(lefts[-1]), int(tops[-1])), 255)
    pen = ImageDraw.Draw(sheet)
    for title, left in zip(columns, lefts[:-1].tolist(), strict=True):
        pen.text((left, GAP + TITLE_SIZE), title, fill=0, font=font, anchor="ls")
    for (title, row), top in zip(rows, tops[:-1].tolist(), strict=True):
        pen.text((GAP, top + side // 2), title, fill=0, font=font, anchor="lm")
        for face, left in zip(row, lefts[:-1].tolist(), strict=True):
            if face is not None:
                enlarged = np.asarray(face).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
                sheet.paste(Image.fromarray(enlarged), (left, top))
    info = PngInfo()
    for name, text in (marks or {}).items():
        info.add_itxt(name, text)
    content = io.BytesIO()
    sheet.save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def _width(text, font):
    return int(np.ceil(font.getlength(text)))


def _width_of_titles(titles, font):
    """Pixels that the row titles take with the gap after them; none where all are empty."""
    return GAP + max(_width(title, font) for title in titles) if any(titles) else 0
