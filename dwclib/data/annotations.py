"""What the loaders of real datasets share, from the bytes of an annotation file to a field (notebook 14)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from reprlib import repr as brief  # never long, never deep, whatever a file holds
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from dwclib.errors import DatasetError

if TYPE_CHECKING:
    from dwclib.data.synthfashion import SynthFashion

MAX_JSON = 512 * 2**20  # bytes: more is no annotation file


class Count(NamedTuple):
    """One line of a dataset's census: what was counted, how many were found, and how many there should be.

    Fields
    ------
    expected : the published number; of files, the number of images listed; None where nothing tells.
    """

    what: str
    found: int
    expected: int | None = None

    @property
    def differs(self) -> bool:
        """Whether another number is expected."""
        return self.expected not in (None, self.found)


def positions(image_ids: Sequence[str], named: Iterable[str], where: str) -> Int[np.ndarray, " n"]:
    """Return the place of each named image.

    Raises
    ------
    DatasetError
        When an image is named that is not in the list; the record is told.
    """
    place = {name: number for number, name in enumerate(image_ids)}
    found = []
    for record, name in enumerate(named):
        if name not in place:
            raise DatasetError(
                f"the image {name!r} is in no list of images",
                where=f"{where}, record {record}",
                remedy="Add it to the list, or drop the record.",
            )
        found.append(place[name])
    return np.array(found, dtype=np.int64)


def read_json(path: Path, kind: type[list | dict]) -> Any:
    """Read an annotation file.

    Raises
    ------
    DatasetError
        When it is missing, too large, no JSON, or not of this kind at its top.
    """
    names = {list: "a list", dict: "an object"}
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_doubles)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"the annotations cannot be read ({error})", where=path, remedy="Fetch the file again."
        ) from error
    if not isinstance(content, kind):
        raise DatasetError(
            f"it holds {type(content).__name__}, not {names[kind]}", where=path, remedy="Fetch it again."
        )
    return content


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield where each line of a text file stands, for messages, and the line; empty ones are skipped.

    Raises
    ------
    DatasetError
        When the file is missing or no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"the lines cannot be read ({error})", where=path, remedy="Fetch the file again."
        ) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}, line {number}", line


def field_of(record: object, name: str, kind: type, where: str) -> Any:
    """Return a field of an annotation record.

    Raises
    ------
    DatasetError
        When the record is no object, or the field is missing or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise DatasetError(
            f"the field {name!r} is {'missing' if value is None else brief(value)}",
            where=where,
            remedy=f"Give it a {kind.__name__}, or drop the record.",
        )
    return value


def drawn_splits(*, seed: int, train: int, val: int) -> Iterator[tuple[str, SynthFashion]]:
    """Yield SynthFashion's "train" and "val" as they are written in a real dataset's layout.

    Parameters
    ----------
    seed : of the world.
    train, val : number of images of each split; there are 1.5 and 1 queries per image.
    """
    from dwclib.data.synthfashion import synthfashion

    for split, images, queries in (("train", train, train * 3 // 2), ("val", val, val)):
        yield split, synthfashion(split, images=images, queries=queries, seed=seed)


def write_json(path: Path, content: list | dict) -> None:
    """Write an annotation file, and its folder when it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a field twice: JSON would silently keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{doubled!r} occurs twice")
    return found
