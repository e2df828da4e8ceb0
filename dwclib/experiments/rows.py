"""One run as a row: trained, measured, packed, and stamped with the code that made it."""

from __future__ import annotations

import shutil
import tempfile
import time
from base64 import b64decode, b64encode
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zlib import compress, decompressobj
from zlib import error as ZlibError

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from dwclib.code import code_of, meaning_of
from dwclib.errors import MAX_SEED, ResultsError, brief
from dwclib.experiments.grid import Cell, Grid
from dwclib.experiments.schema import REMEDY, Kept, Named, Percent, Stamped
from dwclib.files import cache_folder, fingerprint
from dwclib.retrieval import share_within

if TYPE_CHECKING:
    import pandas as pd

    from dwclib.data.synthfashion import SynthFashion

Groups = dict[str, Int[np.ndarray, " members"]]
Row = dict[str, Any]
Stream = Literal["clip", "cnn", "both"]
MOST = 1_000_000  # queries


def pack(values: np.ndarray) -> str:
    """Write an array of uint16 or float16 as text."""
    return f"{values.dtype.name}:{b64encode(compress(values.tobytes(), 9)).decode()}"


def unpack(text: str) -> np.ndarray:
    """Read what `pack` wrote.

    Raises
    ------
    ResultsError
        When it is damaged, of another kind, or of more than `MOST` numbers.
    """
    try:
        kind, packed = text.split(":")
        whole = decompressobj()
        numbers = whole.decompress(b64decode(packed, validate=True), 2 * MOST)
        if not whole.eof:
            raise ValueError("cut short, or too many")
        return np.frombuffer(numbers, dtype={"uint16": np.uint16, "float16": np.float16}[kind])
    except (ValueError, KeyError, ZlibError) as error:
        raise ResultsError("packed numbers are damaged", where=brief(text), remedy=REMEDY) from error


class Level(Kept):
    """What a probe found at one level of damage."""

    level: float
    weight: float | None = None
    recall: Percent = Field(alias="R@10")


class StoredRow(Stamped):
    """One run as it stands in a file."""

    variant: Named
    setting: Named
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    metrics: dict[Stream, dict[str, dict[str, Percent]]] = Field(min_length=1)
    validation: dict[Stream, Percent]
    seconds: float = Field(ge=0)
    code: str
    config: dict[str, dict[str, Any]]
    ranks: dict[Stream, str]
    weights: dict[Stream, str] = Field({})
    probes: dict[Stream, dict[str, Annotated[list[Level], Field(min_length=1)]]] = Field({})
    gaps: dict[Stream, dict[str, float]] = Field({})
    curves: dict[Stream, dict[str, list[Percent]]] = Field({})
    spread: dict[Stream, dict[str, float]] = Field({})
    composition: dict[str, dict[str, float]] = Field({})
    verified: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _fits_together(self) -> StoredRow:
        ranks, weights = ([unpack(text) for text in part.values()] for part in (self.ranks, self.weights))
        lengths = {len(values) for values in (*ranks, *weights)}
        whole = all(r.dtype == np.uint16 and r.min(initial=1) >= 1 for r in ranks)
        shares = all(w.dtype == np.float16 and ((w >= 0) & (w <= 1)).all() for w in weights)
        asked = self.config.get("data", {}).get("val_queries") in (None, *lengths)
        streams = set(self.ranks) == set(self.metrics) == set(self.validation)
        if not (whole and shares and asked and streams and len(lengths) == 1):
            raise ValueError("its ranks, weights and metrics are not of the same queries and streams")
        return self


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

    from dwclib.experiments import machine, probes
    from dwclib.training.evaluation import judged, ranks_of, recalls_of
    from dwclib.training.runs import Run

    if device == "cpu":
        torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=cache_folder("experiments")) as folder:
        kept_in = kept_folder(cell) if probed and cell.seed == 0 else folder
        trained = Run(cell.config, kept_in, device=device).train(progress=False)
        embedded, dataset = trained.embedded(), trained.evaluation.dataset
        groups = query_groups(dataset)  # type: ignore[arg-type]
        ranks = ranks_of(embedded, dataset)
        truth = judged(embedded, dataset)  # type: ignore[arg-type]
        held_out = recalls_of(trained.embedded(trained.validation), trained.validation.dataset, ks=(10,))
        curves = _curves(trained.curves)
        extra: dict[str, Any] = {}
        if probed:
            lam = {name: part.modality_weight for name, part in embedded.items()}
            kept = {n: pack(w.numpy().astype(np.float16)) for n, w in lam.items() if w is not None}
            extra = {
                "weights": kept,
                "probes": probes.probe_weights(trained),
                "gaps": probes.modality_gaps(trained),
                "spread": probes.wording_spread(trained),
                "composition": probes.composition_gains(trained, groups),
            }
    return {
        "variant": cell.variant,
        "setting": cell.setting,
        "seed": cell.seed,
        "metrics": {stream: _metrics(found, truth[stream], groups) for stream, found in ranks.items()},
        "curves": curves,
        "validation": {stream: found[10] for stream, found in held_out.items()},
        "seconds": round(time.perf_counter() - start, 1),
        **machine.stamp(device),
        "code": code_fingerprint(probed),
        "config": cell.config.model_dump(),
        "ranks": {
            stream: pack(found.clip(max=65535).numpy().astype(np.uint16)) for stream, found in ranks.items()
        },
        **extra,
    }


def kept_folder(cell: Cell) -> Path:
    """Return where the run of a probed variant's first seed stays, for `publish`."""
    return cache_folder("kept") / fingerprint(cell.config.model_dump(), code_fingerprint(probed=True))


def publish(grid: Grid) -> list[Path]:
    """Let the book bring the first runs of a grid's probed variants along, where they are trained.

    They are found again by their configuration: `dwclib.training.runs.shared_run`.
    """
    from dwclib.training.runs import SHIPPED, Run

    written = []
    for cell in grid._replace(seeds=1).cells():
        if cell.variant not in grid.probed:
            continue
        run = Run(cell.config, kept_folder(cell), device="cpu")
        if run.is_finished:
            folder = SHIPPED / f"{grid.name}-{cell.variant.replace(' ', '-')}"
            shutil.rmtree(folder, ignore_errors=True)
            run.publish(folder)
            written.append(folder)
    return written


@lru_cache
def code_fingerprint(probed: bool = False) -> str:
    """Return the fingerprint of all code and weights that a row depends on.

    Comments and docstrings do not count, nor does what is said when something goes wrong.
    """
    from dwclib.encoders import BOOK_CLIP, BOOK_CNN

    files = code_of("dwclib.experiments.probes" if probed else "dwclib.training.runs")
    code = [meaning_of(path) for path in files if path.name != "errors.py"]
    weights = [path for folder in (BOOK_CLIP, BOOK_CNN) for path in sorted(folder.glob("*.safetensors"))]
    return fingerprint(code, *weights)


def _metrics(
    ranks: Int[Tensor, " queries"], truth: dict[str, Float[Tensor, " queries"]], groups: Groups
) -> dict[str, dict[str, float]]:
    return {
        name: {f"R@{k}": round(share_within(ranks[members], k), 3) for k in (1, 10, 50)}
        | {measure: round(float(values[members].mean()), 3) for measure, values in truth.items()}
        for name, members in groups.items()
    }


def _curves(table: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """Return R@10 after each epoch, by stream and split."""
    return {
        str(stream): {str(split): rows["R@10"].round(2).tolist() for split, rows in part.groupby("split")}
        for stream, part in table.groupby("stream")
    }
