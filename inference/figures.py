"""Figures of what was read from faces."""

import math
import os
from functools import cache

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Circle, Rectangle
from PIL import Image

from utils.tasks import DIMENSIONS, EMOTIONS, VAD_LIMIT

_SEVEN = ("#d62728", "#7f9f3f", "#7b52ab", "#f0a30a", "#1f77b4", "#e377c2", "#7f7f7f")
COLOURS = dict(zip(EMOTIONS, _SEVEN, strict=True))
# Places in a figure, of the plane, of what explains its colours, and of the probabilities.
PLANE, PLANE_BAR, BARS = (0.67, 0.55, 0.24, 0.42), (0.935, 0.55, 0.012, 0.42), (0.68, 0.07, 0.29, 0.4)
# What the axes that are drawn once and those over them have in common, and the points and what explains them.
PLANE_SCALE = {"xlim": (-VAD_LIMIT, VAD_LIMIT), "ylim": (-VAD_LIMIT, VAD_LIMIT), "aspect": "equal"}
BARS_SCALE = {"xlim": (0, 1.18), "ylim": (len(EMOTIONS) - 0.3, -0.7), "xlabel": "probability"}
DOMINANCE = {"cmap": "coolwarm", "norm": Normalize(-VAD_LIMIT, VAD_LIMIT)}
SHOWN = (670, 768)  # height and width of the picture in the figure, pixels
MOST_BARS = 4  # faces whose probabilities are drawn as bars; more become a table of shades
MOST_ROWS = 25  # of that table
MOST_EXPLAINED = 5  # faces that are shown with what spoke for their emotion
HEAT = 0.45  # opacity of that
MOST_LINES = 6  # people whose time line is drawn
MAX_POINTS = 4000  # of a line
# Fonts that systems bring along for letters that matplotlib's own lacks.
OTHER_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC",
               "Hiragino Sans", "Apple SD Gothic Neo", "WenQuanYi Zen Hei", "Noto Sans", "Segoe UI Symbol",
               "Arial Unicode MS", "Nirmala UI", "Noto Sans Devanagari")  # fmt: skip
UNKNOWN = "\N{WHITE SQUARE}"  # for a letter that no font here has


@cache
def _fonts():
    """([name of a font], what each knows as `FT2Font`): matplotlib's own, and those of `OTHER_FONTS` that are here."""
    present = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    # The list is remembered from run to run, and a font may have gone since.
    names = ["DejaVu Sans", *(name for name in OTHER_FONTS if os.path.exists(present.get(name, "")))]
    return names, [FT2Font(present[name]) for name in names]


def set_title(axes, title):
    """Write the name of a file above the axes: whatever is in it, also what matplotlib would take as mathematics."""
    names, fonts = _fonts()
    known = (any(font.get_char_index(ord(letter)) for font in fonts) for letter in title)
    title = "".join(letter if there else UNKNOWN for letter, there in zip(title, known, strict=True))
    axes.set_title(title, fontsize=10, parse_math=False, fontfamily=names)


def draw(picture, faces, title="", size=None):
    """A `Figure`: the picture with numbered boxes, the valence-arousal plane, the seven probabilities.

    picture: uint8 (H, W, 3) RGB; faces: [`Face`]; size: (height, width) in which the boxes are given, where the
    picture was thinned. Dominance is the colour of a point in the plane. Faces that have heat are shown once more
    below.
    """
    figure = _new_figure()
    size = size or picture.shape[:2]
    few = len(faces) <= MOST_BARS
    placed = [(number, face) for number, face in enumerate(faces, 1) if None not in face.dimensions.values()]
    figure.figimage(_frames(bool(placed), few), zorder=-1)
    heated = [(number, face) for number, face in enumerate(faces, 1) if face.heat is not None]
    explained = heated[:MOST_EXPLAINED]
    low = 0.24 if explained else 0.02
    draw_picture(figure.add_axes((0.01, low, 0.6, 0.95 - low)), reduced(picture), faces, title, size)
    draw_points(_over(figure, PLANE, PLANE_SCALE), placed, len(faces) > 1)
    if few:
        draw_bars(_over(figure, BARS, BARS_SCALE), faces)
    else:
        draw_shades(figure.add_axes(BARS), faces)
    if len(explained) < len(heated):
        figure.text(0.01, 0.005, f"the largest {len(explained)} of {len(heated)} faces", fontsize=7)
    for place, (number, face) in enumerate(explained):
        draw_heat(figure.add_axes((0.01 + 0.12 * place, 0.02, 0.115, 0.17)), number, face)
    return figure


def _new_figure():
    """An empty one, 1280 x 720. Things have fixed places: to search for good ones, all would be drawn twice."""
    return Figure(figsize=(12.8, 7.2), dpi=100)


@cache
def _frames(dominance, bars):
    """The axes that are the same in each figure, uint8 (720, 1280, 4): drawing axes takes longer than what is in them.

    dominance, bars: whether the colours of the plane's points are explained, and whether there are bars.
    """
    figure = _new_figure()
    frame_plane(figure.add_axes(PLANE))
    if dominance:
        explain_dominance(figure.add_axes(PLANE_BAR))
    if bars:
        frame_bars(figure.add_axes(BARS))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def _over(figure, place, scale):
    """Axes of a place and a scale over their picture in `_frames`, for what is in them alone."""
    axes = figure.add_axes(place, **scale)
    axes.set_axis_off()
    return axes


