"""Experiments: what several runs of the same thing, with other seeds, allow us to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dwclib.errors import ConfigError


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as "12.3 [11.8, 12.8]"."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def mean_interval(
    values: Sequence[float] | Float[np.ndarray, " runs"], *, confidence: float = 0.95
) -> Interval:
    """Return the mean of independent runs with Student's t interval.

    For the difference of two methods, pass the differences of runs with the same seed.

    Parameters
    ----------
    values : one number per seed.
    confidence : of the interval.

    Raises
    ------
    ConfigError
        For fewer than two values: one run has no interval.
    """
    from scipy import stats

    if len(values) < 2:
        raise ConfigError(
            f"{len(values)} run has no interval", where="mean_interval", remedy="Use two seeds or more."
        )
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)
