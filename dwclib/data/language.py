"""What people say about garments: a small English in which every phrase knows what it claims.

A phrase about one attribute is a pair of a text and a `Claim`: the values that the attribute may still have,
for a reader who sees the reference image and for one who only reads the text. "Longer" says much to the first
and little to the second; "red" says the same to both; "looks nicer" says nothing to either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from dwclib.data.garments import ATTRIBUTES, Garment

# From dark to light, so that "darker" and "lighter" are claims.
LIGHTNESS = {
    "black": 0, "brown": 1, "purple": 1, "blue": 1, "green": 1, "red": 1, "teal": 1,
    "grey": 2, "orange": 2, "pink": 3, "yellow": 3, "white": 4,
}  # fmt: skip

COLOUR_NAMES = {
    "white": ("white", "ivory", "cream"),
    "black": ("black", "jet black", "ebony"),
    "grey": ("grey", "gray", "ash"),
    "red": ("red", "scarlet", "crimson"),
    "orange": ("orange", "tangerine", "apricot"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald", "forest"),
    "teal": ("teal", "turquoise", "aqua"),
    "blue": ("blue", "navy", "cobalt"),
    "purple": ("purple", "violet", "plum"),
    "pink": ("pink", "rose", "blush"),
    "brown": ("brown", "chocolate", "coffee"),
}

NOUNS = {"dress": ("dress", "gown", "frock"), "shirt": ("shirt", "blouse"), "top": ("top", "tee")}

# Predicates that are true of a value, whatever the reference is.
PREDICATES: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        value: (*(f"is {name}" for name in names), f"is {names[0]} in color", f"comes in {names[0]}")
        for value, names in COLOUR_NAMES.items()
    },
    "accent": {
        value: (
            *(f"has {name} trim" for name in names),
            f"has {names[0]} accents",
            f"has {names[0]} details",
            f"has {names[0]} edges",
        )
        for value, names in COLOUR_NAMES.items()
    },
    "pattern": {
        "plain": ("is plain", "is a solid color", "has no pattern", "is without any print"),
        "stripes": ("has horizontal stripes", "is striped across", "has bands across"),
        "pinstripes": ("has pinstripes", "has vertical lines", "has thin upright lines"),
        "dots": ("has polka dots", "is dotted", "has a spotted print"),
        "checks": ("is checked", "has a plaid pattern", "has a gingham print"),
        "floral": ("is floral", "has a flower print", "has blossoms all over"),
    },
    "sleeve": {
        "sleeveless": ("is sleeveless", "has no sleeves", "leaves the arms bare"),
        "short": ("has short sleeves", "is short sleeved", "has cap sleeves"),
        "elbow": ("has elbow length sleeves", "has half sleeves", "has sleeves to the elbow"),
        "long": ("has long sleeves", "is long sleeved", "has sleeves to the wrist"),
    },
    "neckline": {
        "round": ("has a round neck", "has a crew neck", "has a scoop neckline"),
        "v-neck": ("has a v neck", "has a plunging neckline", "has a pointed neckline"),
        "square": ("has a square neck", "has a boxy neckline", "is cut square at the neck"),
        "collar": ("has a collar", "is collared", "has lapels"),
        "turtleneck": ("has a turtleneck", "has a high neck", "covers the neck"),
        "off-shoulder": ("is off the shoulder", "has bare shoulders", "is strapless"),
    },
    "length": {
        "short": ("is short", "is mini length", "is cropped"),
        "medium": ("is mid length", "has a medium length", "is knee length"),
        "long": ("is long", "is full length", "is maxi length"),
    },
    "fit": {
        "slim": ("is fitted", "has a slim cut", "is close to the body"),
        "regular": ("has a regular fit", "has a classic cut", "is neither tight nor loose"),
        "loose": ("is loose", "is baggy", "has a relaxed fit", "is oversized"),
    },
    "belt": {
        "no belt": ("has no belt", "is without a belt", "is not belted", "lacks a sash"),
        "belt": ("has a belt", "is belted", "is tied at the waist", "has a sash"),
    },
    "closure": {
        "none": ("has a closed front", "has no fastening", "pulls over the head"),
        "buttons": ("has buttons", "buttons down the front", "is buttoned"),
        "zip": ("has a zip", "zips up", "has a zipper in front"),
    },
    "pocket": {
        "no pocket": ("has no pocket", "is without a pocket", "lacks a pocket"),
        "pocket": ("has a pocket", "has a chest pocket", "has a patch pocket"),
    },
    "hem": {
        "straight": ("has a straight hem", "has a clean hem", "has no ruffles"),
        "ruffled": ("has a ruffled hem", "is frilly below", "has ruffles", "has a wavy edge"),
    },
}

# Predicates that compare with the reference: the target has more, or less, of an ordered attribute.
MORE = {
    "sleeve": ("has longer sleeves", "covers more of the arms"),
    "length": ("is longer", "goes further down", "has more length"),
    "fit": ("is looser", "is wider", "is more relaxed", "flows more"),
    "colour": ("is lighter", "is brighter", "is paler"),
}
LESS = {
    "sleeve": ("has shorter sleeves", "shows more of the arms"),
    "length": ("is shorter", "ends higher up", "has less length"),
    "fit": ("is tighter", "is more fitted", "is narrower", "is slimmer"),
    "colour": ("is darker", "is deeper in color"),
}

# Predicates that only deny the reference's value.
NOT: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {value: (f"is not {value}", f"is no longer {value}") for value in COLOUR_NAMES},
    "accent": {value: (f"has no {value} trim", f"is without {value} details") for value in COLOUR_NAMES},
    "pattern": {
        "stripes": ("is not striped across", "loses the bands"),
        "pinstripes": ("has no pinstripes", "loses the upright lines"),
        "dots": ("has no dots", "is not spotted"),
        "checks": ("is not checked", "has no plaid"),
        "floral": ("is not floral", "has no flowers"),
    },
    "neckline": {
        "collar": ("has no collar", "is not collared"),
        "turtleneck": ("is not high at the neck", "has no turtleneck"),
        "off-shoulder": ("covers the shoulders", "is not strapless"),
    },
    "closure": {"buttons": ("has no buttons",), "zip": ("has no zip", "has no zipper")},
}

VAGUE = (
    "looks nicer", "is different", "has another style", "is more elegant", "is prettier", "is more casual",
    "looks better", "is more modern", "is more fashionable", "feels fresher", "is less boring", "is cuter",
    "is the one I would rather wear", "is not like this one", "has a better design", "suits a party",
    "is good for summer", "is more feminine", "looks more expensive", "is a bit more fun",
)  # fmt: skip

OPINIONS = ("nice", "pretty", "elegant", "casual", "modern", "fashionable", "cute", "lovely", "fresh", "fun")


@dataclass(frozen=True)
class Claim:
    """What a phrase says of one attribute.

    Attributes
    ----------
    attribute : one of `ATTRIBUTES`.
    beside_reference : the values left to a reader who sees the reference image too.
    alone : the values left to one who reads the text only.
    wordings : all phrases that say just this.
    """

    attribute: str
    beside_reference: frozenset[str]
    alone: frozenset[str]
    wordings: tuple[str, ...]


def phrase(attribute: str, reference: str, target: str, rng: np.random.Generator) -> tuple[str, Claim]:
    """Say in a few words how `target` differs from `reference` in one attribute.

    Parameters
    ----------
    attribute : one of the attributes in `PREDICATES`.
    reference, target : its two different values.
    rng : draws the kind of phrase (comparative, negation or plain statement) and its words.
    """
    options = _options(attribute, reference, target)
    claim = options[rng.integers(len(options))]
    return choose(claim.wordings, rng), claim


def relative_caption(phrases: Sequence[str], noun: str, rng: np.random.Generator) -> str:
    """Join the phrases of one annotator to a caption such as "the gown is longer, has a belt and is red"."""
    if not phrases:
        phrases = [choose(VAGUE, rng)]
    opener = choose(("", "", f"the {noun} ", "it "), rng)
    body = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return opener + body


def reworded(claims: Sequence[Claim], category: str, rng: np.random.Generator) -> str:
    """Say the same as one annotator, in the same order, in words drawn anew; of nothing, something vague."""
    noun = choose(NOUNS[category], rng)
    return relative_caption([choose(claim.wordings, rng) for claim in claims], noun, rng)


def full_caption(garment: Garment, rng: np.random.Generator, *, keep: float = 0.6) -> str:
    """Describe one garment on its own, e.g. "a cute red dress, is longer and has a sash", to train CLIP on.

    Comparatives are meant in relation to a garment that nobody sees, as in captions found in the wild.

    Parameters
    ----------
    garment : what to describe.
    rng : draws what is mentioned and how.
    keep : probability that an attribute is mentioned; the category always is.
    """
    attributes = [name for name in PREDICATES if rng.random() < keep]
    rng.shuffle(attributes)
    noun = choose(NOUNS[garment.category], rng)
    head = [choose(OPINIONS, rng)] if rng.random() < 0.2 else []
    if "colour" in attributes and rng.random() < 0.7:
        attributes.remove("colour")
        head.append(choose(COLOUR_NAMES[garment.colour], rng))
    said = [_describe(name, getattr(garment, name), rng) for name in attributes]
    return ", ".join([" ".join(["a", *head, noun]), *said])


def choose(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """Draw one of the options."""
    return options[rng.integers(len(options))]


def vocabulary() -> set[str]:
    """Return every word that a caption can contain."""
    tables: list[dict[str, tuple[str, ...]]] = [*PREDICATES.values(), *NOT.values(), MORE, LESS, NOUNS]
    texts = [text for table in tables for options in table.values() for text in options]
    return set(" ".join([*texts, *VAGUE, *OPINIONS, "the it a and"]).split())


def _describe(attribute: str, value: str, rng: np.random.Generator) -> str:
    others = [other for other in ATTRIBUTES[attribute] if other != value]
    return phrase(attribute, others[rng.integers(len(others))], value, rng)[0]


@cache
def _options(attribute: str, reference: str, target: str) -> tuple[Claim, ...]:
    """Return what can be said of a difference; the plain statement twice, to be drawn more often."""
    value = frozenset([target])
    states = Claim(attribute, value, value, PREDICATES[attribute][target])
    options = [states, states, *_comparatives(attribute, reference, target)]
    if reference in NOT.get(attribute, {}):
        left = frozenset(ATTRIBUTES[attribute]) - {reference}
        options.append(Claim(attribute, left, left, NOT[attribute][reference]))
    return tuple(options)


def _comparatives(attribute: str, reference: str, target: str) -> list[Claim]:
    if attribute not in MORE:
        return []
    level = LIGHTNESS if attribute == "colour" else {v: i for i, v in enumerate(ATTRIBUTES[attribute])}
    sign = (level[target] > level[reference]) - (level[target] < level[reference])
    if sign == 0:
        return []
    beside = frozenset(value for value in level if (level[value] - level[reference]) * sign > 0)
    extreme = min(level.values()) if sign > 0 else max(level.values())
    alone = frozenset(value for value in level if level[value] != extreme)
    return [Claim(attribute, beside, alone, (MORE if sign > 0 else LESS)[attribute])]
