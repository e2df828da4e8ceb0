"""One family of errors: what is wrong, where, and what to do about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from reprlib import repr as brief  # never long, never deep, whatever a file holds
from typing import Any

MOST = 400  # characters of a problem, which may repeat what a file holds
CLONE = "Do this in a clone of the book's repository, or name a folder of your own."
NO_BOOK = "Clone the book's repository, and call python -m dwclib in it."
NO_DATA = "The book's data is missing: install dwclib from its wheel, or work in a clone of its repository."
BOOK_DATA = Path(__file__).resolve().parent / "_data"  # of an installed package
MAX_SEED = 2**32 - 1  # NumPy's


class DwcError(ValueError):
    """Bad input, told in one sentence of one line.

    Parameters
    ----------
    problem : what is wrong, e.g. ``"the caption is empty"``.
    where : the file and record it was found in, e.g. ``"captions/cap.dress.train.json, record 7"``.
    remedy : what the reader can do about it.
    """

    def __init__(self, problem: str, *, where: str | Path, remedy: str) -> None:
        problem = " ".join(problem.split())
        problem = problem if len(problem) <= MOST else f"{problem[: MOST // 2]} ... {problem[-MOST // 2 :]}"
        if str(BOOK_DATA) in str(where) and not BOOK_DATA.is_dir():
            remedy = NO_DATA
        self.problem, self.where, self.remedy = problem, str(where), remedy
        super().__init__(f"{where}: {problem}. {remedy}")

    def _render_traceback_(self) -> list[str]:
        """Let a notebook show the sentence alone."""
        return [str(self)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a worker process hand the error on."""
        return _again, (type(self), self.problem, self.where, self.remedy)


def _again(kind: type[DwcError], problem: str, where: str, remedy: str) -> DwcError:
    return kind(problem, where=where, remedy=remedy)


class DatasetError(DwcError):
    """An image, a caption, a triplet or a gallery that cannot be used."""


class FeatureError(DwcError):
    """Features that cannot be ranked or trained on: NaN, wrong shape, wrong count."""


class WeightsError(DwcError):
    """Model weights that are missing, damaged, or of another model."""


class CheckpointError(DwcError):
    """A checkpoint that is damaged, or of another model, or that cannot be written."""


class TrainingError(DwcError):
    """A training that cannot go on: a loss that is not finite, a folder that another run uses."""


class ResultsError(DwcError):
    """Stored results that are missing, damaged, of another version, or in use by another process."""


class GalleryError(DwcError):
    """A gallery in Milvus that cannot be reached, opened, filled or searched."""


class ConfigError(DwcError):
    """An unknown profile, parameter or setting, or one of the wrong type."""


def check_choice(
    kind: str,
    value: object,
    choices: Iterable[str],
    where: str | Path,
    *,
    error: type[DwcError] = ConfigError,
) -> None:
    """Raise an error unless a value is one of its choices."""
    choices = tuple(choices)
    if value not in choices:
        raise error(
            f"there is no {kind} {brief(value)}", where=where, remedy=f"Use one of {', '.join(choices)}."
        )


def check_least(least: float, *, most: float = math.inf, **values: object) -> None:
    """Raise a ConfigError unless all values are finite, and from `least` to `most`; whole, if `least` is."""
    wanted: Any = Integral if isinstance(least, int) else Real
    for name, value in values.items():
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        if not (fits and math.isfinite(value) and least <= value <= most):  # type: ignore[arg-type,operator]
            kind = "whole number" if wanted is Integral else "number"
            allowed = f"{least} or more" if most == math.inf else f"{least} to {most}"
            problem = f"{name} = {brief(value)} is no {kind} of {allowed}"
            raise ConfigError(problem, where="parameters", remedy=f"Use {allowed}.")


def checked_seed(seed: object) -> int:
    """Return the seed as an int.

    Raises
    ------
    ConfigError
        When it is not a natural number, or larger than `MAX_SEED`.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) <= MAX_SEED:
        raise ConfigError(
            f"the seed {seed!r} is no natural number below 2^32", where="seed", remedy="Use 0, 1, 2, ..."
        )
    return int(seed)
