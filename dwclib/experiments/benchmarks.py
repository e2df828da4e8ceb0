"""What `make bench` measured, a file for each machine; on another one, only the ratios mean something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from dwclib.experiments.schema import Kept, Stamped, read_sealed, sealed
from dwclib.experiments.store import FOLDER
from dwclib.files import write_json

BENCHMARKS = FOLDER / "benchmarks"


class Benchmark(Stamped):
    """The seconds of each round, quotients of their medians, whatever else was counted, and what it took."""

    seconds: dict[str, list[float]]
    ratios: dict[str, float]
    facts: dict[str, Any]
    took: float


class _File(Kept):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Benchmark]
    checksum: str


def benchmarks(folder: Path = BENCHMARKS) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what was measured: machine -> benchmark -> "seconds", "ratios", "facts", "device", "date", ...

    Raises
    ------
    ResultsError
        When a file is damaged.
    """
    return {path.stem: read_sealed(path, _File) for path in sorted(folder.glob("*.json"))}


def keep_benchmark(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """Put one benchmark into a machine's file; the others stay."""
    content = read_sealed(path, _File) if path.exists() else {}
    write_json(path, sealed({**content, name: dict(found)}))
