"""CSS3D in its published layout, read without trusting the pickle that it comes as (notebook 14)."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from reprlib import repr as brief  # never long, never deep, whatever a file holds
from typing import Any, NamedTuple

import numpy as np

from dwclib.data.annotations import MAX_JSON, Count, drawn_splits, field_of
from dwclib.data.photos import PhotoTriplets, count_files, find_files, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.data.triplets import check_captions
from dwclib.errors import DatasetError, check_choice
from dwclib.files import atomic

SPLITS = ("train", "test")
FILE = "css_toy_dataset_novel2_small.dup.npy"


class Query(NamedTuple):
    """A triplet, by the numbers of its images."""

    reference: int
    target: int
    text: str


def load(root: Path, split: str) -> PhotoTriplets:
    """Load a split. What shows the target's composition is a hit; searched are all images of the split.

    Parameters
    ----------
    root : holds ``css_toy_dataset_novel2_small.dup.npy``, and the images in ``images``.
    split : "train" or "test".

    Raises
    ------
    ConfigError
        For an unknown split.
    DatasetError
        For a file that is damaged, or that asks for more than plain data: nothing in it is executed.
    """
    check_choice("split", split, SPLITS, "css3d")
    where = f"{root / FILE}, {split}"
    content = field_of(_read(root / FILE), split, dict, where)
    identities = _identities(content, where)
    queries = list(_queries(content, len(identities), where))
    if not queries:
        raise DatasetError("there is no modification", where=where, remedy="Fetch the file again.")
    image_ids = _image_ids(split, len(identities))
    return PhotoTriplets(
        name=f"css3d/{split}",
        image_ids=image_ids,
        identities=np.array(identities),
        references=np.array([query.reference for query in queries]),
        targets=np.array([query.target for query in queries]),
        captions=tuple((query.text,) for query in queries),
        gallery=np.arange(len(image_ids)),
        hit="identity",
        ks=(1,),
        files=find_files([root / "images"], image_ids),
        annotated=len(queries),
    )


def census(root: Path) -> list[Count]:
    """Count images, compositions and queries; no counts were published with the file."""
    found = []
    for split in SPLITS:
        dataset = load(root, split)
        images = len(dataset.image_ids)
        found += [
            Count(f"{split}: images", images),
            count_files(dataset, split),
            Count(f"{split}: compositions", len(np.unique(dataset.identities))),
            Count(f"{split}: queries", len(dataset)),
        ]
    return found


def write(out: Path, *, seed: int = 0, train: int = 8_000, val: int = 2_000) -> None:
    """Write SynthFashion as PNG and a pickled array in the layout of CSS3D; "val" becomes its "test".

    Parameters
    ----------
    out : folder to make.
    seed, train, val : as `dwclib.data.annotations.drawn_splits` takes them.
    """
    with atomic(out) as folder:
        content = {}
        for drawn, dataset in drawn_splits(seed=seed, train=train, val=val):
            split = "train" if drawn == "train" else "test"
            write_pictures(folder / "images", dataset, _image_ids(split, len(dataset.image_ids)))
            content[split] = _content(dataset)
        np.save(folder / FILE, np.array(content, dtype=object))


class _Type:
    """Stands in for numpy's dtype, which would believe a forged state and read numbers as addresses.

    Every stand-in has a `__setstate__`, or a pickle could set attributes of the class itself.
    """

    def __init__(self, kind: str, *_: object) -> None:
        self.kind, self.order = kind, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def read(self, data: bytes | str) -> list[Any]:
        """Return what the bytes of an array say; Python 2's come as text."""
        if not re.fullmatch(r"[<>|=][biufSU]\d{1,4}", kind := f"{self.order}{self.kind}"):
            raise pickle.UnpicklingError(f"it holds an array of {kind}")
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind).tolist()


class _Scalar(_Type):
    """Stands in for the function that makes numpy's numbers; gives Python's."""

    def __new__(cls, kind: _Type, data: bytes | str) -> Any:
        return kind.read(data)[0]


