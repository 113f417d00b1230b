"""Draw a grey face that shows an emotion and its valence, arousal and dominance.

An expression is a few facial actions (inner brow up, mouth corners up, jaw down, ...), after the Facial
Action Coding System. The emotion and its strength set them; what is left of valence, arousal and dominance
then moves mouth corners, eyes, jaw, brows and chin within the class. Person, pose and light are nuisance.
All shapes are polygons in face coordinates (x right, y down, about -1..1), so a face looks alike at any size.
"""

from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from utils.tasks import EMOTIONS, PUBLISHED_VAD, VAD_LIMIT

CLASS_VAD = VAD_LIMIT * np.array(PUBLISHED_VAD)

# Actions: inner and outer brows up, brows drawn together, eyes wide, lower lids up, nose wrinkled,
# upper lip up, mouth corners up, mouth wide, jaw down, gaze down, chin up.
ACTIONS = "inner outer squeeze wide lids wrinkle lip corner stretch jaw gaze chin".split()
PROTOTYPES = np.array([
    (-1.0, 0.15, 1.0, 0.2, 0.45, 0.2, 0.0, -0.5, -0.1, 0.2, 0.0, 0.0),
    (-0.65, -0.15, 0.4, -0.45, 0.7, 1.1, 1.1, -0.5, -0.1, 0.1, 0.0, 0.0),
    (0.95, 0.1, 0.7, 0.8, 0.1, 0.0, 0.1, -0.5, 0.6, 0.42, 0.0, 0.0),
    (0.1, 0.1, 0.0, -0.2, 0.9, 0.0, 0.35, 1.0, 0.6, 0.3, 0.0, 0.0),
    (0.85, -0.55, 0.45, -0.45, 0.0, 0.0, -0.1, -0.9, -0.2, 0.0, 0.6, 0.0),
    (0.9, 1.0, -0.1, 0.8, 0.0, 0.0, 0.05, 0.1, -0.5, 0.95, 0.0, 0.0),
    (0.0,) * 12,
])  # fmt: skip
# What one unit of V, A or D beyond the class and its strength adds to each action.
VAD_ACTIONS = np.array([
    (0.0, 0.0, -0.1, 0.0, 0.2, 0.0, 0.0, 0.55, 0.2, 0.0, 0.0, 0.0),
    (0.15, 0.3, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.35, -0.3, 0.0),
    (-0.45, 0.1, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, -0.4, 0.0),
])  # fmt: skip
CHIN_UP = 0.5  # chin action per unit of dominance, in every class

# What makes a person, a pose and a light: each is uniform between its two bounds. Tones are 0..255.
NUISANCE = dict(
    width=(0.66, 0.77), jaw_shape=(0.04, 0.26), chin_y=(0.84, 0.94), eye_x=(0.29, 0.35), eye_y=(-0.2, -0.12),
    eye_size=(0.135, 0.17), eye_open=(0.85, 1.15), brow_gap=(0.15, 0.2), brow_thick=(0.025, 0.05),
    brow_tilt=(-0.02, 0.02), nose_width=(0.1, 0.15), nose_y=(0.16, 0.24), mouth_y=(0.46, 0.52),
    mouth_width=(0.22, 0.28), lips=(0.03, 0.065), mouth_curve=(-0.08, 0.08), age=(0, 1), skin=(95, 208),
    hair=(12, 110), grey=(0, 1), style=(0, 5), hairline=(-0.72, -0.52), parting=(-0.4, 0.4), beard=(0, 1),
    glasses=(0, 1), iris=(25, 85), back=(20, 240), back_end=(20, 240), cloth=(20, 230), shift_x=(-0.06, 0.06),
    shift_y=(-0.09, 0.03), scale=(1.0, 1.18), roll=(-0.13, 0.13), yaw=(-0.14, 0.14), pitch=(-0.02, 0.02),
    light_x=(-0.32, 0.32), light_y=(-0.25, 0.08), contrast=(0.8, 1.15), bright=(-18, 22),
)  # fmt: skip
_LOW, _HIGH = np.array(list(NUISANCE.values()), float).T

_ANGLE = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_COS, _SIN = np.cos(_ANGLE), np.sin(_ANGLE)
_T = np.linspace(-1, 1, 13)  # along a lid, a lip or a line
_UNIT, _ARCH = (_T + 1) / 2, 1 - _T**2
_TAPER = np.sqrt(_ARCH)


