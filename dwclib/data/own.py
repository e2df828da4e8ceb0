"""Your own images: a folder of them, and a CSV of (reference, text, target) (notebook 14)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dwclib.data import records
from dwclib.data.finder import ENDINGS, Photo, photos_below, without_ending
from dwclib.data.photos import PhotoTriplets, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.data.triplets import LEAVES, check_image_ids
from dwclib.errors import ConfigError, DatasetError, check_choice
from dwclib.files import fingerprint

SPLITS = ("train", "val")
PARTS = {split: records.Part({"split": split}) for split in SPLITS}
COLUMNS = ("reference", "text", "target")


class Images(NamedTuple):
    """The images of a folder.

    Fields
    ------
    ids : their paths below the folder, without the ending, in order.
    files : where they lie.
    """

    ids: tuple[str, ...]
    files: tuple[Path, ...]


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
    return _images(photos_below(folder), folder)


def _images(photos: Iterable[Photo], folder: Path) -> Images:
    found = sorted(
        (photo.name, Path(photo.path))
        for photo in photos
        if photo.path.lower().endswith(ENDINGS) and not LEAVES.match(photo.name)
    )
    if not found:
        remedy = f"Put files that end in {', '.join(ENDINGS)} there."
        raise DatasetError("there is no image", where=folder, remedy=remedy)
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
    folder = root / "images" if (root / "images").is_dir() else root
    photos = list(photos_below(folder))
    there = _images(photos, folder)
    path = _table(root, split)
    queries = list(_read(path))
    if path.name == "triplets.csv":
        queries = [query for query in queries if _is_held_out(query, val_share) == (split == "val")]
    named = {image for query in queries for image in (query.reference, query.target)}
    image_ids = sorted(named if split == "train" else named.union(there.ids))
    files = {photo.name: Path(photo.path) for photo in photos}
    return records.assemble(
        queries, image_ids, path, root, name=name, files=tuple(files.get(image) for image in image_ids)
    )


def write(folder: Path, drawn: dict[str, SynthFashion]) -> None:
    """Write SynthFashion as PNG and CSV, as you would keep images of your own.

    Parameters
    ----------
    folder : which; it is made.
    drawn : the splits.
    """
    for split, dataset in drawn.items():
        write_pictures(folder / "images", dataset)
        files = [f"{name}.png" for name in dataset.image_ids]
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            triplets = zip(dataset.references, dataset.texts(), dataset.targets, strict=True)
            table.writerows((files[reference], text, files[target]) for reference, text, target in triplets)


def _table(root: Path, split: str) -> Path:
    names = "triplets.csv", f"{split}.csv"
    there = [root / name for name in names if (root / name).exists()]
    if len(there) != 1:
        kind = DatasetError if there else records.MissingError
        problem = f"{' and '.join(names)} are {'both' if there else 'neither of them'} there"
        remedy = f"Keep either triplets.csv, or train.csv and val.csv, with columns {','.join(COLUMNS)}."
        raise kind(problem, where=root, remedy=remedy)
    return there[0]


def _is_held_out(query: records.Query, share: float) -> bool:
    return int(fingerprint(query.target), 16) < share * 16**16


def _read(path: Path) -> Iterator[records.Query]:
    """Yield the lines of a table.

    A text with a comma that is not in quotes makes a line longer than the head; it would be cut silently.
    """
    reader = csv.DictReader(io.StringIO(records.read(path), newline=""), strict=True)
    try:
        head = reader.fieldnames or []
        lines = [(f"{path}, line {reader.line_num}", line) for line in reader]
    except csv.Error as error:
        problem = f"the table cannot be read ({error})"
        raise DatasetError(problem, where=path, remedy="Save it as CSV.") from error
    for column in COLUMNS:
        problem = f"there is not one column {column!r} but {', '.join(head) or 'nothing'}"
        records.check(head.count(column) == 1, problem, path, f"Begin it with the line {','.join(COLUMNS)}.")
    for where, line in lines:
        remedy = "Put a text with commas in quotes."
        records.check(None not in line, "it has more cells than the head", where, remedy)
        yield _query(line, where)


def _query(line: dict[str, str | None], where: str) -> records.Query:
    cells = {column: (line[column] or "").strip() for column in COLUMNS}
    for column, cell in cells.items():
        records.check(bool(cell), f"the {column} is empty", where)
    reference, target = (
        without_ending(cells[role].replace("\\", "/")).removeprefix("images/")  # as Windows writes a path
        for role in ("reference", "target")
    )
    check_image_ids([reference], where)
    check_image_ids([target], where)
    return records.Query(reference, target, (cells["text"],), where)
