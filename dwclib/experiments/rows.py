"""One run as a row: trained, measured, packed, and stamped with the code that made it."""

from __future__ import annotations

import tempfile
import time
from base64 import b64decode, b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zlib import compress, decompress

import numpy as np
from jaxtyping import Int

from dwclib.experiments.grid import Cell
from dwclib.files import cache_folder, code_of, fingerprint, meaning_of

if TYPE_CHECKING:
    from dwclib.data.synthfashion import SynthFashion

Groups = dict[str, Int[np.ndarray, " members"]]
Row = dict[str, Any]


def query_groups(dataset: SynthFashion) -> Groups:
    """Return the groups in which recalls are counted: all, thirds by what the text says, hidden references.

    Parameters
    ----------
    dataset : its truth tells how much each text says, and which references something hides.
    """
    by_text = np.array_split(dataset.text_share().argsort(kind="stable"), 3)
    hidden = np.array([dataset.scenes[image].occlusion > 0 for image in dataset.references])
    return {
        "all": np.arange(len(dataset)),
        **dict(zip(("says little", "says some", "says much"), by_text, strict=True)),
        "reference hidden": np.flatnonzero(hidden),
    }


def compute_row(cell: Cell, probed: bool, device: str) -> dict[str, Any]:
    """Train a cell's run in a folder of its own, and return its row."""
    import torch

    from dwclib.experiments import machine
    from dwclib.experiments.probes import modality_gaps, probe_weights
    from dwclib.training.runs import Run, ranks_of, recalls_of

    if device == "cpu":
        torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=cache_folder("experiments")) as folder:
        trained = Run(cell.config, folder, device=device).train(progress=False)
        embedded, dataset = trained.embedded(), trained.evaluation.dataset
        ranks = {name: found.numpy() for name, found in ranks_of(embedded, dataset).items()}
        held_out = recalls_of(trained.embedded(trained.validation), trained.validation.dataset, ks=(10,))
        extra: dict[str, Any] = {}
        if probed:
            lam = {name: part.modality_weight for name, part in embedded.items()}
            kept = {n: pack(w.numpy().astype(np.float16)) for n, w in lam.items() if w is not None}
            extra = {"weights": kept, "probes": probe_weights(trained), "gaps": modality_gaps(trained)}
    groups = query_groups(dataset)  # type: ignore[arg-type]
    return {
        "variant": cell.variant,
        "setting": cell.setting,
        "seed": cell.seed,
        "metrics": {stream: _metrics(found, groups) for stream, found in ranks.items()},
        "validation": {stream: found[10] for stream, found in held_out.items()},
        "seconds": round(time.perf_counter() - start, 1),
        **machine.stamp(device),
        "code": code_print(probed),
        "config": cell.config.model_dump(),
        "ranks": {stream: pack(found.clip(max=65535).astype(np.uint16)) for stream, found in ranks.items()},
        **extra,
    }


@lru_cache
def code_print(probed: bool = False) -> str:
    """Return the fingerprint of all code and weights that a row depends on.

    Comments and docstrings do not count, nor does what is said when something goes wrong.
    """
    from dwclib.encoders import BOOK_CLIP, BOOK_CNN

    files = code_of("dwclib.experiments.probes" if probed else "dwclib.training.runs")
    code = [meaning_of(path) for path in files if path.name != "errors.py"]
    weights = [path for folder in (BOOK_CLIP, BOOK_CNN) for path in sorted(folder.glob("*.safetensors"))]
    return fingerprint(code, *weights)


def pack(values: np.ndarray) -> str:
    """Write an array of uint16 or float16 as text."""
    return f"{values.dtype.name}:{b64encode(compress(values.tobytes(), 9)).decode()}"


def unpack(text: str) -> np.ndarray:
    """Read what `pack` wrote."""
    kind, packed = text.split(":")
    return np.frombuffer(decompress(b64decode(packed)), dtype=kind)


def _metrics(ranks: Int[np.ndarray, " queries"], groups: Groups) -> dict[str, dict[str, float]]:
    return {
        name: {f"R@{k}": round(100 * float((ranks[members] <= k).mean()), 3) for k in (1, 10, 50)}
        for name, members in groups.items()
    }
