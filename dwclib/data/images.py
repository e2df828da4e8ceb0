"""Photos as cameras and shops make them, and a store of images that are made once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from dwclib.errors import DatasetError
from dwclib.files import atomic, fingerprint, writable

if TYPE_CHECKING:
    from PIL import Image

PATIENCE = 3.0  # seconds after which the making of images shows a bar
CHUNK = 500  # images that one task makes, and that an interruption can lose
MAX_PIXELS = 80_000_000  # more is no photo but an attack, or a mistake: decoding it takes 320 MB
MAX_SIDE = 65_535  # pixels, the most that JPEG can say: each row takes memory of its own
# Raster formats alone: others are programs. AVIF stands last, for not every Pillow can read it.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def read_image(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Read a photo, upright, over white where it is transparent, of an animation the first frame.

    Its shorter side is brought to `size` (bicubic) and its centre cut out, on whole pixels: what open_clip's
    preparation gives of a picture in RGB, equal in every pixel.

    Raises
    ------
    DatasetError
        When it is no file, damaged, of another kind than `FORMATS`, beyond `MAX_SIDE`, or beyond `MAX_PIXELS`
        as it is or once it is resized.
    """
    from PIL import Image

    remedy = "Fetch the file again, save it as JPEG or PNG, or remove it."
    try:
        with warnings.catch_warnings(action="ignore"):
            return np.asarray(_square(_decoded(path), size))
    except Exception as error:  # there is little that a damaged photo does not raise
        problem = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            problem = f"it is none of {', '.join(FORMATS)}"
        elif isinstance(error, Image.DecompressionBombError) or "MAX_TEXT" in problem:
            problem += f": the limits are {MAX_PIXELS:,} pixels, {MAX_SIDE:,} a side, and 1 MB of text"
            remedy = "Save it smaller, and without its texts."
        elif may_pass(error):
            remedy = "Try again, and see that you may read it."
        raise DatasetError(f"the image cannot be read ({problem})", where=path, remedy=remedy) from error


def may_pass(error: BaseException | None) -> bool:
    """Return whether a file could be read at another time: the system failed, not what the file holds."""
    if isinstance(error, OSError):  # Pillow's own have no number
        return error.errno is not None and not isinstance(error, FileNotFoundError)
    return isinstance(error, MemoryError)


def _decoded(path: Path) -> Image.Image:
    from PIL import Image, ImageOps

    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is a folder, a pipe or a device")  # which could be waited for without end
    with Image.open(path, formats=FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS or max(opened.size) > MAX_SIDE:
            raise Image.DecompressionBombError(f"it has {opened.width:,} x {opened.height:,} pixels")
        opened.load()
        with contextlib.suppress(Exception):  # a damaged note beside the pixels is no reason to refuse them
            ImageOps.exif_transpose(opened, in_place=True)
        return _flat(opened)


def _square(picture: Image.Image, size: int) -> Image.Image:
    """Return a picture's middle, its shorter side brought to a size, rounded as torchvision rounds."""
    from PIL import Image

    short = min(picture.size)
    width, height = (int(size * side / short) for side in picture.size)
    if width * height > MAX_PIXELS:  # it is narrow, and grows
        raise Image.DecompressionBombError(f"brought to {size} it has {width:,} x {height:,} pixels")
    left, top = round((width - size) / 2), round((height - size) / 2)
    whole = picture.resize((width, height), Image.Resampling.BICUBIC)
    return whole.crop((left, top, left + size, top + size))


def _flat(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB of 8 bits."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("its grey has 32 bits, and nothing says which is white")
    if picture.has_transparency_data:
        above, picture = picture.convert("RGBA"), Image.new("RGB", picture.size, "white")
        picture.paste(above, mask=above)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


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
    workers: int = -1,
) -> ImageFolder:
    """Return the images of the store at `path`; make the missing ones first, with a bar when that takes long.

    Parameters
    ----------
    path : an ``.npy`` file, named by what its images are made of; a description is kept beside it.
    make : gives image number i, or raises DatasetError. It runs in other processes, so it must be picklable.
    count : number of images.
    size : their width and height in pixels.
    workers : processes, -1 for one per core.

    Raises
    ------
    ConfigError
        When the store cannot be written.

    Finished chunks wait in a folder beside the store, so a stopped run goes on where it was; the store itself
    appears in one rename. While an image could not be read for a reason that may pass, it does not appear,
    and that image's chunk is made again next time.

    A damaged store is made anew. The header, the length and the description's checksum are compared whenever
    it is opened, checksums of the images when its time stamp is not the one that it was given.
    """
    from filelock import FileLock

    whole = _Whole(path, (count, size, size, 3))
    remedy = "Make room there, or name another folder in DWC_CACHE."
    with writable(path.parent, remedy), FileLock(path.with_suffix(".lock")):
        unreadable = whole.verified()
        if unreadable is None:
            whole, unreadable = _make(whole, make, workers)
        pictures = np.load(whole.path, mmap_mode="r")
        return ImageFolder(pictures, {int(number): why for number, why in unreadable.items()})


class _Whole(NamedTuple):
    """An ``.npy`` file of images."""

    path: Path
    shape: tuple[int, int, int, int]

    def images(self) -> np.memmap | None:
        """Map the file; None where there is none, or one of another form."""
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):  # a damaged header
            found = np.load(self.path, mmap_mode="r")
            if (found.shape, found.dtype, found.flags.c_contiguous) == (self.shape, np.uint8, True):
                return found
        return None

    def begin(self) -> None:
        """Put a file of black images into the place, unless one is there."""
        if self.images() is None:
            shutil.rmtree(self.path.parent, ignore_errors=True)  # notes of another file
            with atomic(self.path) as target:
                np.lib.format.open_memmap(target, "w+", np.uint8, self.shape)

    def chunks(self) -> list[slice]:
        return [slice(first, first + CHUNK) for first in range(0, self.shape[0], CHUNK)]

    def describe(self, file: Path, checksums: list[int], unreadable: dict[str, str]) -> None:
        """Write the description, before the file takes its place.

        The file's time stamp is put back by ten seconds, so that no later write can leave the same.
        """
        past = time.time_ns() - 10 * 10**9
        os.utime(file, ns=(past, past))
        content = {"checksums": checksums, "unreadable": unreadable, "stamp": file.stat().st_mtime_ns}
        _write_note(self.path.with_suffix(".json"), content)

    def verified(self) -> dict[str, str] | None:
        """Return what could not be read of a store that is there and undamaged; None for any other."""
        note, images = _read_note(self.path.with_suffix(".json")), self.images()
        if note is None or images is None:
            return None
        if note["stamp"] != self.path.stat().st_mtime_ns:
            if note["checksums"] != [zlib.crc32(images[chunk].data) for chunk in self.chunks()]:
                return None
            self.describe(self.path, note["checksums"], note["unreadable"])
        return note["unreadable"]


