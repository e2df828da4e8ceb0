"""Dynamic Weighted Combiner for mixed-modal image retrieval: the library of the DWC book.

The paper (Huang, Zhang, Fu, Song: AAAI 2024, arXiv 2312.06179), one idea a file, each derived in the notebook
named beside it. Begin with `streams`, which puts the others together. "Released code" in a docstring is
github.com/fuxianghuang1/DWC at 5f32a7e, from which the equations were reconstructed.

    encoders 02, 07    editors 04, 07    combiner 05    soft_labels 06    losses 06, 08
    streams 05, 07     baselines 03      retrieval 01, 10

Four small files serve all: `errors`, `files`, `code`, `weights`. The wings can stay closed: `data` (datasets,
drawn and real), `training` (from one stream to a run in a folder), `experiments` (grids, rows, verdicts),
`search` (Milvus), `book` (notebooks and site). A module imports from its own wing, the paper, and wings named
before its own; the paper needs of them only `data.triplets`, the one form of a dataset.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import MetaPathFinder
from typing import Any

__version__ = "0.1.0"
warnings.filterwarnings("ignore", message="IProgress not found")  # bars of other libraries ask for widgets

MOVED = {  # where the last version had them
    "alternate": "training.alternate",
    "checkpoints": "training.checkpoints",
    "config": "training.config",
    "data.captions": "data.language",
    "datasets": "data.datasets",
    "gallery": "search.gallery",
    "machine": "experiments.machine",
    "plots": "book.plots",
    "reproductions": "experiments.reproductions",
    "runs": "training.runs",
}


class _Moved(MetaPathFinder):
    """Names the new place of a module that stood elsewhere in the last version; asked last."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if new := MOVED.get(name.removeprefix(f"{__name__}.")):
            raise ModuleNotFoundError(f"{name} is now {__name__}.{new}")


sys.meta_path.append(_Moved())


def lazy(package: str, **modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``: a name's module is imported when it is asked for.

    Parameters
    ----------
    package : its ``__name__``.
    **modules : module of the package -> the names it gives, separated by blanks.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def found(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return found, lambda: sorted({*vars(sys.modules[package]), *homes})


__getattr__, __dir__ = lazy(
    __name__,
    encoders="Clip features_of",
    retrieval="rank recall_at_k",
    streams="ClipStream CnnStream DWC",
    training="seed_everything train",
)
