"""Photos of garments, drawn by code.

A garment is drawn in a unit frame (x to the right, y down, both 0 to 1), upright and centred; `_Camera`
places it in the photo. Everything is drawn several times too large and reduced, so that edges are smooth at
every size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dwclib.data.garments import ATTRIBUTES, BACKDROPS, PALETTE, STUDIO, Colour, Garment, Scene

Points = list[tuple[float, float]]


def render(garment: Garment, size: int = 64, scene: Scene = STUDIO) -> UInt8[np.ndarray, "{size} {size} 3"]:
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
NECK_DEPTHS = dict(zip(ATTRIBUTES["neckline"], (0.075, 0.17, 0.085, 0.06, 0.0, 0.03), strict=True))


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
        waist=cut.waist_y,
        waist_width=cut.waist[fit],
        top=neck_y,
        bottom=bottom,
    )


def _curve(points: Points, steps: int = 6) -> Points:
    """Return a smooth line through the points (Catmull-Rom)."""
    padded = [points[0], *points, points[-1]]
    line = []
    for four in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in (step / steps for step in range(steps)):
            a, b = -t * (1 - t) ** 2, 2 - 5 * t * t + 3 * t**3
            c, d = t * (1 + 4 * t - 3 * t * t), -t * t * (1 - t)
            x, y = ((a * p0 + b * p1 + c * p2 + d * p3) / 2 for p0, p1, p2, p3 in zip(*four, strict=True))
            line.append((x, y))
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
    depth = NECK_DEPTHS[neckline]
    if neckline == "v-neck":
        return [(0.5 - x, y), (0.5, y + depth), (0.5 + x, y)]
    if neckline == "square":
        return [(0.5 - x, y), (0.5 - x, y + depth), (0.5 + x, y + depth), (0.5 + x, y)]
    angles = [math.pi * step / 16 for step in range(17)]
    return [(0.5 - x * math.cos(angle), y + depth * math.sin(angle)) for angle in angles]


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
    shoulder, armpit = [(sx - 0.03, sy - 0.012), (sx + 0.018, sy + 0.012)], [(ax, ay), (ax - 0.04, ay - 0.02)]
    outlines, cuffs = (
        [[(0.5 + side * x, y) for x, y in line] for side in (1, -1)]
        for line in ([*shoulder, outer, inner, *armpit], [outer, inner])
    )
    return outlines, cuffs


def _backdrop(camera: _Camera, scene: Scene) -> Image.Image:
    wall, floor, horizon = BACKDROPS[scene.background]
    n = camera.pixels
    rows = Image.new("RGB", (1, 4))
    rows.putdata([_mix(wall, (255, 255, 255), 0.12), wall, wall, _mix(wall, (0, 0, 0), 0.06)])
    photo = rows.resize((1, n), Image.Resampling.BILINEAR).resize((n, n), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(photo)
    draw.rectangle([0, round(horizon * n), n, n], fill=floor)
    edge = [0, round(horizon * n), n, round((horizon + 0.008) * n)]
    draw.rectangle(edge, fill=_mix(floor, (0, 0, 0), 0.12))
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
        y = shape.bottom + 0.05
        draw.polygon(camera([(0.5 + x * 0.2, shape.waist), (foot + 0.02, y), (foot - 0.02, y)]), fill=fill)
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
            wave = [(x, y - 0.012), (0.5 + (x - 0.5) * 0.93, y - 0.075)]
            draw.line(camera(wave), fill=edge, width=camera.width(0.008))
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
        draw.line(camera(shape.opening), fill=accent, width=camera.width(0.022), joint="curve")


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
        for fill, width in (((70, 72, 78), 0.026), ((214, 216, 220), 0.012)):
            draw.line(camera([(0.5, top), (0.5, shape.bottom)]), fill=fill, width=camera.width(width))
        draw.polygon(camera([(0.485, top), (0.515, top), (0.5, top + 0.055)]), fill=(230, 231, 234))
    if garment.pocket == "pocket":
        x, y = 0.5 + 0.075, 0.3
        box = [(x - 0.046, y), (x + 0.046, y), (x + 0.046, y + 0.075), (x, y + 0.1), (x - 0.046, y + 0.075)]
        draw.polygon(camera(box), fill=_mix(PALETTE[garment.colour], (0, 0, 0), 0.16), outline=edge)
        draw.line(camera(box[:2]), fill=accent, width=camera.width(0.018))


def _draw_belt(draw: ImageDraw.ImageDraw, camera: _Camera, shape: _Shape, accent: Colour) -> None:
    y = min(shape.waist, shape.bottom - 0.06)
    band = _rectangle(y, shape.waist_width + 0.006, 0.023)
    draw.polygon(camera(band), fill=accent, outline=_mix(accent, (0, 0, 0), 0.4))
    draw.polygon(camera(_rectangle(y, 0.032, 0.032)), fill=(226, 196, 110), outline=(120, 96, 40))
    camera.dot(draw, 0.5, y, 0.013, accent)


def _rectangle(y: float, w: float, h: float) -> Points:
    """Return the corners of a rectangle around the garment's middle; `w` and `h` are halves."""
    return [(0.5 - w, y - h), (0.5 + w, y - h), (0.5 + w, y + h), (0.5 - w, y + h)]


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
