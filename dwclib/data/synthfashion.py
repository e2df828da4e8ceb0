"""SynthFashion: a fashion world drawn by code, in which the truth about every query is known.

Garments come in families: each member is an earlier member with a few attributes changed, so that a gallery
holds look-alikes. A query takes two members of a family; two annotators say how the target differs from
the reference. `Dials` set how much they say, how well the reference can be seen, and how often the text is
wrong: most of what the paper claims is a claim about one of these dials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from dwclib.data import drawing, garments, language
from dwclib.data.garments import ATTRIBUTES, Garment, Scene
from dwclib.data.images import image_store
from dwclib.data.language import Claim
from dwclib.data.triplets import Triplets
from dwclib.errors import ConfigError, check_choice, check_least, checked_seed
from dwclib.files import cache_folder, fingerprint

# Each split is a world of its own: no garment is shared on purpose, no random number is.
SPLITS = {"train": 0, "val": 1, "pretrain": 2}
IMAGES: Mapping[str, int] = {"train": 8_000, "val": 2_000, "pretrain": 24_000}
QUERIES: Mapping[str, int] = {"train": 12_000, "val": 2_000, "pretrain": 0}
FAMILY = 8
NAMES = tuple(ATTRIBUTES)
VALUES = max(len(values) for values in ATTRIBUTES.values())
WORDINGS = 15  # of any query at least: "has no buttons", twice, has but four openings each
NOISE_KINDS = ("vague", "wrong attribute", "mismatched target")

Claims = tuple[tuple[Claim, ...], ...]  # of one query, by annotator


@dataclass(frozen=True, kw_only=True)
class Dials:
    """What can be turned in the world.

    Attributes
    ----------
    changes : the fewest and the most attributes in which a target differs from its reference.
    text_detail : lowest and highest share of these differences that the text names; drawn per query.
        (0, 0) is "looks nicer" throughout, (1, 1) names every difference.
    occlusion, blur : share of the photos in which something hides a part of the garment, or that are blurred.
    noise : share of the queries whose annotation is wrong, and
    noise_kind : how: one of `NOISE_KINDS`.
    duplicates : share of the photos that show the same garment as another one.
    """

    changes: tuple[int, int] = (1, 6)
    text_detail: tuple[float, float] = (0.0, 1.0)
    occlusion: float = 0.1
    blur: float = 0.1
    noise: float = 0.0
    noise_kind: str = "vague"
    duplicates: float = 0.05

    def __post_init__(self) -> None:
        shares = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "float"}
        for name, value in {**shares, "text_detail": self.text_detail}.items():
            if not all(0 <= share <= 1 for share in np.atleast_1d(value)):
                raise ConfigError(f"{value!r} is not a share", where=f"dial {name}", remedy="Use 0 to 1.")
        fewest, most = self.changes
        if not 1 <= fewest <= most < len(NAMES):
            raise ConfigError(
                f"{self.changes!r} is not a range of changes",
                where="dial changes",
                remedy=f"Use (fewest, most) with 1 <= fewest <= most < {len(NAMES)}.",
            )
        check_choice("kind of noise", self.noise_kind, NOISE_KINDS, "dial noise_kind")


@dataclass(frozen=True, kw_only=True)
class SynthFashion(Triplets):
    """Triplets whose truth is known.

    Attributes
    ----------
    pictures : (images, size, size, 3) uint8, read from disk as needed.
    codes : (images, attributes) the value of each attribute of the garment, as a position in `ATTRIBUTES`.
    scenes : how each photo was taken.
    intended : (queries,) the targets that the annotators had before their eyes; differs from `targets` only
        where the noise mismatched them.
    noisy : (queries,) whose annotation is wrong.
    beside_reference : (queries, attributes, values) what the annotators meant: the values that stay possible
        for a reader who sees the reference too.
    alone : likewise, what the text, as it was written down, leaves possible for a reader of the text only.
    said : for each query what each of its annotators wrote down, phrase by phrase.
    """

    pictures: UInt8[np.ndarray, "images size size 3"]
    codes: Int[np.ndarray, "images attributes"]
    scenes: tuple[Scene, ...] = field(repr=False)
    intended: Int[np.ndarray, " queries"]
    noisy: Bool[np.ndarray, " queries"]
    beside_reference: Bool[np.ndarray, "queries attributes values"]
    alone: Bool[np.ndarray, "queries attributes values"]
    said: tuple[Claims, ...] = field(repr=False)

    def garment(self, image: SupportsIndex) -> Garment:
        """Return what an image shows."""
        return Garment.from_codes(self.codes[image])

    def texts(self, *, joiner: str = " and ", style: str = "joined") -> list[str]:
        """Return one modification text per query.

        Parameters
        ----------
        joiner, style : as `Triplets.texts` takes them; or "with target", which appends the target's own
            caption, ``... and get a long red dress``, as the released code does for Fashion200K.
        """
        if style != "with target":
            return super().texts(joiner=joiner, style=style)
        return [
            f"{text} and get {language.full_caption(self.garment(image), np.random.default_rng(int(image)))}"
            for text, image in zip(super().texts(joiner=joiner), self.targets, strict=True)
        ]

    def paraphrases(self, n: int = 6, *, seed: int = 0) -> list[SynthFashion]:
        """Return this dataset `n` times with the same queries in other words.

        Every caption makes the claims that it made, in the same order, in words drawn anew; a vague one is
        vague in other words. The `n` wordings of a query differ from one another and from the given one.

        Parameters
        ----------
        n : how many; the first of more are the same.
        seed : same seed, same words.

        Raises
        ------
        ConfigError
            For an `n` below 1 or above `WORDINGS`, or a seed that is no natural number.
        """
        check_least(1, most=WORDINGS, n=n)
        checked_seed(seed)
        drawn = [list(islice(self._reworded(query, seed), n)) for query in range(len(self))]
        return [replace(self, captions=tuple(of[number] for of in drawn)) for number in range(n)]

    def _reworded(self, query: int, seed: int) -> Iterator[tuple[str, ...]]:
        """Yield other captions of a query, each once."""
        rng = np.random.default_rng([seed, query])
        category = ATTRIBUTES["category"][self.codes[self.intended[query], 0]]
        found = {self.captions[query]}
        while True:
            captions = tuple(language.reworded(claims, category, rng) for claims in self.said[query])
            if captions not in found:
                found.add(captions)
                yield captions

    def excluded(self) -> Bool[np.ndarray, "queries gallery"]:
        """Return for each query and gallery image whether the text rules it out.

        Ruled out is an image in which some attribute has a value that the annotators' meaning leaves no room
        for: ``not beside_reference[query, attribute, value]``. A vague text rules out nothing. An image that
        is not ruled out need not be relevant: that asks for more than the text does.
        """
        return ~_satisfied(self.beside_reference, self.codes[self.gallery])

    def relevant(self) -> Bool[np.ndarray, "queries gallery"]:
        """Return for each query and gallery image whether a fair judge would accept it.

        Accepted is an image that satisfies the text as the target does and that keeps at least as many of the
        attributes of which the text does not speak as the target does. The target is always accepted.
        """
        return self._relevant

    @cached_property
    def _relevant(self) -> Bool[np.ndarray, "queries gallery"]:
        gallery = self.codes[self.gallery]
        found = np.empty((len(self), len(gallery)), dtype=bool)
        for query, (reference, target) in enumerate(zip(self.references, self.intended, strict=True)):
            unspoken = self.beside_reference[query].all(-1)
            kept = ((gallery == self.codes[reference]) & unspoken).sum(-1)
            enough = ((self.codes[target] == self.codes[reference]) & unspoken).sum()
            found[query] = _satisfied(self.beside_reference[query], gallery) & (kept >= enough)
        return found

    def text_share(self) -> Float[np.ndarray, " queries"]:
        r"""Return which share of the answer the text alone gives, between 0 and 1.

        To find the relevant images among N takes log(N / #relevant) nats; the text alone leaves those that
        satisfy it, which is worth log(N / #satisfying). The share is the ratio of the two.
        """
        gallery = self.codes[self.gallery]
        satisfying = _satisfied(self.alone, gallery).sum(-1)
        needed = np.log(len(gallery) / self.relevant().sum(-1))
        given = np.log(len(gallery) / np.maximum(satisfying, 1))
        return np.clip(given / np.maximum(needed, 1e-12), 0.0, 1.0)


def synthfashion(
    split: str,
    *,
    images: int | None = None,
    queries: int | None = None,
    seed: int = 0,
    dials: Dials = Dials(),
    size: int = 64,
    workers: int = -1,
) -> SynthFashion:
    """Make a split of SynthFashion; its pictures are drawn once and then read from the cache.

    Parameters
    ----------
    split : "train" or "val" ("pretrain" has images only and serves the CLIP of this book).
    images, queries : how many of each; `IMAGES` and `QUERIES` by default.
    seed : same seed, same bytes.
    dials : what the world is like.
    size : width and height of the pictures in pixels.
    workers : processes that draw, -1 for one per core.

    Raises
    ------
    ConfigError
        For an unknown split, a seed that is no natural number, or more queries than the images allow.
    """
    check_choice("split", split, SPLITS, "synthfashion")
    images = IMAGES[split] if images is None else images
    queries = QUERIES[split] if queries is None else queries
    check_least(1, images=images)
    check_least(0, queries=queries)
    rng = np.random.default_rng([checked_seed(seed), SPLITS[split]])
    codes = _grow_families(images, dials, rng)
    scenes = tuple(
        garments.random_scene(rng, occlusion_rate=dials.occlusion, blur_rate=dials.blur)
        for _ in range(images)
    )
    pairs = _pick_pairs(codes, queries, dials, rng)
    return SynthFashion(
        name=f"synthfashion/{split}",
        image_ids=tuple(f"{split}-{index:05d}" for index in range(images)),
        identities=np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1),
        gallery=np.arange(images),
        pictures=_draw(codes, scenes, size, workers),
        codes=codes,
        scenes=scenes,
        **_annotate(codes, pairs, dials, rng),
    )


def degraded(
    dataset: SynthFashion, images: Int[np.ndarray, " n"], *, size: int = 64, **nuisance: float
) -> UInt8[np.ndarray, "n size size 3"]:
    """Draw the same garments in the same scenes once more, with one nuisance set by hand.

    Parameters
    ----------
    dataset, images : which photos.
    size : pixels.
    **nuisance : fields of `Scene`, e.g. ``occlusion=0.5`` or ``blur=0.02``.
    """
    return np.stack(
        [drawing.render(dataset.garment(i), size, replace(dataset.scenes[i], **nuisance)) for i in images]
    )


def _grow_families(
    images: int, dials: Dials, rng: np.random.Generator
) -> Int[np.ndarray, "images attributes"]:
    codes = np.empty((images, len(NAMES)), dtype=np.int64)
    for index in range(images):
        first = index - index % FAMILY
        if index == first:
            codes[index] = garments.random_garment(rng).codes
            continue
        codes[index] = codes[rng.integers(first, index)]
        if rng.random() >= dials.duplicates:
            codes[index] = _mutate(
                codes[index], int(rng.integers(dials.changes[0], dials.changes[1] + 1)), rng
            )
    return codes


def _mutate(
    codes: Int[np.ndarray, " attributes"], changes: int, rng: np.random.Generator
) -> Int[np.ndarray, " attributes"]:
    """Change so many attributes; never the category, never so that accent and colour are the same."""
    new = codes.copy()
    for attribute in 1 + rng.permutation(len(NAMES) - 1)[:changes]:
        name = NAMES[attribute]
        taken = {codes[attribute]}
        if name in ("colour", "accent"):
            taken.add(new[NAMES.index("accent" if name == "colour" else "colour")])
        free = [value for value in range(len(ATTRIBUTES[name])) if value not in taken]
        new[attribute] = free[rng.integers(len(free))]
    return new


def _pick_pairs(
    codes: Int[np.ndarray, "images attributes"], queries: int, dials: Dials, rng: np.random.Generator
) -> Int[np.ndarray, "queries 2"]:
    member = np.arange(len(codes))
    partners = (member[:, None] // FAMILY) * FAMILY + np.arange(FAMILY)  # (images, FAMILY)
    pairs = np.stack([np.repeat(member, FAMILY), partners.reshape(-1)], axis=1)
    pairs = pairs[pairs[:, 1] < len(codes)]
    changes = (codes[pairs[:, 0]] != codes[pairs[:, 1]]).sum(-1)
    pairs = pairs[(changes >= dials.changes[0]) & (changes <= dials.changes[1])]
    if queries > len(pairs):
        raise ConfigError(
            f"{len(codes)} images give {len(pairs)} pairs, not {queries}",
            where="synthfashion",
            remedy="Ask for fewer queries, more images, or a wider range of changes.",
        )
    return pairs[rng.permutation(len(pairs))[:queries]]


def _annotate(
    codes: Int[np.ndarray, "images attributes"],
    pairs: Int[np.ndarray, "queries 2"],
    dials: Dials,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Let two annotators describe each pair, then spoil as many annotations as the dial says."""
    written, meant, said, targets = [], [], [], pairs[:, 1].copy()
    noisy = rng.random(len(pairs)) < dials.noise
    for query, (reference, target) in enumerate(pairs):
        spoken = _mention(codes[reference], codes[target], rng.uniform(*dials.text_detail), rng)
        captions, claims = _describe(codes[reference], codes[target], spoken, rng)
        meant.append(_allowed(claims))
        if noisy[query] and dials.noise_kind == "vague":
            captions, claims = _describe(codes[reference], codes[target], [], rng)
        elif noisy[query] and dials.noise_kind == "wrong attribute":
            captions, claims = _misdescribe(codes[reference], codes[target], spoken, rng)
        elif noisy[query]:
            targets[query] = (reference + 1 + rng.integers(len(codes) - 1)) % len(codes)  # any but itself
        written.append(captions)
        said.append(claims)
    shape = (len(pairs), len(NAMES), VALUES)
    return {
        "references": pairs[:, 0],
        "targets": targets,
        "intended": pairs[:, 1],
        "noisy": noisy,
        "captions": tuple(written),
        "beside_reference": np.array(meant, dtype=bool).reshape(shape),
        "alone": np.array([_allowed(c, alone=True) for c in said], dtype=bool).reshape(shape),
        "said": tuple(said),
    }


def _mention(
    reference: Int[np.ndarray, " attributes"],
    target: Int[np.ndarray, " attributes"],
    detail: float,
    rng: np.random.Generator,
) -> list[int]:
    """Draw the differences that the annotators name: each with probability `detail`."""
    return [int(a) for a in rng.permutation(np.flatnonzero(reference != target)) if rng.random() < detail]


def _describe(
    reference: Int[np.ndarray, " attributes"],
    target: Int[np.ndarray, " attributes"],
    spoken: list[int],
    rng: np.random.Generator,
) -> tuple[tuple[str, ...], Claims]:
    """Return two captions that together name these differences: each by the one, the other, or both."""
    claims: tuple[list[Claim], list[Claim]] = [], []
    phrases: tuple[list[str], list[str]] = [], []
    for attribute in spoken:
        name = NAMES[attribute]
        old, new = ATTRIBUTES[name][reference[attribute]], ATTRIBUTES[name][target[attribute]]
        for annotator in ((0,), (1,), (0, 1))[rng.integers(3)]:
            text, claim = language.phrase(name, old, new, rng)
            phrases[annotator].append(text)
            claims[annotator].append(claim)
    nouns = language.NOUNS[ATTRIBUTES["category"][target[0]]]
    captions = (language.relative_caption(said, language.choose(nouns, rng), rng) for said in phrases)
    return tuple(captions), tuple(map(tuple, claims))


def _misdescribe(
    reference: Int[np.ndarray, " attributes"],
    target: Int[np.ndarray, " attributes"],
    spoken: list[int],
    rng: np.random.Generator,
) -> tuple[tuple[str, ...], Claims]:
    """Describe the target with one attribute misremembered, in words that are really false of it."""
    wrong, mistake = _mistake(reference, target, spoken, rng)
    while True:
        captions, claims = _describe(reference, wrong, sorted({*spoken, mistake}), rng)
        if not _satisfied(_allowed(claims, alone=True), target[None])[0]:
            return captions, claims


def _mistake(
    reference: Int[np.ndarray, " attributes"],
    target: Int[np.ndarray, " attributes"],
    spoken: list[int],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " attributes"], int]:
    """Return the target as misremembered in one attribute that has a third value, and that attribute."""
    roomy = [a for a in range(1, len(NAMES)) if len(ATTRIBUTES[NAMES[a]]) > 2]
    candidates = [a for a in spoken if a in roomy] or roomy
    attribute = candidates[rng.integers(len(candidates))]
    right = {target[attribute], reference[attribute]}
    others = [value for value in range(len(ATTRIBUTES[NAMES[attribute]])) if value not in right]
    wrong = target.copy()
    wrong[attribute] = others[rng.integers(len(others))]
    return wrong, attribute


def _allowed(said: Claims, *, alone: bool = False) -> Bool[np.ndarray, "attributes values"]:
    """Return the table of the values that all claims of all annotators together leave possible."""
    allowed = np.ones((len(NAMES), VALUES), dtype=bool)
    for claim in chain(*said):
        row = NAMES.index(claim.attribute)
        left = claim.alone if alone else claim.beside_reference
        for position, value in enumerate(ATTRIBUTES[claim.attribute]):
            allowed[row, position] &= value in left
    return allowed


def _satisfied(
    allowed: Bool[np.ndarray, "*queries attributes values"], codes: Int[np.ndarray, "images attributes"]
) -> Bool[np.ndarray, "*queries images"]:
    """Return which images have only values that are allowed."""
    satisfied = np.ones((*allowed.shape[:-2], len(codes)), dtype=bool)
    for attribute, values in enumerate(codes.T):
        satisfied &= allowed[..., attribute, values]  # (*queries, images): one attribute at a time
    return satisfied


def _draw(
    codes: Int[np.ndarray, "images attributes"], scenes: tuple[Scene, ...], size: int, workers: int
) -> UInt8[np.ndarray, "images size size 3"]:
    sources = Path(garments.__file__), Path(drawing.__file__)
    key = fingerprint(*sources, codes.tobytes(), [asdict(scene) for scene in scenes], size)
    path = cache_folder("synthfashion") / f"{key}.npy"
    draw = partial(_draw_one, codes, scenes, size)
    return image_store(path, draw, len(codes), size, workers=workers).pictures


def _draw_one(
    codes: Int[np.ndarray, "images attributes"], scenes: tuple[Scene, ...], size: int, index: int
) -> UInt8[np.ndarray, "size size 3"]:
    return drawing.render(Garment.from_codes(codes[index]), size, scenes[index])
