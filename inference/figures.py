"""Figures of what was read in faces."""

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

from utils.images import reduce_image
from utils.tasks import DIMENSIONS, EMOTIONS, VAD_LIMIT

COLOURS = {
    "Angry": "#d62728",
    "Disgust": "#7f9f3f",
    "Fear": "#7b52ab",
    "Happy": "#f0a30a",
    "Sad": "#1f77b4",
    "Surprise": "#e377c2",
    "Neutral": "#7f7f7f",
}
DIMENSION_COLOURS = ("#2a7f3f", "#c8442e", "#2f5fa8")
# Places in the figure: (left, bottom, width, height) as shares of it.
PLANE, COLOUR_BAR = (0.67, 0.55, 0.24, 0.42), (0.935, 0.55, 0.012, 0.42)
BARS = (0.68, 0.07, 0.29, 0.4)
LIMITS = (-VAD_LIMIT, VAD_LIMIT)
PLANE_AXES = {"xlim": LIMITS, "ylim": LIMITS, "aspect": "equal"}
BARS_AXES = {"xlim": (0, 1.18), "ylim": (len(EMOTIONS) - 0.3, -0.7), "xlabel": "probability"}
DOMINANCE = {"cmap": "coolwarm", "norm": Normalize(*LIMITS)}
MAX_BARS = 4  # faces whose probabilities are drawn as bars; more become a table of shades
MAX_ROWS = 25  # of that table
MAX_HEAT_MAPS = 5
MAX_TIMELINES, MAX_POINTS = 6, 4000
# Fonts of the systems for letters that matplotlib's own lacks.
FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "WenQuanYi Zen Hei", "Noto Sans"),
    *("Segoe UI Symbol", "Arial Unicode MS", "Nirmala UI", "Noto Sans Devanagari"),
)
UNKNOWN_LETTER = "\N{WHITE SQUARE}"


def plot_faces(image, faces, title="", size=None):
    """A `Figure`: the picture with numbered boxes, the valence-arousal plane, the probabilities.

    image: uint8 (H, W, 3) RGB or (H, W); faces: [`Face`]; size: (height, width) to which boxes
    refer, where the picture was reduced. Dominance is the colour of a point in the plane. Heat maps
    of the faces are shown below, where there are any.
    """
    figure = _new_figure()
    has_bars = len(faces) <= MAX_BARS
    points = [face for face in faces if None not in face.dimensions.values()]
    figure.figimage(_draw_frames(bool(points), has_bars), zorder=-1)
    heated = [face for face in faces if face.heat is not None]
    bottom = 0.24 if heated else 0.02
    axes = figure.add_axes((0.01, bottom, 0.6, 0.95 - bottom))
    draw_boxes(axes, image, faces, size or image.shape[:2])
    set_title(axes, title if faces else ": ".join(filter(None, (title, "no face found"))))
    draw_points(_transparent_axes(figure, PLANE, PLANE_AXES), points, len(faces) > 1)
    if has_bars:
        draw_bars(_transparent_axes(figure, BARS, BARS_AXES), faces)
    else:
        draw_shades(figure.add_axes(BARS), faces)
    for place, face in enumerate(heated[:MAX_HEAT_MAPS]):
        draw_heat(figure.add_axes((0.01 + 0.12 * place, 0.02, 0.115, 0.17)), face)
    if len(heated) > MAX_HEAT_MAPS:
        note = f"the largest {MAX_HEAT_MAPS} of {len(heated)} faces"
        figure.text(0.01, 0.005, note, fontsize=7)
    return figure


def _new_figure():
    """An empty figure, 1280 x 720. Its layout is fixed, since a search for one draws all twice."""
    return Figure(figsize=(12.8, 7.2), dpi=100)


@cache
def _draw_frames(has_points, has_bars):
    """uint8 (720, 1280, 4): the axes that all figures have, drawn once, since that is slow."""
    figure = _new_figure()
    frame_plane(figure.add_axes(PLANE))
    if has_points:
        draw_colour_bar(figure.add_axes(COLOUR_BAR))
    if has_bars:
        frame_bars(figure.add_axes(BARS))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def _transparent_axes(figure, place, options):
    """Axes over those of `_draw_frames`, for the data."""
    axes = figure.add_axes(place, **options)
    axes.set_axis_off()
    return axes


