"""All datasets by name: what a configuration's `data` section means (notebooks 09 and 14)."""

from __future__ import annotations

import inspect
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator

from dwclib.data.synthfashion import Dials, SynthFashion, synthfashion
from dwclib.errors import ConfigError, DatasetError, check_choice
from dwclib.files import atomic

if TYPE_CHECKING:
    from dwclib.data.photos import PhotoTriplets
    from dwclib.data.records import Part

# Each is a module of dwclib.data with `load`, `write`, `SPLITS` and `PARTS`. They are named here, not
# imported, so that a run on one dataset does not depend on the code of another's loader.
LOADERS = ("fashioniq", "shoes", "fashion200k", "css3d", "cirr", "own")
ANNOTATIONS = ("*", "captions/*", "image_splits/*", "labels/*", "cirr/captions/*", "cirr/image_splits/*")


class Count(NamedTuple):
    """One line of a dataset's census: what was counted, how many were found, and how many there should be.

    Fields
    ------
    expected : the published number; of files, the number of images listed; None where nothing tells.
    """

    what: str
    found: int
    expected: int | None = None

    @property
    def differs(self) -> bool:
        """Whether another number is expected."""
        return self.expected not in (None, self.found)


class Section(BaseModel):
    """A part of a configuration: no key beside its own, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which triplets.

    Attributes
    ----------
    dataset : "synthfashion", the embedded one.
    train_images, train_queries, val_images, val_queries : how many to draw. What is drawn as "val" is the
        evaluation split, which is reported; validation, which chooses, is held out of the training queries.
    size : width and height of the pictures in pixels.
    seed : of the world.
    dials : fields of `dwclib.data.synthfashion.Dials` that differ from their default.
    train_dials : likewise, for the training split alone: noise there, and clean queries to measure with.
    captions : how the annotators' captions become one text: "joined", ``c1 and c2``; or "marked", the
        released code's literal ``<BOS> c1 <AND> c2 <EOS>``, which CLIP's tokenizer reads as words too; or
        "with target", ``c1 and c2 and get <the target's own caption>``, its choice for Fashion200K.
    """

    dataset: Literal["synthfashion"] = "synthfashion"
    train_images: PositiveInt = 8_000
    train_queries: PositiveInt = 12_000
    val_images: PositiveInt = 2_000
    val_queries: PositiveInt = 2_000
    size: PositiveInt = 64
    seed: NonNegativeInt = 0
    dials: dict[str, Any] = {}
    train_dials: dict[str, Any] = {}
    captions: Literal["joined", "marked", "with target"] = "joined"

    @field_validator("dials", "train_dials")
    @classmethod
    def _are_dials(cls, values: dict[str, Any]) -> dict[str, Any]:
        dials_from(values)
        return values


class PhotoConfig(Section):
    """Which triplets of a real dataset.

    Attributes
    ----------
    dataset : the name of its loader in `LOADERS`.
    root : the folder in which it lies, ``~`` for the home folder; the command line's ``--data``.
    options : the loader's own, such as FashionIQ's ``category`` and ``protocol``; of both splits, and
    train_options, val_options : of one of them alone.
    size : width and height in pixels to which the images are brought.
    missing : "refuse" where images are missing, or "drop" the triplets that need them. Every recall then says
        on how many queries it stands.
    captions : as in `DataConfig`, but for "with target", which only Fashion200K's loader has.
    """

    dataset: Literal["fashioniq", "shoes", "fashion200k", "css3d", "cirr", "own"]
    root: str | None = None
    options: dict[str, Any] = {}
    train_options: dict[str, Any] = {}
    val_options: dict[str, Any] = {}
    size: PositiveInt = 224
    missing: Literal["refuse", "drop"] = "refuse"
    captions: Literal["joined", "marked"] = "joined"


def dials_from(values: dict[str, Any]) -> Dials:
    """Make dials of the values that YAML and JSON give, in which a range is a list.

    Raises
    ------
    ValueError
        For an unknown dial, or one that cannot be set so.
    """
    if unknown := set(values) - set(Dials.__dataclass_fields__):
        raise ValueError(f"There is no dial {sorted(unknown)[0]!r}")
    turned: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    try:
        return Dials(**turned)
    except TypeError as error:
        raise ValueError("a dial cannot be set so") from error