def draw_heat(axes, number, face):
    """The face as the network saw it, and beside it what in it spoke for the emotion, warm where it did most."""
    axes.imshow(face.crop, cmap="gray", vmin=0, vmax=255, extent=(0, 48, 48, 0))
    axes.imshow(face.crop, cmap="gray", vmin=0, vmax=255, extent=(49, 97, 48, 0))
    axes.imshow(face.heat, cmap="inferno", vmin=0, vmax=1, alpha=HEAT, extent=(49, 97, 48, 0), interpolation="bilinear")
    axes.set_xlim(0, 97)
    axes.set_ylim(48, 0)
    axes.set_axis_off()
    axes.set_title(f"{number}: what spoke for {face.emotion}", fontsize=7)


def reduced(picture):
    """A picture, uint8 (H, W, 3), of at most about twice as many pixels as are shown of it."""
    factor = max(1, min(picture.shape[0] // SHOWN[0], picture.shape[1] // SHOWN[1]))
    return picture if factor == 1 else np.asarray(Image.fromarray(picture).reduce(factor))


def draw_picture(axes, picture, faces, title, size):
    """The picture with a box and a label for each face. size: (height, width) in which the boxes are given."""
    height, width = size
    axes.imshow(picture, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set_axis_off()
    set_title(axes, title if faces else f"{title}: no face found" if title else "no face found")
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    size = max(5.5, 10 - 0.15 * len(faces))
    for number, face in enumerate(faces, 1):
        left, top, right, bottom = face.box.rounded()
        colour = COLOURS[face.emotion]
        axes.add_patch(Rectangle(
            (left, top), right - left, bottom - top, angle=face.box.angle, rotation_point="center", fill=False,
            edgecolor=colour, linewidth=2, linestyle="--" if face.unsure else "-",
        ))  # fmt: skip
        label = f"{face.emotion} {face.probability:.0%}{'?' if face.unsure else ''}"
        label = f"{number} {label}" if len(faces) > 1 else label
        above = top > 0.05 * height  # else the label would leave the picture
        axes.text(
            min(max(left, 0), width), max(top, 0), label, fontsize=size, color="white", clip_on=True,
            va="bottom" if above else "top", bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


def frame_plane(axes):
    """The plane in which each face is a point: valence across, arousal up."""
    axes.set(**PLANE_SCALE)
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    axes.axvline(0, color="0.8", linewidth=1, zorder=0)
    axes.add_patch(Circle((0, 0), VAD_LIMIT, fill=False, edgecolor="0.85", zorder=0))
    axes.set_xlabel("unpleasant  \N{LEFTWARDS ARROW}  valence  \N{RIGHTWARDS ARROW}  pleasant", fontsize=8)
    axes.set_ylabel("calm  \N{LEFTWARDS ARROW}  arousal  \N{RIGHTWARDS ARROW}  excited", fontsize=8)
    axes.tick_params(labelsize=7)


def explain_dominance(axes):
    """The colours of the points in the plane."""
    bar = axes.figure.colorbar(ScalarMappable(**DOMINANCE), cax=axes)
    bar.set_label("dominance: submissive to in control", fontsize=8)
    axes.tick_params(labelsize=7)


def draw_points(axes, placed, numbered):
    """Points in the plane, dominance as colour. placed: [(number, `Face` with all three values)]."""
    axes.scatter(
        [face.valence for _, face in placed], [face.arousal for _, face in placed],
        c=[face.dominance for _, face in placed], s=90, edgecolors="black", linewidths=0.8, zorder=3, **DOMINANCE,
    )  # fmt: skip
    for number, face in placed if numbered else ():
        axes.annotate(str(number), (face.valence, face.arousal), (5, 5), textcoords="offset points", fontsize=7)


def frame_bars(axes):
    """A row for each emotion, for the bars of its probability."""
    axes.set(**BARS_SCALE)
    axes.set_yticks(range(len(EMOTIONS)), EMOTIONS, fontsize=8)
    axes.xaxis.label.set_size(8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(axes, faces):
    """The seven probabilities of a few faces as groups of bars."""
    height = 0.8 / max(1, len(faces))
    for number, face in enumerate(faces):
        places = [row + (number - (len(faces) - 1) / 2) * height for row in range(len(EMOTIONS))]
        values = [face.probabilities[name] for name in EMOTIONS]
        bars = axes.barh(places, values, height * 0.9, color=[COLOURS[name] for name in EMOTIONS])
        texts = [f"{value:.0%}" + (f"  (face {number + 1})" if len(faces) > 1 else "") for value in values]
        axes.bar_label(bars, texts if height > 0.25 else [f"{v:.0%}" for v in values], fontsize=7, padding=2)


def draw_shades(axes, faces):
    """The seven probabilities of many faces as a table of shades, a face a row."""
    shown = faces[:MOST_ROWS]
    table = [[face.probabilities[name] for name in EMOTIONS] for face in shown]
    axes.imshow(table, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, fontsize=7)
    axes.set_yticks(range(len(shown)), [f"{number}" for number in range(1, len(shown) + 1)], fontsize=6)
    more = f" (the largest {len(shown)} of {len(faces)})" if len(faces) > len(shown) else ""
    axes.set_ylabel(f"face{more}", fontsize=8)


def draw_timelines(people, title):
    """A `Figure` of smoothed valence, arousal, dominance and emotion over time, for each person of a video.

    people: {number: [(seconds, valence, arousal, dominance, emotion's number)]}. Of more than `MOST_LINES` those who
    are seen longest are shown, and that is said.
    """
    shown = sorted(sorted(people, key=lambda number: -len(people[number]))[:MOST_LINES])
    rows = max(1, len(shown))
    figure = Figure(figsize=(10, 1.2 + 2.9 * rows), dpi=100, layout="constrained")
    panels = figure.subplots(2 * rows, 1, sharex=True, squeeze=False, height_ratios=(2, 1) * rows)[:, 0]
    for place, number in enumerate(shown):
        draw_timeline(panels[2 * place], panels[2 * place + 1], number, people[number])
    if not shown:
        title = f"{title}: no face found"
    elif len(shown) < len(people):
        title = f"{title} (the {len(shown)} of {len(people)} people who are seen longest)"
    set_title(panels[0], title)
    if shown:
        panels[0].legend(loc="upper right", ncols=3, fontsize=8)
    panels[-1].set_xlabel("seconds", fontsize=8)
    return figure


def draw_timeline(axes, below, number, points):
    """One person's lines in `axes`, and emotions in `below`."""
    points = np.array(points)
    seconds, values, emotions = points[:, 0], points[:, 1:4], points[:, 4].astype(int)
    for column, (name, colour) in enumerate(zip(DIMENSIONS, ("#2a7f3f", "#c8442e", "#2f5fa8"), strict=True)):
        axes.plot(seconds, values[:, column], label=name.lower(), color=colour, linewidth=1.5)
    axes.set_ylim(-VAD_LIMIT, VAD_LIMIT)
    axes.axhline(0, color="0.8", linewidth=1)
    axes.set_ylabel(f"face {number}", fontsize=8)
    axes.tick_params(labelsize=7)
    below.scatter(seconds, emotions, s=6, c=[COLOURS[EMOTIONS[one]] for one in emotions])
    below.set_yticks(range(len(EMOTIONS)), EMOTIONS, fontsize=6)
    below.set_ylim(len(EMOTIONS) - 0.5, -0.5)
    below.tick_params(axis="x", labelsize=7)


def plot_timelines(rows, title):
    """A `Figure` of the smoothed values of each person over time, from the rows of a video.

    rows: a DataFrame. Of more than `MOST_LINES` people those are shown who are seen longest.
    """
    frames = rows["face"].value_counts()
    shown = sorted(frames.index[:MOST_LINES])
    count = max(1, len(shown))
    figure = Figure(figsize=(10, 1.2 + 2.9 * count), dpi=100, layout="constrained")
    panels = figure.subplots(
        2 * count, 1, sharex=True, squeeze=False, height_ratios=(2, 1) * count
    )[:, 0]
    for number, axes, below in zip(shown, panels[::2], panels[1::2], strict=False):
        mine = rows[rows["face"] == number]
        mine = mine.iloc[:: math.ceil(len(mine) / MAX_POINTS)]
        axes.set_ylabel(f"face {number}", fontsize=8)
        plot_timeline(axes, below, mine)
    if not shown:
        title = f"{title}: no face found"
    elif len(shown) < len(frames):
        title = f"{title} (the {len(shown)} of {len(frames)} people who are seen longest)"
    set_title(panels[0], title)
    if shown:
        panels[0].legend(loc="upper right", ncols=3, fontsize=8)
    panels[-1].set_xlabel("seconds", fontsize=8)
    return figure


def plot_timeline(axes, below, rows):
    """Valence, arousal and dominance of one person in `axes`, the emotions in `below`."""
    for name, colour in zip(DIMENSIONS, ("#2a7f3f", "#c8442e", "#2f5fa8"), strict=True):
        values = rows[f"smoothed_{name.lower()}"]
        axes.plot(rows["time"], values, label=name.lower(), color=colour, linewidth=1.5)
    axes.set_ylim(-VAD_LIMIT, VAD_LIMIT)
    axes.axhline(0, color="0.8", linewidth=1)
    axes.tick_params(labelsize=7)
    emotions = rows["smoothed_emotion"]
    places, colours = emotions.map(EMOTIONS.index), emotions.map(COLOURS)
    below.scatter(rows["time"], places, s=6, c=colours)
    below.set_yticks(range(len(EMOTIONS)), EMOTIONS, fontsize=6)
    below.set_ylim(len(EMOTIONS) - 0.5, -0.5)
    below.tick_params(axis="x", labelsize=7)