@cache
def _find_fonts():
    """([name], [`FT2Font`]) of matplotlib's own font, and of those of `FONTS` that are here."""
    present = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    # matplotlib remembers its list from run to run, and a font may have gone since.
    names = ["DejaVu Sans", *(name for name in FONTS if os.path.exists(present.get(name, "")))]
    return names, [FT2Font(present[name]) for name in names]


def set_title(axes, title):
    """Write any file name above the axes; letters that no font has become a square."""
    names, fonts = _find_fonts()
    known = {letter for font in fonts for letter in title if font.get_char_index(ord(letter))}
    letters = [letter if letter in known else UNKNOWN_LETTER for letter in title]
    axes.set_title("".join(letters), fontsize=10, parse_math=False, fontfamily=names)


def draw_boxes(axes, image, faces, size):
    """The picture with a box and a label for each face."""
    height, width = size
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(reduce_image(image), extent=extent, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set(xlim=extent[:2], ylim=extent[2:])
    for face in faces:
        left, top, right, bottom = face.box.rounded()
        colour = COLOURS[face.emotion]
        box = Rectangle(
            (left, top),
            right - left,
            bottom - top,
            angle=face.angle,
            rotation_point="center",
            fill=False,
            edgecolor=colour,
            linewidth=2,
            linestyle="--" if face.uncertain else "-",
        )
        axes.add_patch(box)
        label = f"{face.number} {label_of(face)}" if len(faces) > 1 else label_of(face)
        axes.text(
            min(max(left, 0), width),
            max(top, 0),
            label,
            fontsize=max(5.5, 10 - 0.15 * len(faces)),
            color="white",
            clip_on=True,
            va="bottom" if top > 0.05 * height else "top",  # within the picture
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
        )


def label_of(face):
    """Emotion and probability, with a question mark where they are uncertain."""
    return f"{face.emotion} {face.probability:.0%}{'?' if face.uncertain else ''}"


def draw_heat(axes, face):
    """The face as the network saw it, and beside it what in it spoke for the emotion."""
    for left in (0, 49):
        axes.imshow(face.crop, cmap="gray", vmin=0, vmax=255, extent=(left, left + 48, 48, 0))
    heat = {"cmap": "inferno", "vmin": 0, "vmax": 1, "alpha": 0.45, "interpolation": "bilinear"}
    axes.imshow(face.heat, extent=(49, 97, 48, 0), **heat)
    axes.set(xlim=(0, 97), ylim=(48, 0))
    axes.set_axis_off()
    axes.set_title(f"{face.number}: what spoke for {face.emotion}", fontsize=7)


def frame_plane(axes):
    """The plane in which each face is a point: valence across, arousal up."""
    axes.set(**PLANE_AXES)
    axes.axhline(0, color="0.8", linewidth=1, zorder=0)
    axes.axvline(0, color="0.8", linewidth=1, zorder=0)
    axes.add_patch(Circle((0, 0), VAD_LIMIT, fill=False, edgecolor="0.85", zorder=0))
    arrows = "\N{LEFTWARDS ARROW}  {}  \N{RIGHTWARDS ARROW}"
    axes.set_xlabel(f"unpleasant  {arrows.format('valence')}  pleasant", fontsize=8)
    axes.set_ylabel(f"calm  {arrows.format('arousal')}  excited", fontsize=8)
    axes.tick_params(labelsize=7)


def draw_colour_bar(axes):
    """The colours of the points in the plane."""
    bar = axes.figure.colorbar(ScalarMappable(**DOMINANCE), cax=axes)
    bar.set_label("dominance: submissive to in control", fontsize=8)
    axes.tick_params(labelsize=7)


def draw_points(axes, faces, is_numbered):
    """Points in the plane, dominance as colour, of [`Face`] with all three values."""
    x, y = [face.valence for face in faces], [face.arousal for face in faces]
    colours = [face.dominance for face in faces]
    style = {"s": 90, "edgecolors": "black", "linewidths": 0.8, "zorder": 3}
    axes.scatter(x, y, c=colours, **style, **DOMINANCE)
    for face in faces if is_numbered else ():
        place = (face.valence, face.arousal)
        axes.annotate(str(face.number), place, (5, 5), textcoords="offset points", fontsize=7)


def frame_bars(axes):
    """A row for each emotion, for the bars of its probability."""
    axes.set(**BARS_AXES)
    axes.set_yticks(range(len(EMOTIONS)), EMOTIONS, fontsize=8)
    axes.xaxis.label.set_size(8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(axes, faces):
    """The probabilities of a few faces as groups of bars."""
    height = 0.8 / max(1, len(faces))
    for place, face in enumerate(faces):
        offset = (place - (len(faces) - 1) / 2) * height
        rows = [row + offset for row in range(len(EMOTIONS))]
        values = [face.probabilities[name] for name in EMOTIONS]
        bars = axes.barh(rows, values, height * 0.9, color=list(COLOURS.values()))
        note = f"  (face {face.number})" if 1 < len(faces) and height > 0.25 else ""
        axes.bar_label(bars, [f"{value:.0%}{note}" for value in values], fontsize=7, padding=2)


def draw_shades(axes, faces):
    """The probabilities of many faces as a table of shades, a row per face."""
    shown = faces[:MAX_ROWS]
    shades = [list(face.probabilities.values()) for face in shown]
    axes.imshow(shades, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, fontsize=7)
    axes.set_yticks(range(len(shown)), [str(face.number) for face in shown], fontsize=6)
    note = f" (the largest {len(shown)} of {len(faces)})" if len(faces) > len(shown) else ""
    axes.set_ylabel(f"face{note}", fontsize=8)


def plot_timelines(rows, title):
    """A `Figure` of the smoothed values of each person of a video over time.

    rows: its table, a DataFrame. Of many people those who are seen longest are shown, and the title
    says so.
    """
    frames = rows["face"].value_counts()
    shown = sorted(frames.index[:MAX_TIMELINES])
    count = max(1, len(shown))
    figure = Figure(figsize=(10, 1.2 + 2.9 * count), dpi=100, layout="constrained")
    options = {"sharex": True, "squeeze": False, "height_ratios": (2, 1) * count}
    panels = figure.subplots(2 * count, 1, **options)[:, 0]
    for number, axes, below in zip(shown, panels[::2], panels[1::2], strict=False):
        mine = rows[rows["face"] == number]
        axes.set_ylabel(f"face {number}", fontsize=8)
        draw_timeline(axes, below, mine.iloc[:: math.ceil(len(mine) / MAX_POINTS)])
    if not shown:
        title = f"{title}: no face found"
    elif len(shown) < len(frames):
        title = f"{title} (the {len(shown)} of {len(frames)} people who are seen longest)"
    set_title(panels[0], title)
    if shown:
        panels[0].legend(loc="upper right", ncols=3, fontsize=8)
    panels[-1].set_xlabel("seconds", fontsize=8)
    return figure


def draw_timeline(axes, below, rows):
    """Valence, arousal and dominance of one person in `axes`, emotions in `below`."""
    for name, colour in zip(DIMENSIONS, DIMENSION_COLOURS, strict=True):
        values = rows[f"smoothed_{name.lower()}"]
        axes.plot(rows["time"], values, label=name.lower(), color=colour, linewidth=1.5)
    axes.set_ylim(LIMITS)
    axes.axhline(0, color="0.8", linewidth=1)
    axes.tick_params(labelsize=7)
    emotions = rows["smoothed_emotion"]
    places, colours = emotions.map(EMOTIONS.index), emotions.map(COLOURS)
    below.scatter(rows["time"], places, s=6, c=colours)
    below.set_yticks(range(len(EMOTIONS)), EMOTIONS, fontsize=6)
    below.set_ylim(len(EMOTIONS) - 0.5, -0.5)
    below.tick_params(axis="x", labelsize=7)
