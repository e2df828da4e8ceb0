"""Fashion200K in its published layout, with the queries of TIRG (notebook 14)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dwclib.data import records
from dwclib.data.finder import find_files, without_ending
from dwclib.data.photos import PhotoTriplets, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.data.triplets import check_captions, check_image_ids
from dwclib.errors import check_choice, check_least, checked_seed

SPLITS = ("train", "test")
QUERIES = "test_queries.txt"
TEXTS = ("TIRG", "released")
MOST_PAIRS = 1_000_000  # more fill the memory of a laptop
PARTS = {
    "train": records.Part({"split": "train"}, images=172_049),
    "test": records.Part({"split": "test"}, triplets=33_480, images=29_789),
}


# One of the words in which captions differ that else are the same, and the captions by that word.
Family = tuple[str, dict[str, list[str]]]


def load(
    root: Path, split: str, *, text: str = "TIRG", pairs: int | None = None, seed: int = 0
) -> PhotoTriplets:
    """Load a split. What has the target's caption is a hit; searched are all images of the split.

    Parameters
    ----------
    root : holds ``labels``, ``test_queries.txt``, and the images in ``women``.
    split : "train", of which pairs are drawn, or "test".
    text : "TIRG" says ``replace A with B``; "released" appends ``and get`` with the target's whole caption,
        as the released code does. (Both codes also spell ``.``, ``?``, ``&`` and ``*`` as words such as
        "dotmark", for their tokenizer; here captions stay as they are.)
    pairs : how many to draw for training, two images whose captions differ in one word; by default as many as
        there are images.
    seed : of that draw.

    Raises
    ------
    ConfigError
        For an unknown split or text, or a number of pairs or a seed that is none.
    DatasetError
        For damaged annotations; the message names file and line.
    """
    name = f"fashion200k/{split}"
    check_choice("split", split, SPLITS, name)
    check_choice("text", text, TEXTS, name)
    labels = _read_labels(root / "labels", split)
    image_ids, path = list(labels), root / "labels"
    if split == "test":
        (path,) = records.locate(root, QUERIES)
        named = [(_pair(line, where), where) for where, line in records.read_lines(path)]
    else:
        drawn = _draw_pairs(list(labels.values()), len(labels) if pairs is None else pairs, seed, path)
        named = [((image_ids[before], image_ids[after]), name) for before, after in drawn]
    return records.assemble(
        [_query(pair, labels, text, where) for pair, where in named],
        image_ids,
        path,
        root / "labels",
        name=name,
        identities=records.numbered(labels.values()),
        hit="identity",
        files=find_files(root, image_ids),
    )


def write(folder: Path, drawn: dict[str, SynthFashion]) -> None:
    """Write SynthFashion as JPEG and text in the layout of Fashion200K, with one test query per image.

    A caption names colour, pattern, sleeves and category, so that many images share theirs.

    Parameters
    ----------
    folder : which; it is made.
    drawn : the splits.
    """
    for split, dataset in drawn.items():
        captions = [_caption(dataset, image) for image in range(len(dataset.image_ids))]
        paths = [
            f"women/{caption.split()[-1]}/{caption.replace(' ', '_')}/{name}/{name}_0"
            for caption, name in zip(captions, dataset.image_ids, strict=True)
        ]
        write_pictures(folder, dataset, paths, ".jpeg")
        _write_labels(folder / "labels", split, paths, captions)
    pairs = _draw_pairs(captions, len(captions), 0, folder)
    lines = [f"{paths[before]}.jpeg {paths[after]}.jpeg\n" for before, after in pairs]
    (folder / QUERIES).write_text("".join(lines), encoding="utf-8")


def _read_labels(folder: Path, split: str) -> dict[str, str]:
    """Return the caption of each image of a split."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob(f"[!.]*_{split}_*.txt")):  # macOS leaves ``._*`` beside
        for where, line in records.read_lines(path):
            image, caption = _label(line, where)
            records.check(image not in found, f"the image {image!r} occurs twice", where)
            found[image] = caption
    if not found:
        remedy = f"Looked for files *_{split}_*.txt. Fetch them, or name the folder that holds labels."
        raise records.MissingError(f"there is no label for {split}", where=folder, remedy=remedy)
    return found


