"""CSS3D in its published layout, read without trusting the pickle that it comes as (notebook 14)."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from dwclib.data import records
from dwclib.data.finder import find_files
from dwclib.data.photos import PhotoTriplets, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.errors import DatasetError, brief, check_choice
from dwclib.files import bytes_of

SPLITS = ("train", "test")
FILE = "css_toy_dataset_novel2_small.dup.npy"
PARTS = {split: records.Part({"split": split}) for split in SPLITS}
ARRAY = re.compile(r"[<>|=][biufSU]\d{1,4}")  # types whose bytes are numbers or texts
MOST_OBJECTS = 20_000_000  # more fill the memory of a laptop
# Instructions of a pickle that make a number, a text, a list, a tuple, a dict, or what numpy's arrays need.
# Numbers beyond those of LONG1 are refused: the longest of them Python itself would not print.
PLAIN = frozenset(
    re.findall(
        r"\w+",
        """PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT PUT BINGET LONG_BINGET GET NONE NEWTRUE NEWFALSE
        INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE
        BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST LIST
        APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
        GLOBAL STACK_GLOBAL REDUCE BUILD""",
    )
)


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
        identities=identities,
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
    content = records.read(path, bytes_of)
    try:
        file = io.BytesIO(content)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is of another version")
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        if shape != () or not kind.hasobject:
            raise ValueError("it is not one pickled object")
        (found,) = _Plain(content[file.tell() :]).load()
        return found
    except Exception as error:  # there is little that a damaged pickle does not raise
        problem = f"the file cannot be read ({str(error) or type(error).__name__})"
        raise DatasetError(problem, where=path, remedy="Fetch it again, from where you trust.") from error


@dataclass(repr=False)
class _Type:
    """Stands in for numpy's dtype, which would believe a forged state and read numbers as addresses."""

    kind: Any
    order: Any = "="


class _Dict(dict[str | int, Any]):
    """A dict that refuses a key that is nested, which could take for ever to hash."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) not in (str, int):
            raise pickle.UnpicklingError("a key is neither number nor text")
        super().__setitem__(key, value)


class _Plain(pickle._Unpickler):
    """Reads of a pickle numbers, texts, lists, dicts and numpy's arrays of them, and refuses all else.

    It is Python's own unpickler, which can be told to run anything, to fill the memory, or to hash for ever
    what is nested. Here only `PLAIN` instructions are followed, each makes one object at most, keys are texts
    or numbers, and arrays are no longer than the file.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled), encoding="latin1")
        self.room = min(len(pickled), MOST_OBJECTS)
        for number, (opcode, _, _) in enumerate(pickletools.genops(pickled)):
            if opcode.name not in PLAIN:
                raise pickle.UnpicklingError(f"it asks for {opcode.name}, which is not plain data")
            if number == MOST_OBJECTS:
                raise pickle.UnpicklingError(f"it has more than {MOST_OBJECTS:,} objects")

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for a name of numpy."""
        match f"{module}.{name}".replace("._core.", ".core."):
            case "numpy.ndarray":
                return None  # is an argument of `_reconstruct` alone
            case "numpy.dtype":
                return lambda kind, *_: _Type(kind)
            case "numpy.core.multiarray._reconstruct":
                return lambda *_: []
            case "numpy.core.multiarray.scalar":
                return lambda kind, data: self._values(kind, data)[0]
            case wanted:
                raise pickle.UnpicklingError(f"it asks for {wanted}, which is not plain data")

    def load_empty_dict(self) -> None:
        self.stack.append(_Dict())

    def load_dict(self) -> None:
        items, found = self.pop_mark(), _Dict()
        for key, value in zip(items[::2], items[1::2], strict=True):
            found[key] = value
        self.stack.append(found)

    def load_build(self) -> None:
        """Fill a type or an array; nothing else has a state."""
        state, filled = self.stack.pop(), self.stack[-1]
        if isinstance(filled, _Type):
            filled.order = state[1]
        else:
            filled.extend(self._values(state[2], state[4]))

    def load_reduce(self) -> None:
        """Call what stands in for a name of numpy: of all else Python would tell by writing it out."""
        arguments, called = self.stack.pop(), self.stack[-1]
        if not (callable(called) and isinstance(arguments, tuple)):
            raise pickle.UnpicklingError("it calls what is no type of numpy")
        self.stack[-1] = called(*arguments)

    dispatch[pickle.EMPTY_DICT[0]] = load_empty_dict
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build

    def _values(self, kind: Any, data: bytes | str | list[Any]) -> list[Any]:
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


def _identities(content: dict[str, Any], where: str) -> Int[np.ndarray, " images"]:
    """Return which composition each image shows: as its label says, or each its own."""
    (shown,) = records.fields_of(content, where, objects_img=list)
    (labels,) = records.fields_of({"labels": list(range(len(shown))), **content}, where, labels=list)
    problem = f"there are {len(shown)} images but {len(labels)} labels"
    records.check(len(labels) == len(shown), problem, where)
    for image, label in enumerate(labels):
        problem = f"the label is a {type(label).__name__}, neither number nor text"
        records.check(isinstance(label, int | str), problem, f"{where}, image {image}")
    return records.numbered(labels)


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
        records.check(most >= 0, "there are more triplets than the file has bytes", record)
        problem = f"there are {len(references)} references but {len(targets)} targets"
        records.check(len(references) == len(targets), problem, record)
        for image in (*references, *targets):
            known = type(image) is int and 0 <= image < len(image_ids)
            records.check(known, f"there is no image {brief(image)}, only {len(image_ids)}", record)
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
