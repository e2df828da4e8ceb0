"""Shoes in its published layout (notebook 14)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from dwclib.data import records
from dwclib.data.finder import find_files, without_ending
from dwclib.data.photos import PhotoTriplets, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.errors import check_choice
from dwclib.files import write_json

SPLITS = ("train", "test")
CAPTIONS = "relative_captions_shoes.json"
LISTS = {"train": "train_im_names.txt", "test": "eval_im_names.txt"}
LISTINGS = ("whole", "shorter")
PARTS = {
    "train": records.Part({"split": "train", "listing": "shorter"}, triplets=8_990, images=10_000),
    "test": records.Part({"split": "test", "listing": "shorter"}, triplets=1_761, images=4_658),
}


def load(root: Path, split: str, *, listing: str = "whole", doubled: bool = False) -> PhotoTriplets:
    """Load a split; searched are all images of its list.

    Parameters
    ----------
    root : holds ``relative_captions_shoes.json``, the two lists of file names, and the images in folders
        like ``womens_pumps/0``.
    split : "train" or "test".
    listing : "whole" where ``eval_im_names.txt`` has all images of its triplets, 4,658 names; or "shorter",
        another list of 4,621 names is in circulation, with which fewer queries can be asked: the recall then
        says on how many it stands.
    doubled : list each triplet once for each of its images, in the order of the list, as the released code
        does; an epoch then has twice as many steps.

    Raises
    ------
    ConfigError
        For an unknown split or listing.
    DatasetError
        For damaged annotations, or lists that lack images of the triplets; the message names file and record.
    """
    name = f"shoes/{split}"
    check_choice("split", split, SPLITS, name)
    check_choice("listing", listing, LISTINGS, name)
    path, *files = records.locate(root, CAPTIONS, *LISTS.values())
    train, test = ([without_ending(line.strip()) for _, line in records.read_lines(file)] for file in files)
    queries = [_query(row, where) for where, row in records.read_records(path)]
    annotated = list(_of_split(queries, split, set(train)))
    listed = train if split == "train" else test
    there = set(listed)
    usable = [query for query in annotated if query.reference in there and query.target in there]
    records.check(
        listing == "shorter" or len(usable) == len(annotated),
        f"{len(annotated) - len(usable)} of {len(annotated)} triplets have images that are in no list",
        f"{path} beside {' and '.join(LISTS.values())}",
        "Fetch the lists of 10,000 and 4,658 names, or leave them out: options: {listing: shorter}.",
    )
    return records.assemble(
        _once_per_image(usable, listed) if doubled else usable,
        listed,
        path,
        root / LISTS[split],
        name=name,
        files=find_files(root, listed),
        annotated=len(annotated) * (1 + doubled),
    )


def write(folder: Path, drawn: dict[str, SynthFashion]) -> None:
    """Write SynthFashion as JPEG, JSON and text in the layout of Shoes.

    Parameters
    ----------
    folder : which; it is made.
    drawn : the splits.
    """
    rows = []
    for split, dataset in drawn.items():
        kinds = [dataset.garment(image).category for image in range(len(dataset.image_ids))]
        names = [f"img_womens_{kind}_{name}" for kind, name in zip(kinds, dataset.image_ids, strict=True)]
        folders = [f"womens_{kind}/{image % 2}" for image, kind in enumerate(kinds)]
        paths = [f"{below}/{name}" for below, name in zip(folders, names, strict=True)]
        write_pictures(folder, dataset, paths, ".jpg")
        listed = folder / LISTS[split]
        listed.write_text("".join(f"{name}.jpg\n" for name in names), encoding="utf-8")
        rows += _records(dataset, names)
    write_json(folder / CAPTIONS, rows)


def _query(row: object, where: str) -> records.Query:
    caption, *images = records.fields_of(
        row, where, RelativeCaption=str, ReferenceImageName=str, ImageName=str
    )
    reference, target = map(without_ending, images)
    return records.Query(reference, target, (caption.strip(),), where)


def _of_split(queries: list[records.Query], split: str, trained: set[str]) -> Iterator[records.Query]:
    for query in queries:
        ends = query.reference in trained, query.target in trained
        problem = f"of {query.reference!r} and {query.target!r} one is for training, the other is not"
        records.check(ends[0] == ends[1], problem, query.where)
        if ends[0] == (split == "train"):
            yield query


def _once_per_image(queries: list[records.Query], image_ids: list[str]) -> list[records.Query]:
    of_image = defaultdict(list)
    for query in queries:
        for image in {query.reference, query.target}:
            of_image[image].append(query)
    return [query for image in image_ids for query in of_image[image]]


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
