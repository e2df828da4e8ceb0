"""Shoes in its published layout (notebook 14)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dwclib.data.annotations import (
    Count,
    drawn_splits,
    field_of,
    positions,
    read_json,
    read_lines,
    write_json,
)
from dwclib.data.photos import PhotoTriplets, count_files, find_files, without_ending, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.data.triplets import check_captions, check_image_ids
from dwclib.errors import DatasetError, check_choice
from dwclib.files import atomic

SPLITS = ("train", "test")
CAPTIONS = "relative_captions_shoes.json"
LISTS = {"train": "train_im_names.txt", "test": "eval_im_names.txt"}
TRIPLETS = {"train": 8_990, "test": 1_761}
IMAGES = {"train": 10_000, "test": 4_658}


class Row(NamedTuple):
    """A triplet, by the ids of its images."""

    reference: str
    target: str
    caption: str


def load(root: Path, split: str, *, doubled: bool = False) -> PhotoTriplets:
    """Load a split; searched are all images of its list.

    Parameters
    ----------
    root : holds ``relative_captions_shoes.json``, the two lists of file names, and the images in folders
        like ``womens_pumps/0``.
    split : "train" or "test".
    doubled : list each triplet once for each of its images, in the order of the list, as the released code
        does; an epoch then has twice as many steps.

    Raises
    ------
    ConfigError
        For an unknown split.
    DatasetError
        For damaged annotations, or lists that lack images of the triplets; the message names file and record.
    """
    name = f"shoes/{split}"
    check_choice("split", split, SPLITS, name)
    lists = {part: _listed(root / file) for part, file in LISTS.items()}
    rows, image_ids = _rows_of(root / CAPTIONS, split, lists), lists[split]
    if doubled:
        rows = _once_per_image(rows, image_ids)
    return PhotoTriplets(
        name=name,
        image_ids=tuple(image_ids),
        identities=np.arange(len(image_ids)),
        references=positions(image_ids, [row.reference for row in rows], name),
        targets=positions(image_ids, [row.target for row in rows], name),
        captions=tuple((row.caption,) for row in rows),
        gallery=np.arange(len(image_ids)),
        files=find_files(sorted(root.glob("womens_*/*")), image_ids),
        annotated=len(rows),
    )


def census(root: Path) -> list[Count]:
    """Count triplets and images of each split, beside what was published of them."""
    found = []
    for split in SPLITS:
        dataset = load(root, split)
        images = len(dataset.image_ids)
        found += [
            Count(f"{split}: triplets", len(dataset), TRIPLETS[split]),
            Count(f"{split}: images in the list", images, IMAGES[split]),
            count_files(dataset, split),
        ]
    return found


def write(out: Path, *, seed: int = 0, train: int = 8_000, val: int = 2_000) -> None:
    """Write SynthFashion as JPEG, JSON and text in the layout of Shoes; "val" becomes its "test".

    Parameters
    ----------
    out : folder to make.
    seed, train, val : as `dwclib.data.annotations.drawn_splits` takes them.
    """
    rows = []
    with atomic(out) as folder:
        for split, dataset in drawn_splits(seed=seed, train=train, val=val):
            kinds = [dataset.garment(image).category for image in range(len(dataset.image_ids))]
            names = [f"img_womens_{kind}_{name}" for kind, name in zip(kinds, dataset.image_ids, strict=True)]
            folders = [f"womens_{kind}/{image % 2}" for image, kind in enumerate(kinds)]
            paths = [f"{below}/{name}" for below, name in zip(folders, names, strict=True)]
            write_pictures(folder, dataset, paths, ".jpg")
            listed = folder / LISTS["train" if split == "train" else "test"]
            listed.write_text("".join(f"{name}.jpg\n" for name in names), encoding="utf-8")
            rows += _records(dataset, names)
        write_json(folder / CAPTIONS, rows)


def _listed(path: Path) -> list[str]:
    """Return the images of a list of file names."""
    names = [without_ending(line.strip()) for _, line in read_lines(path)]
    check_image_ids(names, str(path))
    return names


def _rows_of(path: Path, split: str, lists: dict[str, list[str]]) -> list[Row]:
    """Return the triplets both of whose images are in the list of the split, in the order of the file."""
    rows = [_row(record, f"{path}, record {number}") for number, record in enumerate(read_json(path, list))]
    ends = {image for row in rows for image in (row.reference, row.target)}
    if absent := sorted(ends.difference(*lists.values())):
        raise DatasetError(
            f"{len(absent)} images of the triplets are in neither list, the first is {absent[0]!r}",
            where=f"{path} beside {' and '.join(LISTS.values())}",
            remedy=f"Fetch the lists of {IMAGES['train']:,} and {IMAGES['test']:,} names, not shorter ones.",
        )
    listed = set(lists[split])
    for number, row in enumerate(rows):
        if (row.reference in listed) != (row.target in listed):
            raise DatasetError(
                "one image of the triplet is for training, the other is not",
                where=f"{path}, record {number}",
                remedy="Move an image to the other list, or drop the record.",
            )
    found = [row for row in rows if row.target in listed]
    if not found:
        raise DatasetError(f"it holds no triplet for {split}", where=path, remedy="Fetch the file again.")
    return found


def _row(record: object, where: str) -> Row:
    caption = field_of(record, "RelativeCaption", str, where).strip()
    check_captions([caption], where)
    reference, target = (
        without_ending(field_of(record, name, str, where)) for name in ("ReferenceImageName", "ImageName")
    )
    return Row(reference, target, caption)


def _once_per_image(rows: list[Row], image_ids: list[str]) -> list[Row]:
    of_image = defaultdict(list)
    for row in rows:
        for image in {row.reference, row.target}:
            of_image[image].append(row)
    return [row for image in image_ids for row in of_image[image]]


def _records(dataset: SynthFashion, names: list[str]) -> list[dict[str, str]]:
    triplets = zip(dataset.references, dataset.targets, dataset.texts(), strict=True)
    return [
        {
            "ImageName": f"{names[target]}.jpg",
            "ReferenceImageName": f"{names[reference]}.jpg",
            "RelativeCaption": text,
        }
        for reference, target, text in triplets
    ]
