"""Triplets whose images are files: what every loader of a real dataset returns (notebook 14)."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int, UInt8

from dwclib.data.annotations import Count
from dwclib.data.images import ENDINGS, ImageFolder, image_store, read_image
from dwclib.data.triplets import Triplets
from dwclib.errors import DatasetError
from dwclib.files import atomic, cache_folder, fingerprint

if TYPE_CHECKING:
    from dwclib.data.synthfashion import SynthFashion


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

        An image that nothing needs may be missing; it is black.

        Raises
        ------
        DatasetError
            When an image is missing or cannot be read that a query, the gallery or a subset needs.
        """
        self.check_complete()
        damaged = {self.image_ids[image]: problem for image, problem in self._damaged.items()}
        self._refuse(damaged, "cannot be read")
        return self._store.pictures

    @property
    def missing(self) -> list[str]:
        """The ids of images without a file that a query, the gallery or a subset needs."""
        return [self.image_ids[image] for image in self._needed if self.files[image] is None]

    def check_complete(self) -> None:
        """Raise DatasetError where images are missing; it names a file in which all of them are listed."""
        self._refuse(dict.fromkeys(self.missing, "there is no file"), "are missing")

    def complete(self) -> PhotoTriplets:
        """Return what can be used: no query, gallery or subset with an image that is missing or damaged.

        Every image is decoded to know it; the decoded images are kept for the result.
        """
        usable = np.array([path is not None for path in self.files])
        usable[list(self._damaged)] = False
        rows = np.flatnonzero(usable[self.references] & usable[self.targets])
        members = self.members
        if members is not None:
            members = np.where(usable[members[rows]], members[rows], -1)
        return replace(
            self,
            references=self.references[rows],
            targets=self.targets[rows],
            captions=tuple(self.captions[row] for row in rows),
            gallery=self.gallery[usable[self.gallery]],
            members=members,
        )

    def standing(self) -> str:
        """Say on how many of the annotated queries a metric stands."""
        return f"{len(self)} of {self.annotated} queries"

    @property
    def _needed(self) -> Int[np.ndarray, " needed"]:
        roles = [self.references, self.targets, self.gallery]
        needed = np.unique(
            np.concatenate([*roles, *([] if self.members is None else [self.members.ravel()])])
        )
        return needed[needed >= 0]

    @cached_property
    def _store(self) -> ImageFolder:
        there = [(str(path), path.stat().st_mtime_ns) if path else None for path in self.files]
        key = fingerprint(there, self.size)
        path, make = cache_folder("photos") / f"{key}.npy", _Reader(self.files, self.size)
        return image_store(path, make, len(self.files), self.size, identity=key, strict=False)

    @property
    def _damaged(self) -> dict[int, str]:
        """Needed images whose file is there and cannot be read, and what is wrong with each."""
        needed = set(self._needed.tolist())
        wrong = self._store.unreadable.items()
        return {image: problem for image, problem in wrong if image in needed and self.files[image]}

    def _refuse(self, problems: Mapping[str, str], what: str) -> None:
        if not problems:
            return
        listed = cache_folder("missing") / f"{self.name.replace('/', '-')}.json"
        with atomic(listed) as target:
            target.write_text(json.dumps(problems, indent=1), encoding="utf-8")
        first, problem = next(iter(problems.items()))
        raise DatasetError(
            f"{len(problems)} of {len(self.files)} images {what}, the first is {first!r} ({problem})",
            where=self.name,
            remedy=f"All are listed in {listed}. Fetch them, or drop their triplets: missing: drop.",
        )


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


def count_files(dataset: PhotoTriplets, what: str) -> Count:
    """Count the images of a dataset that have a file, beside all that its annotations list."""
    files = dataset.files
    return Count(f"{what}: images with a file", len(files) - files.count(None), len(files))


def without_ending(name: str) -> str:
    """Return an image's path without ``.png`` and the like; what else follows a dot is part of its name."""
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix.lower() in ENDINGS else path) if name else ""


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


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):  # not there, or a damaged id whose folder no system could have
        return []


class _Reader:
    def __init__(self, files: Sequence[Path | None], size: int) -> None:
        self.files, self.size = files, size

    def __call__(self, index: int) -> UInt8[np.ndarray, "size size 3"]:
        if (path := self.files[index]) is None:
            raise DatasetError("there is no file", where=f"image {index}", remedy="Fetch it.")
        return read_image(path, self.size)
