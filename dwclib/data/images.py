"""A store of images that are made once: one uint8 array on disk, filled in parallel, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dwclib.data.triplets import check_image_ids
from dwclib.errors import DatasetError
from dwclib.files import atomic

CHUNK = 500  # images that one task makes, and that an interruption can lose
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
        When the file is cut short or is no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"the image cannot be read ({error})", where=path, remedy="Fetch the file again or remove it."
        ) from error
    return np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))


def image_store(
    path: Path, make: Callable[[int], UInt8[np.ndarray, "size size 3"]], count: int, *, workers: int = -1
) -> UInt8[np.ndarray, "count size size 3"]:
    """Return the images of the store at `path`, read-only from disk; make the missing ones first.

    Parameters
    ----------
    path : an ``.npy`` file; its name should change whenever its content would.
    make : gives image number i. It runs in other processes, so it must be picklable.
    count : number of images.
    workers : processes, -1 for one per core.

    Finished chunks wait beside the store, so a stopped run goes on where it was; the store itself
    appears in one rename.
    """
    from joblib import Parallel, delayed

    if not path.exists():
        parts = path.with_suffix(".parts")
        starts = range(0, count, CHUNK)
        tasks = (delayed(_make_chunk)(parts / f"{a:08d}.npy", make, a, min(a + CHUNK, count)) for a in starts)
        Parallel(n_jobs=workers)(tasks)
        _join_chunks(path, sorted(parts.glob("*.npy")), count)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def stored_folder(
    path: Path, folder: Path, image_ids: Sequence[str], size: int, *, workers: int = -1
) -> UInt8[np.ndarray, "count size size 3"]:
    """Return the store of the images of a folder, in the order of `image_ids`, decoded once."""
    return image_store(path, _Reader(folder, tuple(image_ids), size), len(image_ids), workers=workers)


class _Reader:
    def __init__(self, folder: Path, image_ids: tuple[str, ...], size: int) -> None:
        self.folder, self.image_ids, self.size = folder, image_ids, size

    def __call__(self, index: int) -> UInt8[np.ndarray, "size size 3"]:
        return read_image(find_image(self.folder, self.image_ids[index]), self.size)


def _make_chunk(
    path: Path, make: Callable[[int], UInt8[np.ndarray, "size size 3"]], first: int, last: int
) -> None:
    if path.exists():
        return
    images = np.stack([make(index) for index in range(first, last)])
    _save(path, images)


def _join_chunks(path: Path, parts: list[Path], count: int) -> None:
    first = np.load(parts[0], mmap_mode="r", allow_pickle=False)
    with atomic(path) as target:
        whole = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(count, *first.shape[1:]))
        for number, part in enumerate(parts):
            chunk = np.load(part, allow_pickle=False)
            whole[number * CHUNK : number * CHUNK + len(chunk)] = chunk
        whole.flush()
    for part in parts:
        part.unlink()
    parts[0].parent.rmdir()


def _save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as target, target.open("wb") as file:
        np.save(file, array, allow_pickle=False)
