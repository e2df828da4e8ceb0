"""Garments and scenes: twelve attributes that a reader recognises at 64 pixels, and how a photo is taken.

`dwclib.data.drawing` takes the photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass

import numpy as np
from jaxtyping import Int

from dwclib.errors import DatasetError, check_choice

Colour = tuple[int, int, int]

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
            check_choice(name, value, ATTRIBUTES[name], "garment", error=DatasetError)
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
        check_choice("background", self.background, BACKDROPS, "scene", error=DatasetError)
        check_choice("occluder", self.occluder, OCCLUDERS, "scene", error=DatasetError)
        if not 0 <= self.occlusion <= 1:
            raise DatasetError(
                f"the occlusion {self.occlusion} is no share", where="scene", remedy="Use 0 to 1."
            )


STUDIO = Scene()


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
