"""Draw a grey face that shows an emotion and its valence, arousal and dominance.

An expression is a few facial actions (inner brows up, mouth corners up, jaw down, ...), after the
Facial Action Coding System: those of the emotion, moved by what valence, arousal and dominance have
beyond its mean. Person, pose and light are nuisance. Shapes are polygons in face coordinates (x
right, y down, about -1..1), so that a face looks alike at any size.
"""

from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from utils.tasks import EMOTIONS, PUBLISHED_VAD, VAD_LIMIT

CLASS_VAD = VAD_LIMIT * np.array(PUBLISHED_VAD)
SUPERSAMPLING = 4

# Brows up, inner and outer; eyes wide; upper lip, mouth corners up; mouth wide; jaw down; head up.
ACTIONS = ("inner", "outer", "eyes", "lip", "corner", "wide", "jaw", "head")
PROTOTYPES = np.array([
    (-1.0, 0.3, 0.1, 0.0, -0.6, -0.1, 0.1, 0.0),
    (-0.6, -0.2, -0.7, 1.0, -0.6, 0.0, 0.1, 0.0),
    (1.0, 0.1, 0.8, 0.1, -0.6, 0.6, 0.45, 0.0),
    (0.1, 0.1, -0.5, 0.3, 1.0, 0.7, 0.3, 0.0),
    (0.9, -0.6, -0.5, 0.0, -1.0, -0.2, 0.0, 0.0),
    (0.9, 1.0, 0.8, 0.0, 0.1, -0.5, 1.0, 0.0),
    (0.0,) * 8,
])  # fmt: skip
# What a unit of valence, arousal or dominance beyond the mean of the class adds to each.
VAD_ACTIONS = np.array([
    (0.0, 0.0, 0.0, 0.0, 0.6, 0.2, 0.0, 0.0),
    (0.1, 0.3, 0.5, 0.0, 0.0, 0.0, 0.4, 0.0),
    (-0.5, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5),
])  # fmt: skip

# Persons, poses and lights: each value is uniform between its bounds. Tones are 0..255.
NUISANCE = {
    "width": (0.66, 0.76), "chin": (0.86, 0.94), "eye_x": (0.29, 0.34), "eye_y": (-0.2, -0.12),
    "eye_size": (0.135, 0.165), "brow": (0.16, 0.2), "thick": (0.025, 0.045),
    "nose_y": (0.18, 0.24), "mouth_y": (0.46, 0.52), "mouth": (0.22, 0.28),
    "lips": (0.03, 0.06), "skin": (110, 208), "hair": (12, 90), "hairline": (-0.7, -0.5),
    "hair_y": (-0.2, 1.0), "iris": (25, 80), "back": (20, 240),
    "shift_x": (-0.06, 0.06), "shift_y": (-0.08, 0.03), "scale": (1.0, 1.16), "roll": (-0.12, 0.12),
    "light_x": (-0.28, 0.28), "light_y": (-0.22, 0.08), "contrast": (0.8, 1.15),
}  # fmt: skip

T = np.linspace(-1, 1, 15)  # along a lid, a lip or a brow
ARCH = 1 - T**2
ANGLE = np.linspace(0, 2 * np.pi, 40, endpoint=False)


def draw_face(emotion, vad, identity, size=48):
    """One drawn face, uint8 (size, size).

    emotion: 0-6, in the order of `utils.tasks.EMOTIONS`. vad: valence, arousal and dominance in
    -2..2. identity: a seed (int), or a `numpy.random.Generator`, which is advanced; it decides
    person, pose and light, so that one seed with several emotions is one person. size: pixels, at
    least 8. Raises ValueError for an emotion or a size out of range.
    """
    if not 0 <= emotion < len(EMOTIONS) or size < 8:
        raise ValueError(f"emotion must be 0-6, size at least 8: got {emotion} and {size}")
    low, high = np.array(list(NUISANCE.values())).T
    values = np.random.default_rng(identity).uniform(low, high).tolist()
    p = SimpleNamespace(**dict(zip(NUISANCE, values, strict=True)))
    action = expression(emotion, np.clip(vad, -VAD_LIMIT, VAD_LIMIT))
    sketch = _Sketch(size * SUPERSAMPLING, p)
    for part in (_draw_head, _draw_eyes, _draw_nose, _draw_mouth):
        part(sketch, p, action)
    picture = sketch.image.reduce(SUPERSAMPLING).filter(ImageFilter.GaussianBlur(0.008 * size))
    lit = np.asarray(picture, np.float32) * _light(p, size)
    return np.clip(128 + p.contrast * (lit - 128), 0, 255).astype(np.uint8)


def expression(emotion, vad):
    """The `ACTIONS` of an emotion at V/A/D as a namespace of floats, mostly -1..1."""
    beyond = np.clip(vad - CLASS_VAD[emotion], -1.5, 1.5)
    actions = PROTOTYPES[emotion] + beyond @ VAD_ACTIONS
    return SimpleNamespace(**dict(zip(ACTIONS, actions.tolist(), strict=True)))


