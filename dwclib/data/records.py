"""What the loaders of real datasets share, from the bytes of an annotation file to triplets (notebook 14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from dwclib.data.photos import PhotoTriplets
from dwclib.data.triplets import check_captions, check_image_ids
from dwclib.errors import ConfigError, DatasetError, brief, check_choice
from dwclib.files import json_of, text_of

MOST_BYTES = 512 * 2**20  # more is no annotation file
MEND = "Mend it, drop the record, or fetch the file again."


class MissingError(DatasetError):
    """Annotation files that are not there."""


class Part(NamedTuple):
    """What of a dataset is counted together, beside the numbers that were published of it.

    Fields
    ------
    options : how it is loaded, its split among them.
    triplets, images : how many there should be; None where nothing tells.
    """

    options: dict[str, Any]
    triplets: int | None = None
    images: int | None = None


class Query(NamedTuple):
    """A record of a dataset, which names its images.

    Fields
    ------
    captions : what its annotators said; none of them where all left it empty.
    where : the record's file and number, for messages.
    members : the images of its subset, where the dataset has subsets.
    """

    reference: str
    target: str
    captions: tuple[str, ...]
    where: str
    members: tuple[str, ...] = ()


def assemble(
    queries: Sequence[Query], image_ids: Sequence[str], path: Path, listing: Path, **fields: Any
) -> PhotoTriplets:
    """Return the queries that have a text, over the images of a list, all of which are searched.

    Parameters
    ----------
    queries : of a split; blank captions are left out, and queries without any count among the annotated.
    image_ids : of the split.
    path, listing : the file of the queries and that of the images, for messages.
    **fields : the name, the files and what else is particular to the dataset.

    Raises
    ------
    DatasetError
        For an image that is not listed, a query whose target is its reference or whose captions are no
        texts, or no query at all.
    """
    check_image_ids(image_ids, str(listing))
    place = {image: number for number, image in enumerate(image_ids)}
    heard = [query._replace(captions=not_blank(query.captions)) for query in queries]
    for query in heard:
        _check(query, place, listing)
    spoken = [query for query in heard if query.captions]
    check(bool(spoken), "it holds no triplet", path)
    members = zip_longest(*([place[image] for image in query.members] for query in spoken), fillvalue=-1)
    common = {
        "identities": np.arange(len(image_ids)),
        "gallery": np.arange(len(image_ids)),
        "members": np.array(list(members)).T if spoken[0].members else None,
        "annotated": len(queries),
    }
    return PhotoTriplets(
        image_ids=tuple(image_ids),
        references=np.array([place[query.reference] for query in spoken]),
        targets=np.array([place[query.target] for query in spoken]),
        captions=tuple(query.captions for query in spoken),
        **common | fields,
    )


def check(holds: bool, problem: str, where: str | Path, remedy: str = MEND) -> None:
    """Raise DatasetError with this problem unless what a file has to keep to holds."""
    if not holds:
        raise DatasetError(problem, where=where, remedy=remedy)


def not_blank(captions: Iterable[Any]) -> tuple[Any, ...]:
    """Return the captions without blank texts; what is no text stays, to be refused."""
    return tuple(caption for caption in captions if not isinstance(caption, str) or caption.strip())


def _check(query: Query, place: dict[str, int], listing: Path) -> None:
    named = {"reference": query.reference, "target": query.target}
    named |= {f"member {number} of the subset": image for number, image in enumerate(query.members)}
    for role, image in named.items():
        problem = f"the {role} {image!r} is in no list of images"
        check(image in place, problem, query.where, f"Add it to {listing}, or drop the record.")
    problem = f"{query.target!r} is its own reference, and no search returns its reference"
    check(query.reference != query.target, problem, query.where)
    if query.captions:
        check_captions(query.captions, query.where)


def locate(root: Path, *names: str, below: Sequence[str] = ("",)) -> list[Path]:
    """Return where annotation files lie.

    Parameters
    ----------
    root : of the dataset.
    *names : of the files, as paths.
    below : folders of the root in which each is looked for.

    Raises
    ------
    MissingError
        When any is nowhere; all of them are named, and all places.
    """
    found = {name: [root / part / name for part in below if (root / part / name).exists()] for name in names}
    if missing := [name for name, paths in found.items() if not paths]:
        looked = ", ".join(str(root / part) for part in below)
        raise MissingError(
            f"there is no {' and no '.join(missing)}",
            where=root,
            remedy=f"Looked in {looked}. Fetch what is missing, or name the folder that holds it.",
        )
    return [paths[0] for paths in found.values()]


def read(path: Path, how: Callable[..., Any] = text_of) -> Any:
    """Read a text file in UTF-8, or in UTF-16 with its mark, as PowerShell writes it; or one of bytes.

    Raises
    ------
    DatasetError
        When it is no file, too large, in another encoding, or cannot be read.
    """
    try:
        return how(path, most=MOST_BYTES)
    except (OSError, ValueError) as error:
        problem = f"the annotations cannot be read ({error})"
        raise DatasetError(problem, where=path, remedy="Fetch them again, or save them in UTF-8.") from error


def read_json(path: Path, kind: type[list | dict]) -> Any:
    """Read a JSON file.

    Raises
    ------
    DatasetError
        When it cannot be read, is no JSON, or not of this kind at its top.
    """
    text = read(path)
    try:
        content = json_of(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"the annotations are no JSON ({error})", where=path, remedy=MEND) from error
    problem = f"it holds {type(content).__name__}, not {'a list' if kind is list else 'an object'}"
    check(isinstance(content, kind), problem, path)
    return content


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the records of a JSON file, and before each where it stands, for messages."""
    for number, record in enumerate(read_json(path, list)):
        yield f"{path}, record {number}", record


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a text file that are not empty, and before each where it stands, for messages."""
    for number, line in enumerate(re.split(r"\r\n?|\n", read(path)), 1):
        if line.strip():
            yield f"{path}, line {number}", line


def fields_of(record: object, where: str, /, **kinds: type) -> list[Any]:
    """Return fields of an annotation record.

    Parameters
    ----------
    record : of a file.
    where : it stands, for messages.
    **kinds : the type of each field, by its name.

    Raises
    ------
    DatasetError
        When the record is no object, or a field is missing or of another type.
    """
    found = record if isinstance(record, dict) else {}
    for name, kind in kinds.items():
        if not isinstance(value := found.get(name), kind):
            problem = f"the field {name!r} is {'missing' if value is None else brief(value)}"
            raise DatasetError(problem, where=where, remedy=f"Give it a {kind.__name__}, or drop the record.")
    return [found[name] for name in kinds]


def numbered(labels: Iterable[Hashable]) -> Int[np.ndarray, " images"]:
    """Return one number per image, the same where the labels are the same."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def check_split(split: str, hidden: str, splits: Sequence[str], where: str) -> None:
    """Raise ConfigError unless a split is one of these; the hidden one has no targets."""
    if split == hidden:
        raise ConfigError(
            "the test split has no targets, so nothing can be measured on it", where=where, remedy="Use val."
        )
    check_choice("split", split, splits, where)