def load_data(data: DataConfig | PhotoConfig) -> tuple[Any, Any]:
    """Return the split to train on and the split to evaluate on, with their pictures.

    Raises
    ------
    ConfigError
        When no folder is named, or the loader does not know an option.
    DatasetError
        When the dataset is damaged, or images are missing and may not be dropped.
    """
    root = getattr(data, "root", None)
    state = _state(_folder(data.dataset, root)) if root else ()
    return _load_data(data.dataset, data.model_dump_json(), state)


def load(name: str, root: Path | str, split: str, **options: Any) -> PhotoTriplets:
    """Load a split of a real dataset in its published layout.

    Parameters
    ----------
    name : one of `LOADERS`.
    root : the folder in which it lies.
    split : one of the dataset's.
    **options : its loader's own.

    Raises
    ------
    ConfigError
        For an unknown dataset or option, or a folder that is not there.
    DatasetError
        For damaged annotations.
    """
    module, root = _module(name), _folder(name, root)
    _check_options(module.load, options, name)
    return module.load(root, split, **options)


def splits(name: str) -> tuple[str, str]:
    """Return the names of a dataset's split to train on and of the one to evaluate on."""
    return _module(name).SPLITS


def census(name: str, root: Path | str) -> tuple[list[Count], dict[str, DatasetError]]:
    """Count what is there of a dataset, beside what should be there.

    Returns
    -------
    The counts, and what is wrong with each part that cannot be counted.

    Raises
    ------
    DatasetError
        When the folder holds nothing of the dataset.
    """
    from dwclib.data.records import MissingError

    module, root = _module(name), _folder(name, root)
    counts: list[Count] = []
    problems: dict[str, DatasetError] = {}
    for label, part in module.PARTS.items():
        try:
            counts += _counts(label, part, module.load(root, **part.options))
        except DatasetError as error:
            problems[label] = error
    if all(isinstance(error, MissingError) for error in problems.values()) and not counts:
        first = next(iter(problems.values()))
        raise MissingError(
            f"the folder holds nothing of {name}: {first.problem}, and so on", where=root, remedy=first.remedy
        )
    return counts, problems


def report(name: str, root: Path | str) -> tuple[list[str], bool]:
    """Return a dataset's census in lines to print, the last of them a verdict, and whether it is good."""
    from dwclib.data.finder import places

    module, (counts, problems) = _module(name), census(name, root)
    width = max((len(count.what) for count in counts), default=0)
    lines = [f"{'':{width}} {'found':>8} {'expected':>10}"]
    for count in counts:
        expected = "" if count.expected is None else f"{count.expected:,}"
        sign = "  differs" if count.differs else ""
        lines.append(f"{count.what:{width}} {count.found:8,} {expected:>10}{sign}")
    labels = defaultdict(list)
    for label, error in problems.items():
        labels[str(error)].append(label)
    lines += [f"not counted: {'; '.join(parts)}\n    {error}" for error, parts in labels.items()]
    if any(count.differs for count in counts if count.what.endswith("with a file")):
        looked = places(_folder(name, root), getattr(module, "BESIDE", ()))
        lines.append(f"photos were looked for in {', '.join(map(str, looked))}")
    differing = sum(count.differs for count in counts)
    compared = sum(count.expected is not None for count in counts)
    verdict = f"{differing} of {compared} counts differ from what is expected"
    lacking = f", {len(problems)} of {len(module.PARTS)} parts are not counted" if problems else ""
    return [*lines, f"{name}: {verdict}{lacking}."], not differing and not problems


def write(
    name: str, out: Path, *, seed: int = 0, train: int = 8_000, val: int = 2_000, **options: Any
) -> None:
    """Write SynthFashion in the layout of a real dataset, for other people's code and for tests.

    Parameters
    ----------
    name : one of `LOADERS`.
    out : a folder to make; must not exist.
    seed, train, val : as `drawn_splits` takes them; "val" becomes the split to evaluate on.
    **options : the writer's own.
    """
    out, module = _absolute(out), _module(name)
    _check_options(module.write, options, name)
    if out.exists():
        raise ConfigError("the folder is there already", where=out, remedy="Name a new one or remove it.")
    drawn = drawn_splits(seed=seed, train=train, val=val).values()
    with atomic(out) as folder:
        module.write(folder, dict(zip(module.SPLITS, drawn, strict=True)), **options)