class _Array(list):
    """Stands in for numpy's array and the function that makes it: a list."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, kind, _, data = state
        self[:] = data if isinstance(data, list) else kind.read(data)


STAND_INS = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Scalar,
    "numpy._core.multiarray.scalar": _Scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    """Makes numbers, texts, lists, dicts and stand-ins, and refuses all else before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}"
        if wanted not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {wanted}, which is not plain data")
        return STAND_INS[wanted]


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has {path.stat().st_size:,} bytes")
        return _unpickled(path.read_bytes())
    except Exception as error:  # there is little that a damaged pickle does not raise
        raise DatasetError(
            f"the file cannot be read ({str(error) or type(error).__name__})",
            where=path,
            remedy="Fetch it again, from where you trust.",
        ) from error


def _unpickled(data: bytes) -> Any:
    """Return the object in an ``.npy`` file of one object."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is of another version")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if shape != () or not kind.hasobject:
        raise ValueError("it is not one pickled object")
    _check_memory(data[file.tell() :])
    (content,) = _PlainUnpickler(file, encoding="latin1").load()
    return content


def _check_memory(pickled: bytes) -> None:
    """Refuse what is cut short, and a memo larger than the file: the unpickler would reserve it."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if opcode.name.endswith("PUT") and int(argument or 0) > number:
            raise pickle.UnpicklingError(f"it has no {argument} objects")


def _identities(content: dict[str, Any], where: str) -> list[int]:
    """Return which composition each image shows: as its label says, or each its own."""
    images = len(field_of(content, "objects_img", list, where))
    labels = field_of(content, "labels", list, where) if "labels" in content else list(range(images))
    if len(labels) != images:
        raise DatasetError(
            f"there are {images} images but {len(labels)} labels", where=where, remedy="Fetch it again."
        )
    numbers: dict[int | str, int] = {}
    for image, label in enumerate(labels):
        if not isinstance(label, int | str):
            raise DatasetError(
                f"the label is a {type(label).__name__}, neither number nor text",
                where=f"{where}, image {image}",
                remedy="Fetch it again.",
            )
    return [numbers.setdefault(label, len(numbers)) for label in labels]


def _queries(content: dict[str, Any], images: int, where: str) -> Iterator[Query]:
    """Yield the triplets: a modification has one text, and as many references as targets."""
    for number, mod in enumerate(field_of(content, "mods", list, where)):
        record = f"{where}, modification {number}"
        text = field_of(mod, "to_str", str, record)
        check_captions([text], record)
        references, targets = (field_of(mod, role, list, record) for role in ("from", "to"))
        if len(references) != len(targets):
            raise DatasetError(
                f"there are {len(references)} references but {len(targets)} targets",
                where=record,
                remedy="Fetch it again.",
            )
        for image in (*references, *targets):
            if type(image) is not int or not 0 <= image < images:
                raise DatasetError(
                    f"there is no image {brief(image)}, only {images}", where=record, remedy="Fetch it again."
                )
        yield from (
            Query(reference, target, text) for reference, target in zip(references, targets, strict=True)
        )


def _image_ids(split: str, images: int) -> tuple[str, ...]:
    return tuple(f"css_{split}_{image:06d}" for image in range(images))


def _content(dataset: SynthFashion) -> dict[str, Any]:
    pairs: dict[str, tuple[list[int], list[int]]] = {}
    for reference, target, text in zip(dataset.references, dataset.targets, dataset.texts(), strict=True):
        references, targets = pairs.setdefault(text, ([], []))
        references.append(int(reference))
        targets.append(int(target))
    return {
        "objects_img": [[asdict(dataset.garment(image))] for image in range(len(dataset.image_ids))],
        "labels": dataset.identities.tolist(),
        "mods": [
            {"from": references, "to": targets, "to_str": text}
            for text, (references, targets) in pairs.items()
        ],
    }
