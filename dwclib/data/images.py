"""A store of images that are made once: one uint8 array on disk, filled in parallel, resumable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from dwclib.data.triplets import check_image_ids
from dwclib.errors import DatasetError
from dwclib.files import atomic, fingerprint

CHUNK = 500  # images that one task makes, and that an interruption can lose
MAX_PIXELS = 80_000_000  # more is no photo but an attack, or a mistake: decoding it takes 240 MB
ENDINGS = (".png", ".jpg", ".jpeg")


def find_image(folder: Path, image_id: str) -> Path:
    """Return the file of an image.

    Raises
    ------
    DatasetError
        When the id leaves `folder`, or no file with one of `ENDINGS` is there.
    """
    check_image_ids([image_id], str(folder))
    for ending in ENDINGS:
        path = folder / (image_id + ending)
        if path.is_file():
            return path
    raise DatasetError(
        f"there is no image {image_id!r}",
        where=folder,
        remedy=f"Put a file with the ending {', '.join(ENDINGS)} there, or drop the triplets that use it.",
    )


def read_image(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Read, resize the shorter side to `size` (bicubic) and cut the centre, as CLIP's preprocessing does.

    Raises
    ------
    DatasetError
        When the file is cut short, has more than `MAX_PIXELS`, or is no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise OSError(f"it has {opened.width} x {opened.height} pixels")
            picture = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"the image cannot be read ({error})", where=path, remedy="Fetch the file again or remove it."
        ) from error
    return np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))


class ImageFolder(NamedTuple):
    """The images of a folder, in the order that was asked for.

    Fields
    ------
    pictures : (images, size, size, 3), read-only from disk; black where an image could not be read.
    unreadable : image number -> what was wrong with it.
    """

    pictures: UInt8[np.ndarray, "images size size 3"]
    unreadable: dict[int, str]


def image_store(
    path: Path,
    make: Callable[[int], UInt8[np.ndarray, "size size 3"]],
    count: int,
    size: int,
    *,
    identity: str = "",
    strict: bool = True,
    workers: int = -1,
) -> ImageFolder:
    """Return the images of the store at `path`; make the missing ones first.

    Parameters
    ----------
    path : an ``.npy`` file; a description is kept beside it.
    make : gives image number i. It runs in other processes, so it must be picklable.
    count : number of images.
    size : their width and height in pixels.
    identity : of what the images are made; a store of something else is refused.
    strict : raise where `make` does, instead of keeping a list.
    workers : processes, -1 for one per core.

    Raises
    ------
    DatasetError
        When the store at `path` is another's, or `strict` and an image cannot be made.

    Finished chunks wait in a folder beside the store, so a stopped run goes on where it was; the store
    itself appears in one rename.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    key = fingerprint(identity, count, size)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            whole = path.with_suffix(f".{key}.parts") / "whole.npy"
            _make_chunks(whole, make, count, size, strict, workers)
            _finish(path, whole, key)
    unreadable = _read_description(path, key)
    if strict and unreadable:
        number, problem = next(iter(unreadable.items()))
        raise DatasetError(
            f"{len(unreadable)} images cannot be read; the first is number {number}: {problem}",
            where=path,
            remedy="Mend them and delete the store, or drop the triplets that use them.",
        )
    return ImageFolder(np.load(path, mmap_mode="r", allow_pickle=False), unreadable)


def stored_folder(
    path: Path, folder: Path, image_ids: Sequence[str], size: int, *, strict: bool = False, workers: int = -1
) -> ImageFolder:
    """Return the images of a folder, in the order of `image_ids`, decoded once.

    Parameters
    ----------
    path, size, strict, workers : as `image_store` takes them.
    folder : where ``<image id>.png`` (or .jpg, .jpeg) are.
    image_ids : which images.
    """
    return image_store(
        path,
        _Reader(folder, tuple(image_ids), size),
        len(image_ids),
        size,
        identity=fingerprint(list(image_ids)),
        strict=strict,
        workers=workers,
    )


class _Reader:
    def __init__(self, folder: Path, image_ids: tuple[str, ...], size: int) -> None:
        self.folder, self.image_ids, self.size = folder, image_ids, size

    def __call__(self, index: int) -> UInt8[np.ndarray, "size size 3"]:
        return read_image(find_image(self.folder, self.image_ids[index]), self.size)


def _make_chunks(whole: Path, make: Any, count: int, size: int, strict: bool, workers: int) -> None:
    """Write the images into one file, chunk by chunk; beside it, each finished chunk leaves a note."""
    from joblib import Parallel, delayed

    if not whole.exists():
        shutil.rmtree(whole.parent, ignore_errors=True)  # notes of another file
        with atomic(whole) as target:
            np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    chunks = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    Parallel(n_jobs=workers)(delayed(_make_chunk)(whole, make, chunk, strict) for chunk in chunks)


def _make_chunk(whole: Path, make: Any, numbers: range, strict: bool) -> None:
    note = whole.with_name(f"{numbers.start:08d}.json")
    if note.exists():
        return
    images, unreadable = np.load(whole, mmap_mode="r", allow_pickle=False), {}
    with whole.open("r+b") as file:
        file.seek(images.offset + numbers.start * images.strides[0])
        for number in numbers:
            image = np.zeros(images.shape[1:], np.uint8)
            try:
                image[:] = make(number)
            except DatasetError as error:
                if strict:
                    raise
                unreadable[number] = str(error)
            file.write(image.data)
    with atomic(note) as target:
        target.write_text(json.dumps(unreadable), encoding="utf-8")


def _finish(path: Path, whole: Path, key: str) -> None:
    """Put the store, whose chunks are all there, into its place, after its description."""
    unreadable: dict[str, str] = {}
    for note in sorted(whole.parent.glob("*.json")):
        unreadable |= json.loads(note.read_text(encoding="utf-8"))
    with atomic(path.with_suffix(".json")) as description:
        text = json.dumps({"key": key, "unreadable": unreadable}, indent=1)
        description.write_text(text, encoding="utf-8")
    whole.replace(path)
    shutil.rmtree(whole.parent)


def _read_description(path: Path, key: str) -> dict[int, str]:
    description = path.with_suffix(".json")
    found = json.loads(description.read_text(encoding="utf-8")) if description.exists() else {}
    if found.get("key") != key:
        raise DatasetError(
            "the image store was made from other images, or in another size",
            where=path,
            remedy="Name another file, or delete this one to make it anew.",
        )
    return {int(number): problem for number, problem in found["unreadable"].items()}