def _label(line: str, where: str) -> tuple[str, str]:
    cells = line.split("\t")
    problem = f"there are {len(cells)} columns, not 3: path, detection score and caption, with tabs between"
    records.check(len(cells) == 3, problem, where)
    image, caption = without_ending(cells[0].strip()), cells[2].strip()
    check_image_ids([image], where)
    check_captions([caption], where)
    return image, caption


def _pair(line: str, where: str) -> tuple[str, str]:
    """Return the reference and the target of a published test query."""
    named = [without_ending(image) for image in line.split()]
    records.check(len(named) == 2, f"there are {len(named)} paths, not 2: reference and target", where)
    return named[0], named[1]


def _query(pair: tuple[str, str], labels: dict[str, str], text: str, where: str) -> records.Query:
    """Return a query and its text; that of an image without a label, which `assemble` refuses, is none."""
    known = pair[0] in labels and pair[1] in labels
    captions = (_text(labels[pair[0]], labels[pair[1]], text),) if known else ()
    return records.Query(*pair, captions, where)


def _text(before: str, after: str, text: str) -> str:
    """Return what to change; where captions differ in more than a word, their first differing words."""
    old, new = before.split(), after.split()
    gone = next((word for word in old if old.count(word) > new.count(word)), old[-1])
    come = next((word for word in new if new.count(word) > old.count(word)), new[-1])
    change = f"replace {gone} with {come}"
    return f"{change} and get {after}" if text == "released" else change


def _draw_pairs(captions: Sequence[str], count: int, seed: int, where: Path) -> list[tuple[int, int]]:
    """Draw images and partners as TIRG does: a family of the caption, another caption of it, its image."""
    check_least(1, most=MOST_PAIRS, pairs=count)
    images: dict[str, list[int]] = {}
    for image, caption in enumerate(captions):
        images.setdefault(caption, []).append(image)
    families = _families(images)
    changeable = [image for image, caption in enumerate(captions) if caption in families]
    records.check(bool(changeable), "no two captions differ in exactly one word", where)
    rng = np.random.default_rng(checked_seed(seed))
    references, pairs = rng.choice(changeable, count).tolist(), []
    for reference, draws in zip(references, rng.random((count, 4)).tolist(), strict=True):
        word, by_word = _pick(families[captions[reference]], draws[0])
        another = _pick([other for other in by_word if other != word], draws[1])
        caption = _pick(by_word[another], draws[2])
        pairs.append((reference, _pick(images[caption], draws[3])))
    return pairs


def _families(captions: Iterable[str]) -> dict[str, list[Family]]:
    """Return the families of each caption that is in any.

    Each is filed under what is left when a word is taken out, so that tens of thousands take a second.
    """
    by_rest: dict[str, dict[str, list[str]]] = {}
    for caption in captions:
        words = caption.split()
        for place, word in enumerate(words):
            rest = " ".join(words[:place] + words[place + 1 :])
            by_rest.setdefault(rest, {}).setdefault(word, []).append(caption)
    found: dict[str, list[Family]] = {}
    for by_word in by_rest.values():
        for word, group in by_word.items() if len(by_word) > 1 else ():
            for caption in group:
                found.setdefault(caption, []).append((word, by_word))
    return found


def _pick(options: Sequence[Any], draw: float) -> Any:
    return options[int(draw * len(options))]


def _caption(dataset: SynthFashion, image: int) -> str:
    garment = dataset.garment(image)
    return f"{garment.colour} {garment.pattern} {garment.sleeve} {garment.category}"


def _write_labels(folder: Path, split: str, paths: list[str], captions: list[str]) -> None:
    """Write one file per category."""
    folder.mkdir(exist_ok=True)
    for category in sorted({caption.split()[-1] for caption in captions}):
        lines = [
            f"{path}.jpeg\t1.000000\t{caption}\n"
            for path, caption in zip(paths, captions, strict=True)
            if caption.endswith(category)
        ]
        (folder / f"{category}_{split}_detect_all.txt").write_text("".join(lines), encoding="utf-8")