def _make(whole: _Whole, make: Any, workers: int) -> tuple[_Whole, dict[str, str]]:
    """Make the images that are missing, and the store of them; it stays unfinished where that may help."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    unfinished = whole._replace(path=whole.path.with_suffix(".parts") / "whole.npy")
    unfinished.begin()
    chunks = whole.chunks()
    made = Parallel(n_jobs=workers, return_as="generator")(
        delayed(_make_chunk)(unfinished, make, chunk) for chunk in chunks
    )
    notes = list(tqdm(made, "images", len(chunks), unit_scale=CHUNK, delay=PATIENCE))
    unreadable = {number: why for note in notes for number, why in note["unreadable"].items()}
    if any(note["may pass"] for note in notes):
        return unfinished, unreadable
    whole.describe(unfinished.path, [note["checksum"] for note in notes], unreadable)
    unfinished.path.replace(whole.path)
    shutil.rmtree(unfinished.path.parent)
    return whole, unreadable


def _make_chunk(whole: _Whole, make: Any, chunk: slice) -> dict[str, Any]:
    """Return the note of a chunk, which is made unless its images are there as the note says."""
    path = whole.path.with_name(f"{chunk.start:08d}.json")
    note, images = _read_note(path), np.load(whole.path, mmap_mode="r")
    if note is not None and note["checksum"] == zlib.crc32(images[chunk].data):
        return note
    note = {"checksum": 0, "unreadable": {}, "may pass": False}
    with whole.path.open("r+b") as file:  # which tells of a full disk, as the map would not
        file.seek(images.offset + chunk.start * images[0].nbytes)
        for number in range(*chunk.indices(len(images))):
            image = np.zeros(images.shape[1:], np.uint8)
            try:
                image[:] = make(number)
            except DatasetError as error:
                note["unreadable"][str(number)] = str(error)
                note["may pass"] |= may_pass(error.__cause__)
            file.write(image.data)
            note["checksum"] = zlib.crc32(image.data, note["checksum"])
    if not note["may pass"]:
        _write_note(path, note)
    return note


def _write_note(path: Path, content: dict[str, Any]) -> None:
    with atomic(path) as target:
        target.write_text(json.dumps([fingerprint(content), content]), encoding="utf-8")


def _read_note(path: Path) -> dict[str, Any] | None:
    """Return what a note says, None where it is missing or damaged."""
    try:
        checksum, content = json.loads(path.read_bytes())
        return content if checksum == fingerprint(content) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
