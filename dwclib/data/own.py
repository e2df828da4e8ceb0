"""Your own images: a folder of them, and a CSV of (reference, text, target) (notebook 14)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dwclib.data.annotations import Count, drawn_splits, positions
from dwclib.data.images import ENDINGS
from dwclib.data.photos import PhotoTriplets, count_files, without_ending, write_pictures
from dwclib.data.triplets import check_image_ids
from dwclib.errors import ConfigError, DatasetError, check_choice
from dwclib.files import atomic, fingerprint

SPLITS = ("train", "val")


class Images(NamedTuple):
    """The images of a folder.

    Fields
    ------
    ids : their paths below the folder, without the ending, in order.
    files : where they lie.
    """

    ids: tuple[str, ...]
    files: tuple[Path, ...]


class Row(NamedTuple):
    """A line of the table; the images by their ids."""

    reference: str
    text: str
    target: str


def images_of(folder: Path) -> Images:
    """Return all images in a folder and below it: enough for a search.

    Parameters
    ----------
    folder : which; what begins with a dot is passed over, as it is by a file manager.

    Raises
    ------
    DatasetError
        When no image is there, or two files differ in their ending alone.
    """
    found = sorted(
        (without_ending(path.relative_to(folder).as_posix()), path)
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file()
    )
    found = [(name, path) for name, path in found if not name.startswith(".") and "/." not in name]
    if not found:
        raise DatasetError(
            "there is no image", where=folder, remedy=f"Put files that end in {', '.join(ENDINGS)} there."
        )
    ids, files = zip(*found, strict=True)
    check_image_ids(ids, str(folder))
    return Images(ids, files)


def load(root: Path, split: str, *, val_share: float = 0.2) -> PhotoTriplets:
    """Load your triplets: "train" has the images they name, "val" searches all that you have.

    Parameters
    ----------
    root : holds the images, in ``images`` or beside the tables, and tables with the columns reference, text
        and target, of which two name an image with or without its ending: ``train.csv`` and ``val.csv``, or
        one ``triplets.csv``, which is then divided.
    split : "train" or "val".
    val_share : which share of the targets of ``triplets.csv`` is kept for "val"; all triplets of a target are
        in one split, and stay in it when others are added.

    Raises
    ------
    ConfigError
        For an unknown split, or a share that is not between 0 and 1.
    DatasetError
        For a damaged table; the message names file, line and remedy.
    """
    name = f"own/{split}"
    check_choice("split", split, SPLITS, name)
    if not 0 < val_share < 1:
        raise ConfigError(f"{val_share!r} is no share", where="val_share", remedy="Use more than 0, below 1.")
    there = images_of(_image_folder(root))
    rows = _rows_of(root, split, val_share)
    named = {image for row in rows for image in (row.reference, row.target)}
    image_ids = sorted(named if split == "train" else named.union(there.ids))
    files = dict(zip(there.ids, there.files, strict=True))
    return PhotoTriplets(
        name=name,
        image_ids=tuple(image_ids),
        identities=np.arange(len(image_ids)),
        references=positions(image_ids, [row.reference for row in rows], name),
        targets=positions(image_ids, [row.target for row in rows], name),
        captions=tuple((row.text,) for row in rows),
        gallery=np.arange(len(image_ids)),
        files=tuple(files.get(image) for image in image_ids),
        annotated=len(rows),
    )


def census(root: Path) -> list[Count]:
    """Count triplets, and the images that are there and that they name."""
    found = [Count("images", len(images_of(_image_folder(root)).ids))]
    for split in SPLITS:
        dataset = load(root, split)
        found += [Count(f"{split}: triplets", len(dataset)), count_files(dataset, split)]
    return found


def write(out: Path, *, seed: int = 0, train: int = 8_000, val: int = 2_000) -> None:
    """Write SynthFashion as PNG and CSV, as you would keep images of your own.

    Parameters
    ----------
    out : folder to make.
    seed, train, val : as `dwclib.data.annotations.drawn_splits` takes them.
    """
    with atomic(out) as folder:
        for split, dataset in drawn_splits(seed=seed, train=train, val=val):
            write_pictures(folder / "images", dataset)
            files = [f"{name}.png" for name in dataset.image_ids]
            with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(Row._fields)
                for reference, text, target in zip(
                    dataset.references, dataset.texts(), dataset.targets, strict=True
                ):
                    table.writerow(Row(files[reference], text, files[target]))


def _image_folder(root: Path) -> Path:
    return root / "images" if (root / "images").is_dir() else root


def _rows_of(root: Path, split: str, val_share: float) -> list[Row]:
    whole, part = root / "triplets.csv", root / f"{split}.csv"
    if whole.exists() == part.exists():
        raise DatasetError(
            f"{whole.name} and {part.name} are {'both' if whole.exists() else 'neither of them'} there",
            where=root,
            remedy="Keep either triplets.csv, or train.csv and val.csv.",
        )
    path = whole if whole.exists() else part
    rows = [row for row in _read(path) if path == part or (_is_held_out(row, val_share) == (split == "val"))]
    if not rows:
        raise DatasetError(f"it holds no triplet for {split}", where=path, remedy="Add some.")
    return rows


def _is_held_out(row: Row, share: float) -> bool:
    return int(fingerprint(row.target), 16) < share * 16**16


def _read(path: Path) -> Iterator[Row]:
    """Yield the lines of a table.

    A text with a comma that is not in quotes makes a line longer than the head; it would be cut silently.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            head = reader.fieldnames or []
            lines = [(f"{path}, line {reader.line_num}", line) for line in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(
            f"the table cannot be read ({error})", where=path, remedy="Save it as CSV in UTF-8."
        ) from error
    if absent := [column for column in Row._fields if head.count(column) != 1]:
        raise DatasetError(
            f"there is not one column {absent[0]!r} but {', '.join(head) or 'nothing'}",
            where=path,
            remedy=f"Begin it with the line {','.join(Row._fields)}.",
        )
    for where, line in lines:
        if None in line:
            raise DatasetError(
                "it has more cells than the head", where=where, remedy="Put a text with commas in quotes."
            )
        yield _row(line, where)


def _row(line: dict[str, str | None], where: str) -> Row:
    cells = {column: (line[column] or "").strip() for column in Row._fields}
    if empty := [column for column, cell in cells.items() if not cell]:
        raise DatasetError(f"the {empty[0]} is empty", where=where, remedy="Fill it in, or drop the line.")
    reference, target = (
        without_ending(cells[role]).removeprefix("images/") for role in ("reference", "target")
    )
    if reference == target:
        raise DatasetError(
            f"{target!r} is its own reference, and no search returns its reference",
            where=where,
            remedy="Drop the line.",
        )
    check_image_ids([reference, target], where)
    return Row(reference, cells["text"], target)
