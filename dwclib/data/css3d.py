"""CSS3D in its published layout, read without trusting the pickle that it comes as (notebook 14)."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dwclib.data import records
from dwclib.data.finder import find_files
from dwclib.data.photos import PhotoTriplets, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.errors import DatasetError, brief, check_choice

SPLITS = ("train", "test")
FILE = "css_toy_dataset_novel2_small.dup.npy"
PARTS = {split: records.Part({"split": split}) for split in SPLITS}
ARRAY = re.compile(r"[<>|=][biufSU]\d{1,4}")  # types whose bytes are numbers or texts
MOST_BITS = 10_000
MOST_OBJECTS = 20_000_000  # more fill the memory of a laptop
STAND_INS = {"numpy.ndarray", "numpy.dtype"} | {
    f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")
}
DATA = {  # the instructions that bring a number or a text
    code.name
    for code in pickletools.opcodes
    if code.arg and not code.stack_before and code.stack_after and code.stack_after[0].obtype is not object
}


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
    (path,) = records.locate(root, FILE)
    where = f"{path}, {split}"
    (content,) = records.fields_of(_read(path), where, **{split: dict})
    identities = _identities(content, where)
    image_ids = _image_ids(split, len(identities))
    return records.assemble(
        list(_queries(content, image_ids, where, path.stat().st_size)),
        image_ids,
        path,
        path,
        name=f"css3d/{split}",
        identities=np.array(identities),
        hit="identity",
        ks=(1,),
        files=find_files(root, image_ids),
    )


def write(folder: Path, drawn: dict[str, SynthFashion]) -> None:
    """Write SynthFashion as PNG and a pickled array in the layout of CSS3D.

    Parameters
    ----------
    folder : which; it is made.
    drawn : the splits.
    """
    for split, dataset in drawn.items():
        write_pictures(folder / "images", dataset, _image_ids(split, len(dataset.image_ids)))
    content = {split: _content(dataset) for split, dataset in drawn.items()}
    np.save(folder / FILE, np.array(content, dtype=object))


def _read(path: Path) -> Any:
    """Return the object in an ``.npy`` file of one object."""
    content = records.read_bytes(path)
    try:
        file = io.BytesIO(content)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is of another version")
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        if shape != () or not kind.hasobject:
            raise ValueError("it is not one pickled object")
        (found,) = _Plain(content[file.tell() :]).content
        return found
    except Exception as error:  # there is little that a damaged pickle does not raise
        raise DatasetError(
            f"the file cannot be read ({str(error) or type(error).__name__})",
            where=path,
            remedy="Fetch it again, from where you trust.",
        ) from error


@dataclass(repr=False)
class _Type:
    """Stands in for numpy's dtype, which would believe a forged state and read numbers as addresses."""

    kind: Any
    order: Any = "="


