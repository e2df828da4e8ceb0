"""Photos found by name, wherever they lie below a folder and whatever their ending (notebook 14)."""

from __future__ import annotations

import filecmp
import os
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dwclib.errors import DatasetError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".heic")
_ENDING = re.compile(rf"(?<=[^/])({'|'.join(map(re.escape, ENDINGS))}){{1,2}}\Z", re.IGNORECASE)


class Photo(NamedTuple):
    """A file that may be a photo.

    Fields
    ------
    name : its path below the folder that was looked through, as `without_ending` gives it.
    path : where it lies.
    """

    name: str
    path: str


def without_ending(name: str) -> str:
    """Return an image's path without ``.png`` and the like; what else follows a dot is part of its name.

    Tools that save twice write ``.jpg.jpg``; macOS takes accents off their letters. Both are undone.
    """
    name = unicodedata.normalize("NFC", _ENDING.sub("", name))
    return str(PurePosixPath(name)) if "./" in name or "//" in name else name


def photos_below(folder: Path) -> Iterator[Photo]:
    """Yield the files of a folder and of all below it, those without an ending among them.

    Links to folders are followed, after all else, and each folder is looked through once. What begins with a
    dot is passed over, as it is by a file manager, and so is a folder that may not be read.

    Raises
    ------
    DatasetError
        When a folder cannot be read for another reason than its permissions.
    """
    waiting, seen = deque([(str(folder), "")]), set[tuple[int, int]]()
    while waiting:
        path, below = waiting.popleft()
        for entry in _entries(path, seen):
            is_link = entry.is_symlink()
            if not (os.path.isdir(entry.path) if is_link else entry.is_dir()):
                yield Photo(below + without_ending(entry.name), entry.path)
            else:
                within = entry.path, unicodedata.normalize("NFC", f"{below}{entry.name}/")
                (waiting.append if is_link else waiting.appendleft)(within)


def find_files(
    root: Path, image_ids: Sequence[str], *, beside: Iterable[str] = (), prefer: str = ""
) -> tuple[Path | None, ...]:
    """Return the file of each image id, wherever it lies below a folder; None for none.

    Parameters
    ----------
    root : is looked through once, so that tens of thousands of ids are found in a second.
    image_ids : plain names, or paths with which the files' paths must end; an ending does not count.
    beside : names of folders beside `root`, looked through for what is not in it.
    prefer : where an id has several files, those in a folder of this name count, such as a category's.

    Raises
    ------
    DatasetError
        When an id has several files that differ; the message names two.
    """
    names = [without_ending(name) for name in image_ids]
    found: dict[str, str] = {}
    for place in places(root, beside):
        lacking = set(names).difference(found)
        found |= _found(place, lacking, prefer) if lacking else {}
    return tuple(Path(found[name]) if name in found else None for name in names)


def places(root: Path, beside: Iterable[str] = ()) -> list[Path]:
    """Return the folders that `find_files` looks through, links in them followed: to say where it looked."""
    root = root.absolute()
    return [root, *(root.parent / name for name in beside)]


def _entries(folder: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, in order; nothing the second time, for links can lead in a circle."""
    try:
        state = os.stat(folder)
        if (known := (state.st_dev, state.st_ino)) in seen:
            return []
        seen.add(known)
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problem = f"the folder cannot be read ({error.strerror})"
        raise DatasetError(problem, where=folder, remedy="Try again, or move it away.") from error


def _found(place: Path, names: set[str], prefer: str) -> dict[str, str]:
    """Return where the named photos lie that are below a folder."""
    by_stem: dict[str, list[Photo]] = {_stem(name): [] for name in names}
    for photo in photos_below(place):
        if (stem := _stem(photo.name)) in by_stem:
            by_stem[stem].append(photo)
    found = {name: _fitting(name, by_stem[_stem(name)], place.name, prefer) for name in names}
    if several := sorted(name for name, paths in found.items() if len(paths) > 1 and not _same(paths)):
        problem = f"the image {several[0]!r} has several files that differ"
        problem += f", and so have {len(several) - 1} others"
        where = " and ".join(sorted(found[several[0]])[:2])
        raise DatasetError(problem, where=where, remedy="Keep one of each.")
    return {name: paths[0] for name, paths in found.items() if paths}


def _stem(name: str) -> str:
    return name.rpartition("/")[2]


def _fitting(name: str, photos: list[Photo], place: str, prefer: str) -> list[str]:
    """Return the files whose path ends with a name; preferred ones alone where there are any."""
    fitting = [photo for photo in photos if f"/{place}/{photo.name}".endswith(f"/{name}")]
    preferred = [photo for photo in fitting if f"/{prefer}/" in f"/{photo.name}"]
    return [photo.path for photo in preferred or fitting]


def _same(paths: list[str]) -> bool:
    try:
        return all(filecmp.cmp(paths[0], path, shallow=False) for path in paths[1:])
    except OSError:  # a link to nowhere
        return False
