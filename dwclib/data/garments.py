"""Garments and their photos, drawn by code: twelve attributes that a reader recognises at 64 pixels.

A garment is drawn in a unit frame (x to the right, y down, both 0 to 1), upright and centred; `_Camera`
places it in the photo. Everything is drawn several times too large and reduced, so that edges are smooth at
every size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dwclib.errors import DatasetError

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

PALETTE: dict[str, Colour] = {
    "white": (246, 245, 240),
    "black": (38, 38, 44),
    "grey": (150, 153, 158),
    "red": (204, 42, 48),
    "orange": (238, 126, 36),
    "yellow": (246, 206, 60),
    "green": (60, 146, 60),
    "teal": (18, 148, 160),
    "blue": (40, 84, 178),
    "purple": (146, 74, 176),
    "pink": (244, 146, 178),
    "brown": (116, 74, 44),
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "category": ("dress", "shirt", "top"),
    "colour": tuple(PALETTE),
    "pattern": ("plain", "stripes", "pinstripes", "dots", "checks", "floral"),
    "accent": tuple(PALETTE),
    "sleeve": ("sleeveless", "short", "elbow", "long"),
    "neckline": ("round", "v-neck", "square", "collar", "turtleneck", "off-shoulder"),
    "length": ("short", "medium", "long"),
    "fit": ("slim", "regular", "loose"),
    "belt": ("no belt", "belt"),
    "closure": ("none", "buttons", "zip"),
    "pocket": ("no pocket", "pocket"),
    "hem": ("straight", "ruffled"),
}

# Wall and floor of a backdrop, and how far down the floor begins.
BACKDROPS: dict[str, tuple[Colour, Colour, float]] = {
    "studio": ((232, 233, 235), (214, 215, 219), 0.86),
    "sand": ((226, 214, 194), (205, 188, 160), 0.88),
    "sky": ((196, 216, 232), (170, 196, 214), 0.84),
    "mint": ((206, 226, 214), (178, 204, 190), 0.87),
    "blush": ((234, 212, 208), (214, 188, 182), 0.85),
    "wall": ((186, 182, 176), (138, 118, 98), 0.83),
    "slate": ((128, 138, 150), (98, 106, 118), 0.86),
    "dusk": ((98, 96, 116), (74, 70, 88), 0.85),
}

OCCLUDERS = ("curtain", "table", "sign")


@dataclass(frozen=True)
class Garment:
    """A garment: one value of `ATTRIBUTES` per field.

    Raises
    ------
    DatasetError
        For an unknown value, or an accent of the garment's own colour, which nobody could see.
    """

    category: str
    colour: str
    pattern: str
    accent: str
    sleeve: str
    neckline: str
    length: str
    fit: str
    belt: str
    closure: str
    pocket: str
    hem: str

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value not in ATTRIBUTES[name]:
                raise DatasetError(
                    f"there is no {name} {value!r}",
                    where="garment",
                    remedy=f"Use one of {', '.join(ATTRIBUTES[name])}.",
                )
        if self.accent == self.colour:
            raise DatasetError(
                f"the accent is {self.accent} like the garment", where="garment", remedy="Use another accent."
            )

    @property
    def codes(self) -> tuple[int, ...]:
        """The position of each value in `ATTRIBUTES`, (attributes,)."""
        return tuple(
            values.index(value) for values, value in zip(ATTRIBUTES.values(), astuple(self), strict=True)
        )

    @classmethod
    def from_codes(cls, codes: Sequence[int] | Int[np.ndarray, " attributes"]) -> Garment:
        """Return the garment with these positions in `ATTRIBUTES`, one per attribute."""
        return cls(*(values[code] for values, code in zip(ATTRIBUTES.values(), codes, strict=True)))


@dataclass(frozen=True)
class Scene:
    """How a photo was taken. The default is a clean studio picture.

    Attributes
    ----------
    background : one of `BACKDROPS`.
    x, y : shift of the garment, in shares of the frame.
    scale, rotation : of the garment; rotation in degrees, clockwise.
    light : brightness; 1 is neutral.
    warmth : tint from cold (-1) to warm (1).
    slope : how much brighter the left is than the right, -1 to 1.
    noise : standard deviation of the sensor noise, in grey levels.
    occlusion : share of the garment that something hides, 0 to 1.
    occluder : what hides it, one of `OCCLUDERS`.
    blur : radius of a Gaussian blur, in shares of the frame.
    seed : of the noise.

    Raises
    ------
    DatasetError
        For an unknown backdrop or occluder, or an occlusion that is no share.
    """

    background: str = "studio"
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    rotation: float = 0.0
    light: float = 1.0
    warmth: float = 0.0
    slope: float = 0.0
    noise: float = 0.0
    occlusion: float = 0.0
    occluder: str = "curtain"
    blur: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("background", tuple(BACKDROPS)), ("occluder", OCCLUDERS)):
            if getattr(self, name) not in known:
                raise DatasetError(
                    f"there is no {name} {getattr(self, name)!r}",
                    where="scene",
                    remedy=f"Use one of {', '.join(known)}.",
                )
        if not 0 <= self.occlusion <= 1:
            raise DatasetError(
                f"the occlusion {self.occlusion} is no share", where="scene", remedy="Use 0 to 1."
            )


def random_garment(rng: np.random.Generator) -> Garment:
    """Draw a garment, each attribute on its own."""
    codes = [int(rng.integers(len(values))) for values in ATTRIBUTES.values()]
    names = list(ATTRIBUTES)
    colour, accent = names.index("colour"), names.index("accent")
    while codes[accent] == codes[colour]:
        codes[accent] = int(rng.integers(len(PALETTE)))
    return Garment.from_codes(codes)


def random_scene(rng: np.random.Generator, *, occlusion_rate: float = 0.0, blur_rate: float = 0.0) -> Scene:
    """Draw how a photo is taken; at these rates 30 to 60 % of the garment are hidden, or it is blurred."""
    hidden, blurred = rng.random() < occlusion_rate, rng.random() < blur_rate
    u = rng.uniform(-1, 1, size=8)
    return Scene(
        background=list(BACKDROPS)[rng.integers(len(BACKDROPS))],
        x=0.04 * u[0],
        y=0.02 * u[1],
        scale=0.95 + 0.07 * u[2],
        rotation=6 * u[3],
        light=1.0 + 0.15 * u[4],
        warmth=0.6 * u[5],
        slope=0.15 * u[6],
        noise=3 + 2 * u[7],
        occlusion=float(rng.uniform(0.3, 0.6)) if hidden else 0.0,
        occluder=OCCLUDERS[rng.integers(len(OCCLUDERS))],
        blur=float(rng.uniform(0.015, 0.03)) if blurred else 0.0,
        seed=int(rng.integers(2**31)),
    )


def render(garment: Garment, size: int = 64, scene: Scene = Scene()) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Take a photo of a garment.

    Parameters
    ----------
    garment : what to draw.
    size : width and height in pixels.
    scene : how the photo is taken.

    Returns
    -------
    sRGB, (size, size, 3); the same bytes for the same arguments.
    """
    camera = _Camera(size * (4 if size <= 128 else 2), scene)
    shape = _shape(garment)
    photo = _backdrop(camera, scene)
    mask = _cloth_mask(camera, garment, shape)
    _drop_shadow(photo, mask, camera.pixels)
    _draw_inside(photo, camera, garment, shape)
    photo.paste(_cloth(camera, garment, shape), mask=mask)
    _draw_details(ImageDraw.Draw(photo, "RGBA"), camera, garment, shape)
    if scene.occlusion:
        _occlude(photo, mask, scene)
    photo = photo.reduce(camera.pixels // size)
    if scene.blur:
        photo = photo.filter(ImageFilter.GaussianBlur(scene.blur * size))
    return _expose(np.asarray(photo), scene)


class _Camera:
    """From the unit frame to pixels; vertices are whole pixels, so that no machine rounds its own way."""

    def __init__(self, pixels: int, scene: Scene) -> None:
        self.pixels = pixels
        self.cos = scene.scale * math.cos(math.radians(scene.rotation))
        self.sin = scene.scale * math.sin(math.radians(scene.rotation))
        self.centre = 0.5 + scene.x, 0.5 + scene.y
        self.scale = scene.scale

    def __call__(self, points: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
        """Return the whole pixels of points in the unit frame."""
        n, cos, sin = self.pixels, self.pixels * self.cos, self.pixels * self.sin
        x0 = n * self.centre[0] - 0.5 * cos + 0.5 * sin + 0.5
        y0 = n * self.centre[1] - 0.5 * sin - 0.5 * cos + 0.5
        return [(int(x0 + cos * x - sin * y), int(y0 + sin * x + cos * y)) for x, y in points]

    def width(self, share: float) -> int:
        """Return a line's width in pixels, one at least."""
        return max(1, round(share * self.pixels * self.scale))

    def dot(self, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: Colour) -> None:
        """Fill a circle given in the unit frame."""
        (px, py), r = self([(x, y)])[0], round(radius * self.pixels * self.scale)
        draw.ellipse([px - r, py - r, px + r, py + r], fill=fill)


class _Shape(NamedTuple):
    """The outlines of a garment in the unit frame; `body` and `opening` are closed, `sleeves` are two."""

    body: Points
    sleeves: list[Points]
    opening: Points
    cuffs: list[Points]
    hem: Points
    neck: Points
    waist: float
    waist_width: float
    top: float
    bottom: float


class _Cut(NamedTuple):
    """The measures of a category: half widths and heights in the unit frame."""

    shoulder: float
    chest: tuple[float, float, float]
    waist: tuple[float, float, float]
    hem: tuple[float, float, float]
    waist_y: float
    bottom: tuple[float, float, float]


CUTS = {
    "dress": _Cut(
        0.19, (0.15, 0.17, 0.195), (0.105, 0.13, 0.175), (0.165, 0.265, 0.375), 0.40, (0.62, 0.78, 0.94)
    ),
    "shirt": _Cut(
        0.26, (0.225, 0.26, 0.30), (0.205, 0.255, 0.31), (0.21, 0.265, 0.335), 0.52, (0.60, 0.75, 0.90)
    ),
    "top": _Cut(
        0.215, (0.18, 0.205, 0.24), (0.145, 0.185, 0.24), (0.175, 0.25, 0.335), 0.46, (0.57, 0.72, 0.87)
    ),
}
TOP, ARMPIT = 0.105, 0.29
SLEEVE_LENGTHS = {"short": 0.13, "elbow": 0.25, "long": 0.43}
NECK_WIDTH = 0.075


def _shape(garment: Garment) -> _Shape:
    cut = CUTS[garment.category]
    fit, length = ATTRIBUTES["fit"].index(garment.fit), ATTRIBUTES["length"].index(garment.length)
    bottom = cut.bottom[length]
    grown = (bottom - cut.waist_y) / (cut.bottom[2] - cut.waist_y)
    hem_width = cut.waist[fit] + (cut.hem[fit] - cut.waist[fit]) * (0.35 + 0.65 * grown)
    bare = garment.neckline == "off-shoulder"
    neck_y = 0.205 if bare else TOP
    neck_x = cut.shoulder * 0.97 if bare else NECK_WIDTH
    side = _curve(
        [
            (neck_x, neck_y),
            (cut.shoulder, 0.22 if bare else TOP + 0.045),
            (cut.chest[fit] * (0.93 if garment.sleeve == "sleeveless" and not bare else 1), ARMPIT),
            (cut.waist[fit], cut.waist_y),
            ((cut.waist[fit] + hem_width) / 2 + 0.012, (cut.waist_y + bottom) / 2),
            (hem_width, bottom),
        ]
    )
    hem = _hem(garment, hem_width, bottom)
    right = [(0.5 + x, y) for x, y in side]
    left = [(0.5 - x, y) for x, y in reversed(side)]
    opening = _opening(garment.neckline, neck_y, neck_x)
    sleeves, cuffs = _sleeves(garment, cut, fit, bare)
    return _Shape(
        body=right + hem + left,
        sleeves=sleeves,
        opening=opening,
        cuffs=cuffs,
        hem=hem,
        neck=opening,
        waist=cut.waist_y,
        waist_width=cut.waist[fit],
        top=neck_y,
        bottom=bottom,
    )


def _curve(points: Points, steps: int = 6) -> Points:
    """Return a smooth line through the points (Catmull-Rom)."""
    padded = [points[0], *points, points[-1]]
    line = []
    for (x0, y0), (x1, y1), (x2, y2), (x3, y3) in zip(
        padded, padded[1:], padded[2:], padded[3:], strict=False
    ):
        for step in range(steps):
            t = step / steps
            a, b, c, d = (
                -t * (1 - t) ** 2,
                2 - 5 * t * t + 3 * t**3,
                t * (1 + 4 * t - 3 * t * t),
                -t * t * (1 - t),
            )
            line.append(((a * x0 + b * x1 + c * x2 + d * x3) / 2, (a * y0 + b * y1 + c * y2 + d * y3) / 2))
    return [*line, points[-1]]


def _hem(garment: Garment, width: float, bottom: float) -> Points:
    """Return the lower edge from right to left: waves, a shirt's tail, or gently curved."""
    count = 48
    sag = 0.045 if garment.category == "shirt" else 0.018
    points = []
    for step in range(count + 1):
        u = 1 - 2 * step / count
        y = bottom + sag * (1 - u * u)
        if garment.hem == "ruffled":
            y += 0.016 * (1 - abs((step * 7 / count) % 1 * 2 - 1) * 2)
        points.append((0.5 + u * width, y))
    return points


def _opening(neckline: str, y: float, x: float) -> Points:
    """Return the outline of the neck's opening, from left to right and back along the top."""
    low = {
        "round": 0.075,
        "v-neck": 0.17,
        "square": 0.085,
        "collar": 0.06,
        "turtleneck": 0.0,
        "off-shoulder": 0.03,
    }
    depth = low[neckline]
    if neckline == "v-neck":
        inner = [(0.5 - x, y), (0.5, y + depth), (0.5 + x, y)]
    elif neckline == "square":
        inner = [(0.5 - x, y), (0.5 - x, y + depth), (0.5 + x, y + depth), (0.5 + x, y)]
    else:
        inner = [
            (0.5 - x * math.cos(math.pi * s / 16), y + depth * math.sin(math.pi * s / 16)) for s in range(17)
        ]
    return inner


def _sleeves(garment: Garment, cut: _Cut, fit: int, bare: bool) -> tuple[list[Points], list[Points]]:
    if garment.sleeve == "sleeveless":
        return [], []
    length = SLEEVE_LENGTHS[garment.sleeve]
    wide = (0.04, 0.049, 0.064)[fit]
    y0 = TOP + (0.11 if bare else 0.035)
    dx, dy = 0.36, 0.933  # where an arm points to
    sx, sy = cut.shoulder - 0.005, y0
    ax, ay = cut.chest[fit] - 0.01, ARMPIT + 0.01
    cx, cy = sx + dx * length + 0.01, sy + dy * length + 0.02
    outer, inner = (cx + dy * wide * 0.8, cy - dx * wide * 0.8), (cx - dy * wide, cy + dx * wide)
    outline = [
        (sx - 0.03, sy - 0.012),
        (sx + 0.018, sy + 0.012),
        outer,
        inner,
        (ax, ay),
        (ax - 0.04, ay - 0.02),
    ]
    cuff = [outer, inner]
    return (
        [[(0.5 + s * x, y) for x, y in outline] for s in (1, -1)],
        [[(0.5 + s * x, y) for x, y in cuff] for s in (1, -1)],
    )


def _backdrop(camera: _Camera, scene: Scene) -> Image.Image:
    wall, floor, horizon = BACKDROPS[scene.background]
    n = camera.pixels
    rows = Image.new("RGB", (1, 4))
    rows.putdata([_mix(wall, (255, 255, 255), 0.12), wall, wall, _mix(wall, (0, 0, 0), 0.06)])
    photo = rows.resize((1, n), Image.Resampling.BILINEAR).resize((n, n), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(photo)
    draw.rectangle([0, round(horizon * n), n, n], fill=floor)
    draw.rectangle(
        [0, round(horizon * n), n, round((horizon + 0.008) * n)], fill=_mix(floor, (0, 0, 0), 0.12)
    )
    return photo


def _cloth_mask(camera: _Camera, garment: Garment, shape: _Shape) -> Image.Image:
    mask = Image.new("L", (camera.pixels, camera.pixels), 0)
    draw = ImageDraw.Draw(mask)
    for sleeve in shape.sleeves:
        draw.polygon(camera(sleeve), fill=255)
    draw.polygon(camera(shape.body), fill=255)
    if garment.neckline != "turtleneck":
        draw.polygon(camera([*shape.opening, (0.5 + NECK_WIDTH, 0.0), (0.5 - NECK_WIDTH, 0.0)]), fill=0)
    return mask


def _drop_shadow(photo: Image.Image, mask: Image.Image, pixels: int) -> None:
    small = mask.reduce(8).filter(ImageFilter.BoxBlur(pixels / 8 / 40))
    shadow = ImageChops.offset(small.resize(mask.size, Image.Resampling.BILINEAR), pixels // 60, pixels // 45)
    photo.paste((40, 38, 46), mask=shadow.point(lambda value: value * 0.32))


def _draw_inside(photo: Image.Image, camera: _Camera, garment: Garment, shape: _Shape) -> None:
    """Draw the back of the garment, seen through the neck."""
    if garment.neckline in ("turtleneck", "off-shoulder"):
        return
    inside = _mix(PALETTE[garment.colour], (0, 0, 0), 0.42)
    rim = [(0.5 + NECK_WIDTH, shape.top), (0.5, shape.top + 0.022), (0.5 - NECK_WIDTH, shape.top)]
    ImageDraw.Draw(photo).polygon(camera([*shape.opening, *rim]), fill=inside)


def _cloth(camera: _Camera, garment: Garment, shape: _Shape) -> Image.Image:
    """Draw the cloth as wide as the frame: colour, pattern, folds; the mask cuts the garment from it."""
    colour, accent = PALETTE[garment.colour], PALETTE[garment.accent]
    cloth = Image.new("RGB", (camera.pixels, camera.pixels), colour)
    draw = ImageDraw.Draw(cloth, "RGBA")
    PATTERNS[garment.pattern](draw, camera, accent, shape)
    dark, light = (*_mix(colour, (0, 0, 0), 0.7), 44), (255, 255, 255, 40)
    for x, fill in ((-0.45, dark), (0.38, dark), (-0.1, light), (0.62, light)):
        foot = 0.5 + x * 0.42
        fold = [
            (0.5 + x * 0.2, shape.waist),
            (foot + 0.02, shape.bottom + 0.05),
            (foot - 0.02, shape.bottom + 0.05),
        ]
        draw.polygon(camera(fold), fill=fill)
    for sleeve in shape.sleeves:  # the arms lie a little behind
        draw.line(camera([sleeve[0], sleeve[-1]]), fill=(0, 0, 0, 70), width=camera.width(0.008))
    return cloth


def _plain(draw: ImageDraw.ImageDraw, camera: _Camera, accent: Colour, shape: _Shape) -> None:
    """Leave the cloth as it is."""


def _stripes(draw: ImageDraw.ImageDraw, camera: _Camera, accent: Colour, shape: _Shape) -> None:
    for step in range(1, 14):
        y = 0.1 + 0.068 * step
        draw.line(camera([(0.0, y), (1.0, y)]), fill=accent, width=camera.width(0.03))


def _pinstripes(draw: ImageDraw.ImageDraw, camera: _Camera, accent: Colour, shape: _Shape) -> None:
    for step in range(-9, 10):
        x = 0.5 + 0.05 * step
        draw.line(camera([(x, 0.0), (x, 1.0)]), fill=accent, width=camera.width(0.014))


def _dots(draw: ImageDraw.ImageDraw, camera: _Camera, accent: Colour, shape: _Shape) -> None:
    for x, y in _lattice(shape, 0.078, 0.06):
        camera.dot(draw, x, y, 0.019, accent)


def _checks(draw: ImageDraw.ImageDraw, camera: _Camera, accent: Colour, shape: _Shape) -> None:
    faint = (*accent, 140)
    for step in range(-6, 7):
        x = 0.5 + 0.086 * step
        draw.line(camera([(x, 0.0), (x, 1.0)]), fill=faint, width=camera.width(0.04))
    for step in range(12):
        y = 0.08 + 0.086 * step
        draw.line(camera([(0.0, y), (1.0, y)]), fill=faint, width=camera.width(0.04))


def _floral(draw: ImageDraw.ImageDraw, camera: _Camera, accent: Colour, shape: _Shape) -> None:
    heart = _mix(accent, (255, 240, 190), 0.75)
    for x, y in _lattice(shape, 0.115, 0.096):
        for px, py in ((0, -1), (0.95, -0.31), (0.59, 0.81), (-0.59, 0.81), (-0.95, -0.31)):
            camera.dot(draw, x + 0.021 * px, y + 0.021 * py, 0.0155, accent)
        camera.dot(draw, x, y, 0.012, heart)


def _lattice(shape: _Shape, dx: float, dy: float) -> Iterator[tuple[float, float]]:
    """Yield the places of a staggered pattern, as far as the garment reaches."""
    reach = max(x for x, _ in [*shape.body, *(point for sleeve in shape.sleeves for point in sleeve)]) - 0.5
    for row in range(int((shape.bottom + 0.05 - shape.top) / dy) + 2):
        shift = 0.5 * (row % 2)
        for column in range(-int(reach / dx) - 1, int(reach / dx) + 2):
            yield 0.5 + dx * (column + shift), shape.top - 0.01 + dy * row


PATTERNS = {
    "plain": _plain, "stripes": _stripes, "pinstripes": _pinstripes, "dots": _dots, "checks": _checks,
    "floral": _floral,
}  # fmt: skip


def _draw_details(draw: ImageDraw.ImageDraw, camera: _Camera, garment: Garment, shape: _Shape) -> None:
    colour, accent = PALETTE[garment.colour], PALETTE[garment.accent]
    edge = _mix(colour, (0, 0, 0), 0.38) if sum(colour) > 150 else (98, 98, 108)
    outline = camera.width(0.008)
    for sleeve in shape.sleeves:
        draw.line(camera(sleeve[1:5]), fill=edge, width=outline, joint="curve")
    draw.line(camera([*shape.body, shape.body[0]]), fill=edge, width=outline, joint="curve")
    _draw_trims(draw, camera, garment, shape, accent, edge)
    _draw_front(draw, camera, garment, shape, accent, edge)
    if garment.belt == "belt":
        _draw_belt(draw, camera, shape, accent)


def _draw_trims(
    draw: ImageDraw.ImageDraw, camera: _Camera, garment: Garment, shape: _Shape, accent: Colour, edge: Colour
) -> None:
    """Draw what frames the cloth in the accent colour: cuffs, hem, neckline."""
    for cuff in shape.cuffs:
        draw.line(camera(cuff), fill=accent, width=camera.width(0.024))
    draw.line(camera(shape.hem), fill=accent, width=camera.width(0.02), joint="curve")
    if garment.hem == "ruffled":
        for x, y in shape.hem[4::7]:
            draw.line(
                camera([(x, y - 0.012), (0.5 + (x - 0.5) * 0.93, y - 0.075)]),
                fill=edge,
                width=camera.width(0.008),
            )
    if garment.neckline == "collar":
        for s in (1, -1):
            outer = [(0.085, -0.022), (0.125, 0.045), (0.065, 0.125)]
            wing = [(0.5, shape.top + 0.075), *((0.5 + s * x, shape.top + y) for x, y in outer)]
            draw.polygon(camera(wing), fill=accent, outline=_mix(accent, (0, 0, 0), 0.35))
    elif garment.neckline == "turtleneck":
        corners = [(-0.08, 0.02), (-0.066, -0.075), (0.066, -0.075), (0.08, 0.02)]
        tube = [(0.5 + x, shape.top + y) for x, y in corners]
        draw.polygon(camera(tube), fill=PALETTE[garment.colour], outline=edge)
        draw.line(camera(tube[1:3]), fill=accent, width=camera.width(0.024))
    else:
        draw.line(camera(shape.neck), fill=accent, width=camera.width(0.022), joint="curve")


def _draw_front(
    draw: ImageDraw.ImageDraw, camera: _Camera, garment: Garment, shape: _Shape, accent: Colour, edge: Colour
) -> None:
    """Draw closure and pocket."""
    top = max(y for _, y in shape.opening) if garment.neckline != "turtleneck" else shape.top
    if garment.closure != "none":
        draw.line(camera([(0.5, top), (0.5, shape.bottom + 0.01)]), fill=edge, width=camera.width(0.008))
    if garment.closure == "buttons":
        for step in range(6):
            y = top + 0.035 + step * (shape.bottom - top - 0.04) / 6
            camera.dot(draw, 0.5, y, 0.017, _mix(accent, (0, 0, 0), 0.3))
            camera.dot(draw, 0.5, y, 0.011, _mix(accent, (255, 255, 255), 0.35))
    elif garment.closure == "zip":
        draw.line(camera([(0.5, top), (0.5, shape.bottom)]), fill=(70, 72, 78), width=camera.width(0.026))
        draw.line(camera([(0.5, top), (0.5, shape.bottom)]), fill=(214, 216, 220), width=camera.width(0.012))
        draw.polygon(camera([(0.485, top), (0.515, top), (0.5, top + 0.055)]), fill=(230, 231, 234))
    if garment.pocket == "pocket":
        x, y = 0.5 + 0.075, 0.3
        box = [(x - 0.046, y), (x + 0.046, y), (x + 0.046, y + 0.075), (x, y + 0.1), (x - 0.046, y + 0.075)]
        draw.polygon(camera(box), fill=_mix(PALETTE[garment.colour], (0, 0, 0), 0.16), outline=edge)
        draw.line(camera(box[:2]), fill=accent, width=camera.width(0.018))


def _draw_belt(draw: ImageDraw.ImageDraw, camera: _Camera, shape: _Shape, accent: Colour) -> None:
    w, y = shape.waist_width + 0.006, min(shape.waist, shape.bottom - 0.06)
    band = [(0.5 - w, y - 0.023), (0.5 + w, y - 0.023), (0.5 + w, y + 0.023), (0.5 - w, y + 0.023)]
    draw.polygon(camera(band), fill=accent, outline=_mix(accent, (0, 0, 0), 0.4))
    buckle = [
        (0.5 - 0.032, y - 0.032),
        (0.5 + 0.032, y - 0.032),
        (0.5 + 0.032, y + 0.032),
        (0.5 - 0.032, y + 0.032),
    ]
    draw.polygon(camera(buckle), fill=(226, 196, 110), outline=(120, 96, 40))
    camera.dot(draw, 0.5, y, 0.013, accent)


def _occlude(photo: Image.Image, mask: Image.Image, scene: Scene) -> None:
    """Put something before the garment that hides the wanted share of its cloth."""
    cloth = np.asarray(mask.reduce(4), dtype=np.float64)
    n, draw = photo.width, ImageDraw.Draw(photo)
    across = cloth.sum(axis=0 if scene.occluder == "curtain" else 1)
    hidden = np.cumsum(across[::-1] if scene.occluder == "table" else across) / across.sum()
    reach = 4 * int(np.searchsorted(hidden, scene.occlusion) + 1)
    if scene.occluder == "curtain":
        draw.rectangle([0, 0, reach, n], fill=(142, 86, 84))
        for x in range(0, reach, max(n // 14, 1)):
            draw.rectangle([x, 0, min(x + n // 40, reach), n], fill=(116, 66, 66))
    elif scene.occluder == "table":
        draw.rectangle([0, n - reach, n, n], fill=(150, 112, 76))
        draw.rectangle([0, n - reach, n, n - reach + n // 40], fill=(186, 148, 106))
    else:
        draw.rectangle([0, 0, n, reach], fill=(240, 232, 214))
        draw.rectangle([0, reach - n // 50, n, reach], fill=(176, 160, 128))


def _expose(photo: UInt8[np.ndarray, "size size 3"], scene: Scene) -> UInt8[np.ndarray, "size size 3"]:
    size = len(photo)
    across = scene.light * (1 + scene.slope * np.linspace(0.5, -0.5, size, dtype=np.float32))
    tint = np.array([1 + 0.06 * scene.warmth, 1.0, 1 - 0.06 * scene.warmth], dtype=np.float32)
    exposed = photo * across[None, :, None] * tint
    if scene.noise:
        rng = np.random.default_rng(scene.seed)
        # The sum of eight even bits is nearly normal, with variance 2; no table of logarithms is needed.
        bits = rng.integers(0, 256, size=(size, size, 3), dtype=np.uint8)
        exposed += (np.bitwise_count(bits).astype(np.float32) - 4) * np.float32(scene.noise / 2**0.5)
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Return a colour with a share of another in it."""
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))  # type: ignore[return-value]