class _Sketch:
    """Polygons in face coordinates with their tones, `solid` ones and `soft` ones.

    A soft polygon only shades: its tone, 128 for no change, is blurred and multiplied with the picture.
    """

    def __init__(self):
        self.points, self.tones, self.layers = [], [], []

    def add(self, x, y, tone, soft=False, mirror=False):
        """One polygon from arrays x and y; with `mirror` also its mirror image."""
        self.points.append(np.stack((x, y)))
        self.tones.append(int(min(max(tone, 0), 255)))
        self.layers.append(int(soft))
        if mirror:
            self.add(-x, y, tone, soft)

    def ellipse(self, x, y, radius_x, radius_y, tone, soft=False, mirror=False):
        self.add(x + radius_x * _COS, y + radius_y * _SIN, tone, soft, mirror)

    def band(self, x, top, bottom, tone, soft=False, mirror=False):
        """The area between two curves over the same x."""
        self.add(np.concatenate((x, x[::-1])), np.concatenate((top, bottom[::-1])), tone, soft, mirror)

    def stroke(self, start, end, bend, thick, tone, mirror=True):
        """A soft tapered line from start to end, bent sideways by `bend`."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        low, high = bend * _ARCH - 0.5 * thick * _TAPER, bend * _ARCH + 0.5 * thick * _TAPER
        across = np.concatenate((low, high[::-1])) / np.hypot(dx, dy)
        along = np.concatenate((_UNIT, _UNIT[::-1]))
        self.add(start[0] + along * dx - across * dy, start[1] + along * dy + across * dx, tone, True, mirror)

    def paint(self, size, place):
        """Draw at `size` pixels after `place` moved the points; returns the solid and the soft picture."""
        points = place(np.concatenate(self.points, axis=1))
        # Whole pixels, so that the last bit of a sine does not change the bytes between platforms.
        flat = np.rint((points.T + 1) * (size / 2)).astype(int).ravel().tolist()
        pictures = Image.new("L", (size, size)), Image.new("L", (size, size), 128)
        pens = [ImageDraw.Draw(picture) for picture in pictures]
        start = 0
        for shape, tone, layer in zip(self.points, self.tones, self.layers, strict=True):
            end = start + shape.size
            pens[layer].polygon(flat[start:end], fill=tone)
            start = end
        return pictures


def _expression(emotion, vad):
    """The actions of `emotion` at `vad` as a namespace of floats, mostly -1..1."""
    vad, mean = np.clip(vad, -VAD_LIMIT, VAD_LIMIT), CLASS_VAD[emotion]
    square = mean @ mean
    strength = np.clip(vad @ mean / square, 0.5, 1.25) if square else 1.0
    actions = strength * PROTOTYPES[emotion] + np.clip(vad - strength * mean, -1.5, 1.5) @ VAD_ACTIONS
    actions[-1] += CHIN_UP * vad[2]
    return SimpleNamespace(**dict(zip(ACTIONS, actions.tolist(), strict=True)))


def _person(rng):
    """A person, a pose and a light: a namespace with the keys of NUISANCE."""
    values = _LOW + (_HIGH - _LOW) * rng.random(len(_LOW))
    p = SimpleNamespace(**dict(zip(NUISANCE, values.tolist(), strict=True)))
    if p.age > 0.6 and p.grey > 0.4:
        p.hair = 120 + 100 * p.grey
    if abs(p.hair - p.skin) < 35:
        p.hair = p.skin - 40
    return p


def _surroundings(sketch, p, e):
    sketch.add(np.array((-3, 3, 3, -3)), np.array((-3, -3, 3, 3)), p.back)
    sketch.ellipse(-2 * p.parting, p.hairline, 1.1 + p.parting, 0.8, 0.6 * p.back + 0.4 * p.back_end)
    sketch.ellipse(4 * p.light_x, -0.4, 0.5, 0.9, 0.3 * p.back + 0.7 * p.back_end)
    if p.style > 3:  # long hair falls behind the neck
        sketch.ellipse(0, -0.1, p.width + 0.2, 0.92, 0.8 * p.hair)
        sketch.band((p.width + 0.2) * _T, 0 * _T - 0.1, 0 * _T + 1.4, 0.8 * p.hair)
    sketch.band(1.3 * _T, 0.98 + 0.25 * _T**2, 0 * _T + 1.8, p.cloth)
    sketch.band(0.62 * p.width * _T, 0 * _T + 0.5, 1.08 + 0.1 * _ARCH, 0.72 * p.skin)


def _head(sketch, p, e):
    sketch.ellipse(p.width, 0.0, 0.08, 0.17, 0.84 * p.skin, mirror=True)
    sketch.ellipse(p.width + 0.02, 0.0, 0.035, 0.1, 104, True, True)
    drop, low = 0.07 * max(e.jaw, 0), np.maximum(_SIN, 0)
    x = np.sign(_COS) * np.abs(_COS) ** (1 - 0.35 * p.jaw_shape) * (1 - (0.3 - p.jaw_shape) * low**2)
    sketch.add(p.width * x, np.where(_SIN > 0, (p.chin_y + drop) * _SIN, 0.95 * _SIN), p.skin)
    sketch.ellipse(0.8 * p.width, 0.42, 0.13, 0.26, 116, True, True)
    sketch.ellipse(0, -0.42, 0.34, 0.13, 136, True)
    sketch.ellipse(p.eye_x + 0.05, 0.14 - 0.04 * e.lids, 0.15, 0.09, 138 + 5 * max(e.lids, 0), True, True)
    sketch.ellipse(0, p.mouth_y + 0.17 + drop, 0.17, 0.03, 112, True)
    sketch.ellipse(0, p.chin_y - 0.1 + drop, 0.13, 0.07, 136, True)


def _nose(sketch, p, e):
    wrinkle = max(e.wrinkle, 0.0)
    tip, wide = p.nose_y - 0.05 * wrinkle, p.nose_width * (1 + 0.2 * wrinkle)
    shift = 0.3 * p.yaw  # the nose stands out, so it moves more when the head turns
    bridge = np.array((0.045, 0.075, 0.07, wide, 0.6 * wide, 0.03))
    down = np.array((p.eye_y - 0.05, p.eye_y, 0.02, tip - 0.02, tip + 0.05, tip - 0.06))
    for side in (-1, 1):
        sketch.add(shift * _UNIT[:6] + side * bridge, down, 106 + 30 * side * p.light_x, True)
    sketch.ellipse(shift, tip - 0.03, 0.05, 0.05, 146, True)
    sketch.band(shift + wide * _T, tip + 0.02 * _ARCH, tip + 0.06 * _ARCH, 90, True)
    for side in (-1, 1):
        sketch.ellipse(shift + side * 0.5 * wide, tip + 0.005, 0.032, 0.017, 0.38 * p.skin)
    for level in (0.07, 0.14) if wrinkle > 0.15 else ():
        y = p.eye_y + level + 0.03
        sketch.stroke((-0.08, y), (0.08, y), -0.04, 0.03, 128 - 60 * wrinkle, mirror=False)


def _mouth(sketch, p, e):
    half = p.mouth_width * (1 + 0.32 * min(max(e.stretch + 0.15 * e.corner, -1.2), 1.2))
    corner, lift = e.corner + p.mouth_curve, max(e.lip, 0)
    opening = max(0.0, 0.33 * e.jaw + 0.05 * e.lip - 0.012) * (1 - 0.15 * abs(e.stretch))
    x, line = half * _T, p.mouth_y - 0.03 * lift + corner * (0.055 - 0.14 * _T**2)
    top = line - (0.3 * opening + 0.015 * lift) * _ARCH**0.7
    bottom = line + (0.7 * opening + 0.004) * _ARCH**0.7
    pressed = 0.2 if e.squeeze > 0.6 and e.wide < 0.5 else 0.0
    lips = p.lips * (1 - pressed) * _TAPER
    _folds(sketch, p, e, half, float(line[0]), corner)
    sketch.band(x, top - lips * (1 - 0.25 * np.exp(-((_T / 0.15) ** 2))), bottom + 1.25 * lips, 0.66 * p.skin)
    sketch.band(0.7 * x, bottom + 0.45 * lips, bottom + 0.8 * lips, 140, True)
    sketch.band(x, top - 0.006, bottom + 0.006, 0.16 * p.skin)
    if opening < 0.02:
        return
    show = min(max(0.35 + 0.5 * e.corner + 0.8 * e.lip + 0.2 * e.stretch, 0.12), 1.0)
    teeth = np.minimum(0.075 * show * _TAPER, 0.8 * (bottom - top))
    sketch.band(0.9 * x, top + 0.004, top + 0.004 + teeth, 150 + 0.38 * p.skin)
    if opening > 0.16:
        tongue = bottom - 0.3 * (bottom - top) * np.maximum(1 - (_T / 0.7) ** 2, 0)
        sketch.band(0.8 * x, tongue, bottom - 0.01, 0.42 * p.skin)
    elif pressed or e.stretch > 0.2 > e.corner:  # lower teeth of anger and fear
        sketch.band(0.8 * x, bottom - 0.03 * _TAPER, bottom - 0.004, 130 + 0.33 * p.skin)


def _folds(sketch, p, e, half, corner_y, corner):
    """Folds from the nose to past the mouth corners, deep in smiles and disgust, and under drooping ones."""
    depth = 0.25 * p.age + 0.6 * abs(corner) + 0.6 * max(e.wrinkle, 0) - 0.35 * max(-corner, 0)
    start = (p.nose_width + 0.03, p.nose_y - 0.02 - 0.05 * max(e.wrinkle, 0))
    end = (max(half + 0.08, 0.25), corner_y + 0.06)
    sketch.stroke(start, end, -0.05 - 0.03 * max(corner, 0), 0.05, 128 - 52 * min(depth, 1.2))
    sketch.ellipse(half + 0.02, corner_y, 0.03, 0.03, 108, True, True)
    if corner < -0.2:
        sketch.stroke((half, corner_y), (half + 0.04, corner_y + 0.12), 0.01, 0.04, 128 + 40 * corner)


def _eyes(sketch, p, e):
    x, y = p.eye_x + p.eye_size * _T, p.eye_y + 0.01 * e.gaze
    lids, height = min(max(e.lids, -0.3), 1.3), 0.48 * p.eye_size * p.eye_open * _ARCH**0.8
    opening = min(max(1 + 0.62 * e.wide, 0.22), 1.9)
    top = y - 0.012 * _T - opening * height
    bottom = y - 0.012 * _T + height * max(0.9 + 0.15 * e.wide - 0.75 * lids, -0.1 * opening)
    sketch.ellipse(p.eye_x - 0.02, y - 0.05, 1.2 * p.eye_size, 0.12, 108, True, True)
    sketch.band(x, top - 0.03 - 0.025 * _ARCH, top - 0.03, 86, True, True)
    bag = 128 - 10 * p.age - 22 * max(lids, 0)
    sketch.band(x, bottom + 0.03 * _ARCH, bottom + 0.065 * _ARCH, bag, True, True)
    sketch.band(x, top, bottom, 0.3 * p.skin + 165, mirror=True)
    for side in (-1, 1):
        for radius, tone in ((0.52 * p.eye_size, p.iris), (0.26 * p.eye_size, 8)):
            # The lids cut the iris off.
            down = y - 0.01 + 0.035 * e.gaze + radius * _SIN
            reach = np.abs(radius * _COS / p.eye_size)
            down = np.clip(down, np.interp(reach, _T, top), np.interp(reach, _T, bottom))
            sketch.add(side * p.eye_x + radius * _COS, down, tone)
        if opening > 0.5:
            sketch.ellipse(side * p.eye_x + 0.02, max(y - 0.035, top[6] + 0.015), 0.016, 0.016, 240)
    sketch.band(x, top - 0.022 * _TAPER, top + 0.012 * _TAPER, 0.2 * p.skin, mirror=True)
    sketch.band(x, bottom, bottom + 0.012 * _TAPER, 0.62 * p.skin, mirror=True)
    if p.glasses > 0.88:
        rim = np.concatenate((1 + 0 * _ANGLE, [1.0, 0.88], 0.88 + 0 * _ANGLE))
        turn = np.concatenate((_ANGLE, [0.0, 0.0], -_ANGLE))
        across, down = 0.235 * rim * np.cos(turn), 0.18 * rim * np.sin(turn)
        sketch.add(p.eye_x + across, y + 0.02 + down, 30, mirror=True)
        sketch.band(0.1 * _T, y - 0.02 * _ARCH, y + 0.03 - 0.02 * _ARCH, 30)


def _brows(sketch, p, e):
    inward = 1 - _UNIT
    lift = 0.1 * e.inner * inward**1.2 + 0.1 * e.outer * _UNIT + 0.03 * _ARCH
    y = p.eye_y - p.brow_gap - lift + p.brow_tilt * _T + 0.02 * max(e.squeeze, 0)
    y = np.minimum(y, p.eye_y - 0.085)
    thick = p.brow_thick * np.minimum(np.minimum(1.0, 1.4 * inward + 0.15), 0.5 + 4 * _UNIT)
    x = p.eye_x + 0.02 + 0.2 * _T - 0.05 * e.squeeze * inward
    sketch.band(x, y - thick, y + thick, min(p.hair, 0.5 * p.skin), mirror=True)
    # Furrows: upright between drawn brows, level on the forehead over raised ones.
    if e.squeeze > 0.2:
        top, end = (0.05, p.eye_y - 0.22), (0.04, p.eye_y - 0.04)
        sketch.stroke(top, end, 0.01, 0.04, 134 - 54 * e.squeeze)
    raised = max(0.0, 0.5 * (e.inner + e.outer)) + 0.25 * p.age
    for level in (0.31, 0.4) if raised > 0.2 and p.style < 4 else ():
        y = p.eye_y - level - 0.04 * raised
        sketch.stroke((-0.3, y), (0.3, y), -0.02 - 0.02 * e.inner, 0.03, 128 - 40 * raised, mirror=False)


def _hair(sketch, p, e):
    if p.style < 3 and p.beard > 0.7:  # stubble
        sketch.ellipse(0, p.chin_y - 0.12, 0.6 * p.width, 0.2, 108, True)
        sketch.band(0.2 * _T, p.mouth_y - 0.15 + 0.05 * _T**2, 0 * _T + p.mouth_y - 0.07, 104, True)
    if p.style < 0.5:
        return  # bald
    edge = p.hairline + 0.28 * np.abs(_T - p.parting) ** 2.2
    if p.style > 4:  # a fringe
        edge = np.minimum(p.hairline + 0.16 + 0.1 * np.abs(_T) ** 3, p.eye_y - 0.3)
    crown = -1.04 * np.sqrt(1 - 0.92 * _T**2)
    sketch.band((p.width + 0.05) * _T, crown, np.maximum(edge, crown), p.hair)
    if p.style > 1:  # the sides, down to the ears or past them
        end, flow = (-0.08, 0.0) if p.style < 3 else (1.0, 0.06)
        x = p.width + np.array((-0.04, 0.06, 0.07 + flow, 0.06 + 2 * flow, -0.03, -0.07, -0.24))
        sketch.add(x, np.array((-0.55, -0.35, -0.2, end, end, -0.2, -0.62)), p.hair, mirror=True)
    for strand in (-0.4, -0.15, 0.1, 0.35, 0.55):
        start, end = (p.parting * 0.6 + 0.1 * strand, -0.98), (p.parting + strand, p.hairline - 0.02)
        sketch.stroke(start, end, -0.12 * strand, 0.06, 140, mirror=False)


def _pose(p, e):
    """A function that turns, tilts, scales and moves (2, n) points of the face."""
    cos, sin = np.cos(p.roll) * p.scale, np.sin(p.roll) * p.scale
    turn, move = np.array(((cos, -sin), (sin, cos))), np.array(((p.shift_x,), (p.shift_y,)))
    slide = np.array(((p.yaw,), (p.pitch - 0.12 * e.chin,)))

    def place(points):
        # The middle of the face stands out and slides when the head turns; its outline stays.
        depth = np.sqrt(np.maximum(1 - (points[0] / p.width) ** 2 - points[1] ** 2, 0))
        return turn @ (points + depth * slide) + move

    return place


def _light(p, size):
    """Brightness per pixel, float32 (size, size): a round head lit from one side."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = (axis[None] - p.shift_x) / 1.05, (axis[:, None] - p.shift_y) / 1.15
    height = np.sqrt(np.maximum(1 - x**2 - y**2, 0))
    return 0.84 + 0.24 * height + p.light_x * np.clip(x, -1, 1) + p.light_y * np.clip(y, -1, 1)