class _Plain:
    """Reads of a pickle numbers, texts, lists, dicts and numpy's arrays of them, and refuses all else.

    Python's own unpickler can be told to fill the memory, or to hash for ever what is nested. Here an
    instruction makes one object at most, keys are texts or numbers, and arrays are no longer than the file.

    Attributes
    ----------
    content : what was pickled.
    """

    def __init__(self, pickled: bytes) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.room = min(len(pickled), MOST_OBJECTS)
        for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if number == MOST_OBJECTS:
                raise pickle.UnpicklingError(f"it has more than {MOST_OBJECTS:,} objects")
            self._follow(opcode, argument)
        (self.content,) = self.stack

    def _follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follow one of the instructions that Python's `pickletools` describes."""
        stack = self.stack
        match opcode.name:
            case name if name in DATA:
                stack.append(_small(argument))
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_LIST" | "LIST":
                stack.append(self._taken(opcode))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE":
                stack.append(tuple(self._taken(opcode)))
            case "EMPTY_DICT" | "DICT":
                stack.append(_dict(self._taken(opcode)))
            case "APPEND" | "APPENDS":
                items = self._taken(opcode)
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._taken(opcode)
                stack[-1].update(_dict(items))
            case "GLOBAL" | "STACK_GLOBAL":
                stack.append(_named(argument.split(" ") if argument else self._taken(opcode)))
            case "REDUCE":
                called, arguments = self._taken(opcode)
                stack.append(self._made(called, *arguments))
            case "BUILD":
                (state,) = self._taken(opcode)
                if isinstance(stack[-1], _Type):
                    stack[-1].order = state[1]
                else:
                    stack[-1].extend(self._values(state[2], state[4]))
            case name:
                raise pickle.UnpicklingError(f"it asks for {name}, which is not plain data")

    def _taken(self, opcode: pickletools.OpcodeInfo) -> list[Any]:
        """Take from the stack what an instruction uses up: so many items, or all since the last mark."""
        before, filled = opcode.stack_before, opcode.name in ("APPEND", "SETITEM", "BUILD")  # which stays
        marked = pickletools.markobject in before
        first = self.marks.pop() if marked else len(self.stack) - len(before) + filled
        if not 0 <= first <= len(self.stack):
            raise pickle.UnpicklingError(f"it lacks what {opcode.name} takes")
        taken = self.stack[first:]
        del self.stack[first:]
        return taken

    def _made(self, called: Any, *arguments: Any) -> Any:
        match called.split(".")[-1]:
            case "dtype":
                return _Type(arguments[0])
            case "scalar":
                return self._values(*arguments)[0]
            case "_reconstruct":
                return []
        raise pickle.UnpicklingError(f"it calls {called}")

    def _values(self, kind: _Type, data: bytes | str | list[Any]) -> list[Any]:
        """Return what the bytes of an array say; Python 2's come as text."""
        self.room -= len(data)
        if self.room < 0:
            raise pickle.UnpicklingError("its arrays are longer than the file, or than can be held")
        if isinstance(data, list):
            return data
        named = "".join([kind.order, kind.kind])  # refuses what is no text
        if not ARRAY.fullmatch(named):
            raise pickle.UnpicklingError(f"it holds an array of {named}")
        content = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(content, named).tolist()


def _named(parts: list[str]) -> str:
    wanted = ".".join(parts)
    if wanted not in STAND_INS:
        raise pickle.UnpicklingError(f"it asks for {wanted}, which is not plain data")
    return wanted


def _dict(items: list[Any]) -> dict[str | int, Any]:
    """Return a dict of keys and values in turn; a key that is nested could take for ever to hash."""
    if not all(type(key) in (str, int) for key in items[::2]):
        raise pickle.UnpicklingError("a key is neither number nor text")
    return dict(zip(items[::2], items[1::2], strict=True))


def _small(datum: Any) -> Any:
    if isinstance(datum, int) and datum.bit_length() > MOST_BITS:  # Python would not write it down
        raise pickle.UnpicklingError(f"a number has more than {MOST_BITS:,} bits")
    return datum


def _identities(content: dict[str, Any], where: str) -> list[int]:
    """Return which composition each image shows: as its label says, or each its own."""
    (shown,) = records.fields_of(content, where, objects_img=list)
    images = len(shown)
    labels = records.fields_of(content, where, labels=list)[0] if "labels" in content else list(range(images))
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


def _queries(
    content: dict[str, Any], image_ids: Sequence[str], where: str, most: int
) -> Iterator[records.Query]:
    """Yield at most so many triplets: a modification has one text, and as many references as targets."""
    (modifications,) = records.fields_of(content, where, mods=list)
    for number, modification in enumerate(modifications):
        record = f"{where}, modification {number}"
        text, references, targets = records.fields_of(
            modification, record, to_str=str, **{"from": list, "to": list}
        )
        most -= len(references)
        problem = "" if most >= 0 else "there are more triplets than the file has bytes"
        if len(references) != len(targets):
            problem = f"there are {len(references)} references but {len(targets)} targets"
        for image in () if problem else (*references, *targets):
            if type(image) is not int or not 0 <= image < len(image_ids):
                problem = f"there is no image {brief(image)}, only {len(image_ids)}"
        if problem:
            raise DatasetError(problem, where=record, remedy="Fetch it again.")
        for reference, target in zip(references, targets, strict=True):
            yield records.Query(image_ids[reference], image_ids[target], (text,), record)


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
