"""Triplets whose images are files: what every loader of a real dataset returns (notebook 14)."""

from __future__ import annotations

import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from dwclib.data.images import ENDINGS, image_store, read_image
from dwclib.data.triplets import Triplets
from dwclib.errors import ConfigError, DatasetError
from dwclib.files import atomic, cache_folder, fingerprint

if TYPE_CHECKING:
    from dwclib.data.synthfashion import SynthFashion

MAX_JSON = 512 * 2**20  # bytes: more is no annotation file


class Count(NamedTuple):
    """One line of a dataset's census: what was counted, what was found, and what was published."""

    what: str
    found: int
    published: int | None = None

    @property
    def differs(self) -> bool:
        """Whether something else was published."""
        return self.published not in (None, self.found)


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
    names = [posixpath.normpath(name) for name in image_ids]
    there: dict[str, str] = {}
    for folder in reversed(folders):
        for part in set(map(posixpath.dirname, names)):
            below = f"{part}/" if part else ""
            for file in _listing(folder / part):
                stem, ending = os.path.splitext(file)
                if ending.lower() in ENDINGS:
                    there[below + stem] = f"{folder}/{below}{file}"
    return tuple(Path(there[name]) if name in there else None for name in names)


def without_ending(name: str) -> str:
    """Return an image's path without ``.png`` and the like; what else follows a dot is part of its name."""
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix.lower() in ENDINGS else path) if name else ""


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


def check_choice(name: str, value: object, choices: Sequence[str], where: str) -> None:
    """Raise ConfigError unless an option of a loader has one of its values."""
    if value not in choices:
        raise ConfigError(f"there is no {name} {value!r}", where=where, remedy=f"Use {', '.join(choices)}.")


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


def write_pictures(
    folder: Path, dataset: SynthFashion, names: Sequence[str] | None = None, ending: str = ".png"
) -> None:
    """Write a dataset's pictures as files.

    Parameters
    ----------
    folder : where to; made when it is not there.
    dataset : what has `pictures`.
    names : one per picture, without the ending, plain or a path below the folder; `image_ids` by default.
    ending : of the files, which says how they are compressed: one of `ENDINGS`.
    """
    from PIL import Image

    for name, picture in zip(names or dataset.image_ids, dataset.pictures, strict=True):
        path = folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


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


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):  # not there, or a damaged id whose folder no system could have
        return []


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
