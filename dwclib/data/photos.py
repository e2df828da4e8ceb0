"""Triplets whose images are files: what every loader of a real dataset returns (notebook 14)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, UInt8

from dwclib.code import meaning_of
from dwclib.data import images
from dwclib.data.images import ImageFolder, image_store, read_image
from dwclib.data.triplets import Triplets
from dwclib.errors import DatasetError
from dwclib.files import cache_folder, fingerprint, write_json

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

        Raises
        ------
        DatasetError
            When no query is left; where files are missing, before any is decoded.
        """
        usable = np.array([path is not None for path in self.files])
        self._rows(usable)
        usable[list(self._damaged)] = False
        rows = self._rows(usable)
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

    def for_training(self) -> PhotoTriplets:
        """Return it without the images that no triplet needs: nothing is searched in training."""
        return replace(self, gallery=np.union1d(self.references, self.targets), members=None)

    def standing(self) -> str:
        """Say on how many of the annotated queries a metric stands."""
        return f"{len(self)} of {self.annotated} queries"

    def dropped(self) -> str:
        """Say how many of the annotated triplets are left out; nothing where all are there."""
        lost = self.annotated - len(self)
        why = "an image is missing, damaged or in no list, or the text is empty"
        return f"{self.name}: {lost:,} of {self.annotated:,} triplets are left out ({why})." if lost else ""

    def _rows(self, usable: Bool[np.ndarray, " images"]) -> Int[np.ndarray, " rows"]:
        rows = np.flatnonzero(usable[self.references] & usable[self.targets])
        if not len(rows):
            there = usable[self._needed]
            problem = f"no triplet has both its images: {there.sum():,} of {len(there):,} can be used"
            remedy = "Name the folder that holds the photos, or fetch them."
            raise DatasetError(problem, where=self.name, remedy=remedy)
        return rows

    @property
    def _needed(self) -> Int[np.ndarray, " needed"]:
        members = [] if self.members is None else [self.members.ravel()]
        needed = np.unique(np.concatenate([self.references, self.targets, self.gallery, *members]))
        return needed[needed >= 0]

    @cached_property
    def _store(self) -> ImageFolder:
        key = fingerprint(list(map(_state, self.files)), self.size, meaning_of(Path(images.__file__)))
        make = partial(_read, self.files, self.size)
        return image_store(cache_folder("photos") / f"{key}.npy", make, len(self.files), self.size)

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
        write_json(listed, problems)
        first, why = next(iter(problems.items()))
        problem = f"{len(problems)} of {len(self.files)} images {what}, the first is {first!r} ({why})"
        remedy = f"All are listed in {listed}. Fetch them, or drop their triplets: missing: drop."
        raise DatasetError(problem, where=self.name, remedy=remedy)


def write_pictures(
    folder: Path, dataset: SynthFashion, names: Sequence[str] | None = None, ending: str = ".png"
) -> None:
    """Write a dataset's pictures as files.

    Parameters
    ----------
    folder : where to; made when it is not there.
    dataset : what has `pictures`.
    names : one per picture, without the ending, plain or a path below the folder; `image_ids` by default.
    ending : of the files, which says how they are compressed: ``.png``, ``.jpg`` or ``.jpeg``.
    """
    from PIL import Image

    for name, picture in zip(names or dataset.image_ids, dataset.pictures, strict=True):
        path = folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def _state(path: Path | None) -> list[object]:
    """Return what is another when a file has been replaced, even by one with its old time stamp."""
    try:
        state = os.stat(path or "")
    except OSError:  # no file, or a link to nowhere
        return [str(path)]
    return [str(path), state.st_size, state.st_mtime_ns]


def _read(files: Sequence[Path | None], size: int, index: int) -> UInt8[np.ndarray, "size size 3"]:
    if (path := files[index]) is None:
        raise DatasetError("there is no file", where=f"image {index}", remedy="Fetch it.")
    return read_image(path, size)