def draw_face(emotion, vad, identity, size=48):
    """One drawn face.

    emotion: 0-6, in the order of `utils.tasks.EMOTIONS`. vad: valence, arousal and dominance in -2..2.
    identity: a seed (int), or a `numpy.random.Generator`, which is advanced; it decides person, pose and
    light, so that one seed with several emotions is one person. size: pixels, at least 8.
    Returns uint8 (size, size). Raises ValueError for an emotion or a size out of range.
    """
    if not 0 <= emotion < len(EMOTIONS) or size < 8:
        raise ValueError(f"emotion must be 0-{len(EMOTIONS) - 1}, size at least 8: got {emotion} and {size}")
    p, e, sketch = _person(np.random.default_rng(identity)), _expression(emotion, vad), _Sketch()
    for part in (_surroundings, _head, _nose, _mouth, _eyes, _brows, _hair):
        part(sketch, p, e)
    finer = 4 if size <= 128 else 2
    solid, soft = (layer.reduce(finer) for layer in sketch.paint(size * finer, _pose(p, e)))
    shade = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.016 * size)), np.float32) / 128
    picture = np.asarray(solid, np.float32) * shade * _light(p, size)
    return np.clip(128 + p.contrast * (picture - 128) + p.bright + 0.5, 0, 255).astype(np.uint8)