class _Sketch:
    """A picture on which polygons in face coordinates are turned, scaled and moved."""

    def __init__(self, size, p):
        self.image = Image.new("L", (size, size), int(p.back))
        self.pen, self.half = ImageDraw.Draw(self.image), size / 2
        cos, sin = p.scale * np.cos(p.roll), p.scale * np.sin(p.roll)
        self.turn = np.array(((cos, sin), (-sin, cos)))
        self.move = np.array((p.shift_x, p.shift_y))

    def polygon(self, x, y, tone, mirror=False):
        """Fill a polygon of arrays x and y; with `mirror` its mirror image, too."""
        points = np.stack((x, y), axis=1) @ self.turn + self.move
        # Whole pixels, so that the last bit of a sine does not change the bytes between platforms.
        pixels = np.rint((points + 1) * self.half).astype(int)
        self.pen.polygon(pixels.ravel().tolist(), fill=int(np.clip(tone, 0, 255)))
        if mirror:
            self.polygon(-x, y, tone)

    def ellipse(self, x, y, radius_x, radius_y, tone, mirror=False):
        """Fill an ellipse."""
        self.polygon(x + radius_x * np.cos(ANGLE), y + radius_y * np.sin(ANGLE), tone, mirror)

    def band(self, x, top, bottom, tone, mirror=False):
        """Fill the area between two curves over the same x."""
        x, y = np.concatenate((x, x[::-1])), np.concatenate((top, bottom[::-1]))
        self.polygon(x, y, tone, mirror)


def _draw_head(sketch, p, action):
    sketch.band(1.4 * T, 1 + 0.25 * T**2, 0 * T + 2, 255 - p.back)
    sketch.band(0.42 * T, 0 * T + 0.5, 1.05 + 0.1 * ARCH, 0.72 * p.skin)
    sketch.ellipse(0, -0.2, p.width + 0.12, 0.9, p.hair)
    sketch.band((p.width + 0.12) * T, 0 * T - 0.2, 0 * T + p.hair_y, p.hair)
    sketch.ellipse(p.width, 0, 0.07, 0.16, 0.84 * p.skin, mirror=True)
    down, chin = np.sin(ANGLE), p.chin + 0.07 * max(action.jaw, 0)
    across = p.width * np.cos(ANGLE) * (1 - 0.16 * np.maximum(down, 0) ** 2)
    sketch.polygon(across, np.where(down > 0, chin, 0.95) * down, p.skin)
    edge = p.hairline + 0.3 * np.abs(T) ** 2.2
    sketch.band((p.width + 0.04) * T, -1.04 * np.sqrt(1 - 0.92 * T**2), edge, p.hair)


def _draw_eyes(sketch, p, action):
    y, x = p.eye_y - 0.06 * action.head, p.eye_x + p.eye_size * T
    sketch.ellipse(p.eye_x, y - 0.02, 1.5 * p.eye_size, 0.13, 0.86 * p.skin, mirror=True)
    opening = max(0.012, 0.06 * (1 + 0.7 * action.eyes))
    top, bottom = y - 1.15 * opening * ARCH, y + 0.75 * opening * ARCH
    sketch.band(x, top, bottom, 120 + 0.55 * p.skin, mirror=True)
    for radius, tone in ((0.45 * p.eye_size, p.iris), (0.22 * p.eye_size, 8)):
        reach = radius * np.cos(ANGLE)
        lids = np.interp(reach, x - p.eye_x, top), np.interp(reach, x - p.eye_x, bottom)
        sketch.polygon(p.eye_x + reach, np.clip(y + radius * np.sin(ANGLE), *lids), tone, True)
    sketch.band(x, top - 0.022 * ARCH, top + 0.012 * ARCH, 0.2 * p.skin, mirror=True)
    outward = (T + 1) / 2
    lift = action.inner * (1 - outward) + action.outer * outward
    brow = np.minimum(y - p.brow - 0.1 * lift - 0.03 * ARCH, y - 0.09)
    thick = p.thick * (0.4 + 0.6 * ARCH)
    across = p.eye_x + 0.02 + 0.2 * T
    sketch.band(across, brow - thick, brow + thick, min(p.hair, 0.45 * p.skin), mirror=True)


def _draw_nose(sketch, p, action):
    y = p.nose_y - 0.05 * max(action.lip, 0) - 0.09 * action.head
    side = np.array((0.05, 0.07, 0.13, 0.1))
    sketch.polygon(side, np.array((p.eye_y, p.eye_y, y, y + 0.03)), 0.88 * p.skin, mirror=True)
    sketch.band(0.13 * T, y + 0.03 * T**2, y + 0.035 + 0.02 * ARCH, 0.7 * p.skin)
    sketch.ellipse(0.065, y + 0.03, 0.035, 0.018, 0.3 * p.skin, mirror=True)


def _draw_mouth(sketch, p, action):
    x = p.mouth * (1 + 0.25 * action.wide) * T
    y = p.mouth_y - 0.05 * action.head + 0.11 * action.corner * (0.5 - T**2)
    lift, drop = 0.07 * max(action.lip, 0) * ARCH, 0.2 * max(action.jaw, 0) * ARCH
    upper, lower = y - lift, y + drop
    sketch.band(x, upper - p.lips * ARCH - 0.008, lower + 1.2 * p.lips * ARCH + 0.008, 0.6 * p.skin)
    sketch.band(x, upper - 0.012 * ARCH, lower + 0.012 * ARCH, 35)
    sketch.band(0.85 * x, upper, upper + np.minimum(0.06 * ARCH, lift + drop), 225)


def _light(p, size):
    """Brightness per pixel, float32 (size, size): light from one side."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return 1 + p.light_x * axis + p.light_y * axis[:, None]
