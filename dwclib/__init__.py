"""Dynamic Weighted Combiner for mixed-modal image retrieval: the library of the DWC book.

The paper, one idea a file, each derived in the notebook named beside it:

    encoders 02, 07    editors 04, 07    combiner 05    soft_labels 06    losses 06, 08
    streams 05, 07     baselines 03      retrieval 01, 10

The wings behind it can stay closed: `data` (datasets, drawn and real), `training` (from one composer to a run
in a folder), `experiments` (grids, rows, verdicts), `search` (Milvus), `book` (notebooks and site). A module
imports from its own wing, the paper, and wings named before its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

__version__ = "0.1.0"
warnings.filterwarnings("ignore", message="IProgress not found")  # bars of other libraries ask for widgets


def lazy(package: str, **modules: str) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``: a name's module is imported when the name is first asked for.

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

    return found


__getattr__ = lazy(
    __name__,
    encoders="Clip features_of",
    retrieval="rank recall_at_k",
    streams="ClipStream CnnStream DWC",
    training="seed_everything train",
)
