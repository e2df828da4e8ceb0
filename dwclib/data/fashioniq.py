"""FashionIQ in its published layout (notebook 14)."""

from __future__ import annotations

from pathlib import Path
from reprlib import repr as brief  # never long, never deep, whatever a file holds

import numpy as np
from jaxtyping import Int

from dwclib.data.annotations import Count, drawn_splits, field_of, positions, read_json, write_json
from dwclib.data.garments import ATTRIBUTES
from dwclib.data.photos import PhotoTriplets, count_files, find_files, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.data.triplets import check_captions, check_image_ids
from dwclib.errors import ConfigError, DatasetError, check_choice
from dwclib.files import atomic

SPLITS = ("train", "val")
CATEGORIES = ("dress", "shirt", "toptee")
PROTOCOLS = ("original", "original without the reference", "VAL")
CAPTIONS = {"both": 2, "first": 1}
DRAWN_AS = dict(zip(CATEGORIES, ATTRIBUTES["category"], strict=True))  # SynthFashion's names
TRIPLETS = {"train": (5_985, 5_988, 6_027), "val": (2_017, 2_038, 1_961)}
GALLERY = {"original": (3_817, 6_346, 5_373), "VAL": (2_628, 3_089, 2_902)}


def load(
    root: Path, split: str, *, category: str = "dress", protocol: str = "VAL", captions: str = "both"
) -> PhotoTriplets:
    """Load one category.

    Parameters
    ----------
    root : holds ``captions``, ``image_splits``, and the images in ``images``, ``all_imgs``, a folder per
        category, or beside these.
    split : "train" or "val".
    category : "dress", "shirt" or "toptee".
    protocol : what "val" searches: "original", the split's list of images, a query's own reference among
        them; "original without the reference"; or "VAL", the references and targets of the queries, without
        the query's own reference. "train" has its whole list.
    captions : "both" of each triplet, or its "first".

    Raises
    ------
    ConfigError
        For an unknown choice, or the test split, whose targets were never published.
    DatasetError
        For damaged annotations; the message names file, record and remedy.
    """
    name = f"fashioniq/{category}/{split}"
    check_choice("category", category, CATEGORIES, name)
    check_choice("protocol", protocol, PROTOCOLS, name)
    check_choice("choice of captions", captions, list(CAPTIONS), name)
    _check_split(split, name)
    listing = root / "image_splits" / f"split.{category}.{split}.json"
    listed = _listed(listing)
    path = root / "captions" / f"cap.{category}.{split}.json"
    references, targets, texts = _read_captions(path, listed, listing.name)
    if split == "val" and protocol == "VAL":
        used = np.union1d(references, targets)
        listed = [listed[image] for image in used]
        references, targets = np.searchsorted(used, references), np.searchsorted(used, targets)
    return PhotoTriplets(
        name=name,
        image_ids=tuple(listed),
        identities=np.arange(len(listed)),
        references=references,
        targets=targets,
        captions=tuple(both[: CAPTIONS[captions]] for both in texts),
        gallery=np.arange(len(listed)),
        exclude_reference=protocol != "original",
        ks=(10, 50),
        files=find_files([root / "images", root / "all_imgs", root / category, root], listed),
        annotated=len(texts),
    )


def census(root: Path) -> list[Count]:
    """Count triplets, images and galleries of each category, beside what was published of them."""
    return [
        count
        for number, category in enumerate(CATEGORIES)
        for split in SPLITS
        for count in _count(root, split, number, category)
    ]


def write(out: Path, *, seed: int = 0, train: int = 8_000, val: int = 2_000) -> None:
    """Write SynthFashion as PNG and JSON in FashionIQ's layout.

    Parameters
    ----------
    out : folder to make.
    seed, train, val : as `dwclib.data.annotations.drawn_splits` takes them.
    """
    with atomic(out) as folder:
        for split, dataset in drawn_splits(seed=seed, train=train, val=val):
            write_pictures(folder / "images", dataset)
            for category in CATEGORIES:
                _write_annotations(folder, dataset, split, category)


def _check_split(split: str, name: str) -> None:
    if split == "test":
        raise ConfigError(
            "the test split has no targets, so nothing can be measured on it", where=name, remedy="Use val."
        )
    check_choice("split", split, SPLITS, name)


def _listed(path: Path) -> list[str]:
    """Return the images of a split."""
    names = read_json(path, list)
    for record, name in enumerate(names):
        if not isinstance(name, str):
            raise DatasetError(
                f"the image id is {brief(name)}, not a text",
                where=f"{path}, image {record}",
                remedy="Mend it.",
            )
    check_image_ids(names, str(path))
    return names


def _read_captions(
    path: Path, listed: list[str], listing: str
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " queries"], list[tuple[str, ...]]]:
    """Return references and targets, as positions in the list of images, and both captions of each triplet.

    A list of another category has none of the images that the captions name: `positions` tells both files.
    """
    rows = read_json(path, list)
    if not rows:
        raise DatasetError("it holds no triplet", where=path, remedy="Fetch the file again.")
    named: dict[str, list[str]] = {"candidate": [], "target": []}
    texts = []
    for record, row in enumerate(rows):
        where = f"{path}, record {record}"
        for role, names in named.items():
            names.append(field_of(row, role, str, where))
        texts.append(_pair(field_of(row, "captions", list, where), where))
    references, targets = (
        positions(listed, names, f"{path} beside {listing}, {role}") for role, names in named.items()
    )
    return references, targets, texts


def _pair(captions: list[object], where: str) -> tuple[str, ...]:
    if len(captions) != 2:
        raise DatasetError(
            f"there are {len(captions)} captions, not 2", where=where, remedy="Mend or drop the record."
        )
    check_captions(captions, where)
    return tuple(map(str, captions))


def _count(root: Path, split: str, number: int, category: str) -> list[Count]:
    dataset = load(root, split, category=category, protocol="original")
    images, what = len(dataset.image_ids), f"{category}, {split}"
    found = [Count(f"{what}: triplets", len(dataset), TRIPLETS[split][number]), count_files(dataset, what)]
    if split == "train":
        return [*found, Count(f"{what}: images in the list", images)]
    union = len(np.union1d(dataset.references, dataset.targets))
    return [
        *found,
        Count(f"{what}: gallery, original", images, GALLERY["original"][number]),
        Count(f"{what}: gallery, VAL", union, GALLERY["VAL"][number]),
    ]


def _write_annotations(folder: Path, dataset: SynthFashion, split: str, category: str) -> None:
    code, names = ATTRIBUTES["category"].index(DRAWN_AS[category]), dataset.image_ids
    triplets = zip(dataset.references, dataset.targets, dataset.captions, strict=True)
    rows = [
        {"target": names[target], "candidate": names[reference], "captions": list(texts)}
        for reference, target, texts in triplets
        if dataset.codes[reference, 0] == code
    ]
    if not rows:
        raise ConfigError(
            f"{len(names)} images hold no triplet of a {category}",
            where=dataset.name,
            remedy="Ask for more images, or another seed.",
        )
    listed = [name for name, row in zip(names, dataset.codes, strict=True) if row[0] == code]
    write_json(folder / "captions" / f"cap.{category}.{split}.json", rows)
    write_json(folder / "image_splits" / f"split.{category}.{split}.json", listed)
