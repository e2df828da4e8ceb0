"""Triplets whose images are files: what every loader of a real dataset returns (notebook 14)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from dwclib.data.images import ENDINGS, image_store, read_image
from dwclib.data.triplets import Triplets
from dwclib.errors import DatasetError
from dwclib.files import atomic, cache_folder, fingerprint

MAX_JSON = 512 * 2**20  # bytes: more is no annotation file


class Count(NamedTuple):
    """One line of a dataset's census: what was counted, what was found, and what was published."""

    what: str
    found: int
    published: int | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoTriplets(Triplets):
    """Triplets whose images are files.

    Attributes
    ----------
    files : one per image id; None where no file was found.
    annotated : how many queries the annotations have, those included that were dropped.
    size : width and height in pixels to which the images are brought.
    """

    files: tuple[Path | None, ...] = field(repr=False)
    annotated: int
    size: int = 224

    @cached_property
    def pictures(self) -> UInt8[np.ndarray, "images size size 3"]:
        """The images, decoded once into a store in the cache, read from disk as needed.

        Raises
        ------
        DatasetError
            When an image is missing or cannot be read.
        """
        self.check_complete()
        files = [str(path) for path in self.files]
        key = fingerprint(files, [path.stat().st_mtime_ns for path in self.files if path], self.size)
        return image_store(
            cache_folder("photos") / f"{key}.npy",
            _Reader(self.files, self.size),
            len(files),
            self.size,
            identity=key,
        ).pictures

    @property
    def missing(self) -> list[str]:
        """The ids of images without a file."""
        return [name for name, path in zip(self.image_ids, self.files, strict=True) if path is None]

    def check_complete(self) -> None:
        """Raise DatasetError where images are missing; it names a file in which all of them are listed."""
        if missing := self.missing:
            listed = cache_folder("missing") / f"{self.name.replace('/', '-')}.json"
            with atomic(listed) as target:
                target.write_text(json.dumps(missing, indent=1), encoding="utf-8")
            raise DatasetError(
                f"{len(missing)} of {len(self.files)} images are missing, the first is {missing[0]!r}",
                where=self.name,
                remedy=f"All are listed in {listed}. Fetch them, or drop their triplets: missing: drop.",
            )

    def complete(self) -> PhotoTriplets:
        """Return what is left without the missing images: no query starts from one or asks for one."""
        there = np.array([path is not None for path in self.files])
        return keep_images(self, there)

    def standing(self) -> str:
        """Say on how many of the annotated queries a metric stands."""
        return f"{len(self)} of {self.annotated} queries"


def keep_images(dataset: PhotoTriplets, kept: Bool[np.ndarray, " images"]) -> PhotoTriplets:
    """Return a dataset over some of its images; queries that need another one are dropped.

    Parameters
    ----------
    dataset : the whole.
    kept : which images.
    """
    images, place = np.flatnonzero(kept), np.where(kept, np.cumsum(kept) - 1, -1)
    rows = np.flatnonzero(kept[dataset.references] & kept[dataset.targets])
    members = dataset.members
    if members is not None:
        members = np.where(members[rows] < 0, -1, place[members[rows]])
    return replace(
        dataset,
        image_ids=tuple(dataset.image_ids[image] for image in images),
        files=tuple(dataset.files[image] for image in images),
        identities=dataset.identities[images],
        references=place[dataset.references[rows]],
        targets=place[dataset.targets[rows]],
        captions=tuple(dataset.captions[row] for row in rows),
        gallery=place[dataset.gallery[kept[dataset.gallery]]],
        members=members,
    )


def readable(dataset: PhotoTriplets) -> PhotoTriplets:
    """Return a dataset without the images that are missing or that cannot be decoded (slow: decodes all)."""
    from joblib import Parallel, delayed

    found = Parallel(n_jobs=-1, batch_size=256)(delayed(_can_be_read)(path) for path in dataset.files)
    return keep_images(dataset, np.array(list(found), dtype=bool))


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


def find_files(folders: Sequence[Path], image_ids: Sequence[str]) -> tuple[Path | None, ...]:
    """Return the file of each image id in the first folder that has it, whatever its ending; None for none.

    Parameters
    ----------
    folders : where to look; those that are not there are skipped. Each is listed once, so that tens of
        thousands of ids are found in a second.
    image_ids : plain names, or paths below a folder, without the ending.
    """
    there: dict[str, Path] = {}
    for folder in reversed([folder for folder in folders if folder.is_dir()]):
        below = {str(Path(name).parent) for name in image_ids}
        for part in below:
            for path in (folder / part).iterdir() if (folder / part).is_dir() else ():
                if path.suffix.lower() in ENDINGS:
                    there[path.relative_to(folder).with_suffix("").as_posix()] = path
    return tuple(there.get(Path(name).as_posix()) for name in image_ids)


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"the annotations cannot be read ({error})", where=path, remedy="Fetch the file again."
        ) from error
    if not isinstance(content, kind):
        raise DatasetError(
            f"it holds {type(content).__name__}, not {names[kind]}", where=path, remedy="Fetch it again."
        )
    return content


def field_of(record: object, name: str, kind: type, where: str) -> Any:
    """Return a field of an annotation record.

    Raises
    ------
    DatasetError
        When the record is no object, or the field is missing or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        problem = f"the field {name!r} is missing" if value is None else f"the field {name!r} is {value!r}"
        raise DatasetError(problem, where=where, remedy=f"Give it a {kind.__name__}, or drop the record.")
    return value


class _Reader:
    def __init__(self, files: Sequence[Path | None], size: int) -> None:
        self.files, self.size = files, size

    def __call__(self, index: int) -> UInt8[np.ndarray, "size size 3"]:
        path = self.files[index]
        assert path is not None
        return read_image(path, self.size)


def _can_be_read(path: Path | None) -> bool:
    try:
        return path is not None and read_image(path, 8) is not None
    except DatasetError:
        return False
