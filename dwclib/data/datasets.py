"""All datasets by name: what a configuration's `data` section means (notebooks 09 and 14)."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator

from dwclib.data.synthfashion import Dials, SynthFashion, synthfashion
from dwclib.errors import ConfigError, brief, check_choice

if TYPE_CHECKING:
    from dwclib.data.photos import PhotoTriplets

# Each is a module of dwclib.data with `load`, `write`, `SPLITS` and `PARTS`. They are named here, not
# imported, so that a run on one dataset does not depend on the code of another's loader.
LOADERS = ("fashioniq", "shoes", "fashion200k", "css3d", "cirr", "own")


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
    drop_noisy : leave the training queries out whose annotation is wrong, as only an oracle can.
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
    drop_noisy: bool = False
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
    if isinstance(data, PhotoConfig):
        return _photos(data)  # anew: what was decoded is kept on disk, and seen to be another once it is
    return _synthfashion(data.model_dump_json())


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
    module, root = module_of(name), folder_of(name, root)
    check_options(module.load, options, name)
    return module.load(root, split, **options)


def splits(name: str) -> tuple[str, str]:
    """Return the names of a dataset's split to train on and of the one to evaluate on."""
    return module_of(name).SPLITS


def absolute(path: Path | str) -> Path:
    """Return a path from the root, ``~`` for the home folder."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def folder_of(name: str, root: Path | str) -> Path:
    """Return the folder of a dataset as a path from the root; raise ConfigError when it is not there."""
    root = absolute(root)
    if not root.is_dir():
        raise ConfigError("there is no such folder", where=root, remedy=f"Name the one that holds {name}.")
    return root


def module_of(name: str) -> Any:
    """Return the module of a dataset's loader; raise ConfigError for an unknown one."""
    check_choice("dataset", name, LOADERS, "dataset")
    return import_module(f"dwclib.data.{name}")


def check_options(function: Callable[..., Any], given: Iterable[str], where: str) -> None:
    """Raise ConfigError for an option that a loader's or writer's function does not have."""
    known = [
        name
        for name in inspect.signature(function).parameters
        if name not in ("root", "split", "folder", "drawn")
    ]
    for option in given:
        if not known:
            raise ConfigError(f"there is no option {brief(option)}", where=where, remedy="It has no options.")
        check_choice("option", option, known, where)


@lru_cache(maxsize=2)
def _synthfashion(described: str) -> tuple[SynthFashion, SynthFashion]:
    data = DataConfig.model_validate_json(described)
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
        remedy = f"Add --data PATH, the folder that holds {data.dataset}."
        raise ConfigError("it does not say where the dataset lies", where="data.root", remedy=remedy)
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