def drawn_splits(*, seed: int, train: int, val: int) -> dict[str, SynthFashion]:
    """Return SynthFashion's "train" and "val" as they are written in a real dataset's layout.

    Parameters
    ----------
    seed : of the world.
    train, val : number of images of each split; there are 1.5 and 1 queries per image.
    """
    sizes = {"train": (train, train * 3 // 2), "val": (val, val)}
    return {
        split: synthfashion(split, images=images, queries=queries, seed=seed)
        for split, (images, queries) in sizes.items()
    }


def _absolute(path: Path | str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _folder(name: str, root: Path | str) -> Path:
    root = _absolute(root)
    if not root.is_dir():
        raise ConfigError("there is no such folder", where=root, remedy=f"Name the one that holds {name}.")
    return root


def _module(name: str) -> Any:
    check_choice("dataset", name, LOADERS, "dataset")
    return import_module(f"dwclib.data.{name}")


def _check_options(function: Callable[..., Any], given: Iterable[str], where: str) -> None:
    known = [
        name
        for name in inspect.signature(function).parameters
        if name not in ("root", "split", "folder", "drawn")
    ]
    for option in given:
        check_choice("option", option, known or ["none"], where)


def _counts(label: str, part: Part, dataset: PhotoTriplets) -> list[Count]:
    files, queries = dataset.files, dataset.annotated
    counts = [
        Count("triplets", queries, part.triplets),
        Count("images", len(files), part.images),
        Count("images with a file", len(files) - files.count(None), len(files)),
    ]
    if len(dataset) < queries:
        counts.append(Count("triplets that can be asked", len(dataset), queries))
    if dataset.hit == "identity":
        counts.append(Count("identities", len(set(dataset.identities.tolist()))))
    return [count._replace(what=f"{label}: {count.what}") for count in counts]


def _state(root: Path) -> tuple[Any, ...]:
    """Return what changes when an annotation file is edited, or a photo is put beside them."""
    paths = [path for pattern in ANNOTATIONS for path in sorted(root.glob(pattern)) if path.exists()]
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)


@lru_cache(maxsize=2)
def _load_data(dataset: str, described: str, state: tuple[Any, ...]) -> tuple[Any, Any]:
    if dataset == "synthfashion":
        return _synthfashion(DataConfig.model_validate_json(described))
    return _photos(PhotoConfig.model_validate_json(described))


def _synthfashion(data: DataConfig) -> tuple[Any, Any]:
    world: dict[str, Any] = {"seed": data.seed, "size": data.size}
    sizes = {
        "train": (data.train_images, data.train_queries, data.dials | data.train_dials),
        "val": (data.val_images, data.val_queries, data.dials),
    }
    train, evaluation = (
        synthfashion(split, images=images, queries=queries, dials=dials_from(dials), **world)
        for split, (images, queries, dials) in sizes.items()
    )
    return train, evaluation


def _photos(data: PhotoConfig) -> tuple[PhotoTriplets, PhotoTriplets]:
    if data.root is None:
        raise ConfigError(
            "it does not say where the dataset lies",
            where="data.root",
            remedy=f"Add --data PATH, the folder that holds {data.dataset}.",
        )
    found: list[PhotoTriplets] = []
    own = (data.train_options, data.val_options)
    for split, options in zip(splits(data.dataset), own, strict=True):
        dataset = load(data.dataset, data.root, split, **{**data.options, **options})
        dataset = replace(dataset if found else dataset.for_training(), size=data.size)
        dataset = dataset.complete() if data.missing == "drop" else dataset
        dataset.check_complete()
        if lost := dataset.dropped():
            logging.getLogger(__name__).warning(lost)
        found.append(dataset)
    train, evaluation = found
    return train, evaluation
